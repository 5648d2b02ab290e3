"""Captions without a server: their order, what is read from texts.jsonl, and a room that fails."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from livekit import rtc

from archive import jsonl
from config import Settings
from core import notify
from core.language_names import KNOWN_LANGUAGES, language_choices
from core.language_tags import language_tag
from core.records import EndReason, RoomInfo, SegmentRecord, format_utc, parse_utc
from core.text_records import Translation
from devtools.room_folders import until
from recording import caption_sender, captions
from recording.caption_languages import MAX_LANGUAGES, wanted_languages
from recording.caption_order import MAX_EARLY_TEXTS, Caption, CaptionOrder, milliseconds
from recording.caption_texts import MAX_TEXT_CHARACTERS, TextsFollower, caption_text_in
from recording.captions import Captions

BEGAN = datetime(2025, 10, 8, 14, 5, 23, 120_000, UTC)

pytestmark = pytest.mark.slow


def record(number: int) -> SegmentRecord:
    start = BEGAN + timedelta(seconds=3 * number)
    return SegmentRecord(
        number=number,
        file=f"segment_{number:03}.wav",
        room_name="lesson",
        room_sid="RM_1",
        participant_identity="anna",
        participant_name="Anna",
        track_sid="TR_1",
        track_source="microphone",
        start=start,
        end=start + timedelta(seconds=2),
        offset_seconds=3.0 * number,
        duration_seconds=2,
        mean_probability=0.9,
        lowest_probability=0.5,
        end_reason=EndReason.PAUSE,
        sha256="0" * 64,
    )


def text(number: int) -> Translation:
    return Translation("en", f"Sentence {number}.", {"es": f"Frase {number}."})


def numbers(due: list[Caption]) -> list[int]:
    return [caption.record.number for caption in due]


def test_times_are_cut_off_as_in_the_manifest() -> None:
    moment = BEGAN + timedelta(microseconds=999)
    assert milliseconds(moment) == milliseconds(parse_utc(format_utc(moment))) == 1759932323120


# --- the order ---


def test_captions_come_in_the_order_spoken() -> None:
    order = CaptionOrder()
    for number in (1, 2, 3):
        order.expect(record(number), now=0)
    order.text_arrived(3, text(3), now=1)
    order.text_arrived(2, text(2), now=1)
    assert order.due(now=1) == []
    order.text_arrived(1, text(1), now=2)
    assert order.due(now=2) == [Caption(record(number), text(number)) for number in (1, 2, 3)]
    assert not order.is_waiting


def test_a_refused_text_holds_up_nothing() -> None:
    order = CaptionOrder()
    order.expect(record(1), now=0)
    order.expect(record(2), now=0)
    order.text_arrived(2, text(2), now=1)
    order.text_arrived(1, None, now=1)
    assert numbers(order.due(now=1)) == [2]
    assert order.skipped == 0


def test_a_text_that_does_not_come_is_waited_for_and_then_given_up() -> None:
    order = CaptionOrder(max_wait_seconds=5, live_seconds=60)
    order.expect(record(1), now=0)
    order.expect(record(2), now=3)
    order.text_arrived(2, text(2), now=10)
    assert order.due(now=15) == []
    assert numbers(order.due(now=15.1)) == [2]
    order.text_arrived(1, text(1), now=16)  # too late: what follows it has been read
    assert order.due(now=100) == []
    assert order.skipped == 1


def test_one_sentence_alone_is_waited_for_as_long_as_it_is_live() -> None:
    order = CaptionOrder(max_wait_seconds=5, live_seconds=60)
    order.expect(record(1), now=0)
    assert order.due(now=59) == []
    order.text_arrived(1, text(1), now=59)
    assert numbers(order.due(now=59)) == [1]
    order.expect(record(2), now=60)
    assert order.due(now=121) == []
    assert not order.is_waiting
    assert order.skipped == 1


def test_a_text_may_be_faster_than_the_news_of_its_segment() -> None:
    order = CaptionOrder()
    order.text_arrived(1, text(1), now=0)
    order.text_arrived(2, None, now=0)
    order.expect(record(1), now=1)
    order.expect(record(2), now=1)
    assert numbers(order.due(now=1)) == [1]
    assert not order.is_waiting


def test_texts_of_unknown_segments_are_remembered_within_bounds() -> None:
    order = CaptionOrder()
    for number in range(10_000):
        order.text_arrived(number, text(number), now=0)
    order.expect(record(1), now=0)
    order.expect(record(9_999), now=0)
    assert len(order._early) < MAX_EARLY_TEXTS
    order.text_arrived(1, text(1), now=1)
    assert numbers(order.due(now=1)) == [1, 9_999]


MAX_WAIT, LIVE = 5.0, 20.0
DELAYS = st.lists(st.one_of(st.none(), st.floats(-1, 40)), min_size=1, max_size=12)
"""Seconds from each sentence until its text arrives: before the sentence is reported, late, or never."""


def play(delays: list[float | None], refused: set[int]) -> dict[int, float]:
    """Sentences a second apart, looked at ten times a second: when each caption was shown, in the order shown."""
    order = CaptionOrder(MAX_WAIT, LIVE)
    events = [(float(number), "spoken", number) for number in range(len(delays))]
    events += [
        (number + delay, "answered", number) for number, delay in enumerate(delays) if delay is not None
    ]
    events += [(tick / 10, "look", -1) for tick in range(-10, 10 * (len(delays) + 45))]
    shown: dict[int, float] = {}
    for now, what, number in sorted(events, key=lambda event: (event[0], event[2])):
        if what == "spoken":
            order.expect(record(number), now)
        elif what == "answered":
            order.text_arrived(number, None if number in refused else text(number), now)
        for caption in order.due(now):
            assert caption.record.number not in shown, "shown twice"
            assert caption.text == text(caption.record.number), "the text of another sentence"
            shown[caption.record.number] = now
    assert not order.is_waiting, "something is held for ever"
    return shown


@given(delays=DELAYS, refused=st.sets(st.integers(0, 11), max_size=4))
def test_whatever_happens_captions_are_shown_in_order_once_and_live(
    delays: list[float | None], refused: set[int]
) -> None:
    shown = play(delays, refused)
    assert list(shown) == sorted(shown)
    for number, moment in shown.items():
        delay = delays[number]
        assert delay is not None
        assert number not in refused
        ready = max(number, number + delay)
        assert ready <= moment <= ready + MAX_WAIT + 0.2
        assert moment - number <= LIVE


@given(delays=st.lists(st.floats(0, MAX_WAIT - 1), min_size=1, max_size=12))
def test_no_caption_is_lost_that_arrives_within_the_waiting_time(delays: list[float]) -> None:
    shown = play(list(delays), set())
    assert list(shown) == list(range(len(delays)))
    for number, moment in shown.items():
        assert moment == pytest.approx(max(one + delays[one] for one in range(number + 1)), abs=0.11)


# --- texts.jsonl ---


def line(number: int, **fields: object) -> bytes:
    content = {
        "number": number,
        "file": f"segment_{number:03}.wav",
        "language": "en",
        "transcript": f"Sentence {number}.",
        "translations": {"es": f"Frase {number}."},
        **fields,
    }
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"


def add(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def test_what_is_added_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    follower = TextsFollower(path)
    assert follower.new_texts() == []
    add(path, line(1))
    assert follower.new_texts() == [(1, text(1))]
    assert follower.new_texts() == []
    add(path, line(2) + line(3, refused="SAFETY") + line(4)[:20])
    assert follower.new_texts() == [(2, text(2)), (3, None)]
    add(path, line(4)[20:])
    assert follower.new_texts() == [(4, text(4))]


def test_a_long_history_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    add(path, b"".join(line(number) for number in range(5000)))
    found = TextsFollower(path).new_texts()
    assert found[-1] == (4999, text(4999))
    assert len(found) < 1000


def test_a_rewritten_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    add(path, line(1) + line(2))
    follower = TextsFollower(path)
    follower.new_texts()
    path.write_bytes(line(3))
    assert follower.new_texts() == [(3, text(3))]


def test_a_line_without_end_does_not_stop_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "texts.jsonl"
    follower = TextsFollower(path)
    path.touch()
    follower.new_texts()
    add(path, b"x" * 2500 + b"\n" + line(1))
    found = [one for _ in range(5) for one in follower.new_texts()]
    assert found == [(1, text(1))]


@pytest.mark.parametrize(
    "found",
    [b"", b"{", b"[]", b"null", b"{}", b'{"number": "1"}', b'{"number": true}', b"[" * 5000, b"\xff\xfe"],
)
def test_a_foreign_line_gives_no_caption(found: bytes) -> None:
    assert caption_text_in(found) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"refused": "SAFETY"},
        {"transcript": ""},
        {"transcript": " \n"},
        {"transcript": ["x"]},
        {"language": ""},
        {"language": "../../x"},
        {"language": None},
    ],
)
def test_what_cannot_be_shown_is_as_good_as_refused(fields: dict[str, object]) -> None:
    assert caption_text_in(line(7, **fields)) == (7, None)


def test_only_good_translations_are_shown() -> None:
    translations = {"es": "Hola", "../x": "a", "ar": 5, "fr": "", "pt-br": "Olá"}
    assert caption_text_in(line(7, translations=translations)) == (
        7,
        Translation("en", "Sentence 7.", {"es": "Hola", "pt-BR": "Olá"}),
    )
    assert caption_text_in(line(7, translations="none")) == (7, Translation("en", "Sentence 7.", {}))


def test_text_is_bounded() -> None:
    found = caption_text_in(line(7, transcript="x" * 100_000, translations={"es": "y" * 100_000}))
    assert found is not None and found[1] is not None
    assert len(found[1].transcript) == len(found[1].translations["es"]) == MAX_TEXT_CHARACTERS


def test_each_language_is_shown_once_and_the_original_first() -> None:
    caption = Caption(record(1), Translation("es", "Hola", {"en": "Hi", "es": "Hola hola", "ar": "مرحبا"}))
    assert list(caption.by_language().items()) == [("es", "Hola"), ("en", "Hi"), ("ar", "مرحبا")]


# --- languages ---


@pytest.mark.parametrize(
    ("requested", "allowed", "wanted"),
    [
        ([], (), ()),
        (["es", "ar", "es"], (), ("es", "ar")),
        (["ES", "pt_br", "zh-hant"], (), ("es", "pt-BR", "zh-Hant")),
        (["", "english please", "../../x", "x" * 100_000, "\x00"], (), ()),
        (["es", "fr"], ("es", "ar"), ("es",)),
        (["es-MX"], ("es", "ar"), ("es",)),
        (["es-MX"], (), ("es-MX",)),
        (["zh"], ("zh-Hant", "zh-Hans"), ("zh-Hant",)),
    ],
)
def test_requested_languages_are_checked(
    requested: list[str], allowed: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    assert wanted_languages(requested, allowed) == wanted


def test_a_room_cannot_ask_for_everything() -> None:
    requested = [*KNOWN_LANGUAGES, "uk", "zh-Hant"]
    wanted = wanted_languages(requested, ())
    assert len(wanted) == MAX_LANGUAGES
    assert wanted[:2] == ("uk", "zh-Hant")


def test_the_menu_has_names_and_flags() -> None:
    assert language_choices(["es", "ar", "pt-BR", "zh-Hant-HK", "eo"]) == [
        {"code": "es", "name": "Español", "flag": "🇪🇸"},
        {"code": "ar", "name": "العربية", "flag": "🇸🇦"},
        {"code": "pt-BR", "name": "Português (BR)", "flag": "🇧🇷"},
        {"code": "zh-Hant-HK", "name": "繁體中文 (HK)", "flag": "🇭🇰"},
        {"code": "eo", "name": "eo", "flag": "🌐"},
    ]


def test_every_known_language_is_one() -> None:
    assert [language_tag(tag) for tag in KNOWN_LANGUAGES] == list(KNOWN_LANGUAGES)


# --- a room ---


class Writer:
    def __init__(self, room: StubRoom, header: dict[str, Any]) -> None:
        self.room = room
        self.header = header

    async def write(self, written: str) -> None:
        self.header["text"] = written

    async def aclose(self) -> None:
        self.room.streams.append(self.header)


class StubRoom:
    """The part of a room that captions use. ``trouble`` is what sending raises."""

    def __init__(self) -> None:
        self.local_participant = self
        self.remote_participants: dict[str, Any] = {}
        self.streams: list[dict[str, Any]] = []
        self.packets: list[rtc.Transcription] = []
        self.handlers: dict[str, Callable[..., None]] = {}
        self.methods: dict[str, Callable[[Any], str]] = {}
        self.trouble: Callable[[], Any] | None = None

    def isconnected(self) -> bool:
        return True

    def register_rpc_method(self, name: str, handler: Callable[[Any], str]) -> None:
        self.methods[name] = handler

    def unregister_rpc_method(self, name: str) -> None:
        self.methods.pop(name, None)

    async def stream_text(self, **header: Any) -> Writer:
        if self.trouble is not None:
            await self.trouble()
        return Writer(self, header)

    async def publish_transcription(self, transcription: rtc.Transcription) -> None:
        self.packets.append(transcription)

    def on(self, event: str, handler: Callable[..., None]) -> None:
        self.handlers[event] = handler

    def come(self, participant: Any) -> None:
        self.handlers["participant_active"](participant)

    def join(self, identity: str, language: str = "", kind: Any = None) -> Any:
        class Participant:
            pass

        participant: Any = Participant()
        participant.identity = identity
        participant.attributes = {"captions_language": language} if language else {}
        participant.kind = rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD if kind is None else kind
        self.remote_participants[identity] = participant
        return participant

    def shown(self, to: list[str] | None = None) -> list[str]:
        return [stream["text"] for stream in self.streams if stream["destination_identities"] == (to or [])]


SETTINGS = Settings(captions=True, gemini_api_key="k", target_languages=("es",))


@pytest.fixture
def room() -> StubRoom:
    return StubRoom()


@pytest_asyncio.fixture
async def shown(room: StubRoom) -> AsyncIterator[Captions]:
    made = Captions(cast(rtc.Room, room), RoomInfo("lesson", "RM_1", BEGAN), SETTINGS)
    made.attach()
    made.begin()
    yield made
    await made.aclose()


async def test_a_caption_goes_both_ways_on_behalf_of_the_teacher(
    shown: Captions, room: StubRoom, tmp_path: Path
) -> None:
    shown.segment_saved(record(1), tmp_path / "segment_001.wav")
    add(tmp_path / "texts.jsonl", line(1))
    await until(lambda: len(room.packets) == 2 == len(room.streams), "both languages")
    original, translation = room.streams
    assert (original["text"], translation["text"]) == ("Sentence 1.", "Frase 1.")
    assert original["topic"] == "lk.transcription"
    assert original["sender_identity"] == "anna"
    assert translation["attributes"] == {
        "lk.transcription_final": "true",
        "lk.transcribed_track_id": "TR_1",
        "lk.segment_id": "TR_1-1759932326120-es",
        "language": "es",
        "spoken_language": "en",
        "segment": "TR_1-1759932326120",
        "start_time": "1759932326120",
        "end_time": "1759932328120",
    }
    packet = room.packets[1]
    assert (packet.participant_identity, packet.track_sid) == ("anna", "TR_1")
    assert [dataclasses.asdict(segment) for segment in packet.segments] == [
        {
            "id": "TR_1-1759932326120-es",
            "text": "Frase 1.",
            "start_time": 1759932326120,
            "end_time": 1759932328120,
            "language": "es",
            "final": True,
        }
    ]


async def test_nothing_is_shown_while_the_recording_is_paused(
    shown: Captions, room: StubRoom, tmp_path: Path
) -> None:
    shown.segment_saved(record(1), tmp_path / "segment_001.wav")
    add(tmp_path / "texts.jsonl", line(1))
    await until(lambda: len(room.packets) == 2, "the caption")
    shown.is_paused = True
    shown.segment_saved(record(2), tmp_path / "segment_002.wav")
    add(tmp_path / "texts.jsonl", line(2))
    room.come(room.join("zoe"))
    await asyncio.sleep(3 * captions.POLL_SECONDS)
    assert (len(room.packets), len(room.streams)) == (2, 2)
    shown.is_paused = False
    shown.segment_saved(record(3), tmp_path / "segment_003.wav")
    add(tmp_path / "texts.jsonl", line(3))
    await until(lambda: len(room.packets) == 4, "the caption after the pause")
    assert room.shown() == ["Sentence 1.", "Frase 1.", "Sentence 3.", "Frase 3."]


async def test_answers_out_of_order_are_shown_in_order(
    shown: Captions, room: StubRoom, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        shown.segment_saved(record(number), tmp_path / "segment.wav")
    add(tmp_path / "texts.jsonl", line(3, translations={}) + line(2, refused="SAFETY"))
    await asyncio.sleep(3 * captions.POLL_SECONDS)
    assert room.shown() == []
    add(tmp_path / "texts.jsonl", line(1, translations={}))
    await until(lambda: len(room.shown()) == 2, "both captions")
    assert room.shown() == ["Sentence 1.", "Sentence 3."]


async def test_a_notification_is_handled_at_once(
    shown: Captions, room: StubRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captions, "POLL_SECONDS", 3600)
    shown.segment_saved(record(1), tmp_path / "segment.wav")
    await asyncio.sleep(0.05)
    add(tmp_path / "texts.jsonl", line(1))
    notify.notify(tmp_path / "texts.jsonl")
    await until(lambda: len(room.shown()) == 2, "the caption")


async def refuse() -> None:
    raise RuntimeError("no data channel")


async def hang() -> None:
    await asyncio.sleep(3600)


@pytest.mark.parametrize("trouble", [refuse, hang])
async def test_a_caption_that_cannot_be_sent_is_let_go(
    shown: Captions,
    room: StubRoom,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: Callable[[], Any],
) -> None:
    monkeypatch.setattr(caption_sender, "SEND_SECONDS", 0.1)
    room.trouble = trouble
    for number in (1, 2):
        shown.segment_saved(record(number), tmp_path / "segment.wav")
        add(tmp_path / "texts.jsonl", line(number))
    await until(lambda: not shown._order.is_waiting, "both are let go")
    room.trouble = None
    shown.segment_saved(record(3), tmp_path / "segment.wav")
    add(tmp_path / "texts.jsonl", line(3))
    await until(lambda: room.shown()[-2:] == ["Sentence 3.", "Frase 3."], "the next caption")
    said = [one.getMessage() for one in caplog.records if "recording goes on" in one.getMessage()]
    assert len(said) == 1, "said once until it is over"
    assert "Captions are shown again" in caplog.text


async def test_who_joins_late_sees_the_last_captions(shown: Captions, room: StubRoom, tmp_path: Path) -> None:
    room.come(room.join("early"))
    for number in range(1, 9):
        shown.segment_saved(record(number), tmp_path / "segment.wav")
        add(tmp_path / "texts.jsonl", line(number, translations={}))
    await until(lambda: len(room.shown()) == 8, "all captions")
    before = len(room.packets)
    room.come(room.join("sam"))
    room.come(room.join("zoe"))
    room.come(room.join("egress", kind=rtc.ParticipantKind.PARTICIPANT_KIND_EGRESS))
    await until(lambda: len(room.shown(["sam", "zoe"])) == 5, "the last five")
    assert room.shown(["sam", "zoe"]) == [f"Sentence {number}." for number in range(4, 9)]
    assert len(room.packets) == before
    assert len(room.streams) == 13


async def test_who_is_gone_again_gets_nothing(shown: Captions, room: StubRoom, tmp_path: Path) -> None:
    shown.segment_saved(record(1), tmp_path / "segment.wav")
    add(tmp_path / "texts.jsonl", line(1, translations={}))
    await until(lambda: len(room.shown()) == 1, "the caption")
    room.come(room.join("sam"))
    del room.remote_participants["sam"]
    shown.segment_saved(record(2), tmp_path / "segment.wav")
    add(tmp_path / "texts.jsonl", line(2, translations={}))
    await until(lambda: len(room.streams) == 2, "the next caption")
    assert room.shown() == ["Sentence 1.", "Sentence 2."]


async def test_languages_are_requested_only_by_people_in_the_room(shown: Captions, room: StubRoom) -> None:
    room.join("sam", "es")
    room.join("zoe", "ar-eg")
    room.join("egress", "fr", kind=rtc.ParticipantKind.PARTICIPANT_KIND_EGRESS)
    room.join("anna")
    assert shown.languages() == ("ar-EG", "es")
    del room.remote_participants["zoe"]
    assert shown.languages() == ("es",)


async def test_an_app_can_ask_for_the_languages(shown: Captions, room: StubRoom) -> None:
    menu = json.loads(room.methods["get/languages"](None))
    assert menu[0] == {"code": "es", "name": "Español", "flag": "🇪🇸"}
    assert len(menu) == len(KNOWN_LANGUAGES)
    await shown.aclose()
    assert not room.methods, "until the lesson is over"


async def test_the_end_waits_for_what_is_on_its_way(room: StubRoom, tmp_path: Path) -> None:
    made = Captions(cast(rtc.Room, room), RoomInfo("lesson", "RM_1", BEGAN), SETTINGS)
    room.join("sam")
    made.segment_saved(record(1), tmp_path / "segment.wav")
    closing = asyncio.create_task(made.aclose())
    await asyncio.sleep(0.05)
    add(tmp_path / "texts.jsonl", line(1))
    await closing
    assert room.shown() == ["Sentence 1.", "Frase 1."]


@pytest.mark.parametrize("is_somebody_there", [True, False])
async def test_the_end_does_not_wait_for_long(
    room: StubRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_somebody_there: bool
) -> None:
    monkeypatch.setattr(captions, "CLOSE_SECONDS", 0.1 if is_somebody_there else 3600)
    made = Captions(cast(rtc.Room, room), RoomInfo("lesson", "RM_1", BEGAN), SETTINGS)
    if is_somebody_there:
        room.join("sam")
    made.segment_saved(record(1), tmp_path / "segment.wav")
    async with asyncio.timeout(10):
        await made.aclose()
    assert room.streams == []
