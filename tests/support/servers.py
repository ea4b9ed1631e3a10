"""Private Redis and RabbitMQ servers: own ports, own folders, on loopback only; the machine's own are not touched."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Self

from tests.support.process import Child, exchange, free_port

START_LIMIT = 60.0
_RABBIT = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # Debian's wrapper in /usr/sbin would change the user
_AMQP_HEADER = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME = b"\x01"  # Connection.Start; a refused version is answered with "AMQP"


class PrivateServer:
    """A server with a port and a folder of its own; both are gone when the test run is gone."""

    def __init__(self, name: str) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix=f"gateway-{name}-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._child: Child | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        raise NotImplementedError

    def stop(self) -> None:
        """SIGTERM: an orderly shutdown, as for an upgrade."""
        child, self._child = self._child, None
        if child is not None:
            child.stop()

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()

    def restart(self) -> None:
        """Stop and start again on the same port, with the same data where it keeps any."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill all of it and remove its folder."""
        self.kill()
        self._remove()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()  # whatever of it runs
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RedisServer(PrivateServer):
    """A redis-server as an operator would run it: AOF every second, noeviction. Data survives `restart`.

    A kill may lose up to about a second of writes.

    `options` are further lines of its configuration, with _ for -.
    """

    def __init__(self, **options: str) -> None:
        super().__init__("redis")
        self.options = {name.replace("_", "-"): value for name, value in options.items()}

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start and wait until it answers with all data loaded."""
        assert self._child is None, "already running"
        command = shutil.which("redis-server")
        assert command, "redis-server is needed: sh tests/setup.sh"
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            **self.options,
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        child = self._child = Child([command, *arguments], self._folder)
        child.wait_for(lambda: exchange(self.port, b"PING\r\n", b"+PONG"), START_LIMIT)

    def wipe(self) -> None:
        """Throw the data away; only while stopped."""
        assert self._child is None, "stop it first"
        shutil.rmtree(self._folder)
        self._folder.mkdir()

    def keep(self) -> None:
        """Copy the data as it is now, for `rewind`."""
        shutil.rmtree(self._kept, ignore_errors=True)
        shutil.copytree(self._folder / "appendonlydir", self._kept)

    def rewind(self) -> None:
        """Put the kept data back: what was written since is lost; only while stopped."""
        self.wipe()
        shutil.copytree(self._kept, self._folder / "appendonlydir")

    @property
    def _kept(self) -> Path:
        return self._folder.with_name(self._folder.name + "-kept")

    def close(self) -> None:
        """Kill it and remove its folders."""
        super().close()
        shutil.rmtree(self._kept, ignore_errors=True)


class RabbitServer(PrivateServer):
    """A single RabbitMQ node with an epmd, a cookie and a home of its own. Data survives `restart`."""

    def __init__(self) -> None:
        super().__init__("rabbit")
        self._epmd_port = free_port()
        self._dist_port = free_port()
        self._node = f"test{secrets.token_hex(4)}@localhost"
        self._epmd: Child | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start and wait until it answers an AMQP handshake."""
        assert self._child is None, "already running"
        command = _RABBIT if os.access(_RABBIT, os.X_OK) else shutil.which("rabbitmq-server")
        assert command, "rabbitmq-server is needed: sh tests/setup.sh"
        self._write_config()
        if self._epmd is None:
            self._start_epmd()
        child = self._child = Child([command], self._folder, self._env())
        child.wait_for(lambda: exchange(self.port, _AMQP_HEADER, _METHOD_FRAME), START_LIMIT)

    def _start_epmd(self) -> None:
        # Ours, in the foreground: the one a node starts by itself would stay for ever.
        command = shutil.which("epmd")
        assert command, "epmd (Erlang) is needed: sh tests/setup.sh"
        arguments = ["-address", "127.0.0.1", "-port", str(self._epmd_port)]
        epmd = self._epmd = Child([command, *arguments], self._folder)
        names = b"\x00\x01n"  # NAMES_REQ; the answer starts with epmd's own port
        answer = self._epmd_port.to_bytes(4, "big")
        epmd.wait_for(lambda: exchange(self._epmd_port, names, answer), START_LIMIT)

    def _write_config(self) -> None:
        config = (
            f"listeners.tcp.local = 127.0.0.1:{self.port}\n"
            "vm_memory_high_watermark.absolute = 512MB\n"
            "disk_free_limit.absolute = 10MB\n"
            "raft.wal_max_size_bytes = 33554432\n"
        )
        (self._folder / "rabbitmq.conf").write_text(config)
        (self._folder / "enabled_plugins").write_text("[].\n")

    def _env(self) -> dict[str, str]:
        folder = str(self._folder)
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": folder,  # the Erlang cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP": "/dev/null",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/none.config",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{folder}/config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/logs",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            # "Input allowed" makes the script become the server instead of its parent, so signals reach it.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +A 8 +sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        }

    def close(self) -> None:
        """Kill all of it and remove its folder."""
        self.kill()
        epmd, self._epmd = self._epmd, None
        if epmd is not None:
            epmd.kill()
        super().close()
