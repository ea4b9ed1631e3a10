"""From what a submitter asks for to what `submit.lua` gets. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.jobs.document import event_channels, static_json
from gateway.settings import Settings
from gateway.store.channels import ChannelStore

if TYPE_CHECKING:
    from gateway.jobs.submission import Submission


class Arguments:
    """Writes the arguments: knows the channels' rules and the tenants' limits."""

    def __init__(self, channels: ChannelStore, settings: Settings) -> None:
        self._channels = channels
        self._settings = settings

    def of(self, tenant: str, job_id: str, wanted: Submission, traceparent: str, *, lease: float) -> dict[str, object]:
        """Return the arguments but for those of an Idempotency-Key; `lease`: see `submit.lua`, in seconds."""
        return {
            "id": job_id,
            "type": wanted.type,
            "owner": wanted.owner,
            "priority": wanted.priority,
            "static": static_json(
                tenant, job_id, wanted.type, wanted.owner, wanted.channels, wanted.priority, traceparent
            ),
            "input": bytes(wanted.input).decode(),
            "max_attempts": wanted.max_attempts,
            "timeout_ms": _ms(wanted.timeout),
            "delay_ms": _ms(wanted.delay),
            "ttl_ms": _ms(wanted.ttl),
            "traceparent": traceparent,
            "targets": [self._channels.target(name) for name in event_channels(wanted.owner, wanted.channels)],
            "max_open": self._settings.max_open_jobs,
            "max_due": self._settings.max_due,
            "max_admitted": self._settings.max_admitted_per_tenant,
            "lease_ms": int(lease * 1000),
            "unique": wanted.unique,
        }

    def child(self, tenant: str, job_id: str, wanted: Submission, traceparent: str, parent: str) -> dict[str, object]:
        """Return the arguments of a child: due at once, its parent in its JSON."""
        arguments = self.of(tenant, job_id, wanted, traceparent, lease=0)
        return {**arguments, "static": f'{arguments["static"]},"parent":"{parent}"'}


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
