"""Kinds of settings: how the text of a setting is parsed, and which values are allowed.

Each function such as :func:`text` or :func:`number` makes one field of :class:`config.Settings`: its default, and a
:class:`Kind` in the field's metadata. A :class:`Form` is what a setting of free text may be.
"""

from __future__ import annotations

import dataclasses
import math
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo

from core.language_tags import language_tags

DEVICE_NAME = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.IGNORECASE
)
"""File names that Windows treats as devices, with any extension."""

MAX_LANGUAGES = 20

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


@dataclass(frozen=True)
class Kind:
    """How a value is parsed. ``parse`` raises ValueError for a wrong value; ``allowed`` describes the allowed ones."""

    parse: Callable[[str], Any]
    allowed: str
    help: str
    secret: bool = False
    required: bool = False

    def message(self, name: str, given: str) -> str:
        """The error message for the wrong value ``given`` of the setting ``name``."""
        shown = "(hidden)" if self.secret else shortened(given)
        return f"{name}={shown} is wrong: it must be {self.allowed}"


def shortened(given: str) -> str:
    """A value as it is shown in a message: one line of printable characters, at most 80 of them."""
    printable = given.encode("unicode_escape").decode() if not given.isprintable() else given
    return printable if len(printable) <= 80 else printable[:77] + "..."


def removed_problems(environ: Mapping[str, str], removed: Mapping[str, str]) -> list[str]:
    """A line for each ``removed`` setting that is set to anything but its fixed value."""
    return [
        f"{name}={shortened(given)} is wrong: this setting no longer exists, its value is always {fixed}"
        for name, fixed in removed.items()
        if (given := environ.get(name, "").strip()) and not _is_same_value(given, fixed)
    ]


def _is_same_value(given: str, fixed: str) -> bool:
    """Whether two texts mean the same value: as numbers, else without regard to case."""
    try:
        return float(given) == float(fixed)
    except ValueError:
        return given.casefold() == fixed


# --- forms of text ---


class Form(NamedTuple):
    """What a text may be. ``parse`` raises ValueError for any other; ``allowed`` describes it in one phrase."""

    allowed: str
    parse: Callable[[str], str] = str


ANY_TEXT = Form("any text")
FILE = Form("a file's path")
FOLDER = Form("a folder's path")


def _address(text: str, *schemes: str) -> SplitResult:
    parts = urlsplit(text)
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError
    _ = parts.port  # raises ValueError where it is not a number
    return parts


def _server_url(text: str) -> str:
    _address(text, "ws", "wss", "http", "https")
    return text


SERVER_URL = Form("a URL such as wss://livekit.example.com or ws://127.0.0.1:7880", _server_url)


def _web_url(text: str) -> str:
    parts = _address(text, "http", "https")
    if parts.query or parts.username:
        raise ValueError
    return text


WEB_URL = Form("an http or https URL", _web_url)


def _time_zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except Exception as error:  # ZoneInfo raises KeyError, ValueError, OSError and IsADirectoryError
        raise ValueError from error
    return text


TIME_ZONE = Form("a zone such as UTC or Europe/Berlin", _time_zone)


def _identity(text: str) -> str:
    if not text or len(text.encode()) > 128 or not text.isprintable():
        raise ValueError
    return text


IDENTITY = Form("1 to 128 printable characters", _identity)


def cloud_name(allowed: str) -> Form:
    """A name that becomes a part of a URL of Google's."""

    def parse(text: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.:_@/-]{0,255}", text) or ".." in text:
            raise ValueError
        return text

    return Form(allowed, parse)


def template(allowed: str, placeholders: tuple[str, ...], *required: tuple[str, ...]) -> Form:
    """A name with these placeholders, among them at least one of each of the ``required`` groups."""

    def parse(text: str) -> str:
        pieces = list(string.Formatter().parse(text))
        names = {name for _, name, _, _ in pieces if name is not None}
        literals = "".join(literal for literal, _, _, _ in pieces)
        if any(spec or conversion for _, _, spec, conversion in pieces) or not names <= set(placeholders):
            raise ValueError
        if not all(names & set(group) for group in required):
            raise ValueError
        if len(literals.encode()) > 24 or not literals.isprintable() or set(literals) & set('<>:"/\\|?*{}'):
            raise ValueError
        if text[0] in ". " or text[-1] in ". " or DEVICE_NAME.fullmatch(text):
            raise ValueError
        if any(character.isdigit() or character in "{}" for character in _neighbours(text, "{number}")):
            raise ValueError  # the number could not be read back from such a name
        return text

    return Form(allowed, parse)


def _neighbours(text: str, part: str) -> str:
    """The characters directly before and after each ``part`` of ``text``."""
    pieces = text.split(part)
    return "".join(piece[-1:] for piece in pieces[:-1]) + "".join(piece[:1] for piece in pieces[1:])


# --- one function for each kind ---


def _setting(default: Any, kind: Kind) -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind}, repr=not kind.secret)


def text(default: str, help: str, form: Form = ANY_TEXT, *, required: bool = False) -> Any:
    return _setting(default, Kind(form.parse, form.allowed, help, required=required))


def secret(help: str, allowed: str, *, required: bool = False) -> Any:
    """A text without a default, which neither a message nor the settings' ``repr`` shows."""
    return _setting("", Kind(str, allowed, help, secret=True, required=required))


def number(default: float, low: float, high: float, unit: str, help: str) -> Any:
    def parse(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError
        return value

    return _setting(default, Kind(parse, f"a number from {low:g} to {high:g} ({unit})", help))


def integer(default: int, low: int, high: int, unit: str, help: str) -> Any:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return _setting(default, Kind(parse, f"a whole number from {low} to {high} ({unit})", help))


def flag(default: bool, help: str) -> Any:
    def parse(text: str) -> bool:
        word = text.casefold()
        if word not in _TRUE + _FALSE:
            raise ValueError
        return word in _TRUE

    return _setting(default, Kind(parse, "true or false", help))


def choice(default: str, choices: tuple[str, ...], help: str) -> Any:
    def parse(text: str) -> str:
        by_word = {choice.casefold(): choice for choice in choices}
        if text.casefold() not in by_word:
            raise ValueError
        return by_word[text.casefold()]

    return _setting(default, Kind(parse, " or ".join(choices), help))


def words(default: tuple[str, ...], help: str, *, required: bool = False) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        words = tuple(word.strip() for word in text.split(",") if word.strip())
        if required and not words:
            raise ValueError
        return words

    return _setting(default, Kind(parse, "words separated by commas", help))


def several(default: tuple[str, ...], choices: tuple[str, ...], help: str) -> Any:
    """One or more of ``choices``."""

    def parse(text: str) -> tuple[str, ...]:
        words = tuple(dict.fromkeys(word.strip().casefold() for word in text.split(",") if word.strip()))
        if not words or not set(words) <= set(choices):
            raise ValueError
        return words

    allowed = f"one or more of {', '.join(choices)}, separated by commas"
    return _setting(default, Kind(parse, allowed, help))


def languages(help: str) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        tags = language_tags(word for word in text.split(",") if word.strip())
        if len(tags) > MAX_LANGUAGES:
            raise ValueError
        return tags

    allowed = f"at most {MAX_LANGUAGES} BCP 47 tags separated by commas, such as es,ar,pt-BR"
    return _setting((), Kind(parse, allowed, help))
