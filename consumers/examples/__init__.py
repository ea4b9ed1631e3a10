"""The tasks that `gateway dev` runs."""

from consumers.examples import campaign, echo, mail, orders, report, social, sync, thumbnails, video

__all__ = ["campaign", "echo", "mail", "orders", "report", "social", "sync", "thumbnails", "video"]
