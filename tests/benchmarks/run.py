"""`make bench`: measures, prints the tables, writes artefacts/bench.json.

Machines are shared and noisy: figures stand beside a peer measured in the same run, rounds alternate between them, and
the tables show the median round. An absolute number is worth only what the machine named above it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402 - after the path to the tests' own modules

from tests.benchmarks import fanout, jobs, keeping, relay, tables, workers  # noqa: E402

PARTS = ("jobs", "celery", "relay", "keeping", "fanout")


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def arguments() -> argparse.Namespace:
    """Read the command line: which parts, which scenarios, how much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--only", action="append", default=[], help="a scenario of fanout; may be repeated")
    parser.add_argument("--quick", action="store_true", help="tiny numbers, without nginx: does the harness work?")
    parser.add_argument("--finished", type=int, default=keeping.Plan().many, help="jobs of keeping (about 1 ms each)")
    parser.add_argument("--output", type=Path, default=ROOT / "artefacts" / "bench.json")
    found = parser.parse_args()
    unknown = set(found.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return found


def _teller(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, style="dim")


def measure_fanout(console: Console, *, only: frozenset[str], quick: bool) -> dict[str, Any]:
    """Run the fan-out scenarios and show them."""
    plan = fanout.QUICK if quick else fanout.FULL
    with tempfile.TemporaryDirectory() as folder, fanout.prepared(Path(folder), plan.idle) as tools:
        results = fanout.Bench(tools, plan, _teller(console), nchan=not quick).run(only)
    tables.show(console, results)
    return {"scenarios": results, "goals": _judged(console, tables.goals(results))}


def measure_celery(console: Console, *, quick: bool) -> dict[str, Any]:
    """Measure jobs beside Celery's tasks and show them."""
    results = workers.run(workers.QUICK if quick else workers.Plan(), _teller(console))
    workers.show(console, results)
    return {"rows": results, "goals": _judged(console, workers.goals(results))}


def measure_relay(console: Console, *, quick: bool) -> dict[str, Any]:
    """Measure the relay beside its floor and show it."""
    results = relay.run(relay.QUICK if quick else relay.Plan(), _teller(console))
    relay.show(console, results)
    return {"rows": results}


def measure_keeping(console: Console, plan: keeping.Plan) -> dict[str, Any]:
    """Measure what finished jobs cost and show it."""
    results = keeping.run(plan, _teller(console))
    keeping.show(console, results)
    return {**results, "goals": _judged(console, keeping.goals(results))}


def _judged(console: Console, goals: list[tables.Goal]) -> list[dict[str, Any]]:
    tables.show_goals(console, goals)
    return [{**goal._asdict(), "reached": goal.reached} for goal in goals]


def main() -> None:
    """Measure what was asked for."""
    asked = arguments()
    console = Console(width=140)
    report: dict[str, Any] = {"machine": machine(), "rounds": jobs.ROUNDS}
    console.print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    if "jobs" in asked.parts:
        report["jobs"] = jobs.run()
        jobs.show(console, report["jobs"])
    if "celery" in asked.parts:
        report["celery"] = measure_celery(console, quick=asked.quick)
    if "relay" in asked.parts:
        report["relay"] = measure_relay(console, quick=asked.quick)
    if "keeping" in asked.parts:
        plan = keeping.QUICK if asked.quick else keeping.Plan(many=asked.finished)
        report["keeping"] = measure_keeping(console, plan)
    if "fanout" in asked.parts:
        report["fanout"] = measure_fanout(console, only=frozenset(asked.only), quick=asked.quick)
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"written to {asked.output}")


if __name__ == "__main__":
    main()
