"""The demo's stand-in for Gemini recognises what was really said."""

from __future__ import annotations

import numpy as np
import pytest

from devtools import sound
from devtools.known_speech import KnownSpeech

SPEECH = sound.SPEECH
RATE = 16_000


@pytest.fixture(scope="module")
def lecture() -> KnownSpeech:
    return KnownSpeech.load(SPEECH, "lecture")


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (0.5, 3.8, "Good morning, everyone. Okay."),
        (7.9, 9.6, "Why is the sky blue?"),
        (3.9, 9.6, "Today we ask a question that every child asks sooner or later. Why is the sky blue?"),
    ],
)
def test_a_piece_is_heard_word_by_word(lecture: KnownSpeech, start: float, end: float, said: str) -> None:
    pcm = sound.load("lecture")[round(start * RATE) : round(end * RATE)]
    assert lecture.words_in(pcm) == said
    assert lecture.words_in((pcm * 0.3).astype(np.int16)) == said, "at any loudness"


def test_a_sentence_cut_in_two_is_heard_once(lecture: KnownSpeech) -> None:
    pcm = sound.load("lecture")
    first, second = pcm[round(21.6 * RATE) : 30 * RATE], pcm[30 * RATE : round(37.6 * RATE)]
    words = f"{lecture.words_in(first)} {lecture.words_in(second)}"
    assert words.startswith("Now imagine a ray of sunlight") and words.endswith("were not there at all.")
    assert words.count("strikes countless tiny molecules") == 1


def test_what_is_not_of_the_lecture_is_not_heard(lecture: KnownSpeech) -> None:
    noise = np.random.default_rng(1).integers(-3000, 3000, 3 * RATE, dtype=np.int16)
    assert lecture.words_in(noise) == ""
    assert lecture.words_in(np.zeros(3 * RATE, np.int16)) == ""
    assert lecture.words_in(sound.load("student")[: 4 * RATE]) == ""
