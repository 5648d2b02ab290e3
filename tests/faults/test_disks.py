"""The real worker with disks that are full, read-only or gone: what is logged, kept in memory and saved later."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from archive.wav import wav_header
from conftest import StartWorker
from devtools import disks
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import Record, gaps, manifest, segments_of, until
from devtools.speakers import Speaker
from devtools.worker import Worker
from support.fault_table import Seen
from support.teaching import heard, sentences, teacher_in

pytestmark = pytest.mark.e2e

BROKEN_WORKER = Path(__file__).with_name("broken_worker.py")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    try:
        with disks.small_disk(tmp_path / "disk", 1) as disk:
            yield disk
    except disks.NoSmallDisk as reason:
        pytest.skip(str(reason))


@contextlib.asynccontextmanager
async def teaching(server: LiveKitServer, recorder: Worker, room: str) -> AsyncIterator[Speaker]:
    async with await teacher_in(server, recorder, room) as teacher:
        yield teacher
    await recorder.in_room(room).wait_for("Room over", timeout=40)


def gaps_since_subscribed(room_dir: Path) -> list[Record]:
    """Without a gap that ends before the first word: the recorder was not there yet, and nobody spoke."""
    first = manifest(room_dir)[0]["start"]
    return [gap for gap in gaps(room_dir) if gap["end"] > first]


def remount(path: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(path)], check=True)


@pytest.mark.fault("the disk is full for a while", "said once; nothing is lost")
async def test_a_full_disk_is_logged_once_and_loses_nothing_once_space_is_free(
    livekit_server: LiveKitServer, worker: StartWorker, small_disk: Path
) -> None:
    recorder = await worker(output_dir=small_disk / "segments")
    async with teaching(livekit_server, recorder, "full") as teacher:
        await teacher.say(sentences(0, 2))
        ballast = disks.filled(small_disk)
        await teacher.say(sentences(2, 4))
        await recorder.wait_for("The disk refuses: No space left on device")
        ballast.unlink()
        await teacher.say(sentences(6, 2))
        await recorder.wait_for("The disk works again")
    room_dir = small_disk / "segments" / "full"
    assert heard(room_dir) == list(range(8))
    assert recorder.log.count("The disk refuses") == 1
    assert not gaps_since_subscribed(room_dir)


@pytest.mark.fault("the disk turns read-only for a while", "nothing is lost")
async def test_a_disk_that_turns_read_only_and_back_costs_nothing(
    livekit_server: LiveKitServer, worker: StartWorker, small_disk: Path
) -> None:
    recorder = await worker(output_dir=small_disk / "segments")
    async with teaching(livekit_server, recorder, "read-only") as teacher:
        await teacher.say(sentences(0, 2))
        await teacher.silence(3)  # a file that is open for writing keeps a file system writable
        await segments_of(small_disk / "segments" / "read-only", 1)
        remount(small_disk, "ro")
        await teacher.say(sentences(2, 3))
        await recorder.wait_for("The disk refuses: Read-only file system")
        remount(small_disk, "rw")
        await teacher.say(sentences(5, 2))
        await recorder.wait_for("The disk works again")
    assert heard(small_disk / "segments" / "read-only") == list(range(7))


@pytest.mark.fault(
    "the disk refuses for longer than memory lasts", "the oldest audio is dropped and recorded as a gap"
)
async def test_speech_beyond_the_memory_limit_is_recorded_as_a_gap(
    livekit_server: LiveKitServer, worker: StartWorker, small_disk: Path
) -> None:
    recorder = await worker(output_dir=small_disk / "segments", MAX_UNSAVED_SECONDS="10")
    async with teaching(livekit_server, recorder, "too-long") as teacher:
        await teacher.say(sentences(0, 2))
        await teacher.silence(3)
        await segments_of(small_disk / "segments" / "too-long", 1)
        remount(small_disk, "ro")
        await teacher.say(sentences(2, 16))
        await recorder.wait_for("LOST")
        remount(small_disk, "rw")
        await teacher.say(sentences(18, 2))
    room_dir = small_disk / "segments" / "too-long"
    found = heard(room_dir)
    assert found == sorted(set(found))
    assert found[:2] == [0, 1]
    assert found[-2:] == [18, 19]
    assert len(found) < 20
    assert {gap["reason"] for gap in gaps(room_dir)} == {"unsaved"}


@pytest.mark.fault("the room's folder is deleted", "what is being spoken and what follows is there")
async def test_a_folder_that_is_deleted_while_recording_is_created_again(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    recorder = await worker()
    room_dir = tmp_path / "segments" / "deleted"
    async with teaching(livekit_server, recorder, "deleted") as teacher:
        await teacher.say(sentences(0, 2))
        await teacher.silence(3)
        await segments_of(room_dir, 1)
        talk = asyncio.create_task(teacher.say(sentences(2, 4)))
        await asyncio.sleep(2)
        await asyncio.to_thread(shutil.rmtree, room_dir)
        await talk
    assert heard(room_dir) == [2, 3, 4, 5]
    assert all(os.path.exists(room_dir / record["file"]) for record in manifest(room_dir))


@pytest.mark.fault(
    "a segment of an earlier lesson cannot be opened, and WAVs of others are in the room's folder",
    "every word recorded; the file is named in the log; all these files are as before",
)
async def test_files_that_cannot_be_opened_or_are_foreign_stop_nothing(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    room_dir, broken = tmp_path / "segments" / "visitors", tmp_path / "broken"
    room_dir.mkdir(parents=True)
    whole = wav_header(16_000) + bytes(32_000)
    denied = "segment_001_20250101_080000.wav"
    others = {denied: whole, "whole lesson.wav": whole, "half copied.wav": whole[:20_000]}
    for name, content in others.items():
        (room_dir / name).write_bytes(content)
    broken.write_text(f"denied {denied}", encoding="ascii")
    recorder = await worker(program=BROKEN_WORKER, BROKEN=str(broken))
    async with teaching(livekit_server, recorder, "visitors") as teacher:
        await teacher.say(sentences(0, 4))
    assert heard(room_dir) == [0, 1, 2, 3]
    assert f"{denied} cannot be recovered and is left as it is" in recorder.log
    assert {name: (room_dir / name).read_bytes() for name in others} == others
    assert not set(others) & {record["file"] for record in manifest(room_dir)}
    assert not gaps_since_subscribed(room_dir)


@pytest.mark.fault("the disk hangs for ever, then SIGTERM", "the worker ends within 20 s")
async def test_a_disk_that_hangs_does_not_hold_up_the_end(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path, seen: Seen
) -> None:
    broken = tmp_path / "broken"
    recorder = await worker(program=BROKEN_WORKER, BROKEN=str(broken))
    async with await teacher_in(livekit_server, recorder, "hanging") as teacher:
        broken.write_text("hang", encoding="ascii")
        await teacher.say(sentences(0, 2))
        began = time.monotonic()
        os.kill(recorder.pid, signal.SIGTERM)
        await until(lambda: recorder.exit_code is not None, "the worker ended", 40)
    seen(f"after {time.monotonic() - began:.0f} s")
    assert recorder.exit_code == 0


@pytest.mark.fault("the disk stalls for 5 s", "said once; nothing is lost")
async def test_a_disk_that_stalls_costs_nothing(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    recorder = await worker(program=BROKEN_WORKER, BROKEN=str(broken))
    async with teaching(livekit_server, recorder, "stall") as teacher:
        await teacher.say(sentences(0, 2))
        talk = asyncio.create_task(teacher.say(sentences(2, 5)))
        broken.write_text("stall", encoding="ascii")
        await recorder.wait_for("The disk took 5.")
        await talk
    room_dir = tmp_path / "segments" / "stall"
    assert heard(room_dir) == list(range(7))
    assert recorder.log.count("The disk took") == 1
    assert not gaps_since_subscribed(room_dir)


@pytest.mark.fault("the disk fails (EIO) for a while", "said once; nothing is lost")
async def test_a_disk_that_fails_for_a_while_costs_nothing(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    recorder = await worker(program=BROKEN_WORKER, BROKEN=str(broken))
    async with teaching(livekit_server, recorder, "failing") as teacher:
        await teacher.say(sentences(0, 2))
        broken.write_text("EIO", encoding="ascii")
        await teacher.say(sentences(2, 4))
        await recorder.wait_for(f"The disk refuses: {os.strerror(errno.EIO)}")
        broken.unlink()
        await teacher.say(sentences(6, 2))
        await recorder.wait_for("The disk works again")
    room_dir = tmp_path / "segments" / "failing"
    assert heard(room_dir) == list(range(8))
    assert recorder.log.count("The disk refuses") == 1
    assert not gaps_since_subscribed(room_dir)
