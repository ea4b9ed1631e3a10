"""`ctx.publish`: events from tasks, under the rules of `POST /v1/events`."""

from __future__ import annotations

import msgspec

from consumers.asking import Publish
from consumers.outcome import GiveUp
from consumers.patience import until_stored
from gateway.errors import BodyTooLarge, GatewayError, InvalidFields
from gateway.events import new_id
from gateway.jobs.queue import Message
from gateway.store.channels import ChannelStore
from gateway.store.produced import NewEvent, outgoing
from gateway.web.decoding import decode


class Publisher:
    """Publishes for one attempt, in its tenant; the events' source is the job, their trace the job's."""

    def __init__(self, channels: ChannelStore, message: Message) -> None:
        self._channels = channels
        self._message = message

    async def publish(self, asked: Publish) -> bytes:
        """Publish, waiting for Redis; returns the event's id.

        Raises:
            GiveUp: a rule is broken.
        """
        message = self._message
        # With an id in any case: an answer that was lost must not make two events of one.
        event = _checked(asked, asked.id or new_id("evt_"))
        try:
            wanted = outgoing(event, source=f"/v1/jobs/{message.id}", traceparent=message.traceparent)
        except BodyTooLarge as error:
            raise GiveUp(f"publish: {error.detail}") from None
        await until_stored(lambda: self._channels.publish_many(message.tenant, [wanted]))
        return wanted.event.id.encode()


def _checked(asked: Publish, event_id: str) -> NewEvent:
    given = msgspec.structs.asdict(asked) | {"data": msgspec.Raw(asked.data), "id": event_id}
    try:
        return decode(msgspec.json.encode(given), NewEvent)
    except InvalidFields as error:
        wrong = "; ".join(f"{fault.pointer[1:]} {fault.detail}" for fault in error.errors)
        raise GiveUp(f"publish: {wrong}") from None
    except GatewayError as error:
        raise GiveUp(f"publish: {error.detail}") from None
