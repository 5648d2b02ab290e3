"""Text beside the recordings: the real SDK against a local server that speaks Gemini's REST API and misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import sound
from harness import until

import texts
import translator
from config import Settings
from devtools.gemini_server import KEY, GeminiServer
from segments import EndReason, RoomInfo, SegmentRecord, SpeechSegment, StreamClock, TrackInfo
from storage import RoomFolder
from texts import TextService
from translator import GeminiTranslator, plain

NOW = datetime(2025, 10, 8, 14, 5, 23, tzinfo=timezone.utc)
ROOM = RoomInfo("math101", "RM_1", NOW)
TRACK = TrackInfo("anna", "Anna", "TR_1", "microphone")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "SCAN_SECONDS", 0.05)
    monkeypatch.setattr(texts, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(translator, "CALL_TIMEOUT_SECONDS", 2.0)


@pytest.fixture
async def gemini(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GeminiServer]:
    async with GeminiServer() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        yield server


def settings_for(folder: Path, **changes: str) -> Settings:
    environ = {
        "LIVEKIT_URL": "ws://127.0.0.1:1",
        "LIVEKIT_API_KEY": "key",
        "LIVEKIT_API_SECRET": "secret",
        "GEMINI_API_KEY": KEY,
        "SAVE_TRANSLATIONS": "true",
        "TARGET_LANGUAGES": "es,ar",
        "OUTPUT_DIR": str(folder),
    }
    return Settings.from_env({**environ, **changes})


def spoken(settings: Settings, count: int = 1) -> list[SegmentRecord]:
    """Saves segments of one marker each, as the recorder does."""
    folder = RoomFolder.open(settings, ROOM)
    records = []
    for marker in sound.markers()[:count]:
        start = 16_000 * 10 * marker.index
        segment = SpeechSegment(start, start, marker.pcm, 0.9, 0.5, EndReason.PAUSE)
        records.append(folder.begin(TRACK, StreamClock(NOW), start, start).commit(segment))
    return records


@contextlib.asynccontextmanager
async def service(settings: Settings) -> AsyncIterator[None]:
    task = asyncio.create_task(TextService(settings, GeminiTranslator(settings)).run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def outcomes(folder: Path) -> list[dict[str, Any]]:
    path = folder / "math101" / "texts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wavs_are_intact(folder: Path, records: list[SegmentRecord]) -> bool:
    return all(
        hashlib.sha256((folder / "math101" / record.file).read_bytes()).hexdigest() == record.sha256
        for record in records
    )


async def test_every_segment_gets_its_transcript_and_translations(
    tmp_path: Path, gemini: GeminiServer
) -> None:
    settings = settings_for(tmp_path)
    records = spoken(settings, 3)
    async with service(settings):
        await until(lambda: len(outcomes(tmp_path)) == 3, "three texts")
    for record in records:
        stem = record.file.removesuffix(".wav")
        english = (tmp_path / "math101" / f"{stem}_en.txt").read_text(encoding="utf-8")
        assert english == f"{record.duration_seconds:.1f} seconds of speech\n"
        assert "[es]" in (tmp_path / "math101" / f"{stem}_es.txt").read_text(encoding="utf-8")
        assert "[ar]" in (tmp_path / "math101" / f"{stem}_ar.txt").read_text(encoding="utf-8")
    assert len(gemini.calls) == 3, "a segment is sent once"
    assert wavs_are_intact(tmp_path, records)
    assert not list(tmp_path.rglob("*.part"))
    if sys.platform != "win32":
        assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.txt")} == {0o600}


async def test_what_was_done_is_not_done_again_after_a_restart(tmp_path: Path, gemini: GeminiServer) -> None:
    settings = settings_for(tmp_path)
    spoken(settings, 2)
    async with service(settings):
        await until(lambda: len(outcomes(tmp_path)) == 2, "two texts")
    async with service(settings):
        await asyncio.sleep(0.5)
    assert len(gemini.calls) == 2


async def test_the_newest_comes_first_and_the_sentences_before_go_along(
    tmp_path: Path, gemini: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "MOST_CALLS_AT_ONCE", 1)
    settings = settings_for(tmp_path)
    records = spoken(settings, 3)
    async with service(settings):
        await until(lambda: len(outcomes(tmp_path)) == 3, "three texts")
    assert [outcome["number"] for outcome in outcomes(tmp_path)] == [3, 2, 1]
    assert f"{records[2].duration_seconds:.1f} seconds of speech" in json.dumps(gemini.calls[1].body)


@pytest.mark.parametrize(
    "mishap", ["429", "500", "cut", "hang", "empty", "not JSON", "language missing", "path as language"]
)
async def test_what_may_heal_is_tried_again(tmp_path: Path, gemini: GeminiServer, mishap: str) -> None:
    settings = settings_for(tmp_path)
    records = spoken(settings)
    gemini.mishaps.append(mishap)
    async with service(settings):
        await until(lambda: len(outcomes(tmp_path)) == 1, "the text")
    assert "refused" not in outcomes(tmp_path)[0]
    assert wavs_are_intact(tmp_path, records)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "math101"]


@pytest.mark.parametrize(("mishap", "reason"), [("400", "too large"), ("blocked", "SAFETY")])
async def test_what_is_refused_for_good_is_recorded_once(
    tmp_path: Path, gemini: GeminiServer, mishap: str, reason: str
) -> None:
    settings = settings_for(tmp_path, SAVE_AUDIO="false")
    records = spoken(settings)
    gemini.mishaps.append(mishap)
    async with service(settings):
        await until(lambda: len(outcomes(tmp_path)) == 1, "the refusal")
        await asyncio.sleep(0.3)
    assert reason in outcomes(tmp_path)[0]["refused"]
    assert not gemini.calls, "it is not asked for again"
    assert wavs_are_intact(tmp_path, records), "without text the sound stays"


async def test_an_answer_that_is_always_bad_is_given_up(tmp_path: Path, gemini: GeminiServer) -> None:
    settings = settings_for(tmp_path)
    spoken(settings)
    gemini.mishaps.extend(["not JSON"] * texts.MOST_BAD_ANSWERS)
    async with service(settings):
        await until(lambda: len(outcomes(tmp_path)) == 1, "the refusal")
    assert "not what was asked for" in outcomes(tmp_path)[0]["refused"]


async def test_a_segment_without_words_gets_no_text_file(tmp_path: Path, gemini: GeminiServer) -> None:
    settings = settings_for(tmp_path)
    spoken(settings)
    gemini.mishaps.append("no words")
    async with service(settings):
        await until(lambda: len(outcomes(tmp_path)) == 1, "the outcome")
    assert not list(tmp_path.rglob("*.txt"))


async def test_without_audio_the_wav_goes_when_the_text_is_safe(tmp_path: Path, gemini: GeminiServer) -> None:
    settings = settings_for(tmp_path, SAVE_AUDIO="false")
    spoken(settings)
    async with service(settings):
        await until(lambda: not list(tmp_path.rglob("*.wav")), "the WAV is gone")
    assert len(list(tmp_path.rglob("*.txt"))) == 3
    assert spoken(settings)[0].number == 2, "numbers go on"


async def test_the_key_is_in_no_log_and_no_file(
    tmp_path: Path, gemini: GeminiServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    settings = settings_for(tmp_path)
    spoken(settings)
    gemini.mishaps.extend(["429", "500", "not JSON"])
    async with service(settings):
        await until(lambda: len(outcomes(tmp_path)) == 1, "the text")
    assert KEY not in caplog.text
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


async def test_a_wrong_key_is_said_and_costs_nothing_else(
    tmp_path: Path, gemini: GeminiServer, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(tmp_path, GEMINI_API_KEY="wrong")
    records = spoken(settings)
    async with service(settings):
        await until(lambda: "GEMINI_API_KEY is refused" in caplog.text, "the log says so")
    assert not outcomes(tmp_path), "with a right key it will be done"
    assert wavs_are_intact(tmp_path, records)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One\n two", "One two"),
        ("a\u202eb\x00c", "abc"),
        ("x" * 10_000, "x" * translator.MAX_TEXT_CHARACTERS),
        ("سلام", "سلام"),
    ],
)
def test_text_is_one_bounded_plain_paragraph(text: str, expected: str) -> None:
    assert plain(text) == expected
