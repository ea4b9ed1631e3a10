"""Live fan-out: feed, hub, connections, WebSocket and SSE."""
