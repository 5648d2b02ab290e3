"""Waiting that neither outlasts its deadline nor forgets that it was cancelled."""

from __future__ import annotations

import asyncio

import pytest

from deadline import within


async def sooner_or_later(seconds: float, error: Exception | None = None) -> str:
    await asyncio.sleep(seconds)
    if error is not None:
        raise error
    return "done"


async def test_what_is_done_in_time_is_returned_or_raised() -> None:
    assert await within(10, sooner_or_later(0.01)) == "done"
    with pytest.raises(ValueError, match="broken"):
        await within(10, sooner_or_later(0.01, ValueError("broken")))


@pytest.mark.parametrize("seconds", [0.01, 0, -1])
async def test_what_takes_longer_is_cancelled(seconds: float) -> None:
    work = asyncio.ensure_future(sooner_or_later(60))
    with pytest.raises(asyncio.TimeoutError):
        await within(seconds, work)
    assert work.cancelled()


async def test_what_cannot_be_cancelled_any_more_counts() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "done all the same"
        raise AssertionError

    assert await within(0.01, stubborn()) == "done all the same"


async def test_who_is_cancelled_leaves_nothing_running() -> None:
    work = asyncio.ensure_future(sooner_or_later(60))
    waiting = asyncio.create_task(within(60, work))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.cancelled()


@pytest.mark.parametrize("error", [None, ValueError("broken")])
async def test_who_is_cancelled_in_the_moment_in_which_it_is_done_is_cancelled(
    error: Exception | None,
) -> None:
    """asyncio.wait_for of Python 3.10 and 3.11 returns here, and a service goes on for ever."""
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(within(60, work))
    await asyncio.sleep(0.01)
    if error is None:
        work.set_result("done")
    else:
        work.set_exception(error)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
