"""Which emulated connections live here, and how commands find those that live on other nodes."""

from __future__ import annotations

import asyncio

import structlog

from gateway.errors import GatewayError, NotFound
from gateway.fanout.commands import Commands
from gateway.fanout.emulated import EmulatedConnection
from gateway.fanout.hub import Hub
from gateway.store.channels import ChannelStore

log = structlog.get_logger(__name__)

LEASE = 15.0  # seconds for which the others believe that a node lives
_RENEW = 3.0


class Emulation:
    """The sessions of this node, and the way to the others.

    A command for another node is published to it, session first; a node hears nothing but its own. What is published
    while the node's feed is away is lost: the client gets no answer and asks again. That a node is there at all is
    known by its lease, or by somebody's hearing it.

    Attributes:
        hub: whose connections the sessions are.
        commands: what their commands do.
    """

    def __init__(self, hub: Hub, commands: Commands, channels: ChannelStore) -> None:
        self.hub = hub
        self.commands = commands
        self._channels = channels
        self._sessions: dict[str, EmulatedConnection] = {}
        hub.listen(channels.node_channel(hub.node), self._hear)
        hub.keep(self._live)

    def enter(self, connection: EmulatedConnection) -> None:
        """A connection has begun."""
        self._sessions[connection.secret] = connection

    def leave(self, connection: EmulatedConnection) -> None:
        """A connection has ended."""
        self._sessions.pop(connection.secret, None)

    async def deliver(self, node: str, session: str, commands: bytes) -> bool:
        """Bring commands to their session; False when it is here no more, and then its answer has ended, too.

        Raises:
            NotFound: nobody is that node.
            StoreUnavailable: Redis is away, and the session is not here.
        """
        if node == self.hub.node:
            return self._take(session, commands)
        if not await self._channels.tell(node, f"{session}\n{commands.decode('utf-8', 'replace')}"):
            raise NotFound("There is no such node")
        return True

    def _take(self, session: str, commands: bytes) -> bool:
        connection = self._sessions.get(session)
        if connection is None:
            return False
        connection.receive(commands)
        return True

    def _hear(self, payload: bytes) -> None:
        session, _, commands = payload.partition(b"\n")
        if not self._take(session.decode("ascii", "replace"), commands):
            log.debug("emulation.session_gone")

    async def _live(self) -> None:
        while True:
            try:
                await self._channels.live(self.hub.node, LEASE)
            except GatewayError as error:
                log.warning("emulation.lease_not_renewed", error=error.code)
            await asyncio.sleep(_RENEW)
