"""The two kinds of subscribers: over a WebSocket and over an event stream."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.faults.subscribers import Crowd, Subscriber
from tests.faults.wire import CLOSE, UPGRADE, frame

_PUB = re.compile(rb'"data":(\d+)\},"offset":(\d+)')
_BLOCK_DATA = re.compile(rb'"data":(\d+)\}$')


class Socket(Subscriber):
    """A WebSocket subscriber of the crowd's first channel."""

    def __init__(self, crowd: Crowd, position: tuple[str, int] | None = None) -> None:
        super().__init__(crowd)
        self.position = position
        self._next = 1

    def greeting(self) -> bytes:
        return UPGRADE

    def opened(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 101 "):
            self.wrong.append(head[:80].decode())
        self._next = 1
        credential = {"token": self.crowd.credential} if self.crowd.credential else {}
        self._send({"id": 1, "connect": credential})
        self._subscribe()

    def _subscribe(self) -> None:
        self._next += 1
        request: dict[str, Any] = {"channel": self.crowd.channels[0]}
        if self.position is not None:
            request |= {"recover": True, "epoch": self.position[0], "offset": self.position[1]}
        self._send({"id": self._next, "subscribe": request})

    def _send(self, command: dict[str, Any]) -> None:
        if self.transport is not None:
            self.transport.write(frame(json.dumps(command).encode()))

    def read(self) -> None:
        for first, payload in self._input.frames():
            if first == CLOSE:
                if self.transport is not None:
                    self.transport.abort()
                return
            self._message(payload)

    def number_of(self, event: dict[str, Any]) -> int:
        """Return the number an event carries."""
        number: int = event["data"]
        return number

    def decoded(self, payload: bytes) -> list[tuple[int, int]] | None:
        """Return offsets and numbers of a message that is nothing but publications; decoded once for the crowd."""
        known = self.crowd.decoded.get(payload)
        if known is None and payload.startswith(b'{"push":') and b'"unsubscribe":' not in payload[:300]:
            known = [(int(offset), int(number)) for number, offset in _PUB.findall(payload)]
            assert len(known) == payload.count(b"\n") + 1, payload[:300]
            self.crowd.decoded[payload] = known
        return known

    def _message(self, payload: bytes) -> None:
        known = self.decoded(payload)
        if known is not None:
            for offset, number in known:
                self._take(offset, number)
            return
        for line in payload.split(b"\n"):
            self._line(line)

    def _line(self, line: bytes) -> None:
        message = json.loads(line)
        if not message:
            self._send({})
        elif "push" in message:
            self._push(message["push"])
        elif "error" in message:
            self.leave()  # temporary by nature here: come back
        elif "subscribe" in message:
            self._joined(message["subscribe"])

    def _push(self, push: dict[str, Any]) -> None:
        if "pub" in push:
            self._publication(push["pub"])
        else:
            self.tell(f"unsubscribe {push['unsubscribe']['code']}")
            self._subscribe()

    def _joined(self, result: dict[str, Any]) -> None:
        self.ready = True
        if self.position is None:
            self.position = (result["epoch"], result.get("offset", 0))
        elif not result.get("recovered", False):
            self.tell("recovered: false")
            self.position = (result["epoch"], result.get("offset", 0))
        else:
            self.position = (result["epoch"], self.position[1])
            for pub in result.get("publications", ()):
                self._publication(pub)

    def _publication(self, pub: dict[str, Any]) -> None:
        self._take(pub["offset"], self.number_of(pub["data"]))

    def _take(self, offset: int, number: int) -> None:
        assert self.position is not None
        if offset != self.position[1] + 1:
            self.wrong.append(f"offset {offset} after {self.position[1]}")
        self.position = (self.position[0], offset)
        self.see(number)


class Stream(Subscriber):
    """An SSE subscriber of the crowd's first channel, or of all of them."""

    def __init__(self, crowd: Crowd, cursor: str = "", *, wide: bool = False) -> None:
        super().__init__(crowd)
        self.cursor = cursor
        self._channels = crowd.channels if wide else crowd.channels[:1]

    def greeting(self) -> bytes:
        query = "&".join(f"channel={name}" for name in self._channels)
        lines = [f"GET /v1/stream?{query} HTTP/1.1", "Host: localhost"]
        if self.cursor:
            lines.append(f"Last-Event-ID: {self.cursor}")
        if self.crowd.credential:
            lines.append(f"Authorization: Bearer {self.crowd.credential}")
        return "\r\n".join([*lines, "", ""]).encode()

    def opened(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 200 "):
            self.wrong.append(head[:80].decode())

    def read(self) -> None:
        for block in self._input.blocks():
            self._block(block)

    def _block(self, block: bytes) -> None:
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if line[:1] != b":" and b": " in line)
        name = fields.get(b"event", b"")
        if b"id" in fields:
            self.cursor = fields[b"id"].decode()
        if name == b"gateway.open":
            self.ready = True
        elif name == b"gateway.reset":
            self.tell("reset: " + fields[b"data"].decode())
        elif name and name != b"gateway.bye":
            self.see(self.number_in(fields[b"data"]))

    def number_in(self, data: bytes) -> int:
        """Return the number the data of a block carries."""
        found = _BLOCK_DATA.search(data)
        assert found, data
        return int(found[1])
