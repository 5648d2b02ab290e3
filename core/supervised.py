"""Supervised long-lived tasks: a failed task is logged, restarted, and reported in the health answer."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from core.trouble import Trouble
from core.worker_state import WORKER, worker_state

logger = logging.getLogger("recorder")

RESTART_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses before each restart; the last is repeated. Each is shorter than the time that closing a room waits for the
disk."""

WORKING_SECONDS = 10.0
"""A task that has run for this long after a restart counts as working again."""

Run = Callable[[], Coroutine[Any, Any, None]]
"""The body of a task. It is called again for each start."""


def supervised(
    run: Run, name: str, *, room: str = WORKER, room_name: str | None = None
) -> asyncio.Task[None]:
    """Starts a long-lived task that is restarted when it raises.

    An exception is logged with its traceback, unless it is the same as the one before. After a pause
    ``run`` is called again, and the health answer reports a problem until it has run for ``WORKING_SECONDS``. The task
    ends when ``run`` returns, or when it is cancelled.

    Args:
        name: its name in the log and the health answer. Must not name a room or a person.
        room: the sid of the room it serves, for the health answer.
        room_name: that room's name, for the log.
    """
    supervisor = _Supervisor(run, name, room, room_name)
    return asyncio.create_task(supervisor.run(), name=f"{name} {room_name}" if room_name else name)


def pauses(seconds: Sequence[float]) -> Iterator[float]:
    """Yields these pauses in order, and then the last of them for ever."""
    return itertools.chain(seconds, itertools.repeat(seconds[-1]))


class _Supervisor:
    def __init__(self, run: Run, name: str, room: str, room_name: str | None) -> None:
        self._run = run
        self._name = name
        self._room = room
        self._context = {"room": room_name} if room_name else {}
        self._trouble = Trouble()
        self._pauses = pauses(RESTART_SECONDS)
        self._is_failing = False
        self._working_timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        try:
            while not await self._has_returned():
                await asyncio.sleep(next(self._pauses))
                self._working_timer = asyncio.get_running_loop().call_later(
                    WORKING_SECONDS, self._works_again
                )
        finally:
            self._stop_timer()
            self._report(is_failing=False)

    async def _has_returned(self) -> bool:
        try:
            await self._run()
            return True
        except (Exception, asyncio.CancelledError) as error:
            if _is_cancelled() and isinstance(error, asyncio.CancelledError):
                raise
            self._has_failed(error)  # a CancelledError of something that it awaited counts, too
        if _is_cancelled():
            raise asyncio.CancelledError
        return False

    def _has_failed(self, error: BaseException) -> None:
        self._stop_timer()
        self._report(is_failing=True)
        if self._trouble.begins(f"{type(error).__name__}: {error}"):
            logger.error(
                "The task %r failed and is restarted", self._name, exc_info=error, extra=self._context
            )

    def _works_again(self) -> None:
        self._pauses = pauses(RESTART_SECONDS)
        self._report(is_failing=False)
        if self._trouble.ends():
            logger.warning("The task %r works again", self._name, extra=self._context)

    def _report(self, *, is_failing: bool) -> None:
        if is_failing and not self._is_failing:
            worker_state.task_failed(self._room, self._name)
        if self._is_failing and not is_failing:
            worker_state.task_works(self._room, self._name)
        self._is_failing = is_failing

    def _stop_timer(self) -> None:
        if self._working_timer is not None:
            self._working_timer.cancel()


def _is_cancelled() -> bool:
    """Whether the current task has been asked to cancel, even if the request was suppressed."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
