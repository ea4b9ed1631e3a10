"""Ending the live connections and subscriptions whose credentials have been revoked, on every node."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from gateway.auth.revocation import CHANNEL, Revocations
from gateway.errors import GatewayError
from gateway.fanout import codes
from gateway.fanout.connection import Connection
from gateway.fanout.hub import Hub
from gateway.fanout.session import Session

log = structlog.get_logger(__name__)

INTERVAL = 0.5  # seconds between two looks at the store: how late a revocation is whose message was lost
_SLICE = 500  # connections looked at in one turn of the loop


class Evictions:
    """Listens for revocations, reads those it did not hear of, and closes what they concern; `run` for ever."""

    def __init__(self, hub: Hub, revocations: Revocations) -> None:
        self._hub = hub
        self._revocations = revocations
        self._news = asyncio.Event()
        self._swept = -1
        hub.revoked = revocations.known
        hub.listen(CHANNEL, self._on_message)

    def _on_message(self, message: bytes) -> None:
        try:
            self._revocations.view.published(message)
        except ValueError:
            log.warning("evictions.foreign_message", size=len(message))
        self._news.set()

    async def run(self) -> None:
        """Sweep when there is news; look for news that did not come by itself."""
        while True:
            await self._sweep()
            try:
                await self._revocations.catch_up()
            except GatewayError as error:
                log.debug("evictions.store_away", reason=error.code)  # everybody else says so louder
            await self._sweep()
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._news.wait()
            self._news.clear()

    async def _sweep(self) -> None:
        """Look at everybody, a slice at a time. Who comes meanwhile is looked at by `Hub.enter`."""
        view = self._revocations.view
        changes = view.changes
        if changes == self._swept:
            return
        connections = list(self._hub.connections)
        for start in range(0, len(connections), _SLICE):
            for connection in connections[start : start + _SLICE]:
                self._look_at(connection)
            await asyncio.sleep(0)
        self._swept = changes

    def _look_at(self, connection: Connection) -> None:
        """Judge one; whoever cannot be judged is cut off and keeps nobody else from it."""
        try:
            self._judge(connection)
        except Exception:
            log.exception("evictions.not_judged")
            connection.abort()

    def _judge(self, connection: Connection) -> None:
        credential = connection.credential
        if connection.closing or credential is None:
            return
        if self._hub.revoked(credential):
            connection.revoke()
        elif isinstance(connection, Session):
            for subscription in list(connection.subscriptions.values()):
                if subscription.grant is not None and self._hub.revoked(subscription.grant):
                    connection.end(subscription, codes.SUBSCRIPTION_INVALIDATED)
