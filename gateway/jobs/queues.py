"""Which queue the settings ask for."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from urllib.parse import urlsplit

from gateway.jobs.local import LocalQueue
from gateway.jobs.queue import JobQueue
from gateway.jobs.rabbitmq import RabbitQueue
from gateway.settings import Settings


def open_queue(settings: Settings) -> AbstractAsyncContextManager[JobQueue]:
    """Return the job queue of `amqp_url`: RabbitMQ, or the in-process one for `memory://`."""
    if urlsplit(settings.amqp_url).scheme == "memory":
        return LocalQueue()
    return RabbitQueue(settings.amqp_url)
