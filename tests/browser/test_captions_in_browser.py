"""Captions in the example page: a real browser, a real server and a real worker.

A teacher's browser speaks through a microphone that plays a file. Two students read, one as new clients do (text
streams, ``useTranscriptions``) and one as old ones do (packets, ``TranscriptionReceived``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import soundfile
from playwright.async_api import Browser

from conftest import StartWorker
from core.records import parse_utc
from devtools import sound
from devtools.browser import launched
from devtools.gemini_server import KEY, GeminiServer
from devtools.livekit_server import LiveKitServer
from devtools.page import build, link, served
from devtools.room_folders import manifest

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(600)]

TIMEOUT_MS = 90_000

AS_IT_IS = """
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
navigator.mediaDevices.getUserMedia = (wanted) => ask({ ...wanted, audio: raw });
"""
"""The students' loudspeakers are in the same browser: its echo cancellation would remove the teacher's speech."""

SENTENCES = {
    "Every puzzle has an answer.": {"es": "Cada enigma tiene una respuesta.", "ar": "لكل لغز جواب."},
    "Water turns to steam.": {"es": "El agua se convierte en vapor.", "ar": "يتحول الماء إلى بخار."},
    "Fractions are easy.": {"es": "Las fracciones son fáciles.", "ar": "الكسور سهلة."},
    "Draw a perfect circle.": {"es": "Dibuja un círculo perfecto.", "ar": "ارسم دائرة كاملة."},
}
SPOKEN = [marker for marker in sound.markers() if marker.text in SENTENCES]


def hear(pcm: sound.IntArray) -> str:
    texts = {marker.index: marker.text for marker in SPOKEN}
    return " ".join(texts[index] for index in sound.heard(pcm, SPOKEN))


def translate(text: str, language: str) -> str:
    for sentence, translations in SENTENCES.items():
        text = text.replace(sentence, translations[language])
    return text


@pytest.fixture(scope="module")
def page() -> Path:
    return build(print)


@pytest_asyncio.fixture
async def school(chromium: Path, tmp_path: Path) -> AsyncIterator[Browser]:
    """A browser whose microphone repeats the sentences."""
    speech, _ = sound.sequence(SPOKEN, gap_seconds=1.2, lead_seconds=1.2, tail_seconds=0)
    soundfile.write(tmp_path / "microphone.wav", speech, sound.SAMPLE_RATE)
    flags = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={tmp_path / 'microphone.wav'}",
        "--autoplay-policy=no-user-gesture-required",
        "--allow-loopback-in-peer-connection",  # where there is no other network
        "--disable-features=WebRtcHideLocalIpsWithMdns",
    ]
    async with launched(chromium, flags) as browser:
        yield browser


class Reader:
    """A participant with the page open, and the errors of the page."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    @classmethod
    async def open(cls, browser: Browser, address: str) -> Reader:
        context = await browser.new_context(viewport={"width": 900, "height": 640}, locale="en-GB")
        await context.add_init_script(AS_IT_IS)
        reader = cls(await context.new_page())
        await reader.page.goto(address)
        await reader.page.get_by_text("live", exact=True).wait_for(timeout=TIMEOUT_MS)
        return reader

    async def choose(self, language: str) -> None:
        await self.page.get_by_label("Captions in").select_option(language, timeout=TIMEOUT_MS)

    async def wait_for(self, count: int, language: str) -> None:
        """Waits for this many captions in this language."""
        shown = self.page.locator(f".caption .text[lang={language}]")
        await shown.nth(count - 1).wait_for(timeout=TIMEOUT_MS)

    async def lines(self) -> list[dict[str, str]]:
        """What the page shows, from top to bottom."""
        found: list[dict[str, str]] = await self.page.locator(".caption").evaluate_all(
            """lines => lines.map(line => {
                const text = line.querySelector(".text");
                return {
                    segment: line.dataset.segment,
                    language: text.lang,
                    text: text.innerText,
                    original: (line.querySelector(".original") ?? text).innerText,
                    direction: getComputedStyle(text).direction,
                };
            })"""
        )
        return found


def texts_on_disk(folder: Path) -> dict[str, dict[str, str]]:
    """What is to be shown: by start, in milliseconds since 1970, and by language; what was said as "original"."""
    starts = {record["number"]: parse_utc(record["start"]).timestamp() for record in manifest(folder)}
    found = {}
    for text in (folder / "texts.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        said = line["transcript"]
        if said:
            texts = {**line["translations"], line["language"]: said, "original": said}
            found[str(round(starts[line["number"]] * 1000))] = texts
    return found


def check(lines: list[dict[str, str]], texts: dict[str, dict[str, str]]) -> None:
    """Checks that the right words are shown in the right language and order."""
    assert lines
    starts = [line["segment"].rpartition("-")[2] for line in lines]
    expected = sorted(texts, key=int)
    assert starts == expected[expected.index(starts[0]) :][: len(starts)], "all of them, and in order"
    for start, line in zip(starts, lines, strict=True):
        assert line["text"] == texts[start][line["language"]]
        assert line["original"] == texts[start]["original"]
        assert line["direction"] == ("rtl" if line["language"] == "ar" else "ltr")


async def pause_and_resume(teacher: Reader, student: Reader) -> None:
    """The teacher has a button, and the student sees what it does."""
    await student.page.get_by_text("Recording", exact=True).wait_for(timeout=TIMEOUT_MS)
    assert await student.page.get_by_role("button", name="recording").count() == 0
    await teacher.page.get_by_role("button", name="Pause recording").click()
    await student.page.get_by_text("Recording paused").wait_for(timeout=TIMEOUT_MS)
    await teacher.page.get_by_role("button", name="Resume recording").click()
    await student.page.get_by_text("Recording", exact=True).wait_for(timeout=TIMEOUT_MS)


async def test_students_read_captions_in_their_language(
    livekit_server: LiveKitServer, worker: StartWorker, school: Browser, page: Path, tmp_path: Path
) -> None:
    async with GeminiServer(hear=hear, translate=translate) as gemini:
        recorder = await worker(
            CAPTIONS="true",
            GEMINI_API_KEY=KEY,
            GOOGLE_GEMINI_BASE_URL=gemini.url,
            MIN_SEGMENT_SECONDS="0",
        )
        with served(page) as address:

            def way_in(identity: str, name: str, role: str, **more: str) -> str:
                return link(address, livekit_server, "Physics 101", identity, name=name, role=role, **more)

            teacher = await Reader.open(school, way_in("anna", "Anna", "teacher"))
            new = await Reader.open(school, way_in("sam", "Sam", "student"))
            old = await Reader.open(school, way_in("zoe", "Zoe", "student", captions="packets"))
            for student in (new, old):
                await student.choose("es")
            await recorder.wait_for("Captions are wanted in es")
            await teacher.page.get_by_role("button", name="Speak").click()
            await teacher.page.get_by_text("The class hears you.").wait_for(timeout=TIMEOUT_MS)
            await recorder.wait_for("Caption shown", TIMEOUT_MS / 1000)
            await asyncio.gather(*(student.wait_for(3, "es") for student in (new, old)))
            await new.page.screenshot(path=tmp_path / "spanish.png")
            for student in (new, old):
                await student.choose("ar")
            await asyncio.gather(*(student.wait_for(3, "ar") for student in (new, old)))
            await new.page.screenshot(path=tmp_path / "arabic.png")
            await teacher.page.screenshot(path=tmp_path / "teacher.png")
            await teacher.page.get_by_role("button", name="Mute").click()
            shown = [await reader.lines() for reader in (new, old, teacher)]
            await pause_and_resume(teacher, new)
            errors = [*teacher.errors, *new.errors, *old.errors]
        texts = texts_on_disk(recorder.output_dir / "Physics 101")
        for lines in shown:
            check(lines, texts)
        assert {line["language"] for line in shown[0]} >= {"ar", "en"}
        assert errors == []
