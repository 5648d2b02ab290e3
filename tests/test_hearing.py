"""A recorder that no longer hears a track: it asks for it anew, and the worker is sick until there is sound again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timezone
from pathlib import Path
from unittest.mock import AsyncMock, MagicMock

import numpy as np
import pytest
from harness import TEACHER, until
from livekit import rtc

import pulse
import recorder
from config import Settings
from recorder import RoomRecorder
from segments import RoomInfo
from vitals import Vitals

ROOM = RoomInfo("math101", "RM_1", datetime(2025, 10, 8, 14, 0, tzinfo=timezone.utc))


class Stream:
    """Frames of silence without end, or nothing at all, until it is closed."""

    def __init__(self, *, is_silent: bool) -> None:
        self._is_silent = is_silent
        self._closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[rtc.AudioFrameEvent]:
        while not self._closed.is_set():
            if not self._is_silent:
                frame = rtc.AudioFrame(np.zeros(1_536, np.int16).tobytes(), 16_000, 1, 1_536)
                yield rtc.AudioFrameEvent(frame)
            await asyncio.sleep(0.01)

    async def aclose(self) -> None:
        self._closed.set()


class Detector:
    def probability(self, _: object) -> float:
        return 0.0


@pytest.fixture
def vitals(monkeypatch: pytest.MonkeyPatch) -> Vitals:
    made = Vitals()
    for module in (pulse, recorder):
        monkeypatch.setattr(module, "vitals", made)
    monkeypatch.setattr(recorder, "DEAF_SECONDS", 0.5)
    monkeypatch.setattr(recorder, "WATCH_SECONDS", 0.02)
    return made


def teacher_with_track() -> tuple[MagicMock, MagicMock]:
    """As the SDK shows them: a participant, and its microphone."""
    publication = MagicMock(
        spec=rtc.RemoteTrackPublication,
        sid="TR_1",
        kind=rtc.TrackKind.KIND_AUDIO,
        source=rtc.TrackSource.SOURCE_MICROPHONE,
        encryption_type=rtc.EncryptionType.NONE,
    )
    participant = MagicMock(
        spec=rtc.RemoteParticipant,
        sid="PA_1",
        identity="anna",
        kind=rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD,
        metadata=TEACHER,
        attributes={},
        track_publications={"TR_1": publication},
    )
    participant.name = "Anna"
    participant.permissions.can_update_metadata = False
    return participant, publication


async def test_a_deaf_room_is_sick_until_it_hears(
    tmp_path: Path, vitals: Vitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = iter([Stream(is_silent=True), Stream(is_silent=False)])
    monkeypatch.setattr(recorder, "open_stream", lambda *_: next(streams))
    participant, publication = teacher_with_track()
    handlers: dict[str, Callable[..., None]] = {}
    room = MagicMock(spec=rtc.Room, remote_participants={"anna": participant})
    room.on.side_effect = handlers.__setitem__
    room.local_participant.set_attributes = AsyncMock()
    track = MagicMock(spec=rtc.RemoteTrack, kind=rtc.TrackKind.KIND_AUDIO)

    one = RoomRecorder(room, ROOM, Settings(output_dir=str(tmp_path)), Detector)
    one.attach()
    one.begin()
    handlers["track_subscribed"](track, publication, participant)
    assert vitals.snapshot().rooms[0].teachers == 1
    await until(lambda: vitals.snapshot().problems, "the worker is sick")
    assert vitals.snapshot().problems[0].startswith("deaf in 1 room: ")
    assert vitals.snapshot().rooms[0].teachers == 0
    await until(
        lambda: publication.set_subscribed.call_args_list[-1].args == (True,), "it asks for the track anew"
    )
    assert vitals.snapshot().problems, "asking is not hearing"
    monkeypatch.setattr(recorder, "DEAF_SECONDS", 60.0)  # a machine that stalls is not deaf
    handlers["track_subscribed"](track, publication, participant)
    await until(lambda: not vitals.snapshot().problems, "it hears")
    await one.aclose()
    await until(lambda: not vitals.snapshot().rooms, "the room is over")
