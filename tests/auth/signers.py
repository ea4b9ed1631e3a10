"""Issuers of tokens, and the web server their public keys are on."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm


@functools.cache
def _pair(algorithm: str, _number: int) -> tuple[Any, dict[str, Any]]:
    """A private key and its public JWK; the number tells keys of one algorithm apart."""
    if algorithm == "RS256":
        key: Any = rsa.generate_private_key(65537, 2048)
        return key, RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    if algorithm == "ES256":
        key = ec.generate_private_key(ec.SECP256R1())
        return key, ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    key = ed25519.Ed25519PrivateKey.generate()
    return key, OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)


@dataclass(frozen=True)
class Signer:
    """One key of an issuer."""

    algorithm: str = "ES256"
    kid: str = "k1"
    number: int = 0

    @property
    def private(self) -> Any:
        return _pair(self.algorithm, self.number)[0]

    @property
    def jwk(self) -> dict[str, Any]:
        return {**_pair(self.algorithm, self.number)[1], "kid": self.kid, "use": "sig", "alg": self.algorithm}

    def token(self, *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        claims = {"sub": "ann", "exp": time.time() + 60, **claims}
        return jwt.encode(claims, self.private, self.algorithm, headers={"kid": self.kid, **(headers or {})})


def key_set(*signers: Signer) -> bytes:
    return json.dumps({"keys": [signer.jwk for signer in signers]}).encode()


@dataclass
class KeyServer:
    """An HTTP server that answers every request with `body`, after `delay` seconds."""

    body: bytes
    status: str = "200 OK"
    delay: float = 0.0
    requests: int = 0
    port: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/keys"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(self.delay):
                    await reader.read()  # the client may give up earlier
            head = f"HTTP/1.1 {self.status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(self.body)}\r\n\r\n".encode() + self.body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client gave up
        finally:
            self._open.discard(writer)
            writer.close()

    def hang_up(self) -> None:
        for writer in self._open:
            writer.transport.abort()


@asynccontextmanager
async def key_server(body: bytes) -> AsyncIterator[KeyServer]:
    served = KeyServer(body)
    server = await asyncio.start_server(served.answer, "127.0.0.1", 0)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        served.hang_up()
        await server.wait_closed()
