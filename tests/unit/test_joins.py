"""How many rooms join at the same time, and in which order."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from worker.joins import JoinQueue


async def join(queue: JoinQueue, name: str, order: list[str], *, may_have_speech: bool = True) -> None:
    async with queue.turn(may_have_speech=may_have_speech):
        order.append(name)
        await asyncio.sleep(0)


async def test_no_more_than_the_places_join_at_once_and_all_join() -> None:
    queue, joining, most = JoinQueue(3), 0, 0

    async def one() -> None:
        nonlocal joining, most
        async with queue.turn(may_have_speech=True):
            joining += 1
            most = max(most, joining)
            await asyncio.sleep(0.001)
            joining -= 1

    await asyncio.gather(*(one() for _ in range(20)))
    assert (most, joining, queue.joining) == (3, 0, 0)


async def test_rooms_in_which_somebody_may_speak_join_first_and_otherwise_in_turn() -> None:
    queue, order = JoinQueue(1), list[str]()
    async with queue.turn(may_have_speech=True):
        waits = [
            asyncio.create_task(join(queue, name, order, may_have_speech=name.isupper()))
            for name in ("empty", "ONE", "bare", "TWO")
        ]
        await asyncio.sleep(0)
        assert queue.joining == 5
    await asyncio.gather(*waits)
    assert order == ["ONE", "TWO", "empty", "bare"]


async def test_a_wait_that_is_cancelled_takes_no_place() -> None:
    queue, order = JoinQueue(1), list[str]()
    async with queue.turn(may_have_speech=True):
        cancelled = asyncio.create_task(join(queue, "cancelled", order))
        waiting = asyncio.create_task(join(queue, "next", order))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(waiting, cancelled, return_exceptions=True)
    assert (order, queue.joining) == (["next"], 0)


async def test_a_wait_that_is_cancelled_as_its_turn_comes_passes_it_on() -> None:
    queue, order = JoinQueue(1), list[str]()
    async with queue.turn(may_have_speech=True):
        cancelled = asyncio.create_task(join(queue, "cancelled", order))
        await asyncio.sleep(0)
    cancelled.cancel()
    await join(queue, "next", order)
    with contextlib.suppress(asyncio.CancelledError):
        await cancelled
    assert (order, queue.joining) == (["next"], 0)


async def test_a_join_that_fails_gives_its_place_back() -> None:
    queue, order = JoinQueue(1), list[str]()
    with contextlib.suppress(RuntimeError):
        async with queue.turn(may_have_speech=True):
            raise RuntimeError("the room cannot be joined")
    await join(queue, "next", order)
    assert order == ["next"]


def test_rooms_on_threads_of_their_own_take_turns() -> None:
    queue, order = JoinQueue(2), list[str]()

    def room(name: str) -> None:
        asyncio.run(join(queue, name, order))

    threads = [threading.Thread(target=room, args=(str(number),)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (sorted(order, key=int), queue.joining) == ([str(number) for number in range(16)], 0)
