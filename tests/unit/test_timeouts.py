"""asyncio.timeout as it is used everywhere: nothing outlasts it, and a cancellation is never lost in it.

The services are loops that end when they are cancelled. asyncio.wait_for of Python 3.11 forgets a cancellation that
comes in the moment in which the work is done (python/cpython issue 86296), and such a loop goes on for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable

import pytest


async def within(seconds: float, work: Awaitable[str]) -> str:
    async with asyncio.timeout(seconds):
        return await work


@pytest.mark.parametrize("seconds", [0.01, 0, -1])
async def test_what_takes_longer_is_cancelled(seconds: float) -> None:
    work = asyncio.ensure_future(asyncio.sleep(60, "done"))
    with pytest.raises(TimeoutError):
        await within(seconds, work)
    assert work.cancelled()


async def test_what_is_done_although_it_was_cancelled_counts() -> None:
    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return "done all the same"

    assert await within(0.01, stubborn()) == "done all the same"


async def test_a_cancelled_caller_leaves_nothing_running() -> None:
    work = asyncio.ensure_future(asyncio.sleep(60, "done"))
    waiting = asyncio.create_task(within(60, work))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.cancelled()


@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize("error", [None, ValueError("broken")])
async def test_a_cancellation_at_the_moment_of_completion_counts(error: Exception | None, steps: int) -> None:
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(within(60, work))
    await asyncio.sleep(0)
    if error is None:
        work.set_result("done")
    else:
        work.set_exception(error)
    for _ in range(steps):
        await asyncio.sleep(0)
    is_in_time = waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled() == is_in_time
    assert is_in_time or waiting.exception() is error


@pytest.mark.parametrize("steps", range(8))
async def test_a_cancellation_at_the_moment_of_the_timeout_counts(steps: int) -> None:
    waiting = asyncio.create_task(within(0, asyncio.ensure_future(asyncio.sleep(60, "done"))))
    for _ in range(steps):
        await asyncio.sleep(0)
    is_in_time = waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled() == is_in_time
    assert is_in_time or isinstance(waiting.exception(), TimeoutError)


async def test_a_service_that_waits_in_a_loop_ends_when_it_is_cancelled() -> None:
    news = asyncio.Event()

    async def service() -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    await news.wait()
            news.clear()

    for steps in range(50):
        task = asyncio.create_task(service())
        for _ in range(steps):
            await asyncio.sleep(0)
            news.set()
        task.cancel()
        await asyncio.wait({task}, timeout=30)
        assert task.cancelled()
