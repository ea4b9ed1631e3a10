"""uvicorn: handover protocols, running, signals, drain."""
