"""The benchmarks themselves, with tiny numbers: figures nobody trusts, from the code that makes the real ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.tables import Goal, goals
from tests.benchmarks.tools import ROOT, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="the load client is written in C: no compiler here")


def bench(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a part as `make bench` does; what was written."""
    output = folder / "bench.json"
    command = [sys.executable, "tests/benchmarks/run.py", *arguments, "--quick", "--output", str(output)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    written: dict[str, Any] = json.loads(output.read_text())
    return written


def measured(scenario: str, folder: Path) -> dict[str, Any]:
    """One scenario of the fan-out; what it found, by kind of connection."""
    found: dict[str, Any] = bench(folder, "fanout", "--only", scenario)["fanout"]["scenarios"][scenario]
    assert set(found) == {"ws", "sse"}
    return found


def test_everybody_on_one_channel_gets_everything(tmp_path: Path) -> None:
    for rows in measured("one_channel", tmp_path).values():
        missing = {name: row["missing"] for name, row in rows.items()}
        assert missing == {"floor: send() in C": 0, "gateway": 0, "uvicorn + Starlette": 0}


def test_everybody_on_a_channel_of_their_own_gets_everything(tmp_path: Path) -> None:
    for rows in measured("channel_each", tmp_path).values():
        assert rows["gateway"]["complete"]


def test_idle_connections_are_counted(tmp_path: Path) -> None:
    for rows in measured("idle", tmp_path).values():
        assert rows["gateway"]["connects_per_s"] > 0


def test_the_relay_is_measured_beside_its_floor(tmp_path: Path) -> None:
    rows = bench(tmp_path, "relay")["relay"]["rows"]
    assert [row["name"] for row in rows] == ["publish_many alone", "relay"]
    assert all(row["events_per_s"] > 0 for row in rows)


def test_a_goal_is_judged_in_its_direction() -> None:
    assert Goal("at most", 1.0, 1.0).reached
    assert not Goal("at most", 1.1, 1.0).reached
    assert Goal("at least", 3.0, 3.0, least=True).reached
    assert not Goal("at least", 2.9, 3.0, least=True).reached


def test_what_was_not_measured_is_not_judged() -> None:
    assert goals({}) == []
    assert goals({"one_channel": {"ws": {"gateway": {"cpu_us": 1.0}}}}) == []
