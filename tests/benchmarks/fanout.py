"""The fan-out benchmarks: what one delivery, one connection and one connect cost, beside peers in the same run.

The server under measurement has one core for itself; Redis, the publisher and the load client share the other. CPU is
the server's user and system time. Times are compared only within a run: machines are shared and noisy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from gateway.server.run import UNSENT
from tests.benchmarks.peers import Floor, Gateway, Nchan, Peer, Plain, Tools, write_tokens
from tests.benchmarks.tools import LOAD_CORE, Fan, build, choked, cpu_seconds, raise_limits, rss_bytes, stay_on
from tests.support.servers import RedisServer

Row = dict[str, Any]
Rows = dict[str, Row]
KINDS = ("ws", "sse")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        subscribers: of one channel.
        seconds: of publishing per run.
        slow, fast: messages per second.
        channels: for the case of several channels, with a tenth as many subscribers each.
        channels_rate: messages per second over all of them.
        idle: connections whose memory is measured, and channels of the case with one subscriber each.
        burst: events per channel of that case.
        stuck_rate: messages per second of the case with stopped readers.
        rounds: the median of so many is shown.
        settle: seconds between the last subscription and the first event.
        patience: seconds for what is late.
    """

    subscribers: int = 1000
    seconds: float = 4
    slow: float = 60
    fast: float = 1000
    channels: int = 100
    channels_rate: float = 3000
    idle: int = 10_000
    burst: int = 20
    stuck_rate: float = 100
    rounds: int = 3
    settle: float = 0.5
    patience: float = 6


FULL = Plan()
QUICK = Plan(
    subscribers=20,
    seconds=0.4,
    fast=200,
    channels=5,
    channels_rate=100,
    idle=40,
    burst=3,
    stuck_rate=50,
    rounds=1,
    settle=0.1,
    patience=30,
)


class Bench:
    """Runs the scenarios of a plan. `tell` gets a line per run, so that a long benchmark shows that it lives."""

    def __init__(self, tools: Tools, plan: Plan, tell: Callable[[str], None], *, nchan: bool = True) -> None:
        self.tools, self.plan, self._tell = tools, plan, tell
        self._nchan = nchan and Nchan.available()

    # One run.

    def deliver(
        self, peer: Peer, kind: str, *, rate: float, count: int, subscribers: int, channels: int = 1, **more: Any
    ) -> Row:
        """Publish to subscribers and return what arrived, how late, and what it cost the server."""
        stopped, recorded = more.get("stopped", 0), more.get("recorded", True)
        reading = subscribers - stopped
        expected = count * reading // channels
        limit = (count / rate if rate else 20) + self.plan.patience
        with peer:
            load = peer.load(kind, subscribers, channels)
            fan = Fan(self.tools.fan, load, expected=expected, limit=limit, stopped=stopped)
            fan.ready()
            time.sleep(self.plan.settle)
            before = cpu_seconds(peer.pid)
            publishing = peer.publish(rate, count, channels, recorded=recorded)
            full = 0
            if stopped:
                time.sleep(0.95 * count / rate)  # everyone still there, nearly everything published
                full = choked(peer.port, UNSENT)
            found = fan.result()
            used, memory = cpu_seconds(peer.pid) - before, rss_bytes(peer.pid)
            if publishing is not None:
                publishing.stop()
        row = _row(found, used, expected, subscribers)
        row["rss_mb"], row["choked"] = round(memory / 1e6, 1), full
        self._tell(f"{kind} {peer.name}: {row}")
        return row

    def hold(self, peer: Peer, kind: str, *, count: int, channels: int) -> Row:
        """Open connections, let them idle, and return what opening and holding them costs."""
        with peer:
            self._warm(peer, kind)
            memory, before = rss_bytes(peer.pid), cpu_seconds(peer.pid)
            fan = Fan(self.tools.fan, peer.load(kind, count, channels))
            fan.ready()
            used = cpu_seconds(peer.pid) - before
            time.sleep(2 * self.plan.settle)
            held = rss_bytes(peer.pid) - memory
            idle_from, began = cpu_seconds(peer.pid), time.monotonic()
            time.sleep(2 * self.plan.settle)
            idle = (cpu_seconds(peer.pid) - idle_from) / (time.monotonic() - began)
            found = fan.stop()
        row: Row = {
            "connections": count,
            "connects_per_s": round(count / found["ready_s"]),
            "connects_per_core_s": round(count / used) if used else 0,
            "rss_kb": round(held / count / 1024, 2),
            "idle_cpu_percent": round(idle * 100, 1),
        }
        self._tell(f"{kind} {peer.name}: {row}")
        return row

    def _warm(self, peer: Peer, kind: str) -> None:
        few = Fan(self.tools.fan, peer.load(kind, min(200, self.plan.idle), 1))
        few.ready()
        few.stop()
        time.sleep(self.plan.settle)

    # Scenarios.

    def one_channel(self, kind: str) -> Rows:
        """All subscribers on one channel, a little traffic."""
        plan = self.plan
        count = round(plan.slow * plan.seconds)
        arguments: dict[str, Any] = {"rate": plan.slow, "count": count, "subscribers": plan.subscribers}
        rows = self._rounds(kind, 1, [self._floor(kind), Gateway, *self._peer()], arguments)
        rows[Plain.name] = self.deliver(Plain(self.tools), kind, **arguments)
        return rows

    def one_channel_fast(self, kind: str) -> Rows:
        """All subscribers on one channel, as many messages as make a million deliveries a second."""
        plan = self.plan
        arguments: dict[str, Any] = {
            "rate": plan.fast,
            "count": round(plan.fast * plan.seconds),
            "subscribers": plan.subscribers,
        }
        rows = self._rounds(kind, 1, [Gateway], arguments)
        if self._nchan:
            rows[Nchan.name] = self.deliver(Nchan(self.tools), kind, **arguments)
        return rows

    def many_channels(self, kind: str) -> Rows:
        """A hundred channels with ten subscribers each."""
        plan = self.plan
        count = round(plan.channels_rate * plan.seconds) // plan.channels * plan.channels
        subscribers = plan.subscribers // plan.channels * plan.channels
        arguments: dict[str, Any] = {
            "rate": plan.channels_rate,
            "count": count,
            "subscribers": subscribers,
            "channels": plan.channels,
        }
        makers = [self._floor(kind, plan.channels), Gateway, *self._peer()]
        return {made.name: self.deliver(made, kind, **arguments) for made in (make(self.tools) for make in makers)}

    def idle(self, kind: str) -> Rows:
        """Connects and memory: all connections on one channel; ours also with a channel for each."""
        count = self.plan.idle
        peers: list[Peer] = [make(self.tools) for make in (Gateway, *self._peer(), Plain)]
        rows = {peer.name: self.hold(peer, kind, count=count, channels=1) for peer in peers}
        rows["gateway, a channel each"] = self.hold(Gateway(self.tools), kind, count=count, channels=count)
        return rows

    def channel_each(self, kind: str) -> Rows:
        """A channel with one subscriber each: a burst as fast as it goes, until the last has arrived."""
        count = self.plan.idle
        arguments: dict[str, Any] = {
            "rate": 0,
            "count": count * self.plan.burst,
            "subscribers": count,
            "channels": count,
            "recorded": False,
        }
        makers = [self._floor(kind, count), Gateway, *self._peer()]
        return {made.name: self.deliver(made, kind, **arguments) for made in (make(self.tools) for make in makers)}

    def stuck(self, kind: str) -> Rows:
        """One in a hundred stops reading; what do the others notice?"""
        plan = self.plan
        arguments: dict[str, Any] = {
            "rate": plan.stuck_rate,
            "count": round(plan.stuck_rate * plan.seconds * 3),  # more than all buffers of a stopped reader hold
            "subscribers": plan.subscribers,
        }
        found: dict[str, list[Row]] = {"all read": [], "1 % stopped": []}
        for _ in range(plan.rounds):
            found["all read"].append(self.deliver(Gateway(self.tools), kind, **arguments))
            stopped = max(1, plan.subscribers // 100)
            found["1 % stopped"].append(self.deliver(Gateway(self.tools), kind, stopped=stopped, **arguments))
        return {name: _median(rows) for name, rows in found.items()}

    def _rounds(
        self, kind: str, channels: int, makers: list[Callable[[Tools], Peer]], arguments: dict[str, Any]
    ) -> Rows:
        found: dict[str, list[Row]] = {}
        for _ in range(self.plan.rounds):
            for make in makers:
                peer = make(self.tools)
                row = self.deliver(peer, kind, channels=channels, **arguments)
                found.setdefault(peer.name, []).append(row)
        return {name: _median(rows) for name, rows in found.items()}

    def _floor(self, kind: str, channels: int = 1) -> Callable[[Tools], Peer]:
        return lambda tools: Floor(tools, kind, channels)

    def _peer(self) -> list[Callable[[Tools], Peer]]:
        return [Nchan] if self._nchan else []

    def run(self, only: frozenset[str] = frozenset()) -> dict[str, dict[str, Rows]]:
        """Run all scenarios, or some; returns the rows by scenario and transport."""
        scenarios = {
            "one_channel": self.one_channel,
            "one_channel_fast": self.one_channel_fast,
            "many_channels": self.many_channels,
            "idle": self.idle,
            "channel_each": self.channel_each,
            "stuck": self.stuck,
        }
        return {
            name: {kind: scenario(kind) for kind in KINDS}
            for name, scenario in scenarios.items()
            if not only or name in only
        }


def _row(found: Row, used: float, expected: int, subscribers: int) -> Row:
    deliveries, span = found["deliveries"], found["span_s"]
    return {
        "deliveries": deliveries,
        "complete": deliveries == expected and found["least"] == found["most"] and not found["closed"],
        "missing": expected - deliveries,
        "per_s": round(deliveries / span) if span else 0,
        "cpu_us": round(used / deliveries * 1e6, 2) if deliveries else 0.0,
        "busy_percent": round(used / span * 100, 1) if span else 0.0,
        "p50_ms": found["p50_us"] / 1000,
        "p99_ms": found["p99_us"] / 1000,
        "max_ms": found["max_us"] / 1000,
        "closed": found["closed"],
        "subscribers": subscribers,
    }


def _median(rows: list[Row]) -> Row:
    middle = {name: statistics.median(row[name] for row in rows) for name in rows[0] if name != "complete"}
    return {**middle, "complete": all(row["complete"] for row in rows)}


def _unbound(redis_url: str) -> None:
    """Let Redis keep a burst for us, instead of cutting off a subscriber that is behind."""
    with Redis.from_url(redis_url) as client:
        client.config_set("client-output-buffer-limit", "pubsub 0 0 0")


@contextmanager
def prepared(folder: Path, subscribers: int) -> Iterator[Tools]:
    """Compile the C programs, start Redis on the load's core, write the tokens."""
    tokens = folder / "tokens"
    write_tokens(tokens, max(200, subscribers))
    raise_limits()
    stay_on(LOAD_CORE)
    with RedisServer() as redis:
        _unbound(redis.url)
        yield Tools(build("fan", folder), build("floor", folder), redis.url, tokens)
