"""An ordinary Celery application, which knows nothing of us. Broker and backend come from Celery's own variables."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery
from celery.exceptions import Reject

app = Celery("shop", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
app.conf.update(
    task_default_queue=os.environ.get("SHOP_QUEUE", "shop"),
    task_default_queue_type="quorum",
    task_acks_late=True,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
)


@app.task(name="shop.add")
def add(x: int, y: int) -> dict[str, Any]:
    return {"sum": x + y, "text": "x" * 2000}


@app.task(name="shop.count", bind=True)
def count(self: Any, user_id: str, steps: int, order: str = "none") -> int:
    del user_id, order
    for step in range(1, steps + 1):
        self.update_state(state="PROGRESS", meta={"current": step, "total": steps, "status": f"step {step}"})
        time.sleep(0.25)
    return steps


@app.task(name="shop.fail")
def fail(message: str) -> None:
    raise ValueError(message)


@app.task(name="shop.flaky", bind=True, max_retries=3)
def flaky(self: Any, until: int) -> int:
    if self.request.retries < until:
        raise self.retry(exc=ConnectionError("not yet"), countdown=0.2)
    return int(self.request.retries)


@app.task(name="shop.sleep")
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@app.task(name="shop.reject", bind=True, acks_late=True)
def reject(self: Any) -> None:
    del self
    raise Reject("no", requeue=False)
