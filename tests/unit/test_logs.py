"""The log: one line per event, for all names and all errors."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core.logs import MAX_CALLS, JsonFormatter, TextFormatter, printable, set_up_logging
from support import ROOT

HOSTILE = [
    "a\nb",
    "a\r\nb",
    "a\x00b",
    "\x1b[2J\x1b[31m",
    "\u202egnp.exe",
    "\u2066isolate\u2069",
    "\u200b\u200d\ufeff",
    "next\x85line",
    "line\u2028separator",
    "paragraph\u2029separator",
    "\ud800",
    "\x7f",
    "\U000e0041tag",
]
FORGED = "x\n2025-10-08 14:05:23.000 ERROR   LOST 9 s of speech room=math101"
REORDERING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def record(
    message: str, *arguments: object, error: BaseException | None = None, **extra: Any
) -> logging.LogRecord:
    made = logging.LogRecord("recorder", logging.INFO, "x.py", 1, message, arguments, None)
    made.created = 1_759_932_323.0456
    if error is not None:
        made.exc_info = (type(error), error, error.__traceback__)
    made.__dict__.update(extra)
    return made


def text(message: str, *arguments: object, **more: Any) -> str:
    return TextFormatter().format(record(message, *arguments, **more))


def parsed(message: str, *arguments: object, **more: Any) -> dict[str, Any]:
    line = JsonFormatter().format(record(message, *arguments, **more))
    assert line.isascii() and line.isprintable()
    value = json.loads(line)
    assert isinstance(value, dict)
    return value


def assert_one_harmless_line(line: str) -> None:
    assert len(line.splitlines()) == 1, ascii(line)
    assert not REORDERING & set(line)
    assert not any(unicodedata.category(character)[0] == "C" for character in line)


def fail(message: str) -> NoReturn:
    raise OSError(28, message)


def raised(message: str) -> Exception:
    try:
        fail(message)
    except OSError as error:
        return error


@pytest.fixture
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


# --- text ---


def test_a_line_has_time_level_message_and_context() -> None:
    line = text("Segment saved: %s", "a.wav", room="math101", participant="anna", track="TR_1")
    assert line == (
        "2025-10-08 14:05:23.045 INFO    Segment saved: a.wav room=math101 participant=anna track=TR_1"
    )


@pytest.mark.parametrize("value", ["", None])
def test_context_that_is_not_there_is_not_shown(value: str | None) -> None:
    assert text("Hello", room="a", participant=value).endswith("Hello room=a")


def test_a_value_with_a_space_is_quoted() -> None:
    assert text("Hello", room='Klasse 5 "b"').endswith(r'room="Klasse 5 \"b\""')


def test_names_of_every_script_are_shown_as_they_are() -> None:
    assert text("Hello", room="数学", participant="عمر").endswith("room=数学 participant=عمر")


@pytest.mark.parametrize("hostile", [*HOSTILE, FORGED], ids=ascii)
def test_a_hostile_name_is_one_harmless_line(hostile: str) -> None:
    assert_one_harmless_line(text("Participant joined: %s", hostile, room=hostile, participant=hostile))


@unhurried
@given(st.text(), st.text(), st.text())
@example("", "", "\u2028")
def test_no_name_breaks_the_line(message: str, room: str, person: str) -> None:
    assert_one_harmless_line(text("%s", message, room=room, participant=person))


def test_a_name_cannot_pass_for_another_field() -> None:
    line = text("Hello", room="math101", participant="x room=physics")
    assert line.endswith('room=math101 participant="x room=physics"')


@pytest.mark.parametrize("space", ["\u00a0", "\u2003", "\u3000", "\t"])
def test_a_name_cannot_pass_for_another_field_with_a_space_of_another_kind(space: str) -> None:
    line = text("Hello", room="math101", participant=f"x{space}room=physics")
    assert f"x{space}room" not in line or '"' in line


def test_an_exception_is_one_line_as_well() -> None:
    line = text("It failed", error=raised("a\nb\x1b"), room="math101")
    assert_one_harmless_line(line)
    assert "It failed: OSError: [Errno 28] a" in line


@pytest.mark.usefixtures("own_logging")
def test_an_exception_has_its_traceback_in_the_line_and_at_debug_in_full() -> None:
    error = raised("full")
    inner, outer = fail.__code__.co_firstlineno + 1, raised.__code__.co_firstlineno + 2
    where = f"full (test_logs.py:{inner} < test_logs.py:{outer})"
    logging.getLogger().setLevel(logging.DEBUG)
    assert where in text("It failed", error=error) and "Traceback" in text("It failed", error=error)
    logging.getLogger().setLevel(logging.INFO)
    assert text("It failed", error=error).endswith(where)
    assert text("It failed", error=OSError("never raised")).endswith("never raised")


def test_a_long_traceback_ends_with_the_calls_next_to_the_error() -> None:
    def descend(levels: int) -> None:
        if not levels:
            raise ValueError("deep")
        descend(levels - 1)

    try:
        descend(500)
    except ValueError as error:
        assert text("It failed", error=error).count("test_logs.py") == MAX_CALLS


def test_colours_are_for_terminals_and_for_trouble() -> None:
    made = record("Hello")
    made.levelname = "ERROR"
    assert TextFormatter(colours=True).format(made).startswith("\x1b[31m")
    assert TextFormatter(colours=True).format(made).endswith("\x1b[0m")
    assert "\x1b" not in TextFormatter().format(made)
    made.levelname = "INFO"
    assert "\x1b" not in TextFormatter(colours=True).format(made)


@unhurried
@given(st.text())
def test_printable_text_stays_and_the_rest_is_escaped(value: str) -> None:
    shown = printable(value)
    assert_one_harmless_line(f"<{shown}>")
    if value.isprintable():
        assert shown == value


# --- JSON ---


def test_a_json_line_has_the_same_fields() -> None:
    assert parsed("Saved %s", "a.wav", room="math101", participant="anna") == {
        "time": "2025-10-08T14:05:23.045Z",
        "level": "INFO",
        "message": "Saved a.wav",
        "room": "math101",
        "participant": "anna",
    }


@pytest.mark.parametrize("hostile", [*HOSTILE, FORGED], ids=ascii)
def test_a_hostile_name_is_one_json_line_and_comes_back_as_it_was(hostile: str) -> None:
    assert parsed("%s", hostile, room=hostile)["room"] == hostile


def test_a_json_line_holds_the_whole_exception() -> None:
    line = parsed("It failed", error=raised("full"))
    assert "OSError" in line["exception"] and "test_logs.py" in line["exception"]


@unhurried
@given(st.text(), st.text())
def test_every_json_line_parses(message: str, room: str) -> None:
    assert parsed("%s", message, room=room)["message"] == message


# --- the whole set-up ---


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_one_event_is_one_line_on_stdout(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("INFO", log_format)
    logger = logging.getLogger("recorder")
    logger.info("first")
    logger.debug("not shown")
    logger.error("second", exc_info=raised("full\nforged"), extra={"room": FORGED})
    seen = capsys.readouterr()
    assert seen.err == ""
    assert len(seen.out.splitlines()) == 2


@pytest.mark.usefixtures("own_logging")
def test_the_framework_s_chatter_is_shown_from_warning_on(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("INFO", "text")
    logging.getLogger("livekit.agents").info("chatter")
    logging.getLogger("livekit.agents").warning("trouble")
    logging.getLogger("livekit").warning("Attempted to drop unknown FFI handle 7")
    logging.getLogger("recorder").info("no warmed process available")
    out = capsys.readouterr().out
    assert "chatter" not in out and "drop unknown" not in out
    assert "trouble" in out and "no warmed process available" in out


@pytest.mark.usefixtures("own_logging")
def test_at_debug_the_framework_s_chatter_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("DEBUG", "text")
    logging.getLogger("livekit.agents").info("chatter")
    set_up_logging("INFO", "text")
    assert "chatter" in capsys.readouterr().out


@pytest.mark.usefixtures("own_logging")
def test_setting_up_twice_says_everything_once(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("INFO", "text")
    set_up_logging("INFO", "text")
    logging.getLogger("recorder").info("hello")
    assert capsys.readouterr().out.count("hello") == 1
    assert logging.getLogger().handlers[0].__dict__["stream"] is sys.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_console_that_cannot_show_a_name_still_shows_the_line(encoding: str) -> None:
    """As on Windows, where a log in a file has the system's old encoding."""
    program = (
        "import logging; from core import logs; logs.set_up_logging('INFO', 'text');"
        "logging.getLogger('recorder').info('Connected to room %s', '\u6570\u5b66', extra={'room': 'ä \u6570'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    assert b"Connected to room" in done.stdout
