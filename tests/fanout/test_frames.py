from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from gateway.fanout import frames
from gateway.fanout.frames import FrameReader


def masked(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=True)


def client_reads(data: bytes) -> Protocol:
    client = Protocol(CLIENT, state=OPEN, max_size=None)
    client.receive_data(data)
    return client


@given(st.binary(max_size=70_000))
def test_what_we_write_is_what_a_client_reads(payload: bytes) -> None:
    (event,) = client_reads(frames.text(payload)).events_received()
    assert isinstance(event, Frame)
    assert (event.opcode, event.fin, event.data) == (Opcode.TEXT, True, payload)


def test_a_close_says_code_and_reason_and_cuts_what_is_too_long() -> None:
    client = client_reads(frames.close(3001, "shutdown"))
    assert client.close_rcvd == Close(3001, "shutdown")
    client = client_reads(frames.close(3004, "r" * 200))
    assert client.close_rcvd == Close(3004, "r" * 123)


MESSAGES = st.lists(
    st.tuples(st.text(max_size=200).map(str.encode), st.integers(1, 3), st.sampled_from([b"", b"ping", None])),
    max_size=6,
)


def _on_the_wire(messages: list[tuple[bytes, int, bytes | None]]) -> bytes:
    """Each message in one or more fragments, perhaps with a ping after its first fragment."""
    data = b""
    for payload, pieces, ping in messages:
        size = max(1, -(-len(payload) // pieces))
        parts = [payload[start : start + size] for start in range(0, len(payload), size)] or [b""]
        for index, part in enumerate(parts):
            opcode = Opcode.CONT if index else Opcode.TEXT
            data += masked(opcode, part, fin=index == len(parts) - 1)
            if not index and ping is not None:
                data += masked(Opcode.PING, ping)
    return data


@given(MESSAGES, st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_messages_survive_any_fragmentation_and_any_cutting(
    messages: list[tuple[bytes, int, bytes | None]], cuts: list[int]
) -> None:
    data, got, replies = _on_the_wire(messages), [], b""
    reader: FrameReader | None = None
    while data:
        chunk, data = data[: cuts[0]], data[cuts[0] :]
        cuts = [*cuts[1:], cuts[0]]
        if reader is None:
            plain, used = frames.plain(chunk)
            got += plain
            chunk = chunk[used:]
            reader = FrameReader() if chunk else None
        if reader is not None:
            received = reader.feed(chunk)
            got += received.messages
            replies += received.reply
            assert not received.closed
            reader = None if reader.idle else reader
    assert got == [payload for payload, _, _ in messages]
    assert reader is None
    pongs = [event.data for event in client_reads(replies).events_received() if isinstance(event, Frame)]
    assert pongs == [ping for _, _, ping in messages if ping is not None]


@given(st.lists(st.binary(max_size=70_000), max_size=5))
def test_plain_frames_are_read_without_state(payloads: list[bytes]) -> None:
    data = b"".join(masked(Opcode.TEXT, payload) for payload in payloads)
    messages, used = frames.plain(data, limit=70_000)
    short = next((i for i, payload in enumerate(payloads) if len(payload) >= 65_536), len(payloads))
    assert messages == payloads[:short]
    assert data[used:] == b"".join(masked(Opcode.TEXT, payload) for payload in payloads[short:])[: len(data) - used]


def test_a_flood_of_empty_fragments_takes_no_memory_and_loses_no_message() -> None:
    reader = FrameReader()
    assert not reader.feed(masked(Opcode.TEXT, b"", fin=False)).messages
    assert not reader.idle
    for _ in range(100):
        received = reader.feed(masked(Opcode.CONT, b"", fin=False) * 100)
        assert not received.closed
        assert not received.messages
    assert not reader._message
    assert reader.feed(masked(Opcode.CONT, b"end")).messages == [b"end"]
    assert reader.idle


@pytest.mark.parametrize("announced", [frames.MAX_MESSAGE + 1, 2**31, 2**62])
def test_a_frame_that_announces_too_much_is_refused_before_it_comes(announced: int) -> None:
    header = b"\x81\xff" + announced.to_bytes(8, "big") + b"mask"
    assert frames.plain(header) == ([], 0)
    received = FrameReader().feed(header)
    assert received.closed
    told = client_reads(received.reply).close_rcvd
    assert told is not None
    assert told.code == frames.TOO_BIG


MOST = frames.MAX_MESSAGE * 2 // 3
UNMASKED = Frame(Opcode.TEXT, b"hi").serialize(mask=False)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (UNMASKED, frames.PROTOCOL_ERROR),
        (b"\xc1" + masked(Opcode.TEXT, b"hi")[1:], frames.PROTOCOL_ERROR),
        (masked(Opcode.CONT, b"hi"), frames.PROTOCOL_ERROR),
        (masked(Opcode.TEXT, b"x" * (frames.MAX_MESSAGE + 1)), frames.TOO_BIG),
        (masked(Opcode.TEXT, b"x" * MOST, fin=False) + masked(Opcode.CONT, b"x" * MOST), frames.TOO_BIG),
        (masked(Opcode.BINARY, b"hi"), frames.UNSUPPORTED),
        (masked(Opcode.CLOSE, Close(1000, "bye").serialize()), frames.NORMAL),
        (masked(Opcode.TEXT, b"a", fin=False) + masked(Opcode.CLOSE, Close(1000, "").serialize()), frames.NORMAL),
        (masked(Opcode.TEXT, b"a", fin=False) + masked(Opcode.CONT, b"\xff", fin=False), frames.INVALID_DATA),
        (masked(Opcode.TEXT, b"\xc3", fin=False) + masked(Opcode.CONT, b""), frames.INVALID_DATA),
    ],
    ids=["unmasked", "reserved bits", "stray continuation", "too big", "too big in parts", "binary", "close",
         "close within a message", "not UTF-8 in a fragment", "half a character"],
)  # fmt: skip
def test_mistakes_and_closes_end_with_the_right_code(data: bytes, code: int) -> None:
    assert frames.plain(data)[1] == 0
    received = FrameReader().feed(data)
    assert received.closed
    assert not received.messages
    told = client_reads(received.reply).close_rcvd
    assert told is not None
    assert told.code == code


def test_empty_fragments_cost_nothing_and_what_came_before_a_mistake_is_kept() -> None:
    reader = FrameReader()
    assert reader.feed(masked(Opcode.TEXT, b"a", fin=False)) == ([], b"", False, 1)
    for _ in range(1000):
        reader.feed(masked(Opcode.CONT, b"", fin=False))
    assert reader._message == b"a"
    assert not reader.idle
    received = reader.feed(masked(Opcode.CONT, b"b") + masked(Opcode.TEXT, b"c") + UNMASKED)
    assert (received.messages, received.closed) == ([b"ab", b"c"], True)
