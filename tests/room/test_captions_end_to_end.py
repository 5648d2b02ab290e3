"""Captions through a real server: what students' clients receive while a teacher speaks.

The stand-in for Gemini knows what is said by its sound, so every text tells which sentence it belongs to.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import pytest_asyncio
from livekit import rtc

from conftest import StartWorker
from core.records import parse_utc
from devtools import sound
from devtools.gemini_server import KEY, GeminiServer
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import STUDENT, TEACHER, manifest, segments_of, until
from devtools.speakers import Speaker, token
from devtools.worker import Worker

pytestmark = pytest.mark.e2e

MARKERS = sound.markers()
ONE_CAPTION_EACH = {"MIN_SEGMENT_SECONDS": "0", "PAUSE_SECONDS": "0.3"}
"""Every sentence is a segment of its own, however short."""


def hear(pcm: sound.IntArray) -> str:
    return " ".join(MARKERS[index].text for index in sound.heard(pcm, MARKERS))


def said(*indices: int) -> list[str]:
    return [MARKERS[index].text for index in indices]


def in_spanish(*indices: int) -> list[str]:
    return [f"{text} [es]" for text in said(*indices)]


@pytest_asyncio.fixture
async def gemini() -> AsyncIterator[GeminiServer]:
    async with GeminiServer(hear=hear) as server:
        yield server


@dataclass
class Student:
    """A participant who receives all captions, as text streams and as packets."""

    speaker: Speaker
    streams: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Sender, text, attributes."""
    packets: list[tuple[str, str, rtc.TranscriptionSegment]] = field(default_factory=list)
    """Participant, track, segment."""
    _reading: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    async def join(cls, server: LiveKitServer, room: str, identity: str, language: str = "") -> Student:
        student = cls(Speaker(rtc.Room(), identity))
        student.room.register_text_stream_handler("lk.transcription", student._on_stream)
        student.room.on("transcription_received", student._on_packet)
        requested = {"captions_language": language} if language else {}
        access = token(
            server, identity, room, metadata=STUDENT, attributes=requested, can_update_metadata=True
        )
        await student.room.connect(server.url, access, rtc.RoomOptions(auto_subscribe=False))
        return student

    @property
    def room(self) -> rtc.Room:
        return self.speaker.room

    async def ask_for(self, language: str) -> None:
        await self.room.local_participant.set_attributes({"captions_language": language})

    async def languages(self) -> list[dict[str, str]]:
        """The menu, as the recorder gives it."""
        answer = await self.room.local_participant.perform_rpc(
            destination_identity="agent", method="get/languages", payload=""
        )
        return list(json.loads(answer))

    def shown(self) -> set[str]:
        """The ids of all captions that were received as text streams; a participant who rejoins gets some again."""
        return {attributes["lk.segment_id"] for _, _, attributes in self.streams}

    async def has_read(self, count: int) -> None:
        """Waits for this many captions in the order spoken, as text streams and as packets."""
        await until(lambda: len(self.texts("en")) == count == len(self.packet_texts("en")), "captions")

    def texts(self, language: str) -> list[str]:
        """What came as text streams in a language, in the order it came."""
        return [text for _, text, attributes in self.streams if attributes["language"] == language]

    def packet_texts(self, language: str) -> list[str]:
        return [segment.text for _, _, segment in self.packets if segment.language == language]

    def _on_stream(self, reader: rtc.TextStreamReader, sender: str) -> None:
        task = asyncio.create_task(self._read(reader, sender, list(self._reading)))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _read(
        self, reader: rtc.TextStreamReader, sender: str, earlier: list[asyncio.Task[None]]
    ) -> None:
        """Streams begin in the order sent; the client reads each by itself, so they may end in another one."""
        text = await reader.read_all()
        if earlier:
            await asyncio.wait(earlier)
        self.streams.append((sender, text, dict(reader.info.attributes or {})))

    def _on_packet(
        self,
        segments: list[rtc.TranscriptionSegment],
        participant: rtc.Participant | None,
        publication: rtc.TrackPublication | None,
    ) -> None:
        identity, track = participant.identity if participant else "", publication.sid if publication else ""
        self.packets += [(identity, track, segment) for segment in segments]


class StartRecorder(Protocol):
    async def __call__(self, **settings: str) -> Worker: ...


@pytest.fixture
def recorder(worker: StartWorker, gemini: GeminiServer) -> StartRecorder:
    """A worker that shows captions, with the stand-in for Gemini."""

    async def start(**settings: str) -> Worker:
        fixed: dict[str, Any] = {
            "CAPTIONS": "true",
            "GEMINI_API_KEY": KEY,
            "GOOGLE_GEMINI_BASE_URL": gemini.url,
        }
        return await worker(**{**fixed, **ONE_CAPTION_EACH, **settings})

    return start


async def teacher_in(server: LiveKitServer, recorder: Worker, room: str) -> Speaker:
    """A teacher whose microphone is listened to."""
    teacher = await Speaker.join(server, room, "anna", metadata=TEACHER)
    microphone = await teacher.publish()
    await recorder.wait_for(f"Track subscribed: microphone {microphone.sid}")
    await teacher.silence(0.5)
    return teacher


async def say(teacher: Speaker, *indices: int) -> None:
    """These markers, with a pause after each that ends its segment."""
    for index in indices:
        await teacher.say(MARKERS[index].pcm)
        await teacher.silence(1.0)


async def test_captions_come_both_ways_in_the_order_spoken(
    livekit_server: LiveKitServer, recorder: StartRecorder, gemini: GeminiServer
) -> None:
    room = "captions-in-order"
    running = await recorder(TARGET_LANGUAGES="es")
    async with await teacher_in(livekit_server, running, room) as teacher:
        student = await Student.join(livekit_server, room, "sam")
        gemini.latency_seconds = 4
        await say(teacher, 0)
        await until(lambda: gemini.most_at_once, "the first call")
        gemini.latency_seconds = 0  # the answers to the others are there before the first
        await say(teacher, 1, 2)
        await until(lambda: len(student.texts("es")) == 3 == len(student.packet_texts("es")), "captions")
        assert student.texts("en") == student.packet_texts("en") == said(0, 1, 2)
        assert student.texts("es") == student.packet_texts("es") == in_spanish(0, 1, 2)
        await check_what_comes_with_them(student, running.output_dir / room, teacher.microphone.sid)
        await student.speaker.leave()


async def check_what_comes_with_them(student: Student, folder: Path, track: str) -> None:
    """Who spoke, on which track, when; and the same ids both ways."""
    records = await segments_of(folder, 3)
    assert {sender for sender, _, _ in student.streams} == {"anna"}
    assert {(identity, sid) for identity, sid, _ in student.packets} == {("anna", track)}
    by_id = {attributes["lk.segment_id"]: attributes for _, _, attributes in student.streams}
    assert len(by_id) == len(student.packets) == 6
    for index, (_, _, segment) in enumerate(student.packets):
        attributes, record = by_id[segment.id], records[index // 2]
        start, end = (parse_utc(record[name]).timestamp() * 1000 for name in ("start", "end"))
        assert segment.final and attributes["lk.transcription_final"] == "true"
        assert attributes["lk.transcribed_track_id"] == track
        assert (attributes["spoken_language"], attributes["language"]) == ("en", segment.language)
        assert float(attributes["start_time"]) == segment.start_time == pytest.approx(start, abs=1)
        assert float(attributes["end_time"]) == segment.end_time == pytest.approx(end, abs=1)


async def test_students_choose_and_nobody_asks_nothing_is_translated(
    livekit_server: LiveKitServer, recorder: StartRecorder, gemini: GeminiServer
) -> None:
    running = await recorder(CAPTION_LANGUAGES="es,ar")
    async with await teacher_in(livekit_server, running, "choices") as teacher:
        student = await Student.join(livekit_server, "choices", "sam")
        await until(lambda: "agent" in student.room.remote_participants, "the recorder")
        assert [one["code"] for one in await student.languages()] == ["es", "ar"]
        await say(teacher, 0)
        await student.has_read(1)
        requests = [("es-MX", "es"), ("xx; drop table", "no other language"), ("ar", "ar")]
        for number, (requested, understood) in enumerate(requests, 1):
            before = len(running.lines)
            await student.ask_for(requested)
            await running.wait_for(f"Captions are wanted in {understood}", skip_lines=before)
            await say(teacher, number)
            await student.has_read(number + 1)
        await until(lambda: student.texts("ar"), "the last translation")
        await student.speaker.leave()
    languages = [call.languages for call in sorted(gemini.calls, key=lambda call: call.at)]
    assert languages == [[], ["es"], [], ["ar"]]
    assert student.texts("es") == in_spanish(1)
    assert student.texts("ar") == [f"{MARKERS[3].text} [ar]"]


async def test_who_joins_late_reads_the_last_captions(
    livekit_server: LiveKitServer, recorder: StartRecorder
) -> None:
    running = await recorder(TARGET_LANGUAGES="es")
    async with await teacher_in(livekit_server, running, "late") as teacher:
        early = await Student.join(livekit_server, "late", "early")
        await say(teacher, 0, 1)
        await until(lambda: len(early.texts("es")) == 2, "captions")
        late = await Student.join(livekit_server, "late", "late")
        await until(lambda: len(late.texts("es")) == 2, "what was said before")
        assert late.texts("es") == in_spanish(0, 1)
        await say(teacher, 2)
        await until(lambda: len(late.texts("es")) == 3 == len(early.texts("es")), "the next caption")
        assert late.texts("es") == early.texts("es") == in_spanish(0, 1, 2)
        assert late.packet_texts("es") == in_spanish(2)  # packets cannot be sent to one alone
        await late.speaker.leave()
        await early.speaker.leave()


async def test_the_last_sentence_of_a_room_is_shown(
    livekit_server: LiveKitServer, recorder: StartRecorder, gemini: GeminiServer
) -> None:
    gemini.hear = lambda _: "And with this"
    running = await recorder()
    async with await teacher_in(livekit_server, running, "last") as teacher:
        student = await Student.join(livekit_server, "last", "sam")
        saying = asyncio.create_task(teacher.say(np.concatenate([MARKERS[0].pcm, MARKERS[1].pcm])))
        await running.wait_for("Speech begun")
        await asyncio.sleep(0.5)
        await running.stop()
        spoken = len(manifest(running.output_dir / "last"))
        assert spoken, running.log
        await until(lambda: len(student.shown()) == spoken, "a caption of every segment")
        saying.cancel()
        await asyncio.gather(saying, return_exceptions=True)
        await student.speaker.leave()


async def test_without_captions_the_recorder_says_nothing(
    livekit_server: LiveKitServer, recorder: StartRecorder
) -> None:
    running = await recorder(CAPTIONS="false", SAVE_TRANSLATIONS="true")
    async with await teacher_in(livekit_server, running, "silent") as teacher:
        student = await Student.join(livekit_server, "silent", "sam")
        await say(teacher, 0)
        await until(lambda: list((running.output_dir / "silent").glob("*_en.txt")), "the text")
        await student.speaker.leave()
    assert student.streams == []
    assert student.packets == []
