"""The tasks that `gateway dev` runs: `echo`, `report.csv`, `image.thumbnails` and `video.transcode`."""

from consumers.examples import echo, report, thumbnails, video

__all__ = ["echo", "report", "thumbnails", "video"]
