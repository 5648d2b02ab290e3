"""The outbox: nothing is lost and nothing is done twice, despite damaged files, killed workers and other workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archive import outbox, outbox_file
from archive.jsonl import Bookmark
from archive.outbox import Backlog, Order, Outbox, State, Work
from archive.outbox_file import BROKEN_OUTBOX, OUTBOX
from core.errors import StorageError
from support import ROOT
from support.delivering import opened, state_of
from support.disk import needs_posix


def item(number: int, folder: str = "math101", kind: str = "text", moment: float | None = None) -> Work:
    payload = {"number": number, "said": "¡Hola! \u2028 'quoted'; DROP TABLE work"}
    return Work(kind, folder, f"segment_{number:03d}.wav", number if moment is None else moment, payload)


async def claimed(box: Outbox, order: Order = Order.NEWEST_FIRST, most: int = 100) -> list[str]:
    return [f"{work.folder}/{work.payload['number']}" for work in await box.claim("text", order, most)]


# --- one worker ---


async def test_what_is_added_is_claimed_once_and_comes_whole(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        assert await box.add([item(1), item(2)]) == 2
        assert await box.add([item(2), item(3)]) == 1, "adding again changes nothing"
        works = await box.claim("text", Order.NEWEST_FIRST, 2)
        assert works == [item(3), item(2)]
        assert await claimed(box) == ["math101/1"]
        assert await claimed(box) == []


async def test_the_states_of_an_item(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await box.add([item(1), item(2), item(3)])
        one, two, three = sorted(await box.claim("text", Order.NEWEST_FIRST, 3), key=lambda work: work.moment)
        await box.done(one)
        await box.refuse(two, "too long")
        await box.retry(three, after_seconds=-1)
        states = [state_of(tmp_path, f"segment_{number:03d}.wav") for number in (1, 2, 3, 4)]
        assert states == [State.DONE, State.REFUSED, State.PENDING, None]
        (again,) = await box.claim("text", Order.NEWEST_FIRST, 3)
        assert (again.file, again.attempts) == (three.file, 1)
        backlog = await box.backlog("text")
        assert (backlog.count, backlog.refused) == (1, 1)
        assert backlog.oldest_seconds > 1e9, "spoken in 1970"
        assert await box.backlog("other") == Backlog(0, 0.0, 0)


async def test_what_is_to_be_tried_later_is_not_due_now(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await box.add([item(1)])
        assert await box.due_in("text") is None
        (work,) = await box.claim("text", Order.NEWEST_FIRST)
        await box.retry(work, 1_000)
        assert await claimed(box) == []
        due_in = await box.due_in("text")
        assert due_in is not None and 900 < due_in <= 1_000


async def test_a_clock_that_is_set_back_puts_nothing_off_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as box:
        await box.add([item(1)])
        (work,) = await box.claim("text", Order.NEWEST_FIRST)
        await box.retry(work, 60)
        assert await claimed(box) == []
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now - 10 * 86_400)
        assert await claimed(box) == ["math101/1"]


async def test_a_clock_that_is_set_back_does_not_put_off_what_was_never_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as box:
        await box.add([item(1)])
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now - 3_600)
        assert await claimed(box) == ["math101/1"]


async def test_rooms_keep_their_order_and_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await box.add([item(2), item(1), item(3, "physics"), item(4, "physics")])
        first = await box.claim("text", Order.ROOMS_IN_ORDER, 10)
        assert [work.file[-7:-4] for work in first] == ["001", "003"]
        assert await claimed(box, Order.ROOMS_IN_ORDER) == [], "a room's next waits for the one under way"
        await box.retry(first[0], 1_000)
        await box.done(first[1])
        assert await claimed(box, Order.ROOMS_IN_ORDER) == ["physics/4"], "and for one to be tried again"
        await box.refuse(first[0], "the bucket does not want it")
        assert await claimed(box, Order.ROOMS_IN_ORDER) == ["math101/2"]


async def test_kinds_know_nothing_of_each_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await box.add([item(1), item(1, kind="s3")])
        (work,) = await box.claim("s3", Order.ROOMS_IN_ORDER)
        await box.done(work)
        assert await claimed(box) == ["math101/1"]


async def test_what_was_finished_long_ago_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_FINISHED", 2)
    monkeypatch.setattr(outbox, "DELETE_EVERY", 1)
    async with opened(tmp_path) as box:
        await box.add([item(number) for number in range(5)])
        for work in await box.claim("text", Order.NEWEST_FIRST, 5):
            await box.done(work)
        states = [state_of(tmp_path, f"segment_{number:03d}.wav") for number in range(5)]
        assert states == [None, None, State.DONE, State.DONE, State.DONE]


@needs_posix
async def test_the_files_are_private(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await box.add([item(1)])
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


async def test_an_unused_outbox_creates_no_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        pass
    await box.aclose()
    assert list(tmp_path.iterdir()) == []


async def test_what_two_workers_read_is_added_by_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        start, end = Bookmark(), Bookmark(10, "x")
        assert await one.bookmark("text", "math101/segments.jsonl") == start
        assert await one.add_read("text", "math101/segments.jsonl", [item(1)], start, end)
        assert not await other.add_read("text", "math101/segments.jsonl", [item(1)], start, end)
        assert await other.bookmark("text", "math101/segments.jsonl") == end
        assert await other.bookmark("s3", "math101/segments.jsonl") == start


async def test_a_full_outbox_leaves_the_rest_in_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_WAITING", 2)
    async with opened(tmp_path) as box:
        assert await box.add_read("text", "m", [item(1), item(2)], Bookmark(), Bookmark(1))
        assert not await box.add_read("text", "m", [item(3)], Bookmark(1), Bookmark(2))
        for work in await box.claim("text", Order.NEWEST_FIRST, 2):
            await box.done(work)
        assert await box.add_read("text", "m", [item(3)], Bookmark(1), Bookmark(2))


# --- budgets ---


async def test_a_budget_is_shared_and_survives_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        assert [await box.spend("text", 2, 3) for box in (one, other)] == [0.0, 0.0]
        assert await other.spend("s3", 2, 3) == 0.0, "each kind has its own"
        assert 59 < await one.spend("text", 2, 3) <= 61
    now += 62
    async with opened(tmp_path) as box:
        assert await box.spend("text", 2, 3) == 0.0
        assert 80_000 < await box.spend("text", 2, 3) <= 86_401
        assert await box.spend("text", 0, 0) == 0.0, "0 is no limit"


# --- several workers, and their ends ---


async def test_two_workers_never_get_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        await one.add([item(number) for number in range(60)])
        batches = await asyncio.gather(
            *(box.claim("text", Order.NEWEST_FIRST, 3) for box in (one, other) * 10)
        )
        numbers = [work.payload["number"] for batch in batches for work in batch]
        assert sorted(numbers) == list(range(60))


async def test_what_a_worker_had_at_its_end_is_free(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        await one.add([item(1)])
        assert await claimed(one) == ["math101/1"]
        assert await claimed(other) == []
        await one.aclose()
        assert await claimed(other) == ["math101/1"]


async def test_what_was_not_tried_is_given_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await box.add([item(1)])
        (work,) = await box.claim("text", Order.NEWEST_FIRST)
        await box.give_back(work)
        assert await box.claim("text", Order.NEWEST_FIRST) == [work]


VICTIM = """
import asyncio, sys, time
from pathlib import Path
from archive.outbox import Order, Outbox

async def main():
    box = Outbox(Path(sys.argv[1]))
    while works := await box.claim("text", Order.NEWEST_FIRST, 1):
        print("claimed", works[0].payload["number"], flush=True)
        await box.done(works[0])
        print("done", works[0].payload["number"], flush=True)
        if sys.argv[2] == "hold":
            await box.claim("text", Order.NEWEST_FIRST, 1)
            print("holding", flush=True)
            time.sleep(60)

asyncio.run(main())
"""


def victim(folder: Path, manner: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", VICTIM, str(folder), manner]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@needs_posix
async def test_a_killed_worker_loses_nothing_and_blocks_nothing(tmp_path: Path) -> None:
    count = 400
    async with opened(tmp_path) as box:
        await box.add([item(number) for number in range(count)])
    done: list[str] = []
    for lines_before_death in (3, 40, 7):
        process = victim(tmp_path, "work")
        assert process.stdout is not None
        for _ in range(lines_before_death):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        done += [line for line in process.stdout.read().splitlines() if line.startswith("done")]
        process.wait()
        process.stdout.close()
    async with opened(tmp_path) as box:
        left = (await box.backlog("text")).count
        assert 0 < left < count
        assert len(await box.claim("text", Order.NEWEST_FIRST, count)) == left
    assert not list(tmp_path.glob(".outbox-*.lock")), "nothing stays of the dead"


async def test_what_a_living_worker_has_is_its_own_until_it_dies(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await box.add([item(1), item(2)])
        process = victim(tmp_path, "hold")
        assert process.stdout is not None
        lines = [await asyncio.to_thread(process.stdout.readline) for _ in range(3)]
        assert lines == ["claimed 2\n", "done 2\n", "holding\n"]
        assert await claimed(box) == []
        process.kill()
        process.wait()
        process.stdout.close()
        assert await claimed(box) == ["math101/1"]


# --- the file ---


@pytest.mark.parametrize("damage", ["text", "empty", "header", "middle", "foreign", "newer"])
async def test_a_damaged_file_is_moved_away_and_a_new_one_created(tmp_path: Path, damage: str) -> None:
    async with opened(tmp_path) as box:
        await box.add([item(number) for number in range(200)])
    damaged(tmp_path / OUTBOX, damage)
    async with opened(tmp_path) as box:
        with contextlib.suppress(StorageError):
            await box.claim("text", Order.NEWEST_FIRST, 1)
            await box.backlog("text")
        assert await box.bookmark("text", "m") == Bookmark(), "so it is filled from the beginning"
        await box.add([item(1_000)])
        assert await claimed(box, most=1) == ["math101/1000"]
    assert damage == "empty" or (tmp_path / BROKEN_OUTBOX).exists()


def damaged(path: Path, damage: str) -> None:
    if damage in ("foreign", "newer"):
        path.unlink()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE other (x)")
            connection.execute(
                f"PRAGMA user_version = {99 if damage == 'newer' else outbox_file.SCHEMA_VERSION}"
            )
        return
    content = path.read_bytes()
    if damage == "text":
        content = b"this is no database at all, but it is long enough to be looked at. " * 20
    elif damage == "empty":
        content = b""
    elif damage == "header":
        content = b"\0" * 100 + content[100:]
    else:
        content = content[:4096] + os.urandom(len(content) - 4096)
    path.write_bytes(content)


async def test_it_may_be_deleted_while_workers_run(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows deletes no open file")
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        await one.add([item(1)])
        assert (await other.backlog("text")).count == 1
        for path in tmp_path.glob(OUTBOX + "*"):
            path.unlink()
        assert await one.add([item(2)]) == 1
        assert await claimed(other) == ["math101/2"]


async def test_a_disk_that_refuses_is_logged_and_retried(tmp_path: Path) -> None:
    folder = tmp_path / "segments"
    async with opened(folder) as box:
        with pytest.raises(StorageError, match=r"outbox.sqlite cannot be used"):
            await box.add([item(1)])
        folder.mkdir()
        assert await box.add([item(1)]) == 1


# --- any order of events ---

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 5)),
        st.tuples(
            st.sampled_from(["claim", "done", "refuse", "retry", "give back", "restart"]), st.integers(0, 1)
        ),
    ),
    max_size=30,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(STEPS, st.sampled_from(Order))
def test_whatever_happens_each_item_is_in_one_place(steps: list[tuple[str, int]], order: Order) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder), steps, order))


async def play(folder: Path, steps: list[tuple[str, int]], order: Order) -> None:
    """Two workers do generated steps; a list of sets says where every item must be."""
    boxes = [Outbox(folder), Outbox(folder)]
    held: list[list[Work]] = [[], []]
    waiting: set[str] = set()
    finished: set[str] = set()
    for step, which in steps:
        if step == "add":
            file = item(which).file
            added = await boxes[0].add([item(which)])
            known = waiting | finished | {work.file for works in held for work in works}
            assert added == (file not in known)
            waiting |= {file} - known
        elif step == "claim":
            works = await boxes[which].claim("text", order, 1)
            free = bool(waiting) and (order is Order.NEWEST_FIRST or not any(held) or works)
            assert bool(works) == bool(free)
            held[which] += works
            waiting -= {work.file for work in works}
        elif step == "restart":
            waiting |= {work.file for work in held[which]}
            held[which] = []
            await boxes[which].aclose()
            boxes[which] = Outbox(folder)
        elif held[which]:
            work = held[which].pop()
            if step == "done":
                await boxes[which].done(work)
            elif step == "refuse":
                await boxes[which].refuse(work, "no")
            elif step == "retry":
                await boxes[which].retry(work, -1)
            else:
                await boxes[which].give_back(work)
            (finished if step in ("done", "refuse") else waiting).add(work.file)
        pending = len(waiting) + len(held[0]) + len(held[1])
        assert (await boxes[0].backlog("text")).count == pending
    for box in boxes:
        await box.aclose()


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), unique=True, max_size=20),
    st.lists(st.tuples(st.sampled_from(["claim", "done", "retry", "wait"]), st.integers(1, 3)), max_size=20),
)
def test_rooms_go_on_one_by_one_each_in_its_order(
    items: list[tuple[int, int]], steps: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play_rooms(Path(folder), items, steps))


async def play_rooms(folder: Path, items: list[tuple[int, int]], steps: list[tuple[str, int]]) -> None:
    """A dictionary of sorted lists says which item of each room must be claimed next."""
    rooms: dict[str, list[int]] = {}
    for room, number in items:
        rooms.setdefault(f"room {room}", []).append(number)
    held: list[Work] = []
    blocked: set[str] = set()
    async with opened(folder) as box:
        await box.add([item(number, f"room {room}") for room, number in items])
        for step, most in steps:
            if step == "claim":
                ready = {
                    room: min(numbers) for room, numbers in rooms.items() if numbers and room not in blocked
                }
                wanted = sorted((number, room) for room, number in ready.items())
                works = await box.claim("text", Order.ROOMS_IN_ORDER, most)
                assert [work.payload["number"] for work in works] == [number for number, _ in wanted][:most]
                assert {(work.payload["number"], work.folder) for work in works} <= set(wanted)
                held += works
                blocked |= {work.folder for work in works}
            elif held:
                work = held.pop()
                if step == "done":
                    await box.done(work)
                    rooms[work.folder].remove(work.payload["number"])
                else:
                    await box.retry(work, 1_000 if step == "wait" else -1)
                if step != "wait":
                    blocked.discard(work.folder)


async def test_a_kind_or_a_folder_can_be_reset(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    works = [
        Work(kind, folder, "1.wav", 1.0, {}) for kind in ("a", "b") for folder in ("math", "mathematics")
    ]
    for work in works:
        source = f"{work.folder}/segments.jsonl"
        assert await outbox.add_read(work.kind, source, [work], Bookmark(), Bookmark(9, "x"))
    await outbox.reset("a")
    assert (await outbox.backlog("a")).count == 0
    assert (await outbox.backlog("b")).count == 2
    assert await outbox.bookmark("a", "math/segments.jsonl") == Bookmark()
    await outbox.forget("math")
    assert [work.folder for work in await outbox.claim("b", Order.NEWEST_FIRST, 5)] == ["mathematics"]
    assert await outbox.bookmark("b", "math/segments.jsonl") == Bookmark()
    assert await outbox.bookmark("b", "mathematics/segments.jsonl") == Bookmark(9, "x")
    await outbox.forget("mathematics")
    assert (await outbox.backlog("b")).count == 1, "somebody is at it"
    await outbox.aclose()
