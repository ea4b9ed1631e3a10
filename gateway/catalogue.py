"""The schemas of all events the gateway makes."""

from __future__ import annotations

from typing import Final

from gateway.fanout.schemas import CONTROL, MESSAGE
from gateway.jobs.schemas import JOB
from gateway.schemas import Catalogue
from gateway.store.dead_schemas import DEAD_LETTERS

CATALOGUE: Final = Catalogue((JOB, MESSAGE, CONTROL, DEAD_LETTERS))
