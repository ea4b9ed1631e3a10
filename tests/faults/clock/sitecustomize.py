"""Imported by Python at its start when this folder is on PYTHONPATH: a process with a wrong clock.

`FAULTS_CLOCK` is how many seconds it is ahead. Clocks that only run, like the event loop's, are right.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from datetime import datetime

_AHEAD = float(os.environ.get("FAULTS_CLOCK", "0"))
_time, _time_ns = time.time, time.time_ns


class _Shifted(datetime):
    """`now` and what is made of it; everything else is as it was."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> _Shifted:
        return cls.fromtimestamp(_time() + _AHEAD, tz)

    @classmethod
    def utcnow(cls) -> _Shifted:
        return cls.now(dt.UTC).replace(tzinfo=None)


if _AHEAD:
    time.time = lambda: _time() + _AHEAD
    time.time_ns = lambda: _time_ns() + int(_AHEAD * 1e9)
    dt.datetime = _Shifted  # type: ignore[misc] # for this process
