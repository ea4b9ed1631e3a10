"""What the hub looks like right now, for metrics and readiness. Walks all topics: ask every few seconds at most."""

from __future__ import annotations

from gateway.fanout.emulated import EmulatedConnection
from gateway.fanout.hub import Hub
from gateway.fanout.stream import Stream


def gauges(hub: Hub) -> dict[str, int]:
    """Count connections by kind, slow readers, topics, topics out of step, and subscriptions by state."""
    streams = sum(isinstance(connection, Stream) for connection in hub.connections)
    emulated = sum(isinstance(connection, EmulatedConnection) for connection in hub.connections)
    lagging = sum(len(topic.lagging) for topic in hub.topics.values())
    live = sum(len(members) for topic in hub.topics.values() for members in topic.live)
    return {
        "streams": streams,
        "websockets": len(hub.connections) - streams - emulated,
        "emulated": emulated,
        "slow": sum(connection.paused_at is not None for connection in hub.connections),
        "topics": len(hub.topics),
        "holding": sum(topic.holding for topic in hub.topics.values()),
        "live": live,
        "lagging": lagging,
    }
