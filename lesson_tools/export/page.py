"""`lesson.html`: a lesson as one file that opens from disk, without a server and without the network.

The page contains what was said as text, so it can be read, printed and searched where scripts are not allowed; the
script in it (lesson_tools/export/lesson_page/page.js) adds playing, searching and the rest, from data in a JSON
block. Everything from outside is escaped, and the page's content security policy lets nothing run but that script,
which it identifies by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from core.plain_text import one_line
from lesson_tools.export.subtitles import clock, is_right_to_left
from lesson_tools.lesson import Lesson, Utterance

TEMPLATES = Path(__file__).resolve().parent / "lesson_page"
COLOURS = 6
"""Number of colours for speakers; the seventh speaker gets the first colour again."""
PAUSE_SECONDS = 4.0
"""Longer pauses are shown as a space between two lines."""


@dataclass(frozen=True)
class Media:
    """What the page plays."""

    video: str | None = None
    """Address of the video, absolute or relative to the page."""
    sound_of: Callable[[Utterance], str | None] = field(default=lambda one: None)
    """Address of a line's sound, or a ``data:`` address with the sound itself; None if there is none."""


def page(lesson: Lesson, media: Media, zone: tzinfo) -> str:
    """Renders the whole file."""
    style, script = _template("page.css"), _template("page.js")
    title = one_line(lesson.room) or "Lesson"
    began = lesson.started_at.astimezone(zone)
    return string.Template(_template("page.html")).substitute(
        policy=_policy(style, script, media.video),
        style=style,
        script=script,
        language=html.escape(lesson.languages[0] if lesson.languages else "en"),
        title=html.escape(title),
        date=html.escape(f"{began:%Y-%m-%d %H:%M}"),
        moment=html.escape(began.isoformat(timespec="seconds")),
        facts=html.escape(_facts(lesson)),
        legend=_legend(lesson),
        languages="".join(_language_button(tag) for tag in lesson.languages),
        picture=_picture(lesson),
        video=_video(media.video),
        lines="\n".join(_lines(lesson)),
        data=_data(lesson, media),
    )


def address(path: Path, folder: Path) -> str:
    """Returns the address of a file from a page in ``folder``: relative where possible."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))
    except ValueError:  # another drive of a Windows machine
        return path.resolve().as_uri()


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _policy(style: str, script: str, video: str | None) -> str:
    media = ["'self'", "file:", "data:"]
    if video and (parts := urlsplit(video)).scheme in ("http", "https"):
        media.append(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")
    return html.escape(
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; media-src {' '.join(media)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    """Returns the policy's source for an inline style or script; the browser hashes all text between the tags."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# --- the head ---


def _facts(lesson: Lesson) -> str:
    speech = sum(one.end - one.start for one in lesson.utterances)
    return f"{clock(lesson.seconds)} long · {clock(speech)} of speech"


def _legend(lesson: Lesson) -> str:
    return "".join(
        f'<li class="who-{number % COLOURS}"><bdi>{html.escape(one_line(name) or "Unknown")}</bdi></li>'
        for number, name in enumerate(lesson.speakers)
    )


def _language_button(tag: str) -> str:
    name = html.escape(tag)
    return (
        f'<button type="button" class="language" data-language="{name}" aria-pressed="true">{name}</button>'
    )


def _video(video: str | None) -> str:
    if video is None:
        return ""
    return f'<video id="video" src="{html.escape(video)}" controls playsinline preload="metadata"></video>'


# --- the picture of the lesson over time ---


def _picture(lesson: Lesson) -> str:
    """Draws speech as bars, with a row for each speaker, and a time scale."""
    whole = max(lesson.seconds, 1.0)
    rows = {name: number for number, name in enumerate(lesson.speakers)}
    height = max(1, len(rows)) * ROW_HEIGHT + SCALE_HEIGHT
    bars = "".join(
        f'<rect class="who-{rows[one.speaker] % COLOURS}" x="{100 * one.start / whole:.3f}%" '
        f'y="{rows[one.speaker] * ROW_HEIGHT + 3}" width="{100 * (one.end - one.start) / whole:.3f}%" '
        f'height="{ROW_HEIGHT - 6}"/>'
        for one in lesson.utterances
    )
    marks = "".join(
        f'<text x="{100 * at / whole:.3f}%" y="{height - 4}">{clock(shown)}</text>'
        f'<line x1="{100 * at / whole:.3f}%" x2="{100 * at / whole:.3f}%" y1="0" y2="{height - SCALE_HEIGHT}"/>'
        for at, shown in _scale(whole, _video_shift(lesson))
    )
    return f'<svg width="100%" height="{height}" aria-hidden="true"><g class="scale">{marks}</g>{bars}</svg>'


ROW_HEIGHT, SCALE_HEIGHT = 26, 20


def _video_shift(lesson: Lesson) -> float | None:
    """Returns video time minus lesson time, 0 without a video; None if a cut changes it within the lesson."""
    shifts = [one.video - one.start for one in lesson.utterances if one.video is not None] or [0.0]
    return shifts[0] if max(shifts) - min(shifts) < 5.0 else None


def _scale(whole: float, shift: float | None) -> Iterator[tuple[float, float]]:
    """Yields about six lesson times whose shown times are round; none too near the end for its label to fit."""
    if shift is None:
        return
    steps = (5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
    step = next((step for step in steps if whole / step <= 7), 4 * 3600)
    for shown in range(math.ceil(shift / step) * step, int(shift + whole * 0.96) + 1, step):
        yield shown - shift, float(shown)


# --- the lines ---


def _lines(lesson: Lesson) -> Iterator[str]:
    colours = {name: number % COLOURS for number, name in enumerate(lesson.speakers)}
    last: Utterance | None = None
    for number, one in enumerate(lesson.utterances):
        is_new = last is None or one.speaker != last.speaker
        who = _who(one.speaker, is_new) if len(colours) > 1 else ""
        is_later = last is not None and one.start - last.end >= PAUSE_SECONDS
        yield _line(number, one, lesson.languages, colours[one.speaker], who, is_later)
        last = one


def _who(speaker: str, is_new: bool) -> str:
    """Renders the name. A speaker who continues has it only while a search hides the lines before."""
    name = html.escape(one_line(speaker) or "Unknown")
    return f'<p class="who{"" if is_new else " again"}"><bdi>{name}</bdi></p>'


def _line(
    number: int, one: Utterance, languages: Sequence[str], colour: int, who: str, is_later: bool
) -> str:
    shown = one.video if one.video is not None else one.start
    classes = f"line who-{colour}" + (" later" if is_later else "")
    return (
        f'<li class="{classes}" id="line-{number + 1}">'
        f'<a class="time" href="#t={shown:.2f}">{clock(shown)}</a>{who}'
        f'<div class="texts">{_texts(one, languages)}</div></li>'
    )


def _texts(one: Utterance, languages: Sequence[str]) -> str:
    if not one.texts:
        return '<p class="nothing">no text</p>'
    return "".join(_text(one, tag) for tag in languages)


def _text(one: Utterance, tag: str) -> str:
    words = one_line(one.texts.get(tag, ""))
    direction = "rtl" if is_right_to_left(words) else "ltr"
    spoken = ' class="spoken"' if tag == one.spoken else ""
    name = html.escape(tag)
    return f'<p lang="{name}" data-language="{name}" dir="{direction}"{spoken}>{html.escape(words)}</p>'


def _data(lesson: Lesson, media: Media) -> str:
    """Returns the script's data as JSON, escaped so that it cannot close its script element."""
    lines: list[dict[str, Any]] = [
        {
            "start": round(one.start, 3),
            "end": round(one.end, 3),
            "video": None if one.video is None else round(one.video, 3),
            "sound": media.sound_of(one),
        }
        for one in lesson.utterances
    ]
    text = json.dumps({"seconds": round(lesson.seconds, 3), "lines": lines}, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
