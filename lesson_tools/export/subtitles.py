"""Makes readable cues from texts and their times, and writes WebVTT, SRT and plain text.

A cue has at most two lines of about 42 Latin or 16 East Asian characters, stays for as long as reading it takes where
the speaker leaves that much time, and never overlaps another. Long speech is split where a reader would pause: at the
end of a sentence, else of a clause, else between words. The two formats are a few lines each, so they are written
here; libraries for them have a document model (styles, override tags), and plain text would have to be escaped for it.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from core.character_width import character_width, is_wide
from core.plain_text import one_line

LINE_WIDTH = 42.0
"""Longest line, in widths of a Latin letter."""
WIDE = LINE_WIDTH / 16
"""Width of a Chinese, Japanese or Korean character, which holds more meaning than a letter and takes longer to read."""
LINES = 2
READING_SPEED = 20.0
"""Reading speed, in widths of a Latin letter a second."""
MIN_SECONDS = 0.8
MAX_SECONDS = 7.0
SHORTEST_SECONDS = 0.01
"""How long a cue is shown if no time is left for it."""

SENTENCE_END = ".!?…。！？؟۔।"
CLAUSE_END = ",;:–—、，；：،؛"
CLOSING = "\"'”’»)]}）］」』】〉》"
NEVER_FIRST = SENTENCE_END + CLAUSE_END + CLOSING + "ーぁぃぅぇぉっゃゅょァィゥェォッャュョ々%"
"""Characters that must not begin a line in scripts without spaces between words."""

AFTER_SENTENCE, AFTER_CLAUSE, BETWEEN_WORDS, BETWEEN_CHARACTERS, INSIDE_WORD = 0.0, 0.12, 0.3, 0.34, 3.0
"""Cost of a break there, added to its distance from the middle as a share of the text's length."""

NEVER_LAST = "\u200c\u200d\u17d2\u1039" + "เแโใไ" + "ເແໂໃໄ"
"""What belongs to the letter after it: joiners of Persian, Hindi and others, the signs of Khmer and Burmese for a
letter below, and the vowels of Thai and Lao that are written before their consonant."""
STAY_BEHIND = "ะาำๅๆฯ" + "ະາຳໆຯ"
"""Vowels and signs of Thai and Lao that belong to the letter before them."""
WORD_SPACE = "\u200b"
"""Invisible; between the words of Khmer and Thai."""
RIGHT_TO_LEFT_MARK = "\u200f"
WORD_JOINER = "\u2060"


@dataclass(frozen=True)
class Spoken:
    """One person's uninterrupted speech; times in seconds from the beginning of lesson or video."""

    start: float
    end: float
    text: str
    speaker: str = ""


@dataclass(frozen=True)
class Cue:
    """One or two lines of text, shown from ``start`` to ``end`` (seconds)."""

    start: float
    end: float
    lines: tuple[str, ...]
    speaker: str = ""
    latest_start: float = math.inf
    """Its start may be delayed until then, the end of its speech (seconds)."""

    @property
    def text(self) -> str:
        return " ".join(self.lines)


# --- the formats ---


def webvtt(spoken: Iterable[Spoken], language: str, title: str = "") -> str:
    """Makes a WebVTT file (W3C). Speakers are voices, which players may show or colour."""
    blocks = ["WEBVTT", f"NOTE {_escaped(one_line(' '.join((title, language))))}"]
    for number, cue in enumerate(cues(spoken), start=1):
        text = "\n".join(_escaped(_directed(line, cue.text)) for line in cue.lines)
        voice = f"<v {_escaped(one_line(cue.speaker))}>" if one_line(cue.speaker) else ""
        blocks.append(f"{number}\n{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{voice}{text}")
    return "\n\n".join(blocks) + "\n"


def srt(spoken: Iterable[Spoken]) -> str:
    """Makes a SubRip file. If several people speak, the name is written wherever the speaker changes.

    The format has neither voices nor escapes: invisible characters break up what players would take for a tag.
    """
    blocks = []
    for number, cue in enumerate(cues(_with_names(spoken)), start=1):
        text = "\n".join(_without_tags(_directed(line, cue.text)) for line in cue.lines)
        blocks.append(f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{text}\n")
    return "\n".join(blocks)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _without_tags(line: str) -> str:
    for character in "<{\\":  # many players convert it to ASS, where a backslash and a letter may end a line
        line = line.replace(character, f"{character}{WORD_JOINER}")
    return line.replace("-->", f"--{WORD_JOINER}>")


def _directed(line: str, text: str) -> str:
    """Marks a right-to-left line so that its punctuation stays at its end in players that assume left to right."""
    if not is_right_to_left(text):
        return line
    first = "" if _is_right(line[0]) else RIGHT_TO_LEFT_MARK
    last = "" if _is_right(line[-1]) else RIGHT_TO_LEFT_MARK
    return f"{first}{line}{last}"


def _with_names(spoken: Iterable[Spoken]) -> list[Spoken]:
    in_order = sorted(spoken, key=lambda one: one.start)
    if len({one.speaker for one in in_order}) < 2:
        return in_order
    before = [None, *(one.speaker for one in in_order)]
    return [
        replace(one, text=f"{one.speaker}: {one.text}") if one.speaker and one.speaker != last else one
        for one, last in zip(in_order, before, strict=False)
    ]


# --- plain text ---


def is_right_to_left(text: str) -> bool:
    """Returns whether most letters of a text are of a script written from right to left."""
    right = sum(map(_is_right, text))
    return right > sum(unicodedata.bidirectional(character) == "L" for character in text)


def _is_right(character: str) -> bool:
    return unicodedata.bidirectional(character) in ("R", "AL")


def width(text: str) -> float:
    """Returns a text's width, in Latin letters; combining marks have none."""
    return sum(character_width(character, WIDE) for character in text)


# --- cues ---


def cues(spoken: Iterable[Spoken]) -> list[Cue]:
    """Makes readable cues in order of time, none overlapping the next."""
    in_order = sorted(spoken, key=lambda one: (one.start, one.end))
    return _apart([cue for one in _in_turn(in_order) for cue in _cues_of(one)])


def _in_turn(in_order: list[Spoken]) -> Iterator[Spoken]:
    """Ends speech that is interrupted in its second half at the interruption, so that two speakers' cues do not mix."""
    for one, following in itertools.zip_longest(in_order, in_order[1:]):
        middle = (one.start + one.end) / 2
        yield replace(one, end=following.start) if following and middle < following.start < one.end else one


def _cues_of(one: Spoken) -> Iterator[Cue]:
    """Splits one piece of speech into cues, each with its share of the time."""
    text = one_line(one.text)
    if not text:
        return
    duration = max(one.end - one.start, MIN_SECONDS)
    parts = _split(text, MAX_SECONDS / duration * width(text))
    ends = list(itertools.accumulate(width(part) for part in parts))
    per_width = duration / max(ends[-1], 1.0)
    for part, end in zip(parts, ends, strict=True):
        start = one.start + (end - width(part)) * per_width
        end_of_part = one.start + end * per_width
        yield Cue(
            start,
            end_of_part,
            wrapped(part) or (part,),
            one.speaker,
            latest_start=max(one.end, one.start + MIN_SECONDS),
        )


def _apart(wanted: list[Cue]) -> list[Cue]:
    """Moves starts apart, and each end as late as reading needs and the next start allows.

    A start is put off to the end of its own speech at most, so that too much text for one piece of speech moves nothing
    that comes after it: its cues are shorter than they should be.
    """
    in_order = sorted(wanted, key=lambda cue: cue.start)
    starts = [cue.start for cue in in_order[:1]]
    for last, cue in itertools.pairwise(in_order):
        apart = starts[-1] + min(MIN_SECONDS, last.end - last.start)
        starts.append(max(cue.start, min(apart, cue.latest_start), starts[-1] + SHORTEST_SECONDS))
    result = []
    for cue, start, following in zip(in_order, starts, [*starts[1:], math.inf], strict=False):
        read = start + max(width(cue.text) / READING_SPEED, MIN_SECONDS)
        result.append(Cue(start, min(max(cue.end, read), following), cue.lines, cue.speaker))
    return result


def _split(text: str, widest: float) -> list[str]:
    """Splits a text into parts that fit a cue and are no wider than ``widest``, by halving it at the best breaks."""
    if width(text) <= max(widest, MIN_SECONDS * READING_SPEED) and wrapped(text):
        return [text]
    halves = _best_break(text)
    if halves is None:
        return [text]
    return [part for half in halves for part in _split(half, widest)]


def wrapped(text: str) -> tuple[str, ...] | None:
    """Wraps a text to one or two lines; None if it is too long for that."""
    if width(text) <= LINE_WIDTH:
        return (text,)
    if width(text) > LINES * LINE_WIDTH:
        return None
    return _best_break(text, LINE_WIDTH, worst=BETWEEN_CHARACTERS)


def _best_break(text: str, widest: float = math.inf, worst: float = INSIDE_WORD) -> tuple[str, str] | None:
    """Splits a text in two at the best break near the middle.

    None if no break that is not worse than ``worst`` leaves both halves narrow enough.
    """
    best, least = None, math.inf
    whole = width(text)
    left_widths = list(
        itertools.accumulate((character_width(character, WIDE) for character in text), initial=0.0)
    )
    for position in range(1, len(text)):
        badness = _badness(text, position)
        cost = badness + abs(left_widths[position] / max(whole, 1.0) - 0.5)
        if cost < least and badness <= worst:
            left, right = text[:position].rstrip(), text[position:].lstrip()
            if left and right and (widest == math.inf or max(width(left), width(right)) <= widest):
                best, least = (left, right), cost
    return best


def _badness(text: str, position: int) -> float:
    """Returns the cost of a break before ``position``; a space belongs to the word before it."""
    before, after = text[position - 1], text[position]
    is_mark = unicodedata.category(after) in ("Mn", "Mc", "Me", "Cf") or after in STAY_BEHIND
    if is_mark or before in NEVER_LAST:
        return math.inf
    if before == " ":
        return _after(text[:position].rstrip())
    if before == WORD_SPACE:
        return BETWEEN_WORDS
    if is_wide(before) or is_wide(after):
        may_begin = after not in NEVER_FIRST and after != " "
        return min(_after(text[:position]), BETWEEN_CHARACTERS) if may_begin else INSIDE_WORD
    return INSIDE_WORD


def _after(text: str) -> float:
    last = text.rstrip(CLOSING)[-1:]
    if last and last in SENTENCE_END:
        return AFTER_SENTENCE
    return AFTER_CLAUSE if last and last in CLAUSE_END else BETWEEN_WORDS


def plain_text(spoken: Sequence[Spoken]) -> str:
    """Writes the transcript, with a new paragraph for each change of speaker and after long pauses."""
    paragraphs: list[str] = []
    last: Spoken | None = None
    several = len({one.speaker for one in spoken}) > 1
    for one in sorted(spoken, key=lambda one: one.start):
        text = one_line(one.text)
        if not text:
            continue
        if last is None or one.speaker != last.speaker or one.start - last.end > PARAGRAPH_PAUSE_SECONDS:
            name = f"{one_line(one.speaker)}: " if several and one.speaker else ""
            paragraphs.append(f"[{clock(one.start)}] {name}{text}")
        else:
            paragraphs[-1] += f" {text}"
        last = one
    return "\n\n".join(paragraphs) + ("\n" if paragraphs else "")


PARAGRAPH_PAUSE_SECONDS = 3.0


def clock(seconds: float) -> str:
    """Formats a time as ``4:05`` or ``1:04:05``."""
    minutes, rest = divmod(max(0, math.floor(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
