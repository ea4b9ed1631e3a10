"""Job workers, the relay and the bridges: the programs that consume RabbitMQ.

from consumers import Context, task

@task("report.csv", timeout=300)
async def report(ctx: Context, input: dict) -> dict: ...
"""

from consumers.batch import Batch, Item
from consumers.children import ChildFailed, ChildrenLate
from consumers.context import Cancelled, Context
from consumers.outcome import BreakerOpen, GiveUp, LockBusy, LockLost, Retry, Snooze, TaskTimeout, Uncertain
from consumers.registry import task
from consumers.undos import undo

__all__ = [
    "Batch",
    "BreakerOpen",
    "Cancelled",
    "ChildFailed",
    "ChildrenLate",
    "Context",
    "GiveUp",
    "Item",
    "LockBusy",
    "LockLost",
    "Retry",
    "Snooze",
    "TaskTimeout",
    "Uncertain",
    "task",
    "undo",
]
