"""What the routes of the fan-out need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from gateway.auth.access import Access
from gateway.auth.authenticator import Authenticator
from gateway.auth.tickets import Tickets
from gateway.fanout.hub import Hub
from gateway.fanout.rpc import Call
from gateway.fanout.seats import Seats
from gateway.settings import Settings
from gateway.store.channels import ChannelStore


async def unlimited(_tenant: str) -> None:
    """Let everyone make as many requests as they like."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the routes need.

    Attributes:
        settings: anonymous connections, allowed origins, channel rules, seats.
        hub: entered by the time a request arrives.
        channels: the store of channels.
        access: who may do what on which channel.
        authenticator: reads API keys and tokens.
        tickets: opens tickets.
        secret: signs the cursors of ticket streams; called per request, so it may be known late.
        spend: pays for one request of a tenant; raises RateLimited.
        calls: what `rpc` offers, by method.
        seats: counts connections, whatever the transport.
    """

    settings: Settings
    hub: Hub
    channels: ChannelStore
    access: Access
    authenticator: Authenticator
    tickets: Tickets
    secret: Callable[[], bytes]
    spend: Callable[[str], Awaitable[None]] = unlimited
    calls: Mapping[str, Call] = field(default_factory=dict)
    seats: Seats = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seats", Seats.of(self.settings))
