"""Reads a job's input into the struct a task declares."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from consumers import GiveUp

T = TypeVar("T")

_PLACE = re.compile(r"(?P<rule>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)


def one_of(**given: object) -> None:
    """See that of these fields of an input exactly one is given: neither null nor false.

    Raises:
        GiveUp: none is, or several are.
    """
    if sum(value is not None and value is not False for value in given.values()) != 1:
        *names, last = (f'"{name}"' for name in given)
        raise GiveUp(f"input is not valid: give one of {', '.join(names)} and {last}")


def parse(job_input: object, model: type[T]) -> T:
    """Return the input as a `model`.

    Raises:
        GiveUp: it does not fit; the message names the field and the rule.
    """
    try:
        return msgspec.convert(job_input, model)
    except msgspec.ValidationError as error:
        found = _PLACE.fullmatch(str(error))
        rule, path = (found["rule"], found["path"]) if found else (str(error), None)
        field = f"input{path or ''}"
        raise GiveUp(f"{field} is not valid: {rule[:1].lower()}{rule[1:]}") from None
