"""The job scripts, each behind the tables of the model and the preludes it needs."""

from __future__ import annotations

from importlib import resources
from typing import Final

from gateway.jobs.deaths import lua_deaths
from gateway.jobs.model import lua_tables
from gateway.jobs.schemas import JOB
from gateway.jobs.steps import step_tables
from gateway.store import deadletters
from gateway.store.redis import Script

_LUA = resources.files("gateway.jobs").joinpath("lua")


def _text(name: str) -> str:
    return _LUA.joinpath(f"{name}.lua").read_text()


_PRELUDE = "\n".join(
    [
        deadletters.PRELUDE,
        lua_tables(),
        lua_deaths(),
        step_tables(),
        f"local DATASCHEMA = '{JOB.uri}'",
        _text("slots_prelude"),
        _text("prelude"),
        _text("saga_prelude"),
    ]
)
ADMISSION: Final = "admission_prelude"  # of scripts that also decide whether a job may go to the broker


def load_script(name: str, *preludes: str, tables: str = "", many: bool = False) -> Script:
    """Load `lua/<name>.lua`; `preludes` (names) and `tables` (Lua) are what only this script needs.

    With `many` it is for `Store.run_gathered`.
    """
    parts = [_PRELUDE, tables, *map(_text, preludes)]
    return Script.load("gateway.jobs", f"lua/{name}.lua", prelude="\n".join(parts), many=many)
