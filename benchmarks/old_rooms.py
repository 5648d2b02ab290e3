"""Folders of rooms that were recorded long ago."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from archive.delivery_log import DELIVERED, audio_key, note, text_key
from archive.jsonl import encoded, end_of
from archive.names import GAPS, MANIFEST, TEXTS
from config import Settings
from core.records import EndReason, RoomInfo, SegmentRecord, TrackInfo
from core.text_records import TextRecord
from delivery.item_reader import key_of_lists
from storage import RoomFolder

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
TEACHER = TrackInfo("anna", "Anna", "TR_1", "microphone")


def make_room(settings: Settings, room: RoomInfo, segments: int) -> Path:
    """Makes a room's folder whose segments have their texts and are delivered to STORE_URL, from lines: the WAVs are
    empty. Returns the folder."""
    folder = RoomFolder.open(settings, room).path
    target = settings.store_url.rstrip("/")
    with (
        open(folder / MANIFEST, "wb") as manifest,
        open(folder / TEXTS, "wb") as texts,
        open(folder / DELIVERED, "wb") as delivered,
    ):
        for number in range(1, segments + 1):
            record = _record(room, number)
            text = _text(record)
            manifest.write(encoded(record.to_json()))
            texts.write(encoded(text.to_json()))
            for key in (audio_key(record), text_key(text)):
                delivered.write(encoded({"target": target, "item": key.item, "sha256": key.sha256}))
            (folder / record.file).touch()
    lists = key_of_lists(*(end_of(folder / name) for name in (MANIFEST, TEXTS, GAPS)))
    note(folder, target, lists)
    return folder


def _record(room: RoomInfo, number: int) -> SegmentRecord:
    start = BEGAN + timedelta(seconds=6 * number)
    return SegmentRecord(
        number=number,
        file=f"segment_{number:03d}_{start:%Y%m%d_%H%M%S}.wav",
        room_name=room.name,
        room_sid=room.sid,
        participant_identity=TEACHER.participant_identity,
        participant_name=TEACHER.participant_name,
        track_sid=TEACHER.track_sid,
        track_source=TEACHER.source,
        start=start,
        end=start + timedelta(seconds=5),
        offset_seconds=6.0 * number,
        duration_seconds=5.0,
        mean_probability=0.9,
        lowest_probability=0.5,
        end_reason=EndReason.PAUSE,
        sha256=f"{number:064x}",
    )


def _text(record: SegmentRecord) -> TextRecord:
    sentence = f"This is the sentence number {record.number} of a lesson that has gone on for a long time."
    return TextRecord(
        record.number,
        record.file,
        record.end,
        record.start,
        record.participant_identity,
        "en",
        sentence,
        {"es": sentence},
        model="model",
    )
