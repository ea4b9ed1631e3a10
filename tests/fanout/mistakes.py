"""What a client may do wrong in a frame or a message, and the code it is closed with."""

from __future__ import annotations

import struct

from gateway.fanout.frames import MAX_MESSAGE
from tests.faults.wire import CLOSE, frame

TEXT, CONT, BINARY, PING = 0x1, 0x0, 0x2, 0x9
FIN = 0x80
MOST = MAX_MESSAGE * 2 // 3


def raw(first: int, payload: bytes) -> bytes:
    return frame(payload, first)


def close(code: int, reason: bytes = b"") -> bytes:
    return raw(CLOSE, struct.pack("!H", code) + reason)


SPLIT = "Käse".encode()
BAD = b"\xed\xa0\x80"  # a surrogate: never UTF-8
FRAMES: dict[str, tuple[int, list[bytes]]] = {
    "unmasked": (1002, [b"\x81\x02hi"]),
    "unmasked ping": (1002, [b"\x89\x02hi"]),
    "reserved bit 1": (1002, [raw(0xC1, b"hi")]),
    "reserved bit 2": (1002, [raw(0xA1, b"hi")]),
    "reserved bit 3": (1002, [raw(0x91, b"hi")]),
    "reserved bit on a control frame": (1002, [raw(0xC9, b"hi")]),
    "reserved opcode 3": (1002, [raw(0x83, b"hi")]),
    "reserved opcode 7": (1002, [raw(0x87, b"hi")]),
    "reserved control opcode 11": (1002, [raw(0x8B, b"hi")]),
    "reserved control opcode 15": (1002, [raw(0x8F, b"hi")]),
    "fragmented ping": (1002, [raw(PING, b"hi"), raw(FIN, b"hi")]),
    "fragmented close": (1002, [raw(0x8, struct.pack("!H", 1000))]),
    "ping of 126 bytes": (1002, [raw(FIN | PING, b"x" * 126)]),
    "close of 126 bytes": (1002, [close(1000, b"x" * 124)]),
    "ping that says 2^62 bytes": (1009, [b"\x89\xff" + struct.pack("!Q", 2**62) + b"\0\0\0\0"]),
    "continuation of nothing": (1002, [raw(FIN | CONT, b"hi")]),
    "text within a message": (1002, [raw(TEXT, b"a"), raw(FIN | TEXT, b"b")]),
    "binary": (1003, [raw(FIN | BINARY, b"hi")]),
    "binary in fragments": (1003, [raw(BINARY, b"hi"), raw(FIN | CONT, b"hi")]),
    "text that says 2^62 bytes": (1009, [b"\x81\xff" + struct.pack("!Q", 2**62) + b"\0\0\0\0"]),
    "text that says 2^63 bytes": (1009, [b"\x81\xff" + struct.pack("!Q", 2**63) + b"\0\0\0\0"]),
    "text a byte too long": (1009, [raw(FIN | TEXT, b"x" * (MAX_MESSAGE + 1))]),
    "fragments that are too much together": (1009, [raw(TEXT, b"x" * MOST), raw(FIN | CONT, b"x" * MOST)]),
    "fragments without end": (1009, [raw(TEXT, b"x"), *[raw(CONT, b"x" * (MAX_MESSAGE // 64))] * 100]),
    "invalid UTF-8": (1007, [raw(FIN | TEXT, b"{" + BAD + b"}")]),
    "invalid UTF-8 in the second fragment": (1007, [raw(TEXT, b"{"), raw(CONT, BAD)]),
    "invalid UTF-8 across fragments": (1007, [raw(TEXT, BAD[:1]), raw(CONT, BAD[1:])]),
    "half a character at the end": (1007, [raw(TEXT, b"{"), raw(FIN | CONT, SPLIT[:2])]),
    "half a character in one piece": (1007, [raw(FIN | TEXT, SPLIT[:2])]),
    "close with half a code": (1002, [raw(CLOSE, b"\x03")]),
    "close with a reason that is not UTF-8": (1007, [close(1000, BAD)]),
    **{
        f"close with {code}": (1002, [close(code)])
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
    "close as it should be": (1000, [close(1000)]),
    "close without a code": (0, [raw(CLOSE, b"")]),
    "close within a message": (1001, [raw(TEXT, b"{"), close(1001)]),
}

MESSAGES: dict[str, bytes] = {
    "no JSON": b"hello",
    "half a JSON": b'{"id":1,"connect":{}',
    "an array": b"[]",
    "a string": b'"connect"',
    "deep arrays": b"[" * 60_000,
    "deeper arrays": b"[" * 1_000_000,
    "more objects than anyone needs": b"{}" * 500_000,
    "more lines than anyone needs": b"{}\n" * 300_000,
    "deep objects": b'{"a":' * 12_000,
    "deep where anything is allowed": b'{"id":2,"publish":{"channel":"open:a","data":' + b"[" * 60_000,
    "deep and closed": b'{"id":2,"publish":{"channel":"open:a","data":' + b"[" * 30_000 + b"]" * 30_000 + b"}}",
    "deep where nothing is known": b'{"id":2,"nothing":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "an id of 400 digits": b'{"id":' + b"9" * 400 + b',"ping":{}}',
    "an id of 2^64": b'{"id":18446744073709551616,"ping":{}}',
    "an infinite id": b'{"id":1e999,"ping":{}}',
    "a negative id": b'{"id":-1,"ping":{}}',
    "a fractional id": b'{"id":1.5,"ping":{}}',
    "an offset of 30 digits": b'{"id":2,"history":{"channel":"open:a","limit":1,"since":{"offset":'
    + b"9" * 30
    + b"}}}",
    "a limit of 30 digits": b'{"id":2,"history":{"channel":"open:a","limit":' + b"9" * 30 + b"}}",
    "an unpaired surrogate": b'{"id":2,"subscribe":{"channel":"\\ud800"}}',
    "connect again": b'{"id":2,"connect":{}}',
    "no id": b'{"ping":{}}',
}
