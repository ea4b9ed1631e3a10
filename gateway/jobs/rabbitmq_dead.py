"""The dead letters' queue on RabbitMQ, as the undertaker sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aio_pika.abc import AbstractIncomingMessage

from gateway.jobs.queue import (
    DEAD_LETTER_ID,
    DEAD_LETTER_REASON,
    DEAD_LETTER_SOURCE,
    DEAD_LETTER_TENANT,
    DeadDelivery,
    Letter,
)
from gateway.jobs.rabbitmq_consumer import Subscriber, settle_if_living

DEAD_PREFETCH: Final = 20
_OURS: Final = frozenset({DEAD_LETTER_REASON, DEAD_LETTER_SOURCE, DEAD_LETTER_ID, DEAD_LETTER_TENANT})


class _RabbitDeadDelivery:
    def __init__(self, incoming: AbstractIncomingMessage) -> None:
        self._incoming = incoming
        self._letter = letter_of(incoming)
        self._settled = False

    @property
    def letter(self) -> Letter:
        return self._letter

    @property
    def about(self) -> Mapping[str, str]:
        return {"source": self._letter.source, "message_id": self._letter.message_id}

    async def ack(self) -> None:
        if not self._settled:
            self._settled = True
            await settle_if_living(self._incoming, "ack", self._incoming.ack)

    async def requeue(self) -> None:
        if not self._settled:
            self._settled = True
            await settle_if_living(self._incoming, "requeue", self._incoming.nack)


class RabbitDeadConsumption(Subscriber[DeadDelivery]):
    """The context of `RabbitQueue.consume_dead`."""

    async def on_message(self, queue: str, incoming: AbstractIncomingMessage) -> None:
        """Deliver a dead letter."""
        del queue  # where it lies; where it died is in the letter
        self.start(_RabbitDeadDelivery(incoming))


def letter_of(incoming: AbstractIncomingMessage) -> Letter:
    """Read a dead letter: a worker buried it (headers of ours), or the broker did (headers of its)."""
    headers: Mapping[str, Any] = incoming.headers
    reason = headers.get(DEAD_LETTER_REASON)
    told = reason is not None
    return Letter(
        body=incoming.body,
        reason=_text(reason if told else headers.get("x-first-death-reason") or "unknown").replace("_", "-"),
        refused=told,
        source=_text(headers.get(DEAD_LETTER_SOURCE if told else "x-first-death-queue") or incoming.routing_key or ""),
        headers={name: value for name, value in headers.items() if name not in _OURS},
        message_id=_text(headers.get(DEAD_LETTER_ID) or "") if told else incoming.message_id or "",
        content_type=incoming.content_type or "",
        tenant=_text(headers.get(DEAD_LETTER_TENANT) or "") if told else "",
    )


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
