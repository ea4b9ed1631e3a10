"""Redis over TLS with an authority of one's own: commands and the feed."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

from gateway.store.redis import Store
from tests.fanout.support import node, publish, settings_for, ws
from tests.support.process import free_port
from tests.support.servers import RedisServer


async def test_everything_goes_over_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    port = free_port()
    files = {"tls_cert_file": str(certificate), "tls_key_file": str(key), "tls_ca_cert_file": str(certificate)}
    with RedisServer(tls_port=str(port), tls_auth_clients="no", **files) as server:
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}"
        settings = settings_for(url)
        async with Store.open(settings) as store, node(settings) as gateway, ws(gateway) as client:
            await store.ping()
            await client.subscribe("open:a")
            await publish(gateway.channels, "open:a", data=1)
            assert (await client.pubs(1))[0]["data"]["data"] == 1
        del server
