"""An undertaker that is killed when it has recorded a letter and before it acknowledges it. Run with its settings."""

from __future__ import annotations

import asyncio
import os
import signal
from unittest.mock import patch

from gateway.jobs import rabbitmq_dead
from gateway.jobs.rabbitmq import RabbitQueue
from gateway.jobs.rebuild import Rebuilder
from gateway.jobs.store import JobStore
from gateway.jobs.undertaker import Undertaker
from gateway.settings import load
from gateway.store.channels import ChannelStore
from gateway.store.deadletters import DeadLetterStore
from gateway.store.redis import Store


async def main() -> None:
    settings = load()

    async def die(_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(rabbitmq_dead._RabbitDeadDelivery, "ack", die):
        async with Store.open(settings) as store, RabbitQueue(settings.amqp_url) as queue:
            rebuilder = Rebuilder(JobStore(store), ChannelStore(store, settings), settings)
            await Undertaker(store, queue, DeadLetterStore(store, settings), rebuilder).run()


if __name__ == "__main__":
    asyncio.run(main())
