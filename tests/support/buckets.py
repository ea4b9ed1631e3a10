"""A private object store that speaks S3's protocol."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path

from tests.support.process import Child, exchange
from tests.support.servers import START_LIMIT, PrivateServer

BUCKET = "attachments"


class BucketServer(PrivateServer):
    """Moto's S3 as a server of its own, on loopback, with one bucket; it keeps nothing over a stop."""

    def __init__(self) -> None:
        super().__init__("s3")

    @property
    def env(self) -> dict[str, str]:
        """What AWS tools read."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-bucket",
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start and make the bucket."""
        command = str(Path(sys.executable).with_name("moto_server"))
        child = self._child = Child([command, "-H", "127.0.0.1", "-p", str(self.port)], self._folder)
        child.wait_for(lambda: exchange(self.port, b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1."), START_LIMIT)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("PUT", f"/{BUCKET}", headers={"Content-Length": "0"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        connection.close()
