"""A sample room, participants and segments for tests that need no server."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from config import Settings
from core.records import (
    EndReason,
    Pcm,
    RoomInfo,
    SpeechSegment,
    StreamClock,
    TrackInfo,
)
from storage import RoomFolder

ROOM = RoomInfo("math101", "RM_1", datetime(2025, 10, 8, 14, 0, tzinfo=UTC))
ANNA = TrackInfo("anna", "Anna Ünal", "TR_A", "microphone")
BOB = TrackInfo("bob", "Bob", "TR_B", "screen_share_audio")
CLOCK = StreamClock(datetime(2025, 10, 8, 14, 5, 23, tzinfo=UTC))


def settings_for(output_dir: Path, **changes: Any) -> Settings:
    return Settings(
        livekit_url="ws://localhost:7880",
        livekit_api_key="key",
        livekit_api_secret="secret",
        output_dir=str(output_dir),
        **changes,
    )


def open_room(output_dir: Path, room: RoomInfo = ROOM, **changes: Any) -> RoomFolder:
    return RoomFolder.open(settings_for(output_dir, **changes), room)


def noise(samples: int, seed: int = 0) -> Pcm:
    """White noise, different for each seed."""
    return np.random.default_rng(seed).integers(-32768, 32768, samples, dtype=np.int16)


def segment_of(pcm: Pcm, start_sample: int = 0, end_reason: EndReason = EndReason.PAUSE) -> SpeechSegment:
    return SpeechSegment(start_sample, start_sample, pcm, 0.9, 0.5, end_reason)
