"""The order saga on a real worker."""

from __future__ import annotations

from typing import Any

import pytest

from consumers.registry import load
from tests.consumers.support import TENANT, Bench

pytestmark = pytest.mark.usefixtures("no_backoff")

ITEMS = [{"sku": "tea", "quantity": 2, "price": 450}, {"sku": "cup", "price": 1200}]


@pytest.fixture
async def shop(bench: Bench) -> Any:
    tasks = load("consumers.examples")
    return bench.working(*(tasks[name]._replace(pool=bench.pool) for name in ("order.process", "order.pack")))


def steps(job: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["status"] for step in job["steps"]}


async def test_an_order_is_reserved_charged_packed_and_shipped(bench: Bench, shop: Any) -> None:
    async with shop:
        job_id = await bench.submit("order.process", value={"items": ITEMS})
        job = await bench.until(job_id, "succeeded")
    result = job["result"]
    assert (result["total"], result["payment"]) == (2100, f"pay-{job_id}:1:charge")
    assert result["parcels"] == [{"sku": "tea", "pieces": 2}, {"sku": "cup", "pieces": 1}]
    assert steps(job) == {"reserve": "done", "charge": "done", "ship": "done"}


@pytest.mark.parametrize(
    ("fail_at", "left"),
    [
        ("reserve", {"reserve": "failed"}),
        ("charge", {"reserve": "undone", "charge": "failed"}),
        ("pack", {"reserve": "undone", "charge": "undone"}),
        ("ship", {"reserve": "undone", "charge": "undone", "ship": "failed"}),
    ],
)
async def test_a_failure_undoes_what_came_before(bench: Bench, shop: Any, fail_at: str, left: dict[str, str]) -> None:
    async with shop:
        job_id = await bench.submit("order.process", value={"items": ITEMS, "fail_at": fail_at})
        job = await bench.until(job_id, "failed")
    assert steps(job) == left
    assert "as asked" in job["error"]["message"]
    parcels, _ = await bench.jobs.find(TENANT, limit=10, type="order.pack")
    assert len(parcels) == (2 if fail_at in {"pack", "ship"} else 0)


async def test_an_undo_that_fails_once_is_tried_again(bench: Bench, shop: Any) -> None:
    async with shop:
        value = {"items": ITEMS, "fail_at": "ship", "fail_undo": "charge"}
        job = await bench.until(await bench.submit("order.process", value=value), "failed")
    assert steps(job)["charge"] == steps(job)["reserve"] == "undone"
    assert "the undo of 'charge' failed, as asked" in str(job["attempts"])
    assert job["error"]["message"] == "the step 'ship' failed, as asked"


async def test_a_wrong_order_is_refused_before_anything_is_done(bench: Bench, shop: Any) -> None:
    async with shop:
        job = await bench.until(await bench.submit("order.process", value={"items": []}), "failed")
    assert "input.items is not valid" in job["error"]["message"]
    assert "steps" not in job
