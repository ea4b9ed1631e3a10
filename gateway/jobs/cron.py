"""When a recurring job fires. Pure: the time comes in as an argument.

Cron expressions as Debian's cron reads them (`cronsim`), daylight saving included: five fields, or six with the seconds
first.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim

from gateway.auth.principals import DEFAULT_TENANT
from gateway.errors import ConfigurationError
from gateway.events import TENANT, id_of

Overlap = Literal["skip", "allow"]


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A recurring job of one type.

    Attributes:
        cron: when.
        timezone: in which zone that is meant.
        tenant: whose jobs they are.
        input: of each job, JSON.
        overlap: `skip` a firing while the job of the last one is open, or `allow` it.
    """

    cron: str
    timezone: str = "UTC"
    tenant: str = DEFAULT_TENANT
    input: str = "{}"
    overlap: Overlap = "skip"

    def following(self, after: int) -> int:
        """Return the first firing after a time; both in milliseconds since 1970.

        Raises:
            ConfigurationError: it never fires again, or a field is wrong.
        """
        start = datetime.fromtimestamp(after / 1000, UTC).astimezone(_zone(self.timezone))
        try:
            for instant in CronSim(self.cron, start):
                found = int(instant.timestamp() * 1000)
                if found > after:  # an hour that comes twice must not fire twice
                    return found
        except Exception as error:
            # Besides its own error it raises what its parser stumbles over.
            raise ConfigurationError(f"schedule {self.cron!r}: {str(error) or 'not a cron expression'}") from error
        raise ConfigurationError(f"schedule {self.cron!r}: it never fires")

    def check(self) -> None:
        """Raise ConfigurationError for a schedule that cannot be."""
        if not TENANT.match(self.tenant):
            raise ConfigurationError("schedule_tenant must be 1 to 64 characters of A-Z a-z 0-9 _ -")
        if self.overlap not in {"skip", "allow"}:
            raise ConfigurationError("schedule_overlap must be skip or allow")
        self.following(0)

    def job_id(self, name: str, firing: int) -> str:
        """Return the id of a firing's job: always the same, so that a firing that is repeated is the same job."""
        digest = hashlib.sha256(f"{self.tenant} {name} {firing}".encode()).digest()
        return id_of("job_", firing, int.from_bytes(digest[:10]))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError) as error:
        raise ConfigurationError(f"there is no time zone {name!r}") from error
