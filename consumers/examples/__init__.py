"""The tasks that `gateway dev` runs."""

from consumers.examples import echo, orders, report, social, sync, thumbnails, video

__all__ = ["echo", "orders", "report", "social", "sync", "thumbnails", "video"]
