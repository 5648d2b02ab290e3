"""File names: every room and person gets a name that is valid on every system, and that no other one has."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from archive.names import SegmentNames, safe_name
from config import Settings
from core.errors import ConfigError
from core.records import RoomInfo, TrackInfo

WINDOWS_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789¹²³"
}
FORBIDDEN = set('<>:"/\\|?*')
MOMENT = datetime(2025, 10, 8, 14, 5, 23, tzinfo=UTC)

HOSTILE = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "..\\..\\windows",
    "/",
    "C:\\",
    "C:",
    "//server/share",
    "a/b",
    "nul",
    "NUL",
    "con",
    "con.txt",
    "con .txt",
    "aux.",
    "com1",
    "COM¹",
    "lpt9.tar.gz",
    "conin$",
    "room.",
    "room ",
    " room",
    ".room",
    "...",
    "a\x00b",
    "a\nb",
    "a\r\nb",
    "a\tb",
    "\x1b[31m",
    "\u202egnp.exe",
    "\u200bzero width",
    "\ufeffbom",
    "line\u2028separator",
    "non\u00a0breaking",
    "\ue000private",
    "\U0001f600" * 64,
    "ä" * 128,
    "\u0928\u093f" * 42,
    "e\u0301",
    "\u00e9",
    "\ufb01",
    "\u212b",
    "*",
    "a?b",
    'say "hi"',
    "a|b",
    "%2e%2e%2f",
    "~",
    "-rf",
    "$HOME",
    "`id`",
    "a" * 256,
    "a" * 300 + "b",
    "a" * 300 + "c",
    "x" * 79 + "é",
    "x" * 80 + ".",
    "room-0123456789",
    "room-0123456789-0123456789",
    "segments.jsonl",
    ".lock",
]
TEXTS = (
    st.text(max_size=300)
    | st.sampled_from(HOSTILE)
    | st.text(st.sampled_from("aA1-_. /\\:\x00\n\u202eé\u0301"), max_size=120)
    | st.builds(
        lambda device, end: device + end,
        st.sampled_from(sorted(WINDOWS_DEVICES)),
        st.sampled_from(["", " ", ".", ".x", " .x"]),
    )
)

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def assert_valid_everywhere(name: str) -> None:
    assert 0 < len(name.encode()) <= 120
    assert not FORBIDDEN & set(name)
    assert not any(unicodedata.category(character)[0] == "C" for character in name)
    assert name not in (".", "..") and name[-1] not in ". ", "ends in what Windows drops"
    assert name.partition(".")[0].rstrip(" ").upper() not in WINDOWS_DEVICES, "a Windows device"
    assert unicodedata.is_normalized("NFC", name)


@unhurried
@given(TEXTS)
@example("con .txt")
def test_a_safe_name_is_valid_on_every_system(text: str) -> None:
    assert_valid_everywhere(safe_name(text))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_hostile_text_becomes_a_valid_name(text: str) -> None:
    assert_valid_everywhere(safe_name(text))


@unhurried
@given(TEXTS)
def test_a_safe_name_is_one_step_below_its_folder_and_nowhere_else(text: str) -> None:
    name = safe_name(text)
    assert PurePosixPath("/rooms", name).parts == ("/", "rooms", name)
    assert PureWindowsPath("c:/rooms", name).parts == ("c:\\", "rooms", name)


@unhurried
@given(st.lists(TEXTS, unique=True, max_size=12))
def test_two_texts_never_share_a_name(texts: list[str]) -> None:
    assert len({safe_name(text) for text in texts}) == len(texts)


@unhurried
@given(TEXTS)
def test_a_text_that_looks_like_anothers_name_gets_a_name_of_its_own(text: str) -> None:
    name = safe_name(text)
    assert name == text or safe_name(name) != name


def test_all_the_hostile_texts_have_names_of_their_own() -> None:
    assert len({safe_name(text) for text in HOSTILE}) == len(HOSTILE)


@unhurried
@given(TEXTS)
def test_the_same_text_has_the_same_name(text: str) -> None:
    assert safe_name(text) == safe_name(text)


@pytest.mark.parametrize(
    "text", ["math101", "Klasse 5b", "数学", "الرياضيات", "Ünïcödé", "a.b", "a_b-c", "हिन्दी", "x" * 60]
)
def test_a_harmless_text_stays_as_it_is(text: str) -> None:
    assert safe_name(text) == unicodedata.normalize("NFC", text)


def test_a_lone_surrogate_is_no_obstacle() -> None:
    assert_valid_everywhere(safe_name("a\ud800b"))
    assert safe_name("\ud800") != safe_name("\ud801")


# --- the names of segments ---


def stem(template: str, number: int, *, room: str = "math101", identity: str = "anna") -> str:
    names = SegmentNames(template, ZoneInfo("Europe/Berlin"))
    track = TrackInfo(identity, "Anna", "TR_1", "screen_share_audio")
    return names.stem(number, MOMENT, RoomInfo(room, "RM_1", MOMENT), track)


def number_in(template: str, name: str) -> int | None:
    return SegmentNames(template, ZoneInfo("Europe/Berlin")).number_in(name)


def test_a_name_holds_number_and_local_time() -> None:
    assert stem("segment_{number}_{time}", 7) == "segment_007_20251008_160523"


def test_a_name_can_hold_room_identity_and_source() -> None:
    template = "{room} {identity} {source} {number}"
    assert (
        stem(template, 12, room="a/b", identity="anna") == f"{safe_name('a/b')} anna screen_share_audio 012"
    )


@pytest.mark.parametrize("ending", [".wav", ".wav.part", "_ar.txt", ".json"])
@pytest.mark.parametrize("number", [1, 42, 999, 1000, 123_456])
def test_the_number_is_found_in_every_file_of_a_segment(number: int, ending: str) -> None:
    name = stem("segment_{number}_{time}", number) + ending
    assert number_in("segment_{number}_{time}", name) == number
    assert number_in("segment_{number}_{time}", "." + name) == number


@pytest.mark.parametrize(
    "name",
    [
        "segments.jsonl",
        ".lock",
        "song.wav",
        "segment_.wav",
        "segment_01_20251008_160523.wav",
        "xsegment_001_20251008_160523.wav",
        "segment_abc_20251008_160523.wav",
    ],
)
def test_a_name_of_another_kind_has_no_number(name: str) -> None:
    assert number_in("segment_{number}_{time}", name) is None


@unhurried
@given(
    template=st.sampled_from(
        [
            "segment_{number}_{time}",
            "{number}",
            "{time}-{number}",
            "{number}{time}",
            "{number} {identity}",
            "{number}_{source}_{room}",
            "(v1.0) {number}+[x]^$",
            "{number}-{number}",
        ]
    ),
    number=st.integers(1, 99_999),
    room=TEXTS,
    identity=TEXTS,
)
def test_the_number_in_a_name_is_the_one_it_was_made_with(
    template: str, number: int, room: str, identity: str
) -> None:
    name = stem(template, number, room=room, identity=identity) + ".wav"
    assert number_in(template, name) == number


@pytest.mark.parametrize(
    ("template", "identity"),
    [
        ("{time}_{identity}_{number}", "user_1234"),
        ("{time}_{identity}{number}", "user5"),
        ("{time}_{number}{identity}", "5b"),
        ("{time}_{room}_{identity}_{number}", "../007_008"),
        ("{{x}}_{time}_{number}", "anna"),
        (".{time}_{number}", "anna"),
    ],
)
def test_the_number_is_found_next_to_digits_braces_and_dots(template: str, identity: str) -> None:
    """Such a template is either refused by the settings, or its numbers are read back correctly."""
    environ = {
        "LIVEKIT_URL": "ws://localhost",
        "LIVEKIT_API_KEY": "key",
        "LIVEKIT_API_SECRET": "secret",
        "SEGMENT_NAME": template,
    }
    try:
        Settings.from_env(environ)
    except ConfigError:
        return
    assert number_in(template, stem(template, 7, identity=identity) + ".wav") == 7


def test_a_name_fits_a_file_system_whatever_the_room_and_person_are_called(tmp_path: Path) -> None:
    name = stem("{room}_{identity}_{source}_{number}_{time}", 1, room="ä" * 256, identity="\U0001f600" * 64)
    (tmp_path / f".{name}.json").touch()
    (tmp_path / f"{name}.wav.part").touch()
