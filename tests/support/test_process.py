"""Nothing a test run started outlives it, even when the run is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.waiting import eventually_sync

_RUN = """
import sys, time
from pathlib import Path
from tests.support.process import Child
print(Child(["sleep", "1000"], Path(sys.argv[1])).pid, flush=True)
time.sleep(1000)
"""


def test_a_killed_run_takes_its_children_and_their_folder_along(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", _RUN, folder], cwd=root, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = run.stdout.readline().strip()
        assert Path(f"/proc/{pid}").exists() or sys.platform != "linux"
        run.kill()
    eventually_sync(lambda: not _alive(pid) and not folder.exists())


def _alive(pid: str) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")
