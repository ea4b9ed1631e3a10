"""The tasks that `gateway dev` runs: `echo`, `report.csv` and `image.thumbnails`."""

from consumers.examples import echo, report, thumbnails

__all__ = ["echo", "report", "thumbnails"]
