"""Redis: connection, scripts, the recorder and the due set."""
