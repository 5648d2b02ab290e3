"""Waiting for something, but not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(seconds: float, work: Awaitable[T]) -> T:
    """The result of the work. It is cancelled if it takes longer, or if we are cancelled.

    Not ``asyncio.wait_for``: before Python 3.12 that one forgets that it was cancelled if the work is done in the same
    moment (python/cpython issue 86296), and a loop around it goes on for ever.

    Raises:
        asyncio.TimeoutError: it has taken longer.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        is_late = not task.done()
        if is_late:
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at, even if nobody is left who would
    if is_late and task.cancelled():
        raise asyncio.TimeoutError
    return task.result()
