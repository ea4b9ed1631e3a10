from __future__ import annotations

import pytest

from consumers import GiveUp
from consumers.examples.echo import EchoFailed, echo
from tests.consumers.examples.support import FakeContext


async def test_the_value_comes_back(ctx: FakeContext) -> None:
    value = {"deep": [1, None, "ü"]}
    assert await echo(ctx, {"value": value}) == value
    assert ctx.reports == []


async def test_it_reports_every_step(ctx: FakeContext) -> None:
    await echo(ctx, {"steps": 3, "value": 1})
    assert ctx.reports == [(1, 3, "step 1 of 3"), (2, 3, "step 2 of 3"), (3, 3, "step 3 of 3")]


async def test_ten_steps_when_it_takes_time_and_nothing_else_is_asked(ctx: FakeContext) -> None:
    await echo(ctx, {"seconds": 0.01})
    assert len(ctx.reports) == 10


@pytest.mark.parametrize(("fail", "message"), [(True, "as asked"), ("the disk is full", "the disk is full")])
async def test_asked_failures_come_after_the_steps_and_are_tried_again(
    ctx: FakeContext, fail: object, message: str
) -> None:
    with pytest.raises(EchoFailed, match=message):
        await echo(ctx, {"steps": 2, "fail": fail})
    assert len(ctx.reports) == 2


async def test_a_permanent_failure_gives_up(ctx: FakeContext) -> None:
    with pytest.raises(GiveUp):
        await echo(ctx, {"fail": "permanent"})


@pytest.mark.parametrize(
    ("job_input", "field"),
    [
        ({"seconds": -1}, r"input\.seconds is not valid: expected `float` >= 0"),
        ({"seconds": 3601}, r"input\.seconds"),
        ({"seconds": "5"}, r"input\.seconds"),
        ({"steps": 10_001}, r"input\.steps"),
        ({"steps": 1.5}, r"input\.steps"),
        ({"fail": 7}, r"input\.fail"),
        ({"fale": True}, "input is not valid: object contains unknown field `fale`"),
        ([], "input is not valid: expected `object`"),
        (None, "input"),
    ],
)
async def test_a_wrong_input_names_the_field(ctx: FakeContext, job_input: object, field: str) -> None:
    with pytest.raises(GiveUp, match=field):
        await echo(ctx, job_input)
