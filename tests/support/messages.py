"""Messages for queues, and a consumer that remembers."""

from __future__ import annotations

import time

import msgspec

from gateway.events import new_id
from gateway.jobs.model import PRIORITIES
from gateway.jobs.queue import Delivery, Message

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
PREFETCH: dict[str, int] = dict.fromkeys(PRIORITIES, 10)


def make_message(pool: str, **changes: object) -> Message:
    """A message of a new job."""
    message = Message(
        id=new_id("job_"),
        tenant="default",
        type="echo",
        pool=pool,
        priority="default",
        run=1,
        attempt=1,
        input=msgspec.Raw(b'{"list":[],"big":9007199254740993}'),
        traceparent=TRACE,
        created_at=time.time_ns() // 1_000_000,
        channels=("user:ann", "jobs"),
        owner="ann",
    )
    return msgspec.structs.replace(message, **changes)


class Inbox:
    """A handler that keeps what it gets, unsettled."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    async def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    @property
    def ids(self) -> list[str]:
        return [delivery.message.id for delivery in self.deliveries]

    def __len__(self) -> int:
        return len(self.deliveries)
