"""`ctx.once`: an effect happens once in a run, or the job says that it does not know."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from consumers import BreakerOpen, Context, GiveUp, Retry, undo
from consumers.registry import Function, load
from gateway.jobs.deadletters import DeadLetters
from gateway.jobs.effects import MAX_EFFECT
from tests.consumers.support import SLOW, TASKS, TENANT, Bench
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_backoff")


class Receiver:
    """Where the effects arrive."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    async def __call__(self, key: str) -> Any:
        self.keys.append(key)
        return {"receipt": len(self.keys), "list": []}


@pytest.fixture
async def receiver() -> Receiver:
    return Receiver()


async def test_an_effect_happens_once_over_all_attempts_of_a_run(bench: Bench, receiver: Receiver) -> None:
    async def sending(ctx: Context, job_input: Any) -> Any:
        del job_input
        receipt = await ctx.once("mail", receiver)
        if ctx.attempt < 3:
            raise ValueError("after it")
        return {"receipt": receipt, "key": ctx.idempotency_key}

    async with bench.working(bench.task("sending", sending)):
        job_id = await bench.submit("sending")
        job = await bench.until(job_id, "succeeded")
        assert job["result"] == {"receipt": {"receipt": 1, "list": []}, "key": f"{job_id}-1"}
        assert receiver.keys == [f"{job_id}-1-mail"]
        await bench.service.rerun(TENANT, job_id)
        await bench.until(job_id, "succeeded", run=2)
    assert receiver.keys == [f"{job_id}-1-mail", f"{job_id}-2-mail"]


async def test_what_raised_may_have_happened(bench: Bench) -> None:
    tried = 0

    async def sending(ctx: Context, job_input: Any) -> Any:
        del job_input

        async def send(_: str) -> None:
            nonlocal tried
            tried += 1
            raise TimeoutError("no answer")

        await ctx.once("mail", send)

    async with bench.working(bench.task("sending", sending)):
        job = await bench.until(await bench.submit("sending"), "failed")
    assert tried == 1
    assert [attempt["error"]["type"] for attempt in job["attempts"]] == ["TimeoutError", "Uncertain"]
    assert (job["error"]["type"], job["error"]["retryable"], job["attempt"]) == ("Uncertain", False, 2)
    assert "'mail'" in job["error"]["message"]


async def test_an_idempotent_effect_is_done_again_under_the_same_key(bench: Bench, receiver: Receiver) -> None:
    async def sending(ctx: Context, job_input: Any) -> Any:
        del job_input

        async def send(key: str) -> Any:
            answer = await receiver(key)
            if ctx.attempt == 1:
                raise TimeoutError("the answer was lost")
            return answer

        return await ctx.once("mail", send, idempotent=True)

    async with bench.working(bench.task("sending", sending)):
        job_id = await bench.submit("sending")
        await bench.until(job_id, "succeeded")
    assert receiver.keys == [f"{job_id}-1-mail"] * 2


@pytest.mark.parametrize("says", [Retry("not yet", after=0), BreakerOpen("open", after=0)])
async def test_what_says_that_it_did_not_happen_is_tried_again(bench: Bench, says: Exception) -> None:
    tried = 0

    async def sending(ctx: Context, job_input: Any) -> Any:
        del job_input

        async def send(_: str) -> str:
            nonlocal tried
            tried += 1
            if tried == 1:
                raise says
            return "sent"

        return await ctx.once("mail", send)

    async with bench.working(bench.task("sending", sending)):
        job = await bench.until(await bench.submit("sending"), "succeeded")
    assert (job["result"], tried) == ("sent", 2)


@pytest.mark.parametrize("idempotent", [False, True])
async def test_an_attempt_taken_for_dead_in_the_middle(bench: Bench, *, idempotent: bool) -> None:
    bench.settings = bench.with_settings(lease=60)
    keys: list[str] = []
    late, gate = asyncio.Event(), asyncio.Event()

    async def sending(ctx: Context, job_input: Any) -> Any:
        del job_input

        async def send(key: str) -> str:
            keys.append(key)
            if ctx.attempt == 1:
                await gate.wait()
            return f"attempt {ctx.attempt}"

        try:
            return await ctx.once("mail", send, idempotent=idempotent)
        finally:
            if ctx.attempt == 1:
                late.set()

    async with bench.working(bench.task("sending", sending)):
        job_id = await bench.submit("sending")
        await eventually(lambda: keys)
        await bench.lose_lease(job_id)
        job = await bench.until(job_id, "succeeded" if idempotent else "failed")
        gate.set()
        await late.wait()  # the first one comes to its end, and may not record it
    assert len(keys) == (2 if idempotent else 1)
    assert len(await bench.ends(job_id)) == 1
    if idempotent:
        assert job["result"] == "attempt 2"
    else:
        assert job["error"]["type"] == "Uncertain"


async def test_of_two_at_once_under_one_name_one_is_refused(bench: Bench, receiver: Receiver) -> None:
    async def sending(ctx: Context, job_input: Any) -> Any:
        del job_input
        found = await asyncio.gather(*(ctx.once("mail", receiver) for _ in range(2)), return_exceptions=True)
        return [type(one).__name__ for one in found]

    async with bench.working(bench.task("sending", sending)):
        job = await bench.until(await bench.submit("sending"), "succeeded")
    assert sorted(job["result"]) == ["GiveUp", "dict"]
    assert len(receiver.keys) == 1


@pytest.mark.parametrize(
    ("name", "result", "message"),
    [
        ("a b", None, "a name must be 1 to 100 characters"),
        ("x" * 101, None, "a name must be 1 to 100 characters"),
        ("big", "x" * MAX_EFFECT, f"more than {MAX_EFFECT}"),
        ("odd", object(), "the result is not JSON"),
    ],
)
async def test_a_rule_that_is_broken_fails_the_job(bench: Bench, name: str, result: object, message: str) -> None:
    async def sending(ctx: Context, job_input: Any) -> Any:
        del job_input

        async def send(_: str) -> object:
            return result

        return await ctx.once(name, send)

    async with bench.working(bench.task("sending", sending)):
        job = await bench.until(await bench.submit("sending"), "failed")
    assert message in job["error"]["message"]
    assert (job["error"]["type"], job["attempt"]) == ("GiveUp", 1)


async def test_a_thread_does_it_once(bench: Bench) -> None:
    keys: list[str] = []

    def sending(ctx: Context, job_input: Any) -> Any:
        del job_input
        ctx.once_sync("mail", keys.append)
        if ctx.attempt == 1:
            raise ValueError("after it")
        try:
            ctx.once_sync("other", lambda _: object())
        except GiveUp:
            return "refused"

    async with bench.working(bench.task("sending", sending)):
        job = await bench.until(await bench.submit("sending"), "succeeded")
    assert job["result"] == "refused"
    assert len(keys) == 1


async def test_a_process_has_all_helpers(bench: Bench) -> None:
    task = load(TASKS)["process.helpers"]._replace(pool=bench.pool)
    async with bench.working(task):
        job_id = await bench.submit("process.helpers", value={"breaker": "fine"})
        job = await bench.until(job_id, "succeeded", SLOW)
    key = f"{job_id}-1"
    assert job["result"]["done"] == {"key": f"{key}-mail", "attempt": 1}
    assert job["result"]["key"] == key
    assert job["result"]["fence"] > 0
    assert job["attempts"][0]["error"]["type"] == "ConnectionError"


async def test_a_process_that_does_not_know_says_so(bench: Bench) -> None:
    task = load(TASKS)["process.meets"]._replace(pool=bench.pool)
    bench.settings = bench.with_settings(lease=60)
    async with bench.working(task, concurrency=2):
        ids = {what: await bench.submit("process.meets", value=what) for what in ("bad name", "else")}
        jobs = {what: await bench.until(job_id, "failed", SLOW) for what, job_id in ids.items()}
    assert jobs["bad name"]["error"]["type"] == "GiveUp"
    assert jobs["else"]["error"]["type"] == "KeyError"


async def uncertain(ctx: Context, job_input: Any) -> None:
    del job_input

    async def silent(key: str) -> None:
        raise TimeoutError(key)

    await ctx.step("reserve", lambda: None, undo="take-back")
    await ctx.once("mail", silent)


async def uncertain_in_a_group(ctx: Context, job_input: Any) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(uncertain(ctx, job_input))


@pytest.mark.parametrize("task", [uncertain, uncertain_in_a_group])
@pytest.mark.usefixtures("own_undos")
async def test_what_nobody_knows_is_a_dead_letter_that_says_so(bench: Bench, task: Function) -> None:
    undo("take-back")(lambda *_: None)
    async with bench.working(bench.task("uncertain", task)):
        job_id = await bench.submit("uncertain")
        job = await bench.until(job_id, "failed")
    letter = json.loads(await DeadLetters(bench.store, bench.queue, bench.settings).show(TENANT, job_id))
    assert (letter["reason"], job["error"]["type"], job["steps"][0]["status"]) == ("uncertain", "Uncertain", "undone")


async def test_a_process_that_cannot_know_says_so(bench: Bench) -> None:
    task = load(TASKS)["process.meets"]._replace(pool=bench.pool)
    await bench.register(task.name)
    job_id = await bench.submit(task.name, value="uncertain")
    begun = msgspec.msgpack.encode({"mail": ["a token of an attempt that died"]})
    await bench.store.client.hset(bench.tag + f"job:{TENANT}:{job_id}", "e", begun)
    bench.settings = bench.with_settings(lease=60)
    async with bench.working(task):
        job = await bench.until(job_id, "failed", SLOW)
    assert (job["error"]["type"], job["progress"]["message"]) == ("Uncertain", "caught")
