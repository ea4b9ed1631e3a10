"""The job scripts, each behind the tables of the model and the preludes it needs."""

from __future__ import annotations

from importlib import resources

from gateway.jobs.model import lua_tables
from gateway.store.redis import Script


def _read(name: str) -> str:
    return resources.files("gateway.jobs").joinpath(f"lua/{name}.lua").read_text()


_PRELUDE = "\n".join([lua_tables(), _read("slots_prelude"), _read("prelude")])
_ADMISSION = _PRELUDE + "\n" + _read("admission_prelude")


def script(name: str) -> Script:
    """Load a script that knows jobs."""
    return Script.load("gateway.jobs", f"lua/{name}.lua", prelude=_PRELUDE)


def admission_script(name: str) -> Script:
    """Load a script that also decides whether a job may go to the broker."""
    return Script.load("gateway.jobs", f"lua/{name}.lua", prelude=_ADMISSION)
