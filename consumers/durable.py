"""What a task can do that is remembered when its job resumes: steps and children. See docs/sagas.md."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from consumers.outcome import GiveUp, Uncertain
from consumers.threads import in_loop

if TYPE_CHECKING:
    from consumers.children import Children
    from consumers.saga import Steps

T = TypeVar("T")

DAY = 86_400.0


class Durable:
    """The part of a context that steps and children are made with.

    A job that resumes calls its task again from the top: what is already recorded is not done again. So everything
    between steps must come out the same: effects, time and randomness belong into steps.

    Attributes:
        undoing: in an undo, the name of the step it undoes; else empty.
        undo_attempt: in an undo, which try it is: 1, 2, …
    """

    job_id: str
    run: int
    undoing: str = ""
    undo_attempt: int = 0
    _loop: asyncio.AbstractEventLoop
    _steps: Steps | None = None
    _children: Children | None = None
    _stays = False

    def bind(self, steps: Steps | None, children: Children | None) -> None:
        """Connect with the records of the attempt. For the worker."""
        self._steps = steps
        self._children = children

    def stay(self) -> None:
        """Refuse to wait for children: others are in the same call of the task. For the worker."""
        self._stays = True

    def step_key(self, name: str) -> str:
        """Return the key under which a receiver can recognise a repetition of a step: `<job>:<run>:<step>`."""
        return f"{self.job_id}:{self.run}:{name}"

    async def step(
        self, name: str, do: Callable[[], Any], undo: str | None = None, *, undo_input: object = None
    ) -> Any:  # noqa: ANN401 - any JSON
        """Do something once: when the job resumes, the recorded result is returned instead.

        A step during which the worker died is done again: give its receiver `step_key(name)`.

        Args:
            name: of the step; no other of this job may have it.
            do: called without arguments; may be async. What it returns must be JSON of at most 16 KiB.
            undo: the name of a function registered with `@undo`, which undoes the step should the job fail or be
                cancelled.
            undo_input: JSON for the undo, known before the step.

        Raises:
            Cancelled: nobody wants the result any more.
            GiveUp: a rule is broken: a name, a size, the number of steps (100).
        """
        self._in_loop()
        return await self._bound(self._steps).run(name, do, undo, undo_input)

    def step_sync(self, name: str, do: Callable[[], Any], undo: str | None = None, *, undo_input: object = None) -> Any:  # noqa: ANN401 - any JSON
        """Do the same from a task in a thread."""
        steps = self._bound(self._steps)
        begun = self._from_thread(partial(steps.begin, name, undo, undo_input))
        if begun.is_done:
            return begun.value
        try:
            value = do()
        except Uncertain:
            raise
        except Exception:
            self._from_thread(partial(steps.fail, name))
            raise
        return self._from_thread(partial(steps.end, name, value))

    async def spawn(self, type_: str, job_input: object = None, *, name: str | None = None, **options: Any) -> str:  # noqa: ANN401 - the fields of a submission
        """Submit a child job; returns its id. When the job resumes, the same child is returned.

        Args:
            type_: the child's type.
            job_input: its input, JSON.
            name: what tells it from the other children; by default its place among the calls of `spawn`, which must
                then come in the same order whenever the task is called.
            options: `priority` and `owner` (the parent's by default), `channels`, `delay`, `timeout`, `max_attempts`,
                `ttl`, as in a submission.

        Raises:
            Cancelled: nobody wants the result any more.
            GiveUp: the submission breaks a rule, or there are too many children (1,000) or levels (5).
            UnknownTaskType, QuotaExceeded: it was refused; another attempt may be luckier.
        """
        self._in_loop()
        return await self._bound(self._children).spawn(type_, job_input, name, options)

    def spawn_sync(self, type_: str, job_input: object = None, *, name: str | None = None, **options: Any) -> str:  # noqa: ANN401 - as above
        """Do the same from a task in a thread."""
        return self._from_thread(partial(self.spawn, type_, job_input, name=name, **options))

    async def gather(
        self,
        *children: str,
        fail_fast: bool = False,
        return_exceptions: bool = False,
        timeout: float = DAY,  # noqa: ASYNC109 - of the wait, over attempts
    ) -> list[Any]:
        """Return the results of children, in the order given. Until they have ended, the job waits without a worker.

        Waiting ends this call of the task, and nothing may catch that; the next call comes here again.

        Args:
            children: ids that `spawn` returned in this call of the task.
            fail_fast: go on as soon as one has not succeeded.
            return_exceptions: put a `ChildFailed` where a result would be, instead of raising the first.
            timeout: seconds from when the job first waited here.

        Raises:
            ChildFailed: a child did not succeed.
            ChildrenLate: the time is over.
            Cancelled, GiveUp: as `spawn`.
        """
        self._in_loop()
        bound = self._bound(self._children)
        if self._stays:
            raise GiveUp(
                "a job of a batch cannot wait for children: let a task that is called for one job wait for them"
            )
        return await bound.gather(children, fail_fast=fail_fast, return_exceptions=return_exceptions, limit=timeout)

    def gather_sync(self, *children: str, **options: Any) -> list[Any]:  # noqa: ANN401 - those of `gather`
        """Do the same from a task in a thread."""
        return self._from_thread(partial(self.gather, *children, **options))

    def _bound(self, part: T | None) -> T:
        self._check()
        if part is None:
            raise GiveUp("steps and children belong to a task: an undo has none")
        return part

    def _check(self) -> None:
        """Raise Cancelled when nobody wants the result any more."""
        raise NotImplementedError

    def _in_loop(self) -> None:
        """Raise GiveUp outside of the worker's loop."""
        raise NotImplementedError

    def _off_loop(self) -> None:
        """Raise GiveUp in the worker's loop."""
        raise NotImplementedError

    def _from_thread(self, work: Callable[[], Awaitable[T]]) -> T:
        self._off_loop()
        self._check()
        return in_loop(self._loop, work)


class NotDurable:
    """The same surface where it does not work."""

    undoing: str = ""
    undo_attempt: int = 0

    def step_sync(self, *_: object, **__: object) -> NoReturn:
        """Refuse; raises GiveUp."""
        raise GiveUp(
            "a task in a process of its own has no steps and no children; make it a child of a task that is async or "
            "runs in a thread"
        )

    step = step_key = spawn = spawn_sync = gather = gather_sync = step_sync
