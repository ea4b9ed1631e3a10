"""PyPI `centrifuge-python`, in JSON."""

from __future__ import annotations

from typing import Any

import pytest
from centrifuge import Client, PublicationContext, SubscribedContext, SubscriptionEventHandler

from tests.e2e.clients import Event, token
from tests.e2e.test_one_job_live import ended
from tests.interop.support import LIMIT, Pair, check_whole_life, in_the_middle, submit_slow
from tests.support.waiting import eventually

pytestmark = pytest.mark.interop


class Recorder(SubscriptionEventHandler):  # type: ignore[misc] # the library has no types
    """Keeps what the subscription is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.offsets: list[int] = []
        self.subscribed: list[tuple[bool, bool]] = []
        self.errors: list[Any] = []

    async def on_publication(self, ctx: PublicationContext) -> None:
        self.events.append(ctx.pub.data)
        self.offsets.append(ctx.pub.offset)

    async def on_subscribed(self, ctx: SubscribedContext) -> None:
        self.subscribed.append((ctx.was_recovering, ctx.recovered))

    async def on_error(self, ctx: object) -> None:
        self.errors.append(ctx)


async def test_its_connection_is_cut_in_the_middle_of_a_job(pair: Pair) -> None:
    client = Client(pair.websocket, token=token("ann"), use_protobuf=False, proxy=None)
    recorder = Recorder()
    subscription = client.new_subscription("user:ann", events=recorder)
    await client.connect()
    await subscription.subscribe()
    await subscription.ready(LIMIT)
    job_id = await submit_slow(pair.second_url)
    await eventually(lambda: any(in_the_middle(event) for event in recorder.events), LIMIT)
    pair.front.lead_to(pair.second_url)
    pair.front.drop()
    await eventually(lambda: any(ended(event) for event in recorder.events), LIMIT)
    history = await subscription.history(limit=-1)
    await client.disconnect()
    await check_whole_life(pair.second_url, job_id, recorder.events)
    assert recorder.offsets == list(range(1, len(recorder.offsets) + 1))
    assert recorder.subscribed == [(False, False), (True, True)]
    assert recorder.errors == []
    assert [pub.data for pub in history.publications] == recorder.events
