"""The Celery application the job benchmarks compare with: as safe as Celery on RabbitMQ and Redis can be made.

Run it with `celery -A tests.benchmarks.celery_app worker -E`; BENCH_AMQP_URL and BENCH_REDIS_URL say where. In the
worker BENCH_WORKER is set: there confirms would make it wait for each of its three events, which nobody asked for.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

worker = bool(os.environ.get("BENCH_WORKER"))
app = Celery("bench", broker=os.environ["BENCH_AMQP_URL"], backend=os.environ["BENCH_REDIS_URL"])
app.conf.update(
    task_default_queue="bench",
    task_default_queue_type="quorum",
    task_default_exchange_type="topic",
    broker_transport_options={"confirm_publish": not worker},
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=100,  # with 4, its default, the worker waits for the broker
    worker_send_task_events=True,
    result_expires=3600,
)


@app.task(name="noop")  # type: ignore[untyped-decorator] # Celery has no annotations
def noop(value: Any) -> Any:
    return value
