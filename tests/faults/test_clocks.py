"""A machine whose clock is set during a lecture: earlier segments keep their time, later ones have the new time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config import Settings
from conftest import StartWorker
from core.records import parse_utc
from devtools.livekit_server import LiveKitServer
from devtools.machine import ProgramUnavailable, found_or_installed, is_build_machine
from devtools.room_folders import manifest
from devtools.speakers import Said
from support.fault_table import Seen
from support.teaching import heard, sentences, teacher_in

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="a clock of its own for one program: libfaketime"),
]

CACHED_SECONDS = 1
"""How long libfaketime uses an offset before it reads the file again."""

PRE_ROLL_SECONDS = Settings().pre_roll_seconds

SetClock = Callable[[float], None]


@pytest.fixture
def clock(tmp_path: Path) -> tuple[SetClock, dict[str, Any]]:
    """Sets the clock of a worker with these settings, in seconds of difference from the true time."""
    offset = tmp_path / "clock"

    def set_clock(seconds: float) -> None:
        offset.write_text(f"{seconds:+g}\n", encoding="utf-8")

    set_clock(0)
    return set_clock, {
        "LD_PRELOAD": str(_libfaketime()),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": str(CACHED_SECONDS),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # The fix, for an old C library, lets waiting threads take two cores.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    }


def _libfaketime() -> Path:
    def find() -> Path | None:
        return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)

    try:
        return found_or_installed(find, "libfaketime", "libfaketime")
    except ProgramUnavailable as unavailable:
        if is_build_machine():
            raise
        pytest.skip(str(unavailable))


@pytest.mark.fault(
    "the machine's clock is set, by +30 s and back by 40 s, in mid-lecture",
    "no word lost; every segment has the time of the clock as it was then",
)
async def test_segments_have_the_time_of_a_clock_that_is_set(
    livekit_server: LiveKitServer,
    worker: StartWorker,
    tmp_path: Path,
    seen: Seen,
    clock: tuple[SetClock, dict[str, Any]],
) -> None:
    set_clock, settings = clock
    recorder = await worker(**settings)
    said: list[tuple[Said, float]] = []
    async with await teacher_in(livekit_server, recorder, "clock") as teacher:
        for first, beside in ((0, 0.0), (3, 30.0), (6, -10.0)):
            set_clock(beside)
            await teacher.silence(CACHED_SECONDS + 0.5)
            said.append((await teacher.say(sentences(first, 3)), beside))
            await teacher.silence(2.5)
    await recorder.wait_for("Room over")
    room_dir = tmp_path / "segments" / "clock"
    assert heard(room_dir) == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    off = []
    for spoken, beside in said:
        start, end = spoken.start + beside, spoken.end + beside
        starts = [parse_utc(record["start"]).timestamp() + PRE_ROLL_SECONDS for record in manifest(room_dir)]
        of_these = [moment for moment in starts if start - 2 < moment < end]
        assert of_these, f"nothing has the time of a clock that is off by {beside:+g} s"
        off.append(of_these[0] - start)
    seen(f"off by {max(map(abs, off)) * 1000:.0f} ms at most, with the network's and the decoder's delay")
    assert max(map(abs, off)) < 1, "not by what the clock was set"
    assert recorder.log.count("Clock corrected by") == 2
