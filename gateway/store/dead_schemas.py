"""The data of the events about dead letters, in every version there has been. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.schemas import Schema, Version


class GroupV1(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Errors that are the same: `message` has placeholders for what varies."""

    id: str
    error_type: str
    message: str


class DeadLettersV1(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is new among the dead letters.

    Attributes:
        unowned: it is about messages whose tenant nobody knows.
        id: the dead letter's; not when there is none left.
        reason: why it is there.
        group: its errors; not of what is unowned.
    """

    unowned: bool
    id: str | msgspec.UnsetType = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET
    group: GroupV1 | msgspec.UnsetType = msgspec.UNSET


TYPES: Final = ("dead-letters.opened", "dead-letters.new-group", "dead-letters.cleared")
DEAD_LETTERS: Final = Schema("dead-letters", TYPES, (Version(DeadLettersV1),))
