"""The data of events the fan-out makes, in every version there has been. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.fanout import sse
from gateway.schemas import Schema, Version


class ControlV1(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a stream's continuity is not proven, or why it closes."""

    reason: str


# A client's own data, whatever it is.
MESSAGE: Final = Schema("channel.message", ("channel.message",), (Version(Any),))
CONTROL: Final = Schema("gateway.control", (sse.RESET, sse.BYE), (Version(ControlV1),), cloudevents=False)
