"""`gateway serve --workers`: real processes, real kills."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gateway.errors import ConfigurationError
from gateway.server.workers import Workers
from gateway.settings import Settings
from gateway.store.channels import ChannelStore
from tests.fanout.support import SECRET, WsClient, publish
from tests.support.process import free_port
from tests.support.waiting import LIMIT, eventually, eventually_sync

WORKERS = 3
RULES = '{"open":{"subscribe":"anyone"}}'


class Supervised:
    """A running `gateway serve --workers N`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    def workers(self) -> list[int]:
        """The pids of the children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def ready(self) -> int:
        return self.log.read_text().count("workers.ready")

    def owner(self, client: ClientConnection) -> int:
        """The worker that holds the other end of a connection."""
        ends = f":{self.port:04X}", f":{client.local_address[1]:04X}"
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        (inode,) = [row[9] for row in rows if row[1].endswith(ends[0]) and row[2].endswith(ends[1])]
        return next(pid for pid in self.workers() if f"socket:[{inode}]" in sockets(pid))


def sockets(pid: int) -> set[str]:
    """The open files of a process, as the kernel names them."""
    return {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}


def environment(redis_url: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "GATEWAY_REDIS_URL": redis_url,
        "GATEWAY_AMQP_URL": "memory://",
        "GATEWAY_TOKEN_SECRET": SECRET,
        "GATEWAY_ANONYMOUS": "true",
        "GATEWAY_CHANNELS": RULES,
    }


@contextmanager
def serving(redis_url: str, folder: Path, *arguments: str, workers: int = WORKERS) -> Iterator[Supervised]:
    port, log = free_port(), folder / "serve.log"
    command = [sys.executable, "-m", "gateway", "serve", "--port", str(port), "--workers", str(workers), *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment(redis_url), stdout=output, stderr=subprocess.STDOUT)
    running = Supervised(process, port, log)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


async def until_ready(running: Supervised, count: int = WORKERS) -> None:
    await eventually(lambda: running.ready() >= count, 30)


async def subscribers(stack: AsyncExitStack, running: Supervised, count: int) -> list[WsClient]:
    clients = []
    for _ in range(count):
        uri = f"ws://127.0.0.1:{running.port}/connection/websocket"
        client = WsClient(await stack.enter_async_context(connect(uri, compression=None)))
        assert "connect" in await client.connect()
        assert "subscribe" in await client.subscribe("open:a")
        clients.append(client)
    return clients


async def test_a_killed_worker_takes_only_its_own_subscribers_along_and_comes_back(
    settings: Settings, redis: Redis, channels: ChannelStore, tmp_path: Path
) -> None:
    del redis
    with serving(settings.redis_url, tmp_path) as running:
        await until_ready(running)
        async with AsyncExitStack() as stack:
            clients = await subscribers(stack, running, 60)
            homes = [running.owner(client.socket) for client in clients]
            assert set(homes) == set(running.workers()), "every worker serves some"
            victim = homes[0]
            os.kill(victim, signal.SIGKILL)
            await publish(channels, "open:a", data=1)
            for client, home in zip(clients, homes, strict=True):
                if home == victim:
                    with pytest.raises(ConnectionClosed):
                        await client.next()
                else:
                    assert (await client.pubs(1))[0]["data"]["data"] == 1
            await until_ready(running, WORKERS + 1)
            assert len(running.workers()) == WORKERS
            assert victim not in running.workers()
            again = await subscribers(stack, running, 30)
            await publish(channels, "open:a", data=2)
            for client in again:
                assert (await client.pubs(1))[0]["data"]["data"] == 2


async def test_a_signal_drains_all_and_the_parent_says_well_done(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.redis_url, tmp_path) as running:
        await until_ready(running)
        async with AsyncExitStack() as stack:
            clients = await subscribers(stack, running, 20)
            running.process.terminate()
            codes: Counter[int] = Counter()
            for client in clients:
                with pytest.raises(ConnectionClosed) as closed:
                    await client.next()
                assert closed.value.rcvd is not None
                codes[closed.value.rcvd.code] += 1
            assert codes == {3001: 20}
        assert await asyncio.to_thread(running.process.wait, 30) == 0


async def test_workers_do_not_outlive_a_killed_parent(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.redis_url, tmp_path) as running:
        await until_ready(running)
        pids = running.workers()
        running.process.kill()
        await asyncio.to_thread(running.process.wait)
        await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 20)


def test_workers_that_cannot_start_end_the_program(redis_url: str, tmp_path: Path) -> None:
    # Nothing is wrong that the parent could see; the children's interpreter finds no gateway.
    program = (
        "import asyncio, socket\n"
        "from gateway.__main__ import run\n"
        "from gateway.server.workers import Workers\n"
        "with socket.socket() as one, socket.socket() as two:\n"
        "    run(Workers(['-c', 'raise SystemExit(1)'], [one, two]).run())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(redis_url),
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("gateway: the workers do not start: exit code 1")
    del tmp_path


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_a_start_that_waits_for_redis(tmp_path: Path, workers: int, number: signal.Signals) -> None:
    port = free_port()
    command = [sys.executable, "-m", "gateway", "serve", "--port", str(port), "--workers", str(workers)]
    env = environment(f"redis://127.0.0.1:{free_port()}")  # nobody is there
    del env["GATEWAY_TOKEN_SECRET"]
    log = tmp_path / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        eventually_sync(lambda: log.read_text().count("gateway.waiting_for_redis") >= workers, 30)
        process.send_signal(number)
        assert process.wait(30) == 0
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


async def test_a_worker_the_system_has_no_room_for_takes_nobody_along(monkeypatch: pytest.MonkeyPatch) -> None:
    real, tries = asyncio.create_subprocess_exec, Counter[str]()
    listens = "import os, signal, sys; os.write(int(sys.argv[2].split(',')[1]), b'r'); signal.pause()"

    async def spawn(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
        tries["all"] += 1
        if tries["all"] in {2, 3}:  # the second worker's first ones
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return await real(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn)
    with socket.socket() as one, socket.socket() as two:
        workers = Workers(["-c", listens], [one, two])
        running = asyncio.create_task(workers.run())
        await eventually(lambda: len(workers._ready) == 2, 20)
        assert tries["all"] == 4
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(LIMIT):
            await running


async def test_a_system_with_room_for_no_worker_at_all_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    async def spawn(*_: str, **__: Any) -> NoReturn:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn)
    monkeypatch.setattr("gateway.server.workers.LONGEST_BACKOFF", 0.01)
    with socket.socket() as one, socket.socket() as two:
        async with asyncio.timeout(LIMIT):
            with pytest.raises(ConfigurationError, match="temporarily unavailable, 5 in a row"):
                await Workers(["-c", ""], [one, two]).run()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--certificate", "/nowhere.pem"], "gateway: no certificate and key in /nowhere.pem: No such file"),
        (["--key", "/nowhere.pem"], "gateway: --key needs --certificate"),
        (["--host", "192.0.2.1"], "gateway: cannot listen on 192.0.2.1 port"),
    ],
)
def test_what_is_wrong_is_one_sentence(redis_url: str, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    with serving(redis_url, tmp_path, *arguments) as running:
        eventually_sync(lambda: running.process.poll() is not None, 30)
        assert running.process.returncode == 2
        assert running.log.read_text().splitlines()[-1].startswith(sentence)


def test_a_taken_port_and_another_number_of_shards_too(redis_url: str, tmp_path: Path) -> None:
    with serving(redis_url, tmp_path, workers=1) as first:
        eventually_sync(lambda: "gateway.listening" in first.log.read_text(), 30)
        (tmp_path / "second").mkdir()
        with serving(redis_url, tmp_path / "second", "--port", str(first.port)) as second:
            assert second.process.wait(30) == 2
            assert "cannot listen on 127.0.0.1 port" in second.log.read_text()
        env = {**environment(redis_url), "GATEWAY_SHARDS": "7"}
        ended = subprocess.run(
            [sys.executable, "-m", "gateway", "serve", "--port", "0"],
            capture_output=True,
            text=True,
            timeout=60,
            env=env,
            check=False,
        )
        assert ended.returncode == 2
        assert "GATEWAY_SHARDS is 7" in ended.stderr.splitlines()[-1]


async def test_tls_by_the_command_line(settings: Settings, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    command += ["-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    with serving(settings.redis_url, tmp_path, "--certificate", str(certificate), "--key", str(key)) as running:
        await until_ready(running)
        context = ssl.create_default_context(cafile=str(certificate))
        uri = f"wss://localhost:{running.port}/connection/websocket"
        async with connect(uri, compression=None, ssl=context) as socket:
            assert "connect" in await WsClient(socket).connect()
