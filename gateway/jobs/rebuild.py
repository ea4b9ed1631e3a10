"""Rebuilding a job that Redis lost from its message: the broker still had it, so the promise still holds."""

from __future__ import annotations

import time

import structlog

from gateway.jobs.arguments import Arguments
from gateway.jobs.document import implied_channels, static_json
from gateway.jobs.model import JOB_ID
from gateway.jobs.queue import Message
from gateway.jobs.store import JobStore
from gateway.settings import Settings
from gateway.store.channels import ChannelStore

log = structlog.get_logger(__name__)


class Rebuilder:
    """Writes lost jobs anew.

    Attributes:
        arguments: writes new ones, under the same settings.
    """

    def __init__(self, store: JobStore, channels: ChannelStore, settings: Settings) -> None:
        self._store = store
        self._channels = channels
        self._settings = settings
        self.arguments = Arguments(channels, settings)

    async def rebuild(self, message: Message) -> bool:
        """Write the job of a message anew; returns False when it is older than anything kept.

        A withdrawn job never gets here: its tombstone outlives its message.
        """
        age = time.time() - message.created_at / 1000
        if age > self._settings.job_retention or not JOB_ID.match(message.id):
            return False
        log.warning("job.rebuilt", job_id=message.id, tenant=message.tenant)
        implied = set(implied_channels(message.owner))
        own = [name for name in message.channels if name not in implied]
        static = static_json(
            message.tenant,
            message.id,
            message.type,
            message.owner,
            own,
            message.priority,
            message.traceparent,
        )
        await self._store.rebuild(message, static, [self._channels.target(name) for name in message.channels])
        return True
