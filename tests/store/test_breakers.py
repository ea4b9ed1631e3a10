"""Circuit breakers: their arithmetic over random histories, and one breaker among many processes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis as PlainRedis
from redis.asyncio import Redis

from gateway.settings import Settings
from gateway.store.breakers import ARITHMETIC, Breakers, Outcome, Rules
from gateway.store.redis import Store
from tests.support.waiting import eventually

RULES = Rules(failures=3, rate=0.5, minimum=10, window=10, cool_down=5, longest=40, probe=2)

# Runs a whole history: {now, "admit", token} or {now, "report", generation, outcome, random}.
DRIVER = (
    ARITHMETIC
    + """
local history, rules = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[2])
local b, answer = breaker_new(0), {}
for _, step in ipairs(history) do
  local said, number = '', 0
  if step[2] == 'admit' then
    said, number = breaker_admit(b, rules, step[1], step[3])
  else
    breaker_report(b, rules, step[1], step[3], step[4], step[5])
  end
  answer[#answer + 1] = {said, number, b.st, b.ge, b.op}
end
return answer
"""
)


class Step(NamedTuple):
    said: str
    number: int
    state: str
    generation: int
    openings: int


@pytest.fixture(scope="module")
def plain(redis_url: str) -> Iterator[Callable[..., list[Step]]]:
    client = PlainRedis.from_url(redis_url)
    encode = msgspec.msgpack.encode

    def run(*history: tuple[Any, ...]) -> list[Step]:
        found: Any = client.eval(DRIVER, 0, encode(history), encode(RULES.in_ms()))
        return [Step(said.decode(), number, state.decode(), *more) for said, number, state, *more in found]

    yield run
    client.close()


def failed(now: int, generation: int = 1) -> tuple[Any, ...]:
    return (now, "report", generation, "failed", 0)


def fine(now: int, generation: int = 1) -> tuple[Any, ...]:
    return (now, "report", generation, "ok", 0)


def test_failures_in_a_row_open_it(plain: Any) -> None:
    steps = plain(failed(1), failed(2), fine(3), failed(4), failed(5), (6, "admit", "t"), failed(7), (8, "admit", "t"))
    assert [step.state for step in steps] == ["closed"] * 6 + ["open"] * 2
    assert steps[5][:2] == ("go", 1)
    assert steps[7][:2] == ("wait", 4999)


def test_a_rate_in_the_window_opens_it(plain: Any) -> None:
    history = [step for now in range(0, 100, 20) for step in (failed(now), fine(now + 10))]
    assert {step.state for step in plain(*history[:9])} == {"closed"}
    assert plain(*history[:9], failed(100))[-1].state == "open"


def test_what_is_older_than_the_window_does_not_count(plain: Any) -> None:
    old = [step for now in range(0, 80, 20) for step in (failed(now), fine(now + 10))]
    later = [fine(30_000 + now) for now in range(3)]
    assert plain(*old, failed(90), *later, failed(30_004))[-1].state == "closed"


def test_one_probe_closes_it_or_opens_it_for_twice_as_long(plain: Any) -> None:
    broken = [failed(1), failed(2), failed(3)]
    half = [*broken, (5003, "admit", "a"), (5004, "admit", "b"), (5005, "admit", "a")]
    steps = plain(*half)
    assert [step[:2] for step in steps[3:]] == [("probe", 3), ("wait", 1999), ("probe", 3)]
    assert plain(*half, fine(5006, 3), (5007, "admit", "c"))[-1][:3] == ("go", 4, "closed")
    again = plain(*half, failed(5006, 3), (5007, "admit", "c"), (15_006, "admit", "c"))
    assert [step[:2] for step in again[-2:]] == [("wait", 9999), ("probe", 5)]


def test_a_probe_that_never_told_gives_way_and_is_not_heard_any_more(plain: Any) -> None:
    broken = [failed(1), failed(2), failed(3), (5003, "admit", "a")]
    steps = plain(*broken, (7003, "admit", "b"), fine(7004, 3), (7005, "admit", "c"))
    assert [step[:2] for step in steps[4:]] == [("probe", 4), ("", 0), ("wait", 1998)]


def test_a_probe_that_learned_nothing_gives_way_at_once(plain: Any) -> None:
    broken = [failed(1), failed(2), failed(3), (5003, "admit", "a")]
    steps = plain(*broken, (5004, "report", 3, "void", 0), (5004, "admit", "b"))
    assert steps[-1][:2] == ("probe", 5)
    assert steps[-1].openings == 1


def test_a_late_outcome_changes_nothing(plain: Any) -> None:
    steps = plain(failed(1), failed(2), failed(3), fine(4, 1), failed(5, 1), failed(6, 99))
    assert {step[2:] for step in steps[2:]} == {("open", 2, 1)}


HISTORY = st.lists(
    st.tuples(st.integers(0, 6000), st.integers(0, 3), st.sampled_from(["ok", "failed", "void"]), st.floats(0, 0.99)),
    max_size=80,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORY)
def test_whatever_happens(plain: Any, history: list[tuple[int, int, str, float]]) -> None:
    """Time passes, tokens ask, and outcomes come of any generation: the rules of the house hold."""
    now, given_steps = 0, []
    for gone, what, outcome, random in history:
        now += gone
        generation = 1 + (now + what) % 12
        given_steps.append((now, "admit", f"t{now}") if what else (now, "report", generation, outcome, random))
    former = Step("", 0, "closed", 1, 0)
    probes: dict[int, int] = {}
    for (moment, kind, *_), step in zip(given_steps, plain(*given_steps), strict=True):
        assert step.generation - former.generation in {0, 1}
        assert (step.state == former.state) or step.generation > former.generation
        if kind == "admit":
            assert (step.said == "go") == (former.state == "closed")
            assert step.said != "wait" or 0 < step.number <= 44_000
        if step.said == "probe":
            assert probes.setdefault(step.number, moment) == moment, "one probe in a generation"
        former = step


@pytest.mark.parametrize(
    "broken",
    [
        {"failures": 0},
        {"rate": 0},
        {"rate": 1.1},
        {"minimum": 0},
        {"window": 0},
        {"window": float("nan")},
        {"cool_down": 0},
        {"cool_down": 10, "longest": 5},
        {"probe": 1e9},
    ],
)
def test_rules_that_make_no_sense_are_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a breaker's"):
        Rules(**broken)


QUICK = Rules(failures=2, cool_down=0.05, longest=0.05)


async def test_of_many_processes_one_probes(redis_url: str, redis: Redis) -> None:
    del redis  # emptied
    async with Store.open(Settings(redis_url=redis_url)) as store:
        breakers = Breakers(store)
        first = await breakers.admit("crm", QUICK, "t")
        assert first.wait == 0
        outcomes: list[Outcome] = ["failed", "failed"]
        assert [await breakers.report("crm", QUICK, first.generation, one) for one in outcomes] == ["closed", "open"]
        assert (await breakers.admit("erp", QUICK, "t")).wait == 0, "another dependency"

        async def half() -> list[int]:
            asked = await asyncio.gather(*(breakers.admit("crm", QUICK, secrets.token_hex(8)) for _ in range(20)))
            return [passage.generation for passage in asked if not passage.wait]

        (generation,) = await eventually(half)
        assert await half() == []
        assert await breakers.report("crm", QUICK, generation, "ok") == "closed"
        assert len(await half()) == 20
