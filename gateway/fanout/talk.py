"""What is going on between a client and us right now: commands that wait, answers that have not left."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from gateway.fanout import centrifuge
from gateway.fanout.frames import MAX_MESSAGE

if TYPE_CHECKING:
    from gateway.fanout.connection import Subscription


class Talk:
    """Made by a message, dropped when everything has been answered: two empty queues alone are a kilobyte.

    Attributes:
        inbox: messages not yet looked at.
        backlog: commands of the message being handled.
        out: answers made in this turn of the loop.
        fresh: subscriptions whose pushes follow these answers.
        running: a task handles the commands.
        flushing: the answers leave at the end of this turn.
    """

    __slots__ = ("backlog", "flushing", "fresh", "inbox", "out", "running")

    def __init__(self) -> None:
        self.inbox: deque[bytes] = deque()
        self.backlog: deque[centrifuge.Command] = deque()
        self.out: list[bytes] = []
        self.fresh: list[Subscription] = []
        self.running = self.flushing = False

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do or to say."""
        return not (self.running or self.flushing or self.inbox or self.backlog)

    def full(self, most: int) -> bool:
        """Whether more waits than we want: `most` messages, or bytes for more than one of the largest."""
        inbox = self.inbox
        return len(inbox) > most or (len(inbox) > 1 and sum(map(len, inbox)) > MAX_MESSAGE)

    def forget(self) -> None:
        """Drop what the client still wanted: it is being closed."""
        self.inbox.clear()
        self.backlog.clear()
