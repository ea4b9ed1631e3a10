"""The job scripts, each behind the tables of the model and the preludes it needs."""

from __future__ import annotations

from importlib import resources
from typing import Final

from gateway.jobs.deaths import lua_deaths
from gateway.jobs.model import lua_tables
from gateway.store import deadletters
from gateway.store.redis import Script


def _read(name: str) -> str:
    return resources.files("gateway.jobs").joinpath(f"lua/{name}.lua").read_text()


PRELUDE: Final = "\n".join(
    [deadletters.PRELUDE, lua_tables(), lua_deaths(), _read("slots_prelude"), _read("prelude")],
)
_ADMISSION: Final = PRELUDE + "\n" + _read("admission_prelude")


def job_script(name: str) -> Script:
    """Load a script about jobs."""
    return Script.load("gateway.jobs", f"lua/{name}.lua", prelude=PRELUDE)


def admission_script(name: str) -> Script:
    """Load a script that also decides whether a job may go to the broker."""
    return Script.load("gateway.jobs", f"lua/{name}.lua", prelude=_ADMISSION)
