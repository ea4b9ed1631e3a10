"""Nothing a test run started outlives it, even when the run is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE

from tests.support.process import free_port
from tests.support.waiting import eventually_sync

ROOT = Path(__file__).parents[2]

_RUN = """
import sys, time
from pathlib import Path
from tests.support.process import Child
print(Child(["sleep", "1000"], Path(sys.argv[1])).pid, flush=True)
time.sleep(1000)
"""

_PORTS = "from tests.support.process import free_port; print([free_port() for _ in range(150)], flush=True); input()"


def test_processes_and_servers_get_ports_of_their_own() -> None:
    command = [sys.executable, "-c", _PORTS]
    with ExitStack() as stack:
        others = [
            stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True))
            for _ in range(3)
        ]
        found = [free_port() for _ in range(20)]
        for other in others:
            assert other.stdout is not None
            found += json.loads(other.stdout.readline())
        for other in others:
            other.communicate("\n")
    assert len(set(found)) == len(found) == 470


def test_a_killed_run_takes_its_children_and_their_folder_along(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", _RUN, folder], cwd=ROOT, stdout=PIPE, text=True) as run:
        assert run.stdout is not None
        pid = run.stdout.readline().strip()
        assert Path(f"/proc/{pid}").exists() or sys.platform != "linux"
        run.kill()
    eventually_sync(lambda: not _alive(pid) and not folder.exists())


def _alive(pid: str) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")
