"""Text with the real worker: from a teacher's voice in a real room to the files beside the recording."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from conftest import StartWorker
from devtools import sound
from devtools.gemini_server import KEY, GeminiServer
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import TEACHER, manifest, segments_of, until
from devtools.speakers import Speaker
from devtools.worker import Worker

pytestmark = pytest.mark.e2e

MARKERS = sound.markers()


@pytest.fixture
async def gemini() -> AsyncIterator[GeminiServer]:
    async with GeminiServer() as server:
        yield server


def text_settings(gemini: GeminiServer, **changes: str) -> dict[str, Any]:
    return {
        "GEMINI_API_KEY": KEY,
        "GOOGLE_GEMINI_BASE_URL": gemini.url,
        "SAVE_TRANSLATIONS": "true",
        "TARGET_LANGUAGES": "es,ar",
        **changes,
    }


def texts(room_dir: Path) -> list[dict[str, Any]]:
    path = room_dir / "texts.jsonl"
    complete, _, _ = path.read_text("utf-8").rpartition("\n") if path.exists() else ("", "", "")
    return [json.loads(line) for line in complete.splitlines()]


async def lecture(server: LiveKitServer, recorder: Worker, room: str, first: int, count: int = 2) -> None:
    """A teacher joins, says some markers, each a segment of its own, and leaves."""
    teacher = await Speaker.join(
        server, room, "anna", metadata=TEACHER, attributes={"speaking_language": "en-gb"}
    )
    async with teacher:
        before = len(recorder.lines)
        microphone = await teacher.publish()
        await recorder.wait_for(f"Track subscribed: microphone {microphone.sid}", skip_lines=before)
        await teacher.silence(0.5)
        for marker in MARKERS[first : first + count]:
            await teacher.say(marker.pcm)
            await teacher.silence(3)


async def test_every_segment_gets_its_text_while_the_lesson_goes_on(
    livekit_server: LiveKitServer, worker: StartWorker, gemini: GeminiServer
) -> None:
    settings = text_settings(gemini, LOG_LEVEL="DEBUG")
    recorder = await worker(**settings)
    room = "text-of-a-lesson"
    room_dir = recorder.output_dir / room
    await lecture(livekit_server, recorder, room, first=0)
    records = await segments_of(room_dir, 2)
    await until(lambda: len(texts(room_dir)) == len(records), "a text for each segment")
    await recorder.stop()
    assert {record["speaking_language"] for record in records} == {"en-GB"}
    for record in records:
        for language in ("en", "es", "ar"):
            assert (room_dir / record["file"].replace(".wav", f"_{language}.txt")).stat().st_size
        assert (room_dir / record["file"]).exists()
    assert len(gemini.calls) == len(records), "each is sent once"
    assert all("en-GB" in call.said_with_it for call in gemini.calls)
    assert "Text of this lesson so far" in recorder.log
    assert KEY not in recorder.log
    assert KEY.encode() not in b"".join(
        path.read_bytes() for path in recorder.output_dir.rglob("*") if path.is_file()
    )


async def test_an_outage_and_a_killed_worker_lose_no_text(
    livekit_server: LiveKitServer, worker: StartWorker, gemini: GeminiServer
) -> None:
    gemini.spoil = lambda call: "503"
    first = await worker(**text_settings(gemini, SAVE_AUDIO="false"))
    room_dir = first.output_dir / "text-outage"
    await lecture(livekit_server, first, "text-outage", first=3)
    records = await segments_of(room_dir, 2)
    await first.wait_for("Text has to wait")
    first.kill()
    assert not texts(room_dir)
    assert all((room_dir / record["file"]).exists() for record in records), "no text, so the sound stays"
    gemini.spoil = lambda call: ""
    await worker(output_dir=first.output_dir, **text_settings(gemini, SAVE_AUDIO="false"))
    # Each failure has doubled the pause before the next attempt, and the pause outlives the worker.
    await until(lambda: len(texts(room_dir)) == len(records), "the texts are caught up on", timeout=60)
    await until(lambda: not list(room_dir.glob("*.wav")), "and now the sound goes")
    assert len(gemini.calls) == len(manifest(room_dir))


async def test_without_a_key_the_log_says_once_how_to_switch_text_on(worker: StartWorker) -> None:
    recorder = await worker()
    assert recorder.log.count("Audio only. For transcripts and translations set GEMINI_API_KEY") == 1
    assert not list(recorder.output_dir.glob(".outbox*")), "and nothing is kept for it"


async def test_a_file_that_cannot_be_read_stops_the_start_in_one_line(
    livekit_server: LiveKitServer, gemini: GeminiServer, tmp_path: Path
) -> None:
    settings = text_settings(gemini, GLOSSARY_FILE=str(tmp_path / "no such file"))
    recorder = Worker(livekit_server, tmp_path / "segments", settings=settings)
    recorder.launch()
    await until(lambda: recorder.exit_code is not None, "it ends", 60)
    recorder.kill()
    assert recorder.exit_code == 2
    assert "GLOSSARY_FILE=" in recorder.log and "cannot be read: No such file" in recorder.log
    assert "Traceback" not in recorder.log
