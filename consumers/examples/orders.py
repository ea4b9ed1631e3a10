"""`order.process`: an order as a saga: reserve stock, charge the card, have each parcel packed by a job, ship.

If a step fails for good, or the job is cancelled, what was done before is undone in reverse order.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import msgspec

from consumers import Context, GiveUp, task, undo
from consumers.examples.inputs import parse

Step = Literal["reserve", "charge", "pack", "ship"]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=60)]


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of an order; `price` is cents for one."""

    sku: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    price: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0


class OrderInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The input of `order.process`.

    Attributes:
        items: 1 to 20 lines; each becomes a parcel.
        fail_at: the step that is to fail for good.
        fail_undo: the step whose undo fails at its first try.
        seconds: how long each step takes.
    """

    items: Annotated[tuple[Item, ...], msgspec.Meta(min_length=1, max_length=20)]
    fail_at: Step | None = None
    fail_undo: Literal["reserve", "charge"] | None = None
    seconds: _Seconds = 0


class ParcelInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The input of `order.pack`."""

    item: Item
    seconds: _Seconds = 0
    fail: bool = False


class BankAway(Exception):
    """The failure of an undo that was asked for."""


@task("order.process", timeout=600, max_attempts=3)
async def process(ctx: Context, job_input: object) -> dict[str, Any]:
    """Process an order; see `OrderInput`.

    Returns:
        `total` in cents, `reservation`, `payment`, `parcels` and `tracking`.

    Raises:
        GiveUp: the input is not valid, or a failure was asked for.
    """
    order = parse(job_input, OrderInput)
    total = sum(item.price * item.quantity for item in order.items)
    refusal = {"fail_undo": order.fail_undo}

    async def reserve() -> dict[str, Any]:
        await _work(order, "reserve")
        return {"reservation": f"rsv-{ctx.step_key('reserve')}", "skus": [item.sku for item in order.items]}

    async def charge() -> dict[str, Any]:
        await _work(order, "charge")
        # A real payment provider gets the key, so that a step that is done again charges once.
        return {"payment": f"pay-{ctx.step_key('charge')}", "cents": total}

    async def ship() -> dict[str, Any]:
        await _work(order, "ship")
        return {"tracking": f"trk-{ctx.job_id}"}

    reserved = await ctx.step("reserve", reserve, undo="order.release", undo_input=refusal)
    charged = await ctx.step("charge", charge, undo="order.refund", undo_input=refusal)
    parcels = await ctx.gather(*[await _pack(ctx, order, item) for item in order.items])
    shipped = await ctx.step("ship", ship)
    return {
        "total": total,
        "reservation": reserved["reservation"],
        "payment": charged["payment"],
        "parcels": parcels,
        "tracking": shipped["tracking"],
    }


async def _pack(ctx: Context, order: OrderInput, item: Item) -> str:
    fails = order.fail_at == "pack"
    return await ctx.spawn("order.pack", ParcelInput(item, order.seconds, fails), max_attempts=1 if fails else None)


async def _work(order: OrderInput, step: Step) -> None:
    await asyncio.sleep(order.seconds)
    if order.fail_at == step:
        raise GiveUp(f"the step {step!r} failed, as asked")


@task("order.pack", timeout=300)
async def pack(ctx: Context, job_input: object) -> dict[str, Any]:
    """Pack one item; see `ParcelInput`.

    Raises:
        GiveUp: the input is not valid, or a failure was asked for.
    """
    wanted = parse(job_input, ParcelInput)
    for done in range(wanted.item.quantity):
        ctx.progress(done, wanted.item.quantity, f"{done} of {wanted.item.quantity} packed")
        await asyncio.sleep(wanted.seconds / wanted.item.quantity)
    if wanted.fail:
        raise GiveUp(f"{wanted.item.sku} is broken, as asked")
    return {"sku": wanted.item.sku, "pieces": wanted.item.quantity}


@undo("order.release")
async def release(ctx: Context, reservation: dict[str, Any] | None, asked: dict[str, Any]) -> None:
    """Give reserved stock back. Without a reservation it is not known whether there is one: a shop looks by the key."""
    del reservation
    _fail_once(ctx, asked)


@undo("order.refund")
async def refund(ctx: Context, payment: dict[str, Any] | None, asked: dict[str, Any]) -> None:
    """Pay back what was charged; without a payment, whatever was charged under the step's key."""
    del payment
    _fail_once(ctx, asked)


def _fail_once(ctx: Context, asked: dict[str, Any]) -> None:
    if asked["fail_undo"] == ctx.undoing and ctx.undo_attempt == 1:
        raise BankAway(f"the undo of {ctx.undoing!r} failed, as asked")
