"""May this principal do this on this channel? The rules of `capabilities`, and the one that needs a look-up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.auth.capabilities import may
from gateway.auth.principals import Action, Principal
from gateway.events import channel_fault, namespace
from gateway.settings import Settings

# (tenant, job id) → the job's owner, or None when there is no such job or nobody owns it.
JobOwner = Callable[[str, str], Awaitable[str | None]]


class Access:
    """Decides about channels for every transport."""

    def __init__(self, settings: Settings, job_owner: JobOwner) -> None:
        self._settings = settings
        self._job_owner = job_owner

    async def may(self, principal: Principal, action: Action, channel: str) -> bool:
        """Whether the principal may do this; the owner of a job may read `job:<id>`.

        Raises:
            StoreUnavailable: the job's owner could not be looked up.
        """
        if may(principal, action, channel, self._settings.rules(namespace(channel))):
            return True
        if action not in {"sub", "hst"} or principal.kind != "token" or not principal.subject:
            return False
        if namespace(channel) != "job" or channel_fault(channel) is not None:
            return False
        return await self._job_owner(principal.tenant, channel.removeprefix("job:")) == principal.subject
