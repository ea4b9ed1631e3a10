"""The tracker of the mail example, as a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.stack import Process
from tests.support.process import free_port


@contextmanager
def tracking(secret: str, gateway: str, key: str) -> Iterator[str]:
    """Run it; yields its URL."""
    port = free_port()
    settings = {"MAIL_TRACK_SECRET": secret, "TRACK_GATEWAY": gateway, "TRACK_KEY": key}
    arguments = ["uvicorn", "--factory", "consumers.examples.tracker:app", "--port", str(port)]
    process = Process(arguments, {**os.environ, **settings})
    try:
        process.wait_for("Uvicorn running")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stop()
