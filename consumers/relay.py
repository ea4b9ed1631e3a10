"""The relay: what any program publishes to the exchange `events` reaches subscribers and webhooks (DESIGN 3.8).

In order, a batch at a time: read → record → bury what is no event → acknowledge. A batch whose acknowledgement was lost
comes again and is recognised by the ids of its events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

import structlog

from consumers.relay_message import Incoming, Relayed, Unreadable, read
from gateway.errors import GatewayError, StoreUnavailable
from gateway.jobs.rabbitmq_events import Arrived, EventIntake
from gateway.settings import Settings
from gateway.store.channels import MAX_BYTES, ChannelStore, cost

log = structlog.get_logger(__name__)

AWAY_NAP = 0.5


class Relay:
    """Records events of other programs."""

    def __init__(self, channels: ChannelStore, settings: Settings) -> None:
        self._channels = channels
        self._intake = EventIntake(settings.amqp_url, self.handle)

    def stop(self) -> None:
        """Ask `run` to return after the batch in hand."""
        self._intake.stop()

    async def run(self) -> None:
        """Relay until stopped or cancelled; while Redis or RabbitMQ is away nothing is lost, and nothing done.

        Raises:
            ConfigurationError: in a group; the broker has something of ours with other properties.
        """
        await self._intake.run()

    async def handle(self, messages: Sequence[Arrived]) -> dict[int, str]:
        """Record a batch; returns why some messages are to be buried, by their place."""
        refused: dict[int, str] = {}
        events: list[tuple[int, Relayed]] = []
        for place, message in enumerate(messages):
            try:
                events.append((place, read(Incoming(*message))))
            except Unreadable as error:
                refused[place] = str(error)
        for tenant, part in batches(events):
            refused |= await self._until_recorded(tenant, part)
        return refused

    async def _until_recorded(self, tenant: str, part: Mapping[int, Relayed]) -> dict[int, str]:
        """Record one tenant's events, waiting for Redis; returns why some could not be, by their place."""
        while True:
            try:
                await self._channels.publish_many(tenant, [event.outgoing for event in part.values()])
            except StoreUnavailable:
                log.warning("relay.waiting", tenant=tenant)
                await asyncio.sleep(AWAY_NAP)
            except GatewayError as error:
                if len(part) == 1:
                    return dict.fromkeys(part, f"could not be recorded: {error.detail}")
                return await self._one_by_one(tenant, part)
            else:
                return {}

    async def _one_by_one(self, tenant: str, part: Mapping[int, Relayed]) -> dict[int, str]:
        """One event of several is refused: find out which. Those recorded already are recognised."""
        refused: dict[int, str] = {}
        for place, event in part.items():
            refused |= await self._until_recorded(tenant, {place: event})
        return refused


def batches(events: Sequence[tuple[int, Relayed]]) -> Iterator[tuple[str, dict[int, Relayed]]]:
    """Cut events into parts that one call records: of one tenant, in order, of bounded cost."""
    tenants: dict[str, list[tuple[int, Relayed]]] = {}
    for place, event in events:
        tenants.setdefault(event.tenant, []).append((place, event))
    for tenant, found in tenants.items():
        part: dict[int, Relayed] = {}
        size = 0
        for place, event in found:
            size += cost(event.outgoing)
            if part and size > MAX_BYTES:
                yield tenant, part
                part, size = {}, cost(event.outgoing)
            part[place] = event
        yield tenant, part
