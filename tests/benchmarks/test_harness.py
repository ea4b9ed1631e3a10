"""The benchmarks themselves, with tiny numbers: figures nobody trusts, from the code that makes the real ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.tables import Goal, goals
from tests.benchmarks.tools import ROOT, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="the load client is written in C: no compiler here")
SCENARIOS = ("one_channel", "idle", "channel_each")


def test_a_quick_run_delivers_everything_and_writes_what_it_measured(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    only = [word for name in SCENARIOS for word in ("--only", name)]
    command = [sys.executable, "tests/benchmarks/run.py", "fanout", "--quick", *only, "--output", str(output)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    scenarios = json.loads(output.read_text())["fanout"]["scenarios"]
    for kind in ("ws", "sse"):
        assert {name: row["missing"] for name, row in scenarios["one_channel"][kind].items()} == {
            "floor: send() in C": 0,
            "gateway": 0,
            "uvicorn + Starlette": 0,
        }
        assert scenarios["channel_each"][kind]["gateway"]["complete"]
        assert scenarios["idle"][kind]["gateway"]["connects_per_s"] > 0


def test_a_goal_is_judged_in_its_direction() -> None:
    assert Goal("at most", 1.0, 1.0).reached
    assert not Goal("at most", 1.1, 1.0).reached
    assert Goal("at least", 3.0, 3.0, least=True).reached
    assert not Goal("at least", 2.9, 3.0, least=True).reached


def test_what_was_not_measured_is_not_judged() -> None:
    assert goals({}) == []
    assert goals({"one_channel": {"ws": {"gateway": {"cpu_us": 1.0}}}}) == []
