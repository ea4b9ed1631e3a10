"""The tasks that `gateway dev` runs: `echo`, `report.csv`, `image.thumbnails` and `order.process`."""

from consumers.examples import echo, orders, report, thumbnails

__all__ = ["echo", "orders", "report", "thumbnails"]
