"""The format of the log: one line per event, with room and participant, as text or JSON.

Control characters in anything that came from outside are escaped, so that a participant's name can neither forge a
line nor send control sequences to the terminal.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import traceback
import unicodedata
from datetime import UTC, datetime
from typing import Any, NoReturn

CONTEXT_FIELDS = ("event", "room", "participant", "track", "worker")
"""Fields of ``extra`` that are shown with a line; so are those in the dictionary ``details`` (:mod:`core.audit`)."""

MAX_CALLS = 20
"""At most this many calls of a traceback are in a line, those next to the error."""

_LEVEL_COLOURS = {"DEBUG": "\033[36m", "WARNING": "\033[33m", "ERROR": "\033[31m", "CRITICAL": "\033[31m"}


def set_up_logging(level: str, log_format: str, *, colours: bool = False, worker: str = "") -> None:
    """Sends all logging to stdout in this format. Libraries log from WARNING on, with ``level`` DEBUG from INFO on.

    ``worker`` is the number of this process, if there are several: every line has it.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A console that lacks a character still prints the line.
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(colours=colours))
    root = logging.getLogger()
    handler.addFilter(_is_relevant)
    if worker:
        handler.addFilter(_Numbered(worker))
    root.handlers[:] = [handler]
    root.setLevel(level)
    is_debug = level == "DEBUG"
    for name in (
        "livekit",
        "livekit.agents",
        "asyncio",
        "aiohttp.access",
        "watchfiles",
        "httpx",
        "google_genai",
    ):
        logging.getLogger(name).setLevel(logging.INFO if is_debug else logging.WARNING)


class _Numbered(logging.Filter):
    """Adds the number of this worker to every record."""

    def __init__(self, number: str) -> None:
        super().__init__()
        self._number = number

    def filter(self, record: logging.LogRecord) -> bool:
        record.worker = self._number
        return True


_HARMLESS = ("closed unexpectedly", "Attempted to drop unknown FFI handle", "no warmed process available")
"""Log lines of the native client and the framework that appear at every ordinary end of a room. They are dropped."""


_NOT_PRINTABLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories of characters that break a line or are invisible in it."""


def _is_relevant(record: logging.LogRecord) -> bool:
    is_ours = record.name.partition(".")[0] == "recorder"
    return is_ours or not any(phrase in record.getMessage() for phrase in _HARMLESS)


def printable(text: str) -> str:
    """``text`` on one line: control, format and surrogate characters and line separators are escaped."""
    return "".join(
        f"\\u{ord(character):04x}" if unicodedata.category(character) in _NOT_PRINTABLE else character
        for character in text
    )


def _context(record: logging.LogRecord) -> dict[str, str]:
    found = {name: getattr(record, name, None) for name in CONTEXT_FIELDS}
    found.update(getattr(record, "details", {}))
    return {name: str(value) for name, value in found.items() if value not in (None, "")}


def _reason(record: logging.LogRecord) -> str:
    """The exception of a record with its traceback in one line. DEBUG shows the usual traceback as well."""
    error = record.exc_info[1] if record.exc_info else None
    return f": {type(error).__name__}: {error}{_calls(error)}" if error is not None else ""


def _calls(error: BaseException) -> str:
    """The calls that led to an exception, the last first; empty if it was not raised."""
    calls = list(traceback.walk_tb(error.__traceback__))[-MAX_CALLS:]
    places = (f"{os.path.basename(frame.f_code.co_filename)}:{line}" for frame, line in reversed(calls))
    return f" ({' < '.join(places)})" if calls else ""


class TextFormatter(logging.Formatter):
    """``2026-01-31 09:30:00.123 INFO  Segment saved ... room=math101 participant=anna``, times in UTC."""

    def __init__(self, *, colours: bool = False) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line = f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d} {record.levelname:<7} "
        line += record.getMessage() + _reason(record)
        line += "".join(f" {name}={_quoted(value)}" for name, value in _context(record).items())
        line = printable(line)
        if record.exc_info and logging.getLogger().isEnabledFor(logging.DEBUG):
            line += "\n" + self.formatException(record.exc_info)
        colour = _LEVEL_COLOURS.get(record.levelname) if self._colours else None
        return f"{colour}{line}\033[0m" if colour else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, message, room, participant, track, exception."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "message": record.getMessage(),
            **_context(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def end_at_once(code: int) -> NoReturn:
    """Ends the process with all logs and output written, but without finalising the interpreter.

    A native thread that still runs while the interpreter is finalised can abort the process.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _quoted(value: str) -> str:
    """``value``, in quotes if it could be read as more than one field."""
    needs_quotes = any(character.isspace() or character in '"=' for character in value)
    return json.dumps(value, ensure_ascii=False) if needs_quotes else value
