"""The relay: what any program publishes to the exchange `events` reaches subscribers and webhooks (DESIGN 3.8).

In order, a batch at a time: read → record → bury what is no event → acknowledge. A batch whose acknowledgement was lost
comes again and is recognised by the ids of its events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from consumers.patience import until_stored
from consumers.relay_message import Relayed, Unreadable, properties_as_headers, read
from gateway.errors import GatewayError
from gateway.jobs.queue import Incoming
from gateway.jobs.rabbitmq_events import QUEUE, declare_events
from gateway.jobs.rabbitmq_intake import Intake
from gateway.settings import Settings
from gateway.store.channels import MAX_BYTES, ChannelStore, cost
from gateway.store.deadletters import DeadLetterStore
from gateway.store.redis import Store


class Relay:
    """Records events of other programs."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._channels = ChannelStore(store, settings)
        self._dead = DeadLetterStore(store, settings)
        self._intake = Intake(settings.amqp_url, QUEUE, declare_events, self.handle)

    def stop(self) -> None:
        """Ask `run` to return after the batch in hand."""
        self._intake.stop()

    async def run(self) -> None:
        """Relay until stopped or cancelled; while Redis or RabbitMQ is away nothing is lost, and nothing done.

        Raises:
            ConfigurationError: in a group; the broker has something of ours with other properties.
        """
        await self._intake.run()

    async def handle(self, messages: Sequence[Incoming]) -> None:
        """Record a batch, and bury what is no event; waits for Redis as long as it takes."""
        events: list[tuple[int, Relayed]] = []
        for place, message in enumerate(messages):
            try:
                events.append((place, read(message)))
            except Unreadable as error:
                await self._bury(message, None, "undecodable", str(error))
        for tenant, part in batches(events):
            for place, why in (await self._record(tenant, part)).items():
                await self._bury(messages[place], tenant, "not-recordable", why)

    async def _record(self, tenant: str, part: Mapping[int, Relayed]) -> dict[int, str]:
        """Record one tenant's events; returns why some could not be, by their place."""
        try:
            outgoing = [event.outgoing for event in part.values()]
            await until_stored(lambda: self._channels.publish_many(tenant, outgoing))
        except GatewayError as error:
            if len(part) == 1:
                return dict.fromkeys(part, error.detail)
            # Which of them it is shows one by one; those that are recorded already are recognised.
            refused: dict[int, str] = {}
            for place, event in part.items():
                refused |= await self._record(tenant, {place: event})
            return refused
        return {}

    async def _bury(self, message: Incoming, tenant: str | None, reason: str, detail: str) -> None:
        headers = {**message.headers, **properties_as_headers(message)}
        await until_stored(
            lambda: self._dead.bury(
                tenant,
                reason,
                QUEUE,
                message.body,
                headers,
                detail=detail,
                message_id=message.message_id,
                content_type=message.content_type,
            )
        )


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
