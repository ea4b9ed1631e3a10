"""`gateway serve --workers N`: N processes on one port, and the parent that keeps them alive.

The parent opens a listening socket for each worker (SO_REUSEPORT), keeps it open, and the worker inherits it. The
kernel spreads connections over the sockets by a hash, evenly whatever the workers do; with one socket for all, three
idle workers took 134, 124 and 42 of 300 connections. And because the parent holds each socket, what has been accepted
for a worker that dies waits for its successor instead of being reset.

Parent and worker share one more thing, a socket pair: the worker says when it listens, and sees it end when the
parent is gone, however that happened; then it drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from gateway.errors import ConfigurationError

log = structlog.get_logger(__name__)

READY = b"r"
FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 10.0
STABLE = 30.0  # seconds a worker must have lived for its death to be the first one again
START_DEATHS = 5  # in a row, with no worker alive: something is wrong that a restart does not mend
STOP_LIMIT = 60.0  # seconds a worker may drain; longer than all its own limits together
_REFUSED = 2  # exit code of a program that has said in a sentence why it does not start


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a worker gets from its parent: file descriptors."""

    listener: int
    parent: int


class Workers:
    """Runs a command for each listener. `arguments` are Python's; `--inherit LISTENER,PARENT` is put behind them."""

    def __init__(self, arguments: Sequence[str], listeners: Sequence[socket.socket]) -> None:
        self._arguments = arguments
        self._listeners = listeners
        self._running: set[asyncio.subprocess.Process] = set()
        self._ready: set[asyncio.subprocess.Process] = set()
        self._stopping = asyncio.Event()
        self._start_deaths = 0
        self.failed = ""

    async def run(self) -> None:
        """Keep all alive until a signal says otherwise.

        Raises:
            ConfigurationError: they keep dying before they listen.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(len(self._listeners)):
                    group.create_task(self._keep(index), name=f"worker-{index}")
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        log.info("workers.stopped")
        if self.failed:
            raise ConfigurationError(self.failed)

    def _stop(self, number: int) -> None:
        """Drain all; a second signal hurries them."""
        log.info("workers.signal", signal=signal.Signals(number).name, workers=len(self._running))
        self._end_all()

    def _end_all(self) -> None:
        self._stopping.set()
        for listener in self._listeners:
            listener.close()  # ours: a worker's own is open until its pause is over
        self._signal_all()

    def _signal_all(self) -> None:
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    async def _keep(self, index: int) -> None:
        loop = asyncio.get_running_loop()
        backoff = FIRST_BACKOFF
        while not self._stopping.is_set():
            began = loop.time()
            await self._one(index)
            backoff = FIRST_BACKOFF if loop.time() - began >= STABLE else min(2 * backoff, LONGEST_BACKOFF)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff)

    async def _one(self, index: int) -> None:
        """Run one worker to its end; one that the system has no room for has died at its start."""
        try:
            process, ours = await self._spawn(index)
        except OSError as error:
            log.error("workers.not_started", worker=index, reason=str(error))  # noqa: TRY400 - that says it all
            self._died_at_start(None, str(error))
            return
        with ours:
            self._running.add(process)
            if self._stopping.is_set():  # asked while it was being started
                process.terminate()
            try:
                await self._watch(process, ours, index)
            finally:
                self._running.discard(process)
                self._ready.discard(process)

    async def _spawn(self, index: int) -> tuple[asyncio.subprocess.Process, socket.socket]:
        """Start a worker; returns it and our end of the pair. Raises OSError: no memory, processes or files left."""
        ours, theirs = socket.socketpair()
        fds = (self._listeners[index].fileno(), theirs.fileno())
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *self._arguments,
                    "--inherit",
                    f"{fds[0]},{fds[1]}",
                    pass_fds=fds,
                    start_new_session=True,  # Ctrl-C is for the parent, which asks once
                )
            except BaseException:
                ours.close()
                raise
        return process, ours

    async def _watch(self, process: asyncio.subprocess.Process, ours: socket.socket, index: int) -> None:
        # Both at once: one that is still starting may be asked to stop, too.
        hearing = asyncio.ensure_future(self._hear(process, ours, index))
        try:
            code = await self._end(process)
            listened = await hearing  # its end of the pair has gone with it
        finally:
            hearing.cancel()
        if self._stopping.is_set():
            log.info("workers.ended", worker=index, pid=process.pid, code=code)
            return
        log.error("workers.died", worker=index, pid=process.pid, code=code)
        self._ready.discard(process)
        if not listened:
            self._died_at_start(code, f"exit code {code}")

    async def _hear(self, process: asyncio.subprocess.Process, ours: socket.socket, index: int) -> bool:
        """Wait until a worker listens; False when it ends without."""
        ours.setblocking(False)
        with contextlib.suppress(OSError):
            if await asyncio.get_running_loop().sock_recv(ours, 1) == READY:
                self._ready.add(process)
                self._start_deaths = 0
                log.info("workers.ready", worker=index, pid=process.pid)
                return True
        return False

    async def _end(self, process: asyncio.subprocess.Process) -> int:
        """Wait for a worker's end; one that does not end when asked to is killed."""
        waiting = asyncio.ensure_future(process.wait())
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([waiting, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        done, _ = await asyncio.wait([waiting], timeout=None if waiting.done() else STOP_LIMIT)
        if not done:
            log.error("workers.killed", pid=process.pid)
            process.kill()
        return await waiting

    def _died_at_start(self, code: int | None, why: str) -> None:
        self._start_deaths += 1
        if self._ready or (code != _REFUSED and self._start_deaths < START_DEATHS):
            return
        self.failed = f"the workers do not start: {why}, {self._start_deaths} in a row"
        self._end_all()
