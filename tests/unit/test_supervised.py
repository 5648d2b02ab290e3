"""Long-lived tasks: no exception ends one, the health answer reports it, and a cancellation always ends it."""

from __future__ import annotations

import ast
import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from core import supervised as module
from core.supervised import pauses, supervised
from core.trouble import Trouble, trouble_of
from core.worker_state import WORKER, WorkerState
from devtools.room_folders import until
from support import ROOT


@pytest.fixture(autouse=True)
def worker_state(monkeypatch: pytest.MonkeyPatch) -> WorkerState:
    made = WorkerState()
    made.room_opened(WORKER)
    made.room_opened("RM_1")
    monkeypatch.setattr(module, "worker_state", made)
    monkeypatch.setattr(module, "RESTART_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(module, "WORKING_SECONDS", 0.1)
    return made


class Loop:
    """A body that raises the given errors, one for each start, and then runs until it is cancelled."""

    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)
        self.starts = 0
        self.was_cancelled = False

    async def run(self) -> None:
        self.starts += 1
        if self._errors:
            raise self._errors.pop(0)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_raises_is_logged_restarted_and_a_problem_until_it_works(
    worker_state: WorkerState, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(KeyError("odd"), ValueError("odder"))
    task = supervised(loop.run, "texts")
    await until(lambda: loop.starts == 3, "it is restarted")
    assert worker_state.snapshot().problems == ["failing and being restarted: texts"]
    assert not worker_state.snapshot().needs_restart
    await until(lambda: not worker_state.snapshot().problems, "it works again")
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert ["'texts' failed" in record.getMessage() for record in failures] == [True, True]
    assert all(record.exc_info for record in failures)
    await until(lambda: "The task 'texts' works again" in caplog.text, "the log says so")
    await ended(task)


async def test_the_same_failure_is_logged_once_and_its_end_once(
    worker_state: WorkerState, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(*(KeyError("odd") for _ in range(5)))
    task = supervised(loop.run, "watch", room="RM_1", room_name="math101")
    await until(lambda: loop.starts == 6 and not worker_state.snapshot().problems, "it works again")
    await ended(task)
    assert [record.getMessage() for record in caplog.records] == [
        "The task 'watch' failed and is restarted",
        "The task 'watch' works again",
    ]
    assert {getattr(record, "room", None) for record in caplog.records} == {"math101"}


async def test_the_health_answer_names_no_room(worker_state: WorkerState) -> None:
    task = supervised(Loop(KeyError("odd")).run, "watch", room="RM_1", room_name="math101")
    await until(lambda: worker_state.snapshot().problems, "it has failed")
    assert worker_state.snapshot().problems == ["failing and being restarted: watch"]
    await ended(task)
    assert worker_state.snapshot().problems == [], "a task that is over is no problem"


async def test_a_task_that_returns_is_over(worker_state: WorkerState) -> None:
    async def run() -> None:
        pass

    await asyncio.wait_for(supervised(run, "once"), 5)  # noqa: TID251  (nothing here is cancelled)


@pytest.mark.parametrize("is_failing", [False, True])
async def test_cancelling_ends_it_whatever_it_does(is_failing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it runs as well as while it waits for its restart."""
    monkeypatch.setattr(module, "RESTART_SECONDS", (60,))
    loop = Loop(*([KeyError("odd")] if is_failing else []))
    task = supervised(loop.run, "loop")
    await until(lambda: loop.starts == 1, "it runs")
    await asyncio.sleep(0.01)
    await ended(task)
    assert task.cancelled()
    assert loop.was_cancelled is not is_failing


async def swallows() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise RuntimeError("while it cleared up") from None


async def test_a_failure_while_it_is_cancelled_restarts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    task = supervised(swallows, "loop")
    await asyncio.sleep(0.01)
    await ended(task)
    assert task.cancelled()
    assert "while it cleared up" in caplog.text


async def test_the_cancellation_of_something_else_is_a_failure_like_any_other() -> None:
    loop = Loop(asyncio.CancelledError())
    task = supervised(loop.run, "loop")
    await until(lambda: loop.starts == 2, "it is restarted")
    await ended(task)


async def test_after_it_has_worked_for_a_while_a_restart_comes_soon_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RESTART_SECONDS", (0.01, 60))
    monkeypatch.setattr(module, "WORKING_SECONDS", 0.02)
    starts = 0

    async def run() -> None:
        nonlocal starts
        starts += 1
        await asyncio.sleep(0.2)
        raise KeyError("odd")

    task = supervised(run, "loop")
    await until(lambda: starts == 4, "it is restarted each time")
    await ended(task)


def test_pauses_grow_to_the_last_and_stay_there() -> None:
    waits = pauses((1, 2, 5))
    assert [next(waits) for _ in range(5)] == [1, 2, 5, 5, 5]


def test_a_problem_is_logged_once_and_its_end_once() -> None:
    trouble = Trouble()
    assert not trouble.ends()
    assert trouble.begins("full")
    assert not trouble.begins("full")
    assert trouble.begins("gone")
    assert trouble.ends()
    assert not trouble.ends()
    assert trouble.begins("gone"), "again"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left"), "No space left"),
        (ValueError("odd"), "odd"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error_always_has_a_text(error: Exception, words: str) -> None:
    assert trouble_of(error) == words


# --- everywhere ---

SHORT_LIVED = {
    "server.run()",
    "stop.requested.wait()",
    "self._http_server.aclose()",
    "self._listen()",
    "self._attempts.deliver(work)",
    "service.drain(retry_seconds)",
    "self._look_at(room)",
    "supervisor.run()",
    "self._work_on(work)",
    "service.run()",
    "self._announce()",
    "work",
    "guard",
}
"""Tasks that are not long-lived: each ends with one room, track, item or command, and whoever starts it looks at what
it came to."""


def started_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    starts: Callable[[ast.Call], bool] = lambda call: (  # noqa: E731
        isinstance(call.func, ast.Attribute) and call.func.attr in {"create_task", "ensure_future"}
    )
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and starts(node)]
    return {ast.unparse(call.args[0]) for call in calls}


SOURCES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if not {"tests", "devtools", "benchmarks", "soak", "speech", "docs", ".venv"} & set(path.parts)
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_long_lived_task_is_supervised(path: Path) -> None:
    assert started_in(path) <= SHORT_LIVED, "start it with supervised.supervised"
