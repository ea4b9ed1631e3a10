"""Jobs: the state machine, its storage, the queue port, the HTTP surface."""
