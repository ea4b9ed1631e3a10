"""Which dead letters somebody means, and what is answered. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec

from gateway.errors import GatewayError
from gateway.store.deadletters import GroupCount, Place
from gateway.web.responses import rfc3339

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters; all that is given must hold.

    Attributes:
        group: a group's id.
        error_type: the type of the error, such as `TimeoutError`.
        reason: `failed`, `crashed`, `undecodable` …
        type: the job's.
        pool: the job's.
        since: died then or later.
        until: died then or earlier.
    """

    group: _Text | None = None
    error_type: _Text | None = None
    reason: _Text | None = None
    type: _Text | None = None
    pool: _Text | None = None
    since: _Time | None = None
    until: _Time | None = None

    def arguments(self) -> dict[str, object]:
        """Return it as the scripts' arguments."""
        names = ("group", "error_type", "reason", "type", "pool")
        texts = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        times = {f"{name}_ms": _ms(getattr(self, name)) for name in ("since", "until") if getattr(self, name)}
        return {**texts, **times}


class Found(NamedTuple):
    """Part of a list.

    Attributes:
        items: JSON each, or ids when asked for those.
        after: where it goes on, None at the end.
        total: how many dead letters the owner has, whatever the filter.
        dropped: how many made room for newer ones since there was none.
    """

    items: Sequence[bytes]
    after: Place | None
    total: int
    dropped: int


class Done(NamedTuple):
    """What became of many.

    Attributes:
        matched: how many fitted the filter.
        done: with how many it was done.
        failed: with which not, and why.
        after: where to go on, None at the end.
    """

    matched: int
    done: int
    failed: list[tuple[str, GatewayError]]
    after: Place | None


def shown_group(group: GroupCount) -> dict[str, object]:
    """Show a group of errors as a JSON object."""
    return {
        "group": msgspec.Raw(group.json),
        "count": group.entries,
        "first_seen": rfc3339(group.first_seen / 1000),
        "last_seen": rfc3339(group.last_seen / 1000),
        "sample": group.sample,
    }


def _ms(when: datetime) -> int:
    return round(when.timestamp() * 1000)
