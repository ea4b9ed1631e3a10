"""Workers die, are gone, live in another hour, get everything twice: each job ends once, its effect happened once."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from tests.e2e.stack import client
from tests.faults.copies import copying
from tests.faults.jobs import LONG, SHORT, Servers, job_scene
from tests.support.proxy import TcpProxy
from tests.support.waiting import eventually

RATE = 80  # submissions a second
CLOCK = Path(__file__).with_name("clock")
HOUR = 3600
CALM = {"GATEWAY_LEASE": "60"}  # where attempts are counted exactly, a machine that is busy must not cost a lease


@pytest.mark.parametrize(("count", "kills"), [pytest.param(250, 2, marks=SHORT), pytest.param(3000, 40, marks=LONG)])
async def test_killed_in_the_middle(servers: Servers, tmp_path: Path, count: int, kills: int) -> None:
    async with job_scene(servers, tmp_path, workers=2) as here:
        async with here.load.running(count, RATE, seconds=0.2, failing=10):
            for number in range(kills):
                await here.load.reached((number + 1) * count // (kills + 1))
                await here.kill(random.choice(here.workers))
                await here.worker()
        await here.finish("killed in the middle")
        assert here.lines("reaper.leases_lost"), "nobody was in the middle of anything"


@pytest.mark.parametrize(("size", "rounds"), [pytest.param(50, 2, marks=SHORT), pytest.param(100, 20, marks=LONG)])
async def test_killed_between_record_and_acknowledgement(
    servers: Servers, tmp_path: Path, size: int, rounds: int
) -> None:
    async with TcpProxy(servers.amqp_port) as proxy, job_scene(servers, tmp_path, workers=0) as here:
        for number in range(1, rounds + 1):
            doomed = await here.worker("--concurrency", str(size), GATEWAY_AMQP_URL=proxy.url(servers.amqp), **CALM)
            here.receiver.gate.clear()
            await here.load.submit(size, seconds=0)
            await here.receiver.reached(number * size)
            assert proxy.swallow()  # no acknowledgement arrives from now on
            here.receiver.gate.set()
            await here.settled()
            await here.kill(doomed)
            proxy.drop()
        await here.worker()
        await eventually(lambda: len(here.lines("worker.dropped")) == rounds * size, 30)
        audit = await here.finish("killed between record and acknowledgement")
        assert Counter(line["why"] for line in here.lines("worker.dropped")) == {"succeeded": rounds * size}
        assert audit.attempts == audit.outcomes["succeeded"] == rounds * size + 1
        assert here.receiver.repeats == 0


@pytest.mark.parametrize(("count", "seconds"), [pytest.param(250, 3, marks=SHORT), pytest.param(3000, 60, marks=LONG)])
async def test_all_workers_gone(servers: Servers, tmp_path: Path, count: int, seconds: float) -> None:
    async with job_scene(servers, tmp_path, workers=2) as here:
        async with here.load.running(count, max(RATE, count / 60), seconds=0.2):
            await here.load.reached(count // 5)
            for worker in list(here.workers):
                await here.kill(worker)
            await asyncio.sleep(seconds)  # the length of their absence is the point
            await here.several(2)
        assert here.load.answers == {202: here.load.answers.total()}, "nobody who submits hears of it"
        await here.finish(f"all workers gone for {seconds} s")


@pytest.mark.parametrize("count", [pytest.param(150, marks=SHORT), pytest.param(3000, marks=LONG)])
async def test_clocks_an_hour_off(servers: Servers, tmp_path: Path, count: int) -> None:
    began = time.time()
    async with job_scene(servers, tmp_path, workers=1) as here:
        for ahead in (HOUR, -HOUR):
            await here.worker(PYTHONPATH=str(CLOCK), FAULTS_CLOCK=str(ahead))
        for worker, ahead in zip(here.workers[1:], (HOUR, -HOUR), strict=True):
            said = moment(worker.wait_for("worker.registered").rsplit('"timestamp": "', 1)[1].split('"')[0])
            assert abs(said - began - ahead) < HOUR / 2, "the clock was not off"
        async with here.load.running(count, RATE, seconds=0.1, failing=5):
            await here.load.reached(count // 2)
            await here.kill(here.workers[1])  # what an hour ahead claimed comes to the others, as always
        await here.finish("clocks an hour off")
        async with client(here.url) as http:
            jobs = (await http.get("/v1/jobs", params={"limit": 100})).json()["items"]
        for job in jobs:
            times = [moment(job[name]) for name in ("created_at", "queued_at", "started_at", "finished_at")]
            assert began - 1 < times[0] <= times[1] <= times[2] <= times[3] < time.time() + 1


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("count", [pytest.param(120, marks=SHORT), pytest.param(3000, marks=LONG)])
async def test_every_message_twice_and_again_at_the_end(servers: Servers, tmp_path: Path, count: int) -> None:
    async with job_scene(servers, tmp_path, workers=0) as here:
        await here.several(2, **CALM)
        async with copying(servers.amqp, here.pool) as copier:
            async with here.load.running(count, RATE, failing=4):
                await here.load.reached(count // 2)
                await copier.again()  # of jobs that ended, run, or are in a later attempt
            await here.settled()
            await here.run_again(count // 10)  # a second run, among copies of the first
            await copier.again()
            await here.settled()
            await copier.again()
            await eventually(lambda: len(here.lines("worker.dropped")) >= copier.delivered, 30)
        audit = await here.finish("every message twice")
        assert audit.outcomes["succeeded"] == count + count // 10 + 1
        # Each delivery was an attempt or was dropped; the last job came when nobody copied any more.
        assert audit.attempts - 1 + len(here.lines("worker.dropped")) == copier.kept + copier.delivered
        assert here.receiver.repeats == 0
