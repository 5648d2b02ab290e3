"""`lesson.html` in a real Chromium, opened from disk, as if received by mail."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from archive.rooms import Room
from core.plain_text import one_line
from devtools.page import served
from devtools.sample_lesson import Recorded, Said, record, school_lesson, sentences
from devtools.videos import between, write_video
from lesson_tools.export import page as export_page
from lesson_tools.export import subtitles
from lesson_tools.export.sound import as_data
from lesson_tools.export.subtitles import Spoken
from lesson_tools.lesson import Lesson, Utterance, read_lesson

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

FILM_BEGAN_EARLIER = 30.0
TIMEOUT_MS = 20_000
expect.set_options(timeout=TIMEOUT_MS)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return school_lesson(tmp_path_factory.mktemp("a school's lessons #1"))


def lesson_of(recorded: Recorded) -> Lesson:
    room = Room(recorded.folder)
    return read_lesson(room, room.sessions()[-1])


def write(folder: Path, lesson: Lesson, name: str = "lesson.html", video: str | None = None) -> Path:
    media = export_page.Media(
        video, lambda one: None if one.wav is None else export_page.address(one.wav, folder)
    )
    path = folder / name
    path.write_text(export_page.page(lesson, media, UTC), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def file(recorded: Recorded) -> Path:
    return write(recorded.folder, lesson_of(recorded))


class Watched:
    """A page, its errors, and its requests for anything but files on this disk."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.troubles: list[str] = []
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on(
            "console",
            lambda said: self.troubles.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on("request", self._request)
        page.set_default_timeout(TIMEOUT_MS)

    def _request(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            self.troubles.append(request.url)


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, file: Path) -> AsyncIterator[Page]:
    """The lesson, opened from disk."""
    context = await browser.new_context(viewport={"width": 1200, "height": 800}, locale="en-GB")
    watched = Watched(await context.new_page())
    await watched.page.goto(file.as_uri())
    yield watched.page
    assert not watched.troubles, watched.troubles


async def current(page: Page) -> str:
    return await page.locator(".line[aria-current]").get_attribute("id") or ""


async def is_playing(page: Page, line: int, kind: str = "audio") -> None:
    """Waits until a line is the current one and its sound really advances."""
    await page.wait_for_function(
        """([id, kind]) => {
            const line = document.querySelector(".line[aria-current]");
            const media = document.querySelector(kind);
            return line && line.id === id && !media.paused && media.currentTime > 0.05;
        }""",
        arg=[f"line-{line}", kind],
    )


async def src(page: Page) -> str:
    return str(await page.evaluate("document.querySelector('audio').currentSrc"))


# --- reading ---


async def test_everything_that_was_said_can_be_read(page: Page, recorded: Recorded) -> None:
    await expect(page.locator(".line")).to_have_count(len(recorded.said))
    await expect(page.locator("h1")).to_have_text("math101")
    await expect(page.locator("#line-3 [data-language=en]")).to_have_text(recorded.said[2].text)
    await expect(page.locator("#line-3 .time")).to_have_text("0:09")
    await expect(page.locator(".legend li")).to_have_text(["Anna Ünal", "Sam"])
    await expect(page.locator("#picture rect")).to_have_count(len(recorded.said))


async def test_languages_stand_side_by_side_or_alone(page: Page) -> None:
    await expect(page.locator(".language")).to_have_text(["English", "العربية", "español"])
    box = {
        tag: await page.locator(f"#line-1 [data-language={tag}]").bounding_box() for tag in ("en", "es", "ar")
    }
    assert all(box.values()), "all three are seen"
    assert len({round(one["x"]) for one in box.values() if one}) == 3, "in columns of their own"
    await page.locator(".language", has_text="English").click()
    await page.locator(".language", has_text="español").click()
    await expect(page.locator("#line-1 [data-language=en]")).to_be_hidden()
    await expect(page.locator("#lines")).to_have_attribute("dir", "rtl")
    await page.locator(".language", has_text="العربية").click()
    await expect(page.locator("#line-1 [data-language=en]")).to_be_visible()  # none is all


async def test_arabic_is_written_from_right_to_left(page: Page) -> None:
    arabic = page.locator("#line-1 [data-language=ar]")
    assert await arabic.get_attribute("dir") == "rtl" and await arabic.get_attribute("lang") == "ar"
    assert await arabic.evaluate("one => getComputedStyle(one).direction") == "rtl"


async def test_a_phone_shows_it_without_scrolling_sideways(browser: Browser, file: Path) -> None:
    context = await browser.new_context(
        viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    )
    watched = Watched(await context.new_page())
    await watched.page.goto(file.as_uri())
    assert await watched.page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [
        await watched.page.locator(f"#line-1 [data-language={tag}]").bounding_box()
        for tag in ("en", "ar", "es")
    ]
    tops = [one["y"] for one in boxes if one]
    assert tops == sorted(tops) and len(set(tops)) == 3, "languages stand below each other"
    await watched.page.locator("#line-2").tap()
    await is_playing(watched.page, 2)
    button = await watched.page.locator("#play").bounding_box()
    assert button and button["x"] + button["width"] <= 360 and min(button["width"], button["height"]) >= 40
    assert not watched.troubles


async def test_without_scripts_it_can_still_be_read(browser: Browser, file: Path, recorded: Recorded) -> None:
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(file.as_uri())
    await expect(page.locator("#line-4 [data-language=ar]")).to_be_visible()
    await expect(page.locator("#silent")).to_contain_text("The transcript is below")
    await expect(page.locator("#search")).to_be_hidden()
    await expect(page.locator("#player")).to_be_hidden()


async def test_dark_mode_and_print(browser: Browser, file: Path) -> None:
    context = await browser.new_context(color_scheme="dark")
    page = await context.new_page()
    await page.goto(file.as_uri())
    colour = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert sum(await page.evaluate(colour)) < 150
    await page.emulate_media(media="print")
    assert sum(await page.evaluate(colour)) == 3 * 255
    for hidden in (".player", ".tools", "#playhead"):
        await expect(page.locator(hidden)).to_be_hidden()
    assert (await page.pdf()).startswith(b"%PDF")


# --- playing ---


async def test_a_click_plays_that_lines_wav(page: Page, recorded: Recorded) -> None:
    await page.locator("#line-5 [data-language=en]").click()
    await is_playing(page, 5)
    wav = recorded.folder / recorded.records[4].file
    assert unquote(await src(page)) == unquote(wav.as_uri())
    duration = float(await page.evaluate("document.querySelector('audio').duration"))
    assert duration == pytest.approx(recorded.records[4].duration_seconds, abs=0.01)


async def test_playing_walks_the_lines(page: Page) -> None:
    await page.locator("#line-1 .time").click()
    await page.locator("#speed").select_option("2")
    await is_playing(page, 1)
    await is_playing(page, 3)
    await page.locator("#play").click()
    assert await page.evaluate("document.querySelector('audio').paused")
    await expect(page.locator("#play")).to_have_attribute("aria-label", "Play")


async def test_the_keyboard_does_it_all(page: Page) -> None:
    await page.keyboard.press("j")
    await expect(page.locator("#line-1")).to_have_attribute("aria-current", "true")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Space")
    await is_playing(page, 2)
    await page.keyboard.press("Space")
    await page.keyboard.press("End")
    assert await current(page) == "line-21"
    await page.keyboard.press("k")
    assert await current(page) == "line-20"
    await page.keyboard.press("Enter")  # the line's own link has the focus
    await is_playing(page, 20)
    await page.keyboard.press("Space")
    await page.keyboard.press(">")
    await expect(page.locator("#speed")).to_have_value("1.25")
    await page.keyboard.press("2")
    await expect(page.locator("#line-1 [data-language=ar]")).to_be_hidden()
    await page.keyboard.press("0")
    await expect(page.locator("#line-1 [data-language=ar]")).to_be_visible()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_be_hidden()


async def test_a_click_into_the_picture_seeks(page: Page, recorded: Recorded) -> None:
    box = await page.locator("#picture").bounding_box()
    assert box
    at, whole = recorded.said[7].at + 6.0, recorded.said[-1].end
    await page.mouse.click(box["x"] + box["width"] * at / whole, box["y"] + 10)
    await is_playing(page, 8)
    assert float(await page.evaluate("document.querySelector('audio').currentTime")) >= 5.5


async def test_a_link_leads_to_its_moment(browser: Browser, file: Path, recorded: Recorded) -> None:
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{file.as_uri()}#t={recorded.said[16].at + 1:.1f}")
    assert await current(page) == "line-17"
    await expect(page.locator("#line-17")).to_be_in_viewport()
    await page.locator("#play").click()
    await is_playing(page, 17)
    assert float(await page.evaluate("document.querySelector('audio').currentTime")) >= 0.9
    await page.evaluate("location.hash = '#t=0:09.5'")
    await expect(page.locator("#line-3")).to_have_attribute("aria-current", "true")
    await page.locator("#link").click()
    await page.wait_for_function("location.hash.startsWith('#t=9')")


async def test_a_missing_wav_is_said_and_the_rest_plays(browser: Browser, tmp_path: Path) -> None:
    recorded = record(tmp_path, sentences("lecture", 1.0)[:4])
    path = write(recorded.folder, lesson_of(recorded))
    (recorded.folder / recorded.records[0].file).unlink()  # lost after the export
    page = await (await browser.new_context()).new_page()
    await page.goto(path.as_uri())
    await page.locator("#line-1").click()
    await expect(page.locator("#said")).to_contain_text("not beside this page")
    await page.locator("#line-2").click()
    await is_playing(page, 2)


@pytest.fixture
def site(recorded: Recorded, file: Path) -> Iterator[str]:
    """Serves the folder over HTTP: a page from disk may not read the sound that it plays."""
    with served(recorded.folder) as address:
        yield address


async def test_what_comes_out_of_the_speaker_is_the_segment(
    browser: Browser, site: str, recorded: Recorded
) -> None:
    """The page's own audio element, tapped on its way out, carries the samples of the line that was clicked."""
    context = await browser.new_context(bypass_csp=True)
    page = await context.new_page()
    await page.goto(f"{site}lesson.html")
    await page.evaluate(
        """() => {
            const context = new AudioContext({ sampleRate: 16000 });
            const tap = context.createScriptProcessor(4096, 1, 1);
            window.heard = [];
            tap.onaudioprocess = (event) => window.heard.push(...event.inputBuffer.getChannelData(0));
            context.createMediaElementSource(document.querySelector("audio")).connect(tap);
            tap.connect(context.destination);
            document.addEventListener("click", () => context.resume(), { capture: true });
        }"""
    )
    await page.locator("#line-7").click()  # "Good." is shorter than what is heard
    await page.locator("#line-4").click()
    await is_playing(page, 5)  # the whole of line 4 has been played
    heard = np.array(await page.evaluate("window.heard"), np.float32)
    scores = [_share_in(heard, one.pcm / np.float32(32768)) for one in recorded.said[:6]]
    assert int(np.argmax(scores)) == 3 and scores[3] > 0.7, scores


def _share_in(heard: Any, wanted: Any) -> float:
    """Highest normalised correlation of a second of a segment with what was heard."""
    piece = wanted[:16_000] - np.mean(wanted[:16_000])
    if len(heard) < len(piece):
        return 0.0
    size = 1 << (len(heard) + len(piece)).bit_length()
    products = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(piece, size)), size)[: len(heard)]
    energy = np.concatenate([[0], np.cumsum(heard.astype(np.float64) ** 2)])
    local = energy[np.minimum(np.arange(len(heard)) + len(piece), len(heard))] - energy[:-1]
    return float(np.max(products / np.sqrt(np.maximum(local, 0.1) * np.sum(piece**2))))


async def test_embedded_sound_plays(browser: Browser, tmp_path: Path, recorded: Recorded) -> None:
    lesson = lesson_of(recorded)
    media = export_page.Media(None, lambda one: as_data(one.wav) if one.wav else None)
    path = tmp_path / "alone.html"
    path.write_text(export_page.page(lesson, media, UTC), encoding="utf-8")
    watched = Watched(await (await browser.new_context()).new_page())
    await watched.page.goto(path.as_uri())
    await watched.page.locator("#line-3").click()
    await is_playing(watched.page, 3)
    duration = float(await watched.page.evaluate("document.querySelector('audio').duration"))
    assert duration == pytest.approx(recorded.records[2].duration_seconds, abs=0.2)
    assert not watched.troubles


# --- searching ---


async def found(page: Page, words: str) -> list[str]:
    """Ids of the lines that a search leaves."""
    await page.locator("#search").fill(words)
    ids = await page.evaluate("[...document.querySelectorAll('.line:not([hidden])')].map((line) => line.id)")
    return [str(one) for one in ids]


@pytest.mark.parametrize(
    ("words", "lines", "marked"),
    [
        ("BLUE sky", ["line-4", "line-17"], ["blue", "blue", "sky", "sky"]),
        ("que nino", ["line-3"], ["niño", "que"]),
        ("arcoiris", ["line-5"], ["arcoíris"]),
        ("الازرق", ["line-9", "line-12"], ["الأزرق", "الأزرق"]),  # no hamza on the alef
        ("اليوم", ["line-3"], ["اليومَ"]),  # a vowel mark in the text
        ("اسئلة", [], []),
        ("موجه", ["line-6"], ["موجة"]),  # ha for ta marbuta
        ("المـــساء", ["line-11"], ["المساء"]),  # tatweel
        ("zebra", [], []),
        ("<b>", [], []),
    ],
)
async def test_search_finds_words_however_they_are_written(
    page: Page, words: str, lines: list[str], marked: list[str]
) -> None:
    assert await found(page, words) == lines
    marks = await page.locator("mark").all_text_contents()
    assert sorted(mark for mark in marks) == sorted(marked)
    await expect(page.locator("#found")).to_have_text(f"{len(lines)} of 21 lines")
    await expect(page.locator("#nothing")).to_be_visible(visible=not lines)


async def test_every_match_says_who_spoke(page: Page) -> None:
    names = page.locator(".line .who:visible")
    await expect(names).to_have_text(["Anna Ünal", "Sam"])
    assert len(await found(page, "sky blue")) == 2
    await expect(names).to_have_text(["Anna Ünal", "Sam"])
    assert await found(page, "good") == ["line-1", "line-7"]
    await expect(names).to_have_text(["Anna Ünal", "Anna Ünal"])


async def test_enter_plays_the_next_match_and_escape_shows_all_again(page: Page) -> None:
    await page.keyboard.press("/")
    await page.keyboard.type("blue")
    await page.keyboard.press("Enter")
    await is_playing(page, 4)
    await page.keyboard.press("Enter")
    await is_playing(page, 6)
    await page.keyboard.press("Escape")
    await expect(page.locator(".line:not([hidden])")).to_have_count(21)
    await expect(page.locator("mark")).to_have_count(0)


async def test_search_looks_only_at_the_languages_shown(page: Page) -> None:
    assert await found(page, "azul") != []
    await page.locator(".language", has_text="español").click()
    await expect(page.locator("#found")).to_have_text("0 of 21 lines")


async def test_search_finds_words_in_other_spellings(
    browser: Browser, tmp_path: Path, recorded: Recorded
) -> None:
    """Nukta and nasals, hyphens, kana, within words."""
    lesson = lesson_of(recorded)
    texts = {
        "hi": "हिन्दी और अंग्रेज़ी में चाँद",
        "en": "An e-mail",
        "ja": "リンゴの実験",
        "fr": "L’école",
        "ko": "학교에서",
    }
    page = await (await browser.new_context()).new_page()
    one = replace(lesson.utterances[0], texts=texts)
    await page.goto(write(tmp_path, replace(lesson, utterances=(one,), languages=tuple(texts))).as_uri())
    for words, marked in (
        ("हिंदी चांद", ["हिन्दी", "चाँद"]), ("अंग्रेजी", ["अंग्रेज़ी"]), ("email", ["e-mail"]), ("りんご", ["リンゴ"]),
        ("ecole", ["école"]), ("학교", ["학교"]),
    ):  # fmt: skip
        assert len(await found(page, words)) == 1, words
        assert await page.locator("mark").all_text_contents() == marked


async def test_a_long_lesson_stays_fluent(browser: Browser, tmp_path: Path, recorded: Recorded) -> None:
    lines = lesson_of(recorded).utterances
    many = tuple(
        replace(lines[number % 21], number=number, start=number * 5.0, end=number * 5.0 + 4)
        for number in range(1_000)
    )
    lesson = replace(lesson_of(recorded), utterances=many)
    page = await (await browser.new_context()).new_page()
    await page.goto(write(tmp_path, lesson).as_uri())
    matches = [
        one for one in many if {"blue", "waves"} <= set(one.texts["en"].lower().replace(",", "").split())
    ]
    assert len(await found(page, "blue waves")) == len(matches) > 100
    assert len(await found(page, "")) == 1_000
    await page.keyboard.press("Escape")
    await page.keyboard.press("End")
    await expect(page.locator("#line-1000")).to_be_in_viewport()
    await expect(page.locator("#line-1000 .time")).to_have_text("1:23:15")


# --- attacks ---

HOSTILE = "</script><script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'>\u202e\u2028\"'&lt;"


async def test_hostile_names_and_words_are_only_shown(browser: Browser, tmp_path: Path) -> None:
    said = [Said(1.0, HOSTILE, sentences("lecture", 0)[0].pcm)]
    recorded = record(tmp_path, said)
    lesson = lesson_of(recorded)
    hurt = tuple(replace(one, speaker=HOSTILE, file=HOSTILE) for one in lesson.utterances)
    page = await (await browser.new_context()).new_page()
    await page.goto(write(tmp_path, replace(lesson, room=HOSTILE, utterances=hurt)).as_uri())
    assert await page.evaluate("window.hurt") is None
    shown = one_line(HOSTILE)
    await expect(page.locator("#line-1 [data-language=en]")).to_have_text(shown)
    await expect(page.locator("h1")).to_have_text(shown)
    assert await found(page, "</SCRIPT>") == ["line-1"]
    assert await page.evaluate("window.hurt") is None


async def test_the_page_lets_no_other_script_or_request_through(browser: Browser, file: Path) -> None:
    page = await (await browser.new_context()).new_page()
    await page.goto(file.as_uri())
    await page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hurt = 1";
            document.body.append(script);
            const image = document.createElement("img");
            image.setAttribute("onerror", "window.hurt = 1");
            image.src = "http://127.0.0.1:9/x.png";
            document.body.append(image);
        }"""
    )
    blocked = await page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)")
    assert blocked == "TypeError"
    assert await page.evaluate("window.hurt") is None


# --- screen readers ---


async def test_a_screen_reader_finds_its_way(page: Page) -> None:
    await expect(page.get_by_role("list", name="Transcript")).to_be_visible()
    await expect(page.get_by_role("slider", name="Place in the lesson")).to_have_attribute(
        "aria-valuemax", "97"
    )
    await expect(page.get_by_role("searchbox", name="Search the transcript")).to_be_visible()
    await expect(page.get_by_role("group", name="Player")).to_be_visible()
    await expect(page.get_by_role("button", name="English")).to_have_attribute("aria-pressed", "true")
    for button in await page.get_by_role("button").all():
        name = await button.get_attribute("aria-label") or await button.text_content()
        assert name and name.strip()
    assert await page.locator(".line .time[tabindex='0']").count() == 1, (
        "one stop in the list, not a thousand"
    )


# --- the video ---


@pytest.fixture(scope="module")
def film(recorded: Recorded) -> Path:
    """Half a minute of something else, then the lesson's first minute."""
    heard = between(FILM_BEGAN_EARLIER, recorded.track(60.0), 0)
    return write_video(recorded.folder / "die Stunde & #1.webm", heard, picture="libvpx")


async def test_each_line_seeks_the_video(browser: Browser, recorded: Recorded, film: Path) -> None:
    lesson = lesson_of(recorded)

    def in_film(one: Utterance) -> Utterance:
        return replace(one, video=one.start + FILM_BEGAN_EARLIER if one.end < 60 else None)

    lesson = replace(lesson, utterances=tuple(map(in_film, lesson.utterances)))
    path = write(recorded.folder, lesson, "film.html", export_page.address(film, recorded.folder))
    watched = Watched(await (await browser.new_context()).new_page())
    page = watched.page
    await page.goto(path.as_uri())
    await page.wait_for_function("document.querySelector('video').readyState >= 1")
    await expect(page.locator("#line-4 .time")).to_have_text("0:43")
    await page.locator("#line-4").click()
    await is_playing(page, 4, "video")
    at = float(await page.evaluate("document.querySelector('video').currentTime"))
    assert at >= recorded.said[3].at + FILM_BEGAN_EARLIER
    begin = recorded.said[8].at + FILM_BEGAN_EARLIER
    await page.evaluate(f"document.querySelector('video').currentTime = {begin + 0.2}")
    await is_playing(page, 9, "video")  # the transcript follows the video
    await page.locator("#line-18").click()  # what is not in the video is heard
    await is_playing(page, 18, "audio")
    assert await page.evaluate("document.querySelector('video').paused")
    assert not watched.troubles


# --- subtitles ---


@pytest.mark.parametrize("language", ["en", "ar"])
async def test_chromium_takes_the_webvtt_as_a_track(
    browser: Browser, recorded: Recorded, language: str
) -> None:
    hostile = [
        Spoken(100, 104, "if a < b && b --> c: <i>x</i>", "<Ann> & Bob"),
        Spoken(4000, 4003, "-->", ""),
    ]
    said = [*lesson_of(recorded).said(language), *hostile]
    file = subtitles.webvtt(said, language, "Room --> 1")
    page = await (await browser.new_context()).new_page()
    data = base64.b64encode(file.encode()).decode()
    await page.set_content("<video><track default kind=subtitles></video>")
    shown = await page.evaluate(
        """(data) => new Promise((resolve, reject) => {
            const track = document.querySelector("track");
            track.addEventListener("load", () => resolve([...track.track.cues].map((cue) =>
                [cue.id, cue.startTime, cue.endTime, cue.getCueAsHTML().textContent])));
            track.addEventListener("error", () => reject(new Error("not taken")));
            track.src = "data:text/vtt;base64," + data;
            track.track.mode = "showing";
        })""",
        data,
    )
    wanted = subtitles.cues(said)
    assert [one[0] for one in shown] == [str(number + 1) for number in range(len(wanted))]
    for (_, start, end, text), cue in zip(shown, wanted, strict=True):
        assert [start, end] == pytest.approx([cue.start, cue.end], abs=0.001)
        assert text.replace("\u200f", "") == "\n".join(cue.lines)
