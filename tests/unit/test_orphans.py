"""Rooms whose recorder has died: they are found by its handover note, whose lock is free, and taken over at once."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from archive.handover_note import HandoverNote, NoteLock, RoomProgress
from archive.names import HANDOVER_NOTE
from archive.orphans import RECENT_SECONDS, SILENT_SECONDS, Orphan, find_orphans
from core.records import RoomInfo, utc_now
from devtools.room_folders import until
from devtools.sample_room import ROOM, open_room, settings_for
from storage import RoomFolder
from worker import orphan_watch
from worker.orphan_watch import OrphanWatch


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RoomFolder]:
    """The folder of a recorder that is in the room."""
    folder = recorder_in(tmp_path)
    yield folder
    folder.handover.leave()


def recorder_in(output_dir: Path, room: RoomInfo = ROOM, agent_name: str = "") -> RoomFolder:
    folder = open_room(output_dir, room, agent_name=agent_name)
    folder.handover.write(RoomProgress(utc_now(), {}, recorder_sid="PA_old"))
    folder.handover.hold()
    return folder


def dies(folder: RoomFolder, seconds_ago: float = SILENT_SECONDS + 0.5) -> None:
    folder.handover.leave()
    moment = time.time() - seconds_ago
    os.utime(folder.path / HANDOVER_NOTE, (moment, moment))


def rooms_without_recorder(output_dir: Path, agent_name: str = "") -> list[str]:
    orphans = list(find_orphans(output_dir, agent_name))
    release(orphans)
    return [orphan.note.room_name for orphan in orphans]


def release(orphans: list[Orphan]) -> None:
    for orphan in orphans:
        orphan.lock.release()


def test_only_a_recorder_that_has_died_is_found(tmp_path: Path, folder: RoomFolder) -> None:
    moment = time.time() - SILENT_SECONDS - 0.5
    os.utime(folder.path / HANDOVER_NOTE, (moment, moment))
    assert rooms_without_recorder(tmp_path) == [], "it holds its note: its disk may just be slow"
    dies(folder)
    assert rooms_without_recorder(tmp_path) == ["math101"]
    folder.handover.hold()
    assert rooms_without_recorder(tmp_path) == []


def test_a_successor_that_cannot_lock_the_note_yet_is_alive(tmp_path: Path, folder: RoomFolder) -> None:
    successor = open_room(tmp_path)
    successor.handover.write(RoomProgress(utc_now(), {}, recorder_sid="PA_new"))
    successor.handover.hold()
    folder.handover.leave()
    assert rooms_without_recorder(tmp_path) == [], "the note has just been written"
    successor.handover.hold()
    dies(folder)
    assert rooms_without_recorder(tmp_path) == []
    successor.handover.leave()
    (orphan,) = find_orphans(tmp_path, "")
    assert orphan.note.recorder_sid == "PA_new"
    orphan.lock.release()


def test_an_old_note_tells_nothing(tmp_path: Path, folder: RoomFolder) -> None:
    dies(folder, RECENT_SECONDS + 1)
    assert rooms_without_recorder(tmp_path) == []


def test_workers_of_another_name_have_rooms_of_their_own(tmp_path: Path) -> None:
    dies(recorder_in(tmp_path, agent_name="a"))
    assert rooms_without_recorder(tmp_path, "b") == []
    assert rooms_without_recorder(tmp_path) == []
    assert rooms_without_recorder(tmp_path, "a") == ["math101"]


@pytest.mark.parametrize("content", [b"", b"RM_1", b"{}\n", b"\xff\n"])
def test_what_is_no_note_hides_no_other_room(tmp_path: Path, folder: RoomFolder, content: bytes) -> None:
    other = recorder_in(tmp_path, RoomInfo("art", "RM_2", ROOM.started_at))
    (folder.path / HANDOVER_NOTE).write_bytes(content)
    dies(folder)
    dies(other)
    (tmp_path / "empty").mkdir()
    (tmp_path / "segments.jsonl").touch()
    assert rooms_without_recorder(tmp_path) == ["art"]


def test_one_worker_at_a_time_has_an_orphan(tmp_path: Path, folder: RoomFolder) -> None:
    dies(folder)
    held = list(find_orphans(tmp_path, ""))
    assert list(find_orphans(tmp_path, "")) == []
    release(held)
    assert rooms_without_recorder(tmp_path) == ["math101"]


# --- taking over ---


async def watch_over(
    output_dir: Path, answers: list[bool | None | Exception], folder: RoomFolder
) -> list[str]:
    """What a worker asks for until there is no answer left, and for a moment longer."""
    asked: list[str] = []

    async def replace(note: HandoverNote) -> bool | None:
        asked.append(note.room_sid)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watch = asyncio.create_task(OrphanWatch(settings_for(output_dir), replace).run())
    await until(lambda: not answers or watch.done(), "all answers are given")
    await asyncio.sleep(0.1)
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    return asked


@pytest.fixture(autouse=True)
def no_time_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphan_watch, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(orphan_watch, "MAX_SHARE", 1.0)


async def test_a_room_is_asked_for_once_and_again_if_nobody_comes(
    tmp_path: Path, folder: RoomFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(folder)
    assert await watch_over(tmp_path, [True], folder) == ["RM_1"]
    assert rooms_without_recorder(tmp_path) == ["math101"], "a worker that ends keeps no claim"
    monkeypatch.setattr(orphan_watch, "CLAIM_SECONDS", 0.02)
    assert len(await watch_over(tmp_path, [True, True, False], folder)) == 3


async def test_a_room_that_needs_no_recorder_is_not_asked_about_again(
    tmp_path: Path, folder: RoomFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(folder)
    monkeypatch.setattr(orphan_watch, "AGAIN_SECONDS", 0.02)
    assert await watch_over(tmp_path, [False], folder) == ["RM_1"]


async def test_a_server_that_does_not_answer_is_asked_again(tmp_path: Path, folder: RoomFolder) -> None:
    dies(folder)
    assert len(await watch_over(tmp_path, [TimeoutError(), False], folder)) == 2


async def test_a_room_that_needs_no_recorder_for_now_is_asked_about_again(
    tmp_path: Path, folder: RoomFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker was full, or the teacher was out for a moment."""
    dies(folder)
    assert await watch_over(tmp_path, [None], folder) == ["RM_1"], "not at once"
    monkeypatch.setattr(orphan_watch, "AGAIN_SECONDS", 0.02)
    assert await watch_over(tmp_path, [None, None, True], folder) == ["RM_1"] * 3


async def test_an_orphan_that_hangs_delays_no_other_and_is_released(
    tmp_path: Path, folder: RoomFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphan_watch, "ASK_SECONDS", 0.5)
    names = [f"room-{number}" for number in range(10)]
    for name in names:
        dies(recorder_in(tmp_path, RoomInfo(name, f"RM_{name}", ROOM.started_at)))
    dies(folder)
    asked: list[str] = []

    async def replace(note: HandoverNote) -> bool:
        asked.append(note.room_name)
        await asyncio.sleep(60 if note.room_name == "math101" else 0.05)
        return True

    watch = OrphanWatch(settings_for(tmp_path), replace)
    running = asyncio.create_task(watch.run())
    await until(lambda: len(watch._claims) == len(names), "all others have a recorder")
    assert asked.count("math101") == 1, "while it hangs"
    await until(lambda: asked.count("math101") == 2, "it is asked for again")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("steps", range(8))
async def test_a_watch_that_ends_at_any_step_keeps_no_orphan(
    tmp_path: Path, folder: RoomFolder, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """It may be cancelled between finding an orphan and the first step of the task that handles it."""
    dies(folder)
    loop = asyncio.get_running_loop()

    def cancel_in(more: int) -> None:
        loop.call_soon(cancel_in, more - 1) if more else running.cancel()

    async def replace(_: HandoverNote) -> bool:
        return False

    def find(watch: OrphanWatch, find: Callable[[OrphanWatch], None] = OrphanWatch._find) -> None:
        find(watch)
        loop.call_soon_threadsafe(cancel_in, steps)

    monkeypatch.setattr(OrphanWatch, "_find", find)
    running = asyncio.create_task(OrphanWatch(settings_for(tmp_path), replace).run())
    await asyncio.gather(running, return_exceptions=True)
    assert rooms_without_recorder(tmp_path) == ["math101"]


async def test_orphans_that_cannot_be_found_again_are_forgotten(tmp_path: Path) -> None:
    async def replace(_: HandoverNote) -> bool:
        return False

    watch = OrphanWatch(settings_for(tmp_path), replace)
    now = time.time()
    for number in range(3):
        note = HandoverNote("RM_1", utc_now(), recorder_sid=f"PA_{number}")
        written_at = now - RECENT_SECONDS - 1 if number < 2 else now
        await watch._take(Orphan(note, written_at, NoteLock(tmp_path)))
    assert list(watch._in_vain) == ["PA_2"]
