"""`make bench`: measures, prints the tables, writes artefacts/bench.json.

Machines are shared and noisy: figures stand beside a peer measured in the same run, rounds alternate between them, and
the table shows the median round. An absolute number is worth only what the machine named above it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402 - after the path to the tests' own modules
from rich.table import Table  # noqa: E402

from tests.benchmarks.jobs import Target, measure  # noqa: E402
from tests.e2e.stack import ROOT_KEY, Stack, stack  # noqa: E402
from tests.support.servers import RabbitServer, RedisServer  # noqa: E402

ROUNDS = 3
COLUMNS = ("p50_ms", "p95_ms", "p99_ms", "jobs_per_s")


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


def jobs() -> dict[str, dict[str, float]]:
    """Measure `echo` through RabbitMQ and Redis, beside the in-process queue of `gateway dev`."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        redis_server = opened.enter_context(RedisServer())
        rabbit_server = opened.enter_context(RabbitServer())
        product = opened.enter_context(stack(redis_server.url, rabbit_server.url, folder, GATEWAY_LEASE="15"))
        targets = [_distributed(product), _in_process(product, folder)]
        rounds = {target.name: [] for target in targets}  # type: dict[str, list[dict[str, float]]]
        for _ in range(ROUNDS):
            for target in targets:
                rounds[target.name].append(asyncio.run(measure(target)))
    return {name: _median(found) for name, found in rounds.items()}


def _distributed(product: Stack) -> Target:
    _, url = product.gateway()
    product.worker("--concurrency", "50")
    return Target("RabbitMQ + Redis, 1 web, 1 worker", url, ROOT_KEY)


def _in_process(product: Stack, folder: Path) -> Target:
    _, url, key = product.dev(folder / "dev")
    return Target("gateway dev: in-process queue", url, key)


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {column: statistics.median(found[column] for found in rounds) for column in COLUMNS}


def show(console: Console, results: dict[str, dict[str, float]]) -> None:
    """Print the table, the ratio of the first row to the second below it."""
    table = Table(title=f"submit → job.succeeded at a WebSocket subscriber, echo, median of {ROUNDS} rounds")
    for column in ("", *COLUMNS):
        table.add_column(column, justify="right" if column else "left")
    for name, found in results.items():
        table.add_row(name, *(f"{found[column]:g}" for column in COLUMNS))
    first, second = results.values()
    table.add_row("ratio", *(f"{first[column] / second[column]:.2f}" for column in COLUMNS), style="bold")
    console.print(table)


def main() -> None:
    """Measure everything."""
    console = Console(width=120)
    on = machine()
    console.print(f"{on['cpu']}, {on['cores']} cores, Python {on['python']}, {on['system']}")
    results = jobs()
    show(console, results)
    output = ROOT / "artefacts" / "bench.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps({"machine": on, "rounds": ROUNDS, "jobs": results}, indent=2) + "\n")
    console.print(f"written to {output.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
