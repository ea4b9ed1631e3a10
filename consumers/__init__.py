"""Job workers, the relay and the bridges: the programs that consume RabbitMQ.

from consumers import Context, task

@task("report.csv", timeout=300)
async def report(ctx: Context, input: dict) -> dict: ...
"""

from consumers.batch import Batch, Item
from consumers.context import Context
from consumers.outcome import GiveUp, Retry
from consumers.registry import task

__all__ = ["Batch", "Context", "GiveUp", "Item", "Retry", "task"]
