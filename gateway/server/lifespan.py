"""The application's start, which may wait long, and how it is given up."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.lifespan.on import LifespanOn


class StartStoppedError(Exception):
    """Somebody asked the server to stop before it listened."""


class Lifespan(LifespanOn):
    """uvicorn's, whose start can be given up: the application may be waiting for something that is away."""

    _running: asyncio.Task[Any] | None = None
    _given_up = False

    def give_up(self) -> None:
        """Cancel the application's start, unless it is over."""
        if self._running is not None and not self.startup_event.is_set():
            self._given_up = True
            self._running.cancel()

    async def main(self) -> None:
        """See uvicorn's."""
        self._running = asyncio.current_task()
        await super().main()

    async def send(self, message: Any) -> None:  # noqa: ANN401 - ASGI
        """See uvicorn's; a start that was given up has no fault to tell."""
        if self._given_up and message["type"] == "lifespan.startup.failed":
            message = {"type": "lifespan.startup.failed", "message": ""}
        await super().send(message)
