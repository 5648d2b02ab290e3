"""Segments with texts in many scripts, for tests of the search, which has an index on disk and one in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from archive import jsonl
from archive.names import TEXTS as TEXTS_FILE
from core.records import SegmentRecord, StreamClock
from devtools.sample_room import ANNA, noise, segment_of
from lesson_tools.search import Hit
from storage import RoomFolder

TEXTS = [
    {"en": "Photosynthesis turns light into sugar.", "es": "La fotosíntesis convierte la luz en azúcar."},
    {"en": "The school opens at eight.", "ar": "تُفتَحُ المَدْرَسَةُ في الساعة الثامنة إلى الأبد"},
    {"en": "I am going to Tokyo Tower.", "ja": "私は東京タワーに行きます", "zh": "我要去东京塔"},
    {"th": "วันนี้เราเรียนภาษาไทย", "de": "Die Straße über den Fluß"},
    {"en": "Light is light, and light again.", "ko": "빛은 빛이다"},
    {"en": "Don't say NOT or AND; it's \"quoted\".", "hi": "आज हम हिन्दी सीखते हैं"},
]
"""One dictionary a segment: the language spoken first, then translations."""


def speak(folder: RoomFolder, at_seconds: float, texts: dict[str, str]) -> SegmentRecord:
    """Saves a segment of 0.1 s with these texts."""
    start = round(at_seconds * 16_000)
    clock = StreamClock(folder.room.started_at)
    record = folder.begin(ANNA, clock, start, start).commit(segment_of(noise(1_600, start), start))
    note(folder, record, texts)
    return record


def note(folder: RoomFolder, record: SegmentRecord, texts: dict[str, str]) -> None:
    """Adds the segment's line to texts.jsonl."""
    (spoken, transcript), *others = texts.items()
    line = {
        "number": record.number,
        "file": record.file,
        "language": spoken,
        "transcript": transcript,
        "translations": dict(others),
        "files": [],
    }
    jsonl.append(folder.path / TEXTS_FILE, line, sync=False)


def numbers(hits: Sequence[Hit]) -> list[int]:
    return [hit.segment.number for hit in hits]
