"""Whether a text can be what was said in a time: finds the loops and echoes of models that write text. Pure.

Models that transcribe sound sometimes repeat a word thousands of times, or write what they were told in place of what
is said. That shows in too many characters a second, in the same words over and over, or in a row of the prompt's words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from core.character_width import character_width, is_wide
from core.text_records import Translation

MAX_WIDTH_PER_SECOND = 40.0
"""Maximum width of a second of speech, in Latin letters. The fastest speech has about 30."""
SPARE_WIDTH = 80.0
"""Allowed in addition: numbers, formulas and short exclamations are long in writing."""
USUAL_WIDTH_PER_SECOND = 20.0
"""Width of a second of quick speech. A text that is too long to be true is cut to this."""
WIDE = 2.5
"""Width of a Chinese, Japanese or Korean character: it stands for a syllable or a word."""
MIN_LOOP_BYTES = 120
"""Shorter repetitions, and shorter texts, are no loop: people laugh, count and chant."""
MAX_UNIT = 200
"""Longest unit of a repetition that is found, in characters."""
MIN_REPETITIONS = 6
"""The same words this many times in a row are no speech."""
MIN_ECHO_WORDS = 6.0
"""This many words of the prompt in a row are no coincidence."""
WORDS_PER_WIDE_CHARACTER = 0.5
"""How many words a Chinese, Japanese or Korean character counts as."""
MAX_WORDS_BEFORE_ECHO = 3
"""How many words may come before an echo, such as ``Okay.``"""

TOO_LONG = "more text than can be said in the time"
LOOP = "the same words over and over"
ECHO = "words of the prompt"

_LOOP = re.compile(rf"(?P<unit>.{{1,{MAX_UNIT}}}?)(?P=unit){{{MIN_REPETITIONS - 1},}}", re.DOTALL)


def doubt_about(text: str, seconds: float, prompts: Iterable[str] = ()) -> str:
    """Why a text is probably not what was said in ``seconds``; empty: there is no reason to think so.

    Args:
        prompts: the texts that were sent with the sound: instructions, and the sentences before.
    """
    if width(text) > max_width(seconds):
        return TOO_LONG
    if is_loop(text):
        return LOOP
    return ECHO if any(is_echo(text, prompt) for prompt in prompts) else ""


def max_width(seconds: float) -> float:
    """The maximum width of the text of this many seconds of speech."""
    return SPARE_WIDTH + MAX_WIDTH_PER_SECOND * max(0.0, seconds)


def width(text: str) -> float:
    """The width of a text in Latin letters; marks on letters have none."""
    return sum(character_width(character, WIDE) for character in text)


def is_loop(text: str) -> bool:
    """Whether a text has a long row of repetitions, or consists mostly of repetitions."""
    runs = [_bytes_of(found[0]) for found in _LOOP.finditer(text)]
    size = _bytes_of(text)
    return size >= MIN_LOOP_BYTES and (max(runs, default=0) >= MIN_LOOP_BYTES or sum(runs) > size / 2)


def _bytes_of(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def is_echo(text: str, prompt: str) -> bool:
    """Whether a text is a part of the prompt, or has a row of its words at its beginning or soon after it."""
    said, prompted = _words(text), _words(prompt)
    rows = (_row(said[start:]) for start in range(MAX_WORDS_BEFORE_ECHO + 1))
    return any(
        prompted[start : start + len(row)] == row
        for row in rows
        if row
        for start in range(len(prompted) - len(row) + 1)
    )


def _row(words: Sequence[str]) -> Sequence[str]:
    """The first words, as many as are no coincidence; empty if there are fewer."""
    count = 0.0
    for index, word in enumerate(words, 1):
        count += WORDS_PER_WIDE_CHARACTER if is_wide(word[0]) else 1.0
        if count >= MIN_ECHO_WORDS:
            return words[:index]
    return ()


def _words(text: str) -> Sequence[str]:
    """The words of a text; of Chinese, Japanese and Korean, which may have no spaces, the characters."""
    words = re.findall(r"\w+", text.casefold())
    return [part for word in words for part in (word if is_wide(word[0]) else (word,))]


def without_repetitions(text: str) -> str:
    """A text in which what is repeated many times in a row is there three times."""
    parts, end = [], 0
    for found in _LOOP.finditer(text):
        parts += [text[end : found.start()], found["unit"] * 3]
        end = found.end()
        rest = text[end:]
        if found["unit"].startswith(rest):  # the last repetition is cut off
            end = len(text)
    return "".join((*parts, text[end:]))


def shortened(text: str, seconds: float) -> str:
    """A text that is too long to be true, without its repetitions and cut to the length of quick speech."""
    text = without_repetitions(text).strip()
    most, length = SPARE_WIDTH / 2 + USUAL_WIDTH_PER_SECOND * max(0.0, seconds), 0.0
    for position, character in enumerate(text):
        length += character_width(character, WIDE)
        if length > most:
            whole_words = text[:position].rpartition(" ")[0]
            return whole_words if len(whole_words) > position / 2 else text[:position]
    return text


def plausible(translation: Translation, seconds: float) -> Translation:
    """A translation with a transcript without loops, and no longer than can be said in ``seconds``."""
    text = translation.transcript
    if is_loop(text):
        text = without_repetitions(text).strip()
    is_short_enough = width(text) <= max_width(seconds)
    return replace(translation, transcript=text if is_short_enough else shortened(text, seconds))


def without_loops(translation: Translation, seconds: float) -> Translation:
    """A translation without the texts that cannot be translations of its transcript: those are missing."""
    bad = {
        tag
        for tag, text in translation.translations.items()
        if width(text) > 2 * max_width(seconds) or (is_loop(text) and not is_loop(translation.transcript))
    }
    return replace(
        translation,
        translations={tag: text for tag, text in translation.translations.items() if tag not in bad},
        missing=(*translation.missing, *(tag for tag in translation.translations if tag in bad)),
    )
