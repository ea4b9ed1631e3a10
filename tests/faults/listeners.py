"""Subscribers of the channel `jobs`, who remember the id and type of every event they saw."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from gateway.jobs.model import TERMINAL_EVENTS
from tests.faults.readers import Socket, Stream
from tests.faults.subscribers import Subscriber


class Listener(Subscriber):
    """Numbers the events it sees, so that nothing but repeats of an id and missing ids is left to look for."""

    heard: list[tuple[str, str]]
    missing = 0  # offsets that did not come
    skipped = 0  # superseded progress that was left out because the reader was slow, as its successors say

    def number_of(self, event: dict[str, Any]) -> int:
        self.heard.append((event["id"], event["type"]))
        return len(self.heard) - 1

    @property
    def ends(self) -> Counter[str]:
        """How often each terminal event came, by its id."""
        return Counter(id_ for id_, type_ in self.heard if type_ in TERMINAL_EVENTS)

    def repeats(self) -> list[str]:
        """Ids that came twice although nothing was told in between; of every kind of event."""
        found: list[str] = []
        seen: set[str] = set()
        told = {told.after for told in self.told}
        for number, (id_, _) in enumerate(self.heard):
            if number in told:
                seen.clear()
            if id_ in seen:
                found.append(id_)
            seen.add(id_)
        return found


class JobSocket(Listener, Socket):
    """Over a WebSocket."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.heard = []

    def decoded(self, payload: bytes) -> None:
        """Say that every message is to be read in full."""
        del payload

    def _publication(self, pub: dict[str, Any]) -> None:
        assert self.position is not None
        self.skipped += int(pub.get("tags", {}).get("skipped", 0))
        ahead = pub["offset"] - self.position[1] - 1
        if ahead > 0:
            self.missing += ahead
            self.position = (self.position[0], pub["offset"] - 1)
        super()._publication(pub)


class JobStream(Listener, Stream):
    """Over an event stream."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.heard = []

    def number_in(self, data: bytes) -> int:
        return self.number_of(json.loads(data))
