"""Whose a Celery task is, and who hears of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from consumers.celery_events import TaskEvent, arguments_of, input_of, trace_of, type_of
from gateway.events import CHANNEL, MAX_CHANNELS
from gateway.jobs.foreign import Birth
from gateway.settings import CeleryRule

DEFAULT: Final = CeleryRule()
MAX_OWNER: Final = 195  # so that user:<owner> is a channel
_HOLE: Final = re.compile(r"\{([A-Za-z0-9_]{1,64})\}")


def rule_for(rules: Mapping[str, CeleryRule], name: str) -> CeleryRule:
    """Return the first rule whose pattern matches a task's name."""
    return next((rule for pattern, rule in rules.items() if fnmatchcase(name, pattern)), DEFAULT)


def birth(event: TaskEvent, rule: CeleryRule) -> Birth:
    """Say what job stands for a task that was sent or received.

    An owner or a channel whose arguments are not known, or that breaks the rules of names, is left out. Who called
    `delay()` knows the task's id: its channel is `celery:<id>`.
    """
    args, kwargs = arguments_of(event) or ((), {})
    values = {**{str(place): value for place, value in enumerate(args)}, **kwargs}
    channels = [f"celery:{event.uuid}", *(filled(template, values) for template in rule.channels)]
    named = [name for name in channels if name and CHANNEL.match(name) and not name.startswith("job:")]
    owner = filled(rule.owner, values) if rule.owner else None
    if owner is not None and (len(owner) > MAX_OWNER or not CHANNEL.match(owner)):
        owner = None
    return Birth(
        foreign_id=event.uuid,
        type=type_of(event.name or ""),
        owner=owner,
        channels=tuple(dict.fromkeys(named))[: MAX_CHANNELS - 3],
        input=input_of(event) if rule.arguments else "{}",
        max_attempts=rule.max_attempts,
        traceparent=trace_of(event),
    )


def filled(template: str, values: Mapping[str, Any]) -> str | None:
    """Put arguments into a text; None if one of them is missing or is neither a text nor a whole number."""
    missing = False

    def value(hole: re.Match[str]) -> str:
        nonlocal missing
        found = values.get(hole[1])
        if isinstance(found, bool) or not isinstance(found, str | int):
            missing = True
            return ""
        return str(found)

    text = _HOLE.sub(value, template)
    return None if missing else text
