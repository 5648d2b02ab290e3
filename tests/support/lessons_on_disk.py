"""Makes rooms as the recorder saves them, without a recorder, for tests of the later steps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from archive import jsonl
from archive.names import session_file
from archive.session_files import SessionFiles
from config import Settings
from core.records import (
    SAMPLE_RATE,
    EndReason,
    GapReason,
    GapRecord,
    RoomInfo,
    SegmentRecord,
    SpeechSegment,
    StreamClock,
    TrackInfo,
)
from core.session_records import ClosedBy
from core.text_records import TextRecord
from lesson_tools.expected import expected_of
from storage import RoomFolder

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
TRACK = TrackInfo("anna", "Anna", "TR_anna", "microphone")
BEN = TrackInfo("ben", "Ben", "TR_ben", "microphone")


def spoken(
    settings: Settings,
    room: str = "math101",
    count: int = 3,
    *,
    track: TrackInfo = TRACK,
    at: datetime = NOW,
    seconds: float = 0.5,
) -> list[SegmentRecord]:
    """Saves segments of noise, no two alike, as the recorder does; ten seconds apart."""
    folder = RoomFolder.open(settings, RoomInfo(room, f"RM_{room}", at))
    records = []
    for index in range(count):
        noise = np.random.default_rng().integers(-3000, 3000, int(seconds * SAMPLE_RATE)).astype(np.int16)
        start = 10 * SAMPLE_RATE * index
        segment = SpeechSegment(start, start, noise, 0.9, 0.5, EndReason.PAUSE)
        records.append(folder.begin(track, StreamClock(at), start, start).commit(segment))
    return records


def with_texts(folder: Path, records: Sequence[SegmentRecord]) -> list[TextRecord]:
    """Adds a transcript and a translation to each, as the worker does."""
    made = []
    for record in records:
        stem = Path(record.file).stem
        texts = {"en": f"Number {record.number}.", "es": f"Número {record.number}."}
        for language, text in texts.items():
            (folder / f"{stem}_{language}.txt").write_text(text + "\n", encoding="utf-8")
        text_record = TextRecord(
            number=record.number,
            file=record.file,
            at=record.end + timedelta(seconds=2),
            start=record.start,
            participant_identity=record.participant_identity,
            language="en",
            transcript=texts["en"],
            translations={"es": texts["es"]},
            files=tuple(f"{stem}_{language}.txt" for language in texts),
            model="a-model",
        )
        jsonl.append(folder / "texts.jsonl", text_record.to_json(), sync=False)
        made.append(text_record)
    return made


def with_gap(folder: Path, record: SegmentRecord) -> None:
    """Records a gap for this participant at the time of the segment."""
    gap = GapRecord(
        record.room_name,
        record.room_sid,
        record.participant_identity,
        record.track_sid,
        record.start,
        record.end,
        next(iter(GapReason)),
    )
    jsonl.append(folder / "gaps.jsonl", gap.to_json(), sync=False)


def closed(settings: Settings, room: str = "math101") -> Path:
    """Writes the file of the room's session, as when the room has ended."""
    folder, room_sid = Path(settings.output_dir) / room, f"RM_{room}"
    assert SessionFiles(folder, expected_of(settings)).close(room_sid, ClosedBy.RECORDER)
    return folder / session_file(room_sid)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
