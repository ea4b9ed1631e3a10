"""The tables of the fan-out benchmarks, and which goals were reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

Rows = dict[str, dict[str, Any]]
Results = dict[str, dict[str, Rows]]

_DELIVERY = ("complete", "per_s", "cpu_us", "busy_percent", "p50_ms", "p99_ms")
_TITLES = {
    "one_channel": ("One channel, few messages: 1,000 subscribers, 60 messages/s", _DELIVERY),
    "one_channel_fast": ("One channel, many messages: 1,000 subscribers, 1,000 messages/s", _DELIVERY),
    "many_channels": ("100 channels with 10 subscribers each, 3,000 messages/s over all", _DELIVERY),
    "channel_each": ("10,000 channels with one subscriber each, a burst of 200,000 messages", _DELIVERY),
    "idle": (
        "10,000 connections, opened and held",
        ("connects_per_s", "connects_per_core_s", "rss_kb", "idle_cpu_percent"),
    ),
    "stuck": ("One channel, 100 messages/s, 1 % of 1,000 subscribers stop reading", (*_DELIVERY, "rss_mb", "choked")),
}


class Goal(NamedTuple):
    """A ratio or a size, and what it had to be.

    Attributes:
        what: in words.
        value: measured.
        bound: what was aimed at.
        least: whether the bound is a lower one.
    """

    what: str
    value: float
    bound: float
    least: bool = False

    @property
    def reached(self) -> bool:
        return self.value >= self.bound if self.least else self.value <= self.bound


def goals(results: Results) -> list[Goal]:
    """Judge what was measured; what was not (no nchan on this machine, say) is left out."""
    found: list[Goal] = []
    for kind in ("ws", "sse"):
        for judge in (_cheap, _fast, _idle, _each, _stuck):
            try:
                found += judge(results, kind)
            except (KeyError, ZeroDivisionError):
                continue
    return found


def _cheap(results: Results, kind: str) -> Iterator[Goal]:
    rows = results["one_channel"][kind]
    value = rows["gateway"]["cpu_us"] / rows["nginx + nchan"]["cpu_us"]
    yield Goal(f"{kind}: CPU per delivery at 60 messages/s ÷ nchan's", round(value, 2), 1.0)


def _fast(results: Results, kind: str) -> Iterator[Goal]:
    ours = results["one_channel_fast"][kind]["gateway"]
    offered = ours["deliveries"] + ours["missing"]
    yield Goal(
        f"{kind}: share of a million deliveries a second that arrived", ours["deliveries"] / offered, 1.0, least=True
    )
    floor = results["one_channel"][kind]["floor: send() in C"]
    yield Goal(
        f"{kind}: p99 at a million a second ÷ the floor's at 60,000", round(ours["p99_ms"] / floor["p99_ms"], 2), 5
    )


def _idle(results: Results, kind: str) -> Iterator[Goal]:
    rows = results["idle"][kind]
    ours, plain = rows["gateway"], rows["uvicorn + Starlette"]
    yield Goal(f"{kind}: KB per idle connection", ours["rss_kb"], 4.0)
    value = ours["connects_per_core_s"] / plain["connects_per_core_s"]
    yield Goal(f"{kind}: connects per core second ÷ Starlette's", round(value, 2), 3.0, least=True)


def _each(results: Results, kind: str) -> Iterator[Goal]:
    rows = results["channel_each"][kind]
    value = rows["gateway"]["per_s"] / rows["nginx + nchan"]["per_s"]
    yield Goal(f"{kind}: events/s to 10,000 channels ÷ nchan's", round(value, 2), 0.6, least=True)


def _stuck(results: Results, kind: str) -> Iterator[Goal]:
    rows = results["stuck"][kind]
    without, beside = rows["all read"], rows["1 % stopped"]
    yield Goal(
        f"{kind}: the others' p99 ÷ without stopped readers", round(beside["p99_ms"] / without["p99_ms"], 2), 1.2
    )
    yield Goal(f"{kind}: stopped readers whose buffers are full, of 10", beside["choked"], 10, least=True)
    yield Goal(f"{kind}: memory ÷ without stopped readers", round(beside["rss_mb"] / without["rss_mb"], 2), 1.05)


def show(console: Console, results: Results) -> None:
    """Print a table per scenario."""
    for name, kinds in results.items():
        title, columns = _TITLES[name]
        table = Table("", *columns, title=title)
        for kind, rows in kinds.items():
            for peer, row in rows.items():
                table.add_row(f"{kind} {peer}", *(_cell(row[column]) for column in columns))
            table.add_section()
        console.print(table)


def show_goals(console: Console, found: list[Goal]) -> None:
    """Print what had to be reached, and whether it was."""
    table = Table("goal", "measured", "bound", "", title="What had to be reached")
    for goal in found:
        bound = f"{'≥' if goal.least else '≤'} {goal.bound:g}"
        table.add_row(goal.what, f"{goal.value:g}", bound, "reached" if goal.reached else "missed")
    console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    shown: Callable[[Any], str] = "{:,.10g}".format
    return shown(value)
