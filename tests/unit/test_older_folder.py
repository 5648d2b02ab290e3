"""A folder of recordings as an older version wrote it, byte for byte, is read by everything as before."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

import pytest

from archive.delivery_log import DeliveryLog, Key, note
from archive.folder_texts import FolderTexts
from archive.jsonl import Bookmark
from archive.manifest import read_gaps
from archive.manifest_reader import ManifestReader
from archive.outbox import Order
from archive.outbox_file import OUTBOX
from archive.rooms import Archive
from archive.wav import wav_header
from core.records import StreamClock, utc_now
from devtools.sample_room import ANNA, ROOM, noise, open_room, segment_of, settings_for
from lesson_tools.search import find
from search.index import INDEX, SearchIndex
from support.delivering import opened

FILES = [f"segment_{number:03d}_20251008_14052{number}.wav" for number in (1, 2, 3)]

OUTBOX_BEFORE = """
CREATE TABLE work (
    kind TEXT NOT NULL, folder TEXT NOT NULL, file TEXT NOT NULL,
    moment REAL NOT NULL, payload TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending', reason TEXT NOT NULL DEFAULT '',
    owner TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL, created REAL NOT NULL,
    PRIMARY KEY (kind, folder, file)
) WITHOUT ROWID;
CREATE INDEX work_by_moment ON work (kind, state, moment);
CREATE INDEX work_by_room ON work (kind, state, folder, moment);
CREATE INDEX work_under_way ON work (kind, owner) WHERE owner != '';
CREATE TABLE bookmark (
    kind TEXT NOT NULL, source TEXT NOT NULL, bytes INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (kind, source)
) WITHOUT ROWID;
CREATE TABLE spent (
    kind TEXT NOT NULL, second INTEGER NOT NULL, units INTEGER NOT NULL,
    PRIMARY KEY (kind, second)
) WITHOUT ROWID;
PRAGMA application_id = 7;
PRAGMA user_version = 1;
"""


def manifest_line(number: int) -> str:
    """Without text options: the first versions had no such fields."""
    return (
        f'{{"schema_version": 1, "number": {number}, "file": "{FILES[number - 1]}", "room_name": "math101", '
        f'"room_sid": "{ROOM.sid}", "participant_identity": "anna", "participant_name": "Anna", '
        f'"track_sid": "TR_1", "track_source": "microphone", "start": "2025-10-08T14:05:2{number}.000Z", '
        f'"end": "2025-10-08T14:05:2{number}.500Z", "offset_seconds": 1.5, "duration_seconds": 0.5, '
        '"sample_rate": 16000, "mean_probability": 0.9, "lowest_probability": null, "end_reason": "pause", '
        f'"sha256": "{hashlib.sha256(wav()).hexdigest()}"}}\n'
    )


def text_line(number: int) -> str:
    return (
        f'{{"number": {number}, "file": "{FILES[number - 1]}", "at": "2025-10-08T14:05:30.000Z", '
        f'"start": "2025-10-08T14:05:2{number}.000Z", "participant_identity": "anna", "language": "en", '
        f'"transcript": "Sentence {number}.", "translations": {{"ar": "جملة"}}, "files": [], "model": "m", '
        '"latency_seconds": 1.0, "audio_seconds": 0.5, "input_tokens": 5, "output_tokens": 5, '
        '"is_audio_kept": true}\n'
    )


def wav() -> bytes:
    return wav_header(8_000) + bytes(16_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "math101"
    folder.mkdir()
    for file in FILES:
        (folder / file).write_bytes(wav())
    (folder / "segments.jsonl").write_text("".join(map(manifest_line, (1, 2, 3))), encoding="utf-8")
    torn = text_line(2)[:40]
    (folder / "texts.jsonl").write_text(f"{text_line(1)}\n{torn}", encoding="utf-8")
    (folder / "gaps.jsonl").write_text(
        f'{{"schema_version": 1, "room_name": "math101", "room_sid": "{ROOM.sid}", '
        '"participant_identity": "anna", "track_sid": "TR_1", "start": "2025-10-08T14:05:24.000Z", '
        '"end": "2025-10-08T14:05:26.000Z", "reason": "reconnect"}\n'
    )
    (folder / "delivered.jsonl").write_text(
        f'{{"target": "s3://lessons", "item": "{FILES[0]}", "sha256": "abc", "at": "2025-10-08T14:06:00.000Z"}}\n'
        f'{{"target": "s3://lessons", "item": "{FILES[1]}", "sha256": "abc", "refused": "too large"}}\n'
        '{"target": "s3://les'
    )
    (folder / ".heard").write_text(ROOM.sid)
    connection = sqlite3.connect(tmp_path / OUTBOX)
    connection.executescript(OUTBOX_BEFORE)
    read = manifest_line(1) + manifest_line(2)
    digest = hashlib.sha256(read.encode()[-256:]).hexdigest()[:16]
    connection.execute(
        "INSERT INTO bookmark VALUES ('text', 'math101/segments.jsonl', ?, ?)", (len(read), digest)
    )
    connection.execute(
        "INSERT INTO work VALUES ('text', 'math101', ?, 1.0, ?, 'pending', '', 'a dead worker', 1, 0, 0)",
        (FILES[1], manifest_line(2)),
    )
    connection.commit()
    connection.close()
    return folder


def test_the_lists_are_read(folder: Path, tmp_path: Path) -> None:
    room = Archive.from_settings(settings_for(tmp_path)).one("math101")
    records = list(room.records())
    assert [record.file for record in records] == FILES
    assert records[0].speaking_language == ""
    (session,) = room.sessions()
    assert (session.segments, session.speech_seconds) == (3, 1.5)
    with room.texts() as texts:
        assert [record in texts for record in records] == [True, False, False]
        text = texts.get(records[0])
        assert text is not None and dict(text.by_language) == {"en": "Sentence 1.", "ar": "جملة"}
    assert [gap.seconds for gap in read_gaps(folder)] == [2.0]
    delivery_log = DeliveryLog(folder)
    assert delivery_log.is_delivered("s3://lessons", Key(FILES[0], "abc"))
    assert delivery_log.refused() == {("s3://lessons", Key(FILES[1], "abc")): "too large"}


def test_the_lists_go_on(folder: Path, tmp_path: Path) -> None:
    opened = open_room(tmp_path)
    assert opened.path == folder
    assert opened.handover.received_before("TR_1", utc_now()) is not None
    clock = StreamClock(ROOM.started_at)
    record = opened.begin(ANNA, clock, 0, 0).commit(segment_of(noise(1_600), 0))
    assert record.number == 4
    texts = FolderTexts(folder)
    first, second, *_ = Archive.from_settings(settings_for(tmp_path)).one("math101").records()
    assert texts.has(first) and not texts.has(second)
    note(folder, "s3://lessons", Key(FILES[2], "abc"))
    assert DeliveryLog(folder).is_delivered("s3://lessons", Key(FILES[2], "abc"))
    assert b"s3://les{" not in (folder / "delivered.jsonl").read_bytes()


async def test_the_outbox_goes_on(folder: Path, tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        assert await box.generation() == 7
        bookmark = await box.bookmark("text", "math101/segments.jsonl")
        assert bookmark == Bookmark(len(manifest_line(1)) * 2, bookmark.digest)
        await ManifestReader(box, tmp_path, "text", lambda folder, segments: segments).look_everywhere()
        works = await box.claim("text", Order.NEWEST_FIRST, 10)
        assert [(work.file, work.attempts) for work in works] == [(FILES[2], 0), (FILES[1], 1)]
        assert json.loads(manifest_line(2)) == works[1].payload
    assert not (tmp_path / ".outbox.broken.sqlite").exists()


def test_an_index_that_mixed_up_equal_numbers_is_rebuilt(folder: Path, tmp_path: Path) -> None:
    with SearchIndex(tmp_path) as index:
        index.refresh(index.stale())
        assert len(find(index, "sentence")) == 1
    connection = sqlite3.connect(tmp_path / INDEX)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version = {version - 1000}")
    connection.close()
    with SearchIndex(tmp_path) as index:
        assert index.stale() == ["math101"]
