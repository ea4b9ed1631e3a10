"""What finished jobs cost: bytes of Redis each, and whether lists and reads slow down with their number.

Two Redis hold few and many finished jobs, led through their life by the scripts themselves (submit, claim, success);
HTTP and the broker have no part in this. Looks alternate between the two, so that a noisy moment disturbs both.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from gateway.events import new_id
from gateway.jobs.document import static_json
from gateway.jobs.records import Claim
from gateway.jobs.store import JobStore
from gateway.settings import load
from gateway.store.channels import ChannelStore
from gateway.store.redis import Store
from tests.benchmarks.tables import Goal
from tests.support.servers import RedisServer

TENANT = "default"
TRACE = "00-" + "0af7651916cd43dd8448eb211c80319c" + "-" + "b7ad6b7169203331" + "-00"
AT_ONCE = 256
LOOKS = 300  # of each kind
PAGE = 50

Results = dict[str, Any]


class Plan(NamedTuple):
    """How many finished jobs there are. With the few, the bounded history of the channel `jobs` is full."""

    few: int = 1000
    many: int = 300_000


QUICK = Plan(few=1000, many=3000)


class Bench:
    """A job store and short ways to fill it."""

    def __init__(self, store: Store, channels: ChannelStore) -> None:
        self._store = store
        self._jobs = JobStore(store)
        self._targets = [channels.target("jobs")]
        self.ids: list[str] = []

    async def open(self) -> None:
        await self._jobs.register({"noop": ("default", 5, 300.0)})

    async def finish(self, count: int) -> None:
        """So many jobs more, from their submission to their success."""
        for done in range(0, count, AT_ONCE):
            self.ids += await asyncio.gather(*(self._one() for _ in range(min(AT_ONCE, count - done))))

    async def _one(self) -> str:
        job_id = new_id("job_")
        accepted = await self._jobs.submit(
            TENANT,
            id=job_id,
            type="noop",
            owner=None,
            priority="default",
            static=static_json(TENANT, job_id, "noop", None, [], "default", TRACE),
            input="1",
            traceparent=TRACE,
            targets=self._targets,
            max_open=1_000_000,
            lease_ms=60_000,
        )
        assert accepted.message is not None
        claim = await self._jobs.claim(accepted.message, token=job_id[-16:], lease=60, worker="bench-0a1b2c")
        assert isinstance(claim, Claim)
        end: dict[str, Any] = {"to": "succeeded", "result": "1", "apart": False, "lease_ms": 60_000}
        await self._jobs.advance(TENANT, job_id, fence=claim.fence, op=1, **end)
        return job_id

    async def used(self) -> int:
        found: dict[str, int] = await self._store.client.info("memory")
        return found["used_memory"]

    def looks(self) -> dict[str, Look]:
        """Read a job, and the pages people look at."""
        some, middle = self.ids[:: max(1, len(self.ids) // LOOKS)], self.ids[len(self.ids) // 2]

        def page(**filters: str) -> Look:
            return lambda _: self._jobs.find(TENANT, limit=PAGE, **filters)

        return {
            "get": lambda number: self._jobs.get(TENANT, some[number % len(some)], full=True),
            "list": page(),
            "list by status": page(status="succeeded"),
            "list by type": page(type="noop"),
            "list, page in the middle": page(before=middle),
        }


Look = Callable[[int], Awaitable[object]]


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Bench]:
    settings = load({"GATEWAY_REDIS_URL": url})
    async with Store.open(settings) as store:
        bench = Bench(store, ChannelStore(store, settings))
        await bench.open()
        yield bench


async def _measure(few_url: str, many_url: str, plan: Plan, tell: Callable[[str], None]) -> Results:
    async with _opened(few_url) as few, _opened(many_url) as many:
        await few.finish(plan.few)
        await many.finish(plan.few)
        before, began = await many.used(), time.monotonic()
        await many.finish(plan.many - plan.few)
        tell(f"{plan.many:,} jobs finished in {time.monotonic() - began:.0f} s")
        each = (await many.used() - before) / (plan.many - plan.few)
        there = many.looks()
        reads = {name: await _medians(look, there[name]) for name, look in few.looks().items()}
    return {"few": plan.few, "many": plan.many, "bytes_per_job": round(each), "reads_ms": reads}


async def _medians(*looks: Look) -> list[float]:
    """Median milliseconds of each of these, done in turn."""
    took: list[list[float]] = [[] for _ in looks]
    for number in range(LOOKS):
        for look, times in zip(looks, took, strict=True):
            began = time.perf_counter()
            await look(number)
            times.append(time.perf_counter() - began)
    return [round(statistics.median(times) * 1000, 3) for times in took]


def run(plan: Plan, tell: Callable[[str], None]) -> Results:
    """Measure on two Redis of its own."""
    with RedisServer() as few, RedisServer() as many:
        return asyncio.run(_measure(few.url, many.url, plan, tell))


def goals(results: Results) -> list[Goal]:
    """Memory, and the ratio of many to few."""
    reads: dict[str, list[float]] = results["reads_ms"]
    return [
        Goal("bytes of Redis per finished small job with its history", results["bytes_per_job"], 2560),
        *(
            Goal(f"{name}: {results['many']:,} finished jobs ÷ {results['few']:,}", round(many / few, 2), 1.25)
            for name, (few, many) in reads.items()
        ),
    ]


def show(console: Console, results: Results) -> None:
    """Print the table."""
    title = f"Reading among finished jobs, median ms; {results['bytes_per_job']:,} bytes of Redis each"
    table = Table("", f"{results['few']:,}", f"{results['many']:,}", title=title)
    for name, values in results["reads_ms"].items():
        table.add_row(name, *(f"{value:g}" for value in values))
    console.print(table)
