"""Job workers, the relay and the bridges: the programs that consume RabbitMQ.

from consumers import Context, task

@task("report.csv", timeout=300)
async def report(ctx: Context, input: dict) -> dict: ...
"""

from consumers.context import Cancelled, Context
from consumers.outcome import BreakerOpen, GiveUp, LockBusy, LockLost, Retry, Snooze, TaskTimeout, Uncertain
from consumers.registry import task

__all__ = [
    "BreakerOpen",
    "Cancelled",
    "Context",
    "GiveUp",
    "LockBusy",
    "LockLost",
    "Retry",
    "Snooze",
    "TaskTimeout",
    "Uncertain",
    "task",
]
