"""Generates what the teacher says: sentences of markers, which can be found by their sound, with a lecturer's pauses.

The markers are said in turn, so that a marker is repeated only after most of a minute: a marker and its approximate
time identify the word of the lecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from devtools import sound
from devtools.speakers import Said

SHORT, SENTENCE, LONG = (1, 3), (3, 7), (8, 13)
"""Number of markers in an utterance: from the first (included) to the second (excluded). A marker takes 1.4 s."""
MIX = ((SHORT, 0.25), (SENTENCE, 0.55), (LONG, 0.2))
BREATH_SECONDS = (0.05, 0.3)
"""The shortest and the longest time between two markers of one utterance."""
PAUSES = (((0.4, 0.4), 0.3), ((0.7, 1.5), 0.4), ((2.0, 4.0), 0.3))
"""Seconds of silence after an utterance (from, to), and their share of all pauses."""
BREATHLESS_EVERY, BREATHLESS_MARKERS = 40, 44
"""One utterance in this many lasts a minute without a pause."""


class Word(NamedTuple):
    """One marker as it was said."""

    marker: int
    start: float
    """Seconds since the epoch."""
    seconds: float
    is_timed: bool = True
    """Whether the start is exact; not if the speaker's own process stalled during the utterance."""

    @property
    def end(self) -> float:
        return self.start + self.seconds


@dataclass(frozen=True)
class Utterance:
    """Some markers, the breaths between them, and the pause afterwards."""

    markers: tuple[int, ...]
    breaths: tuple[float, ...]
    pause_seconds: float

    def sound(self, markers: Sequence[sound.Marker]) -> tuple[sound.IntArray, list[sound.Placed]]:
        spoken = [markers[index] for index in self.markers]
        return sound.sequence(spoken, list(self.breaths), lead_seconds=0, tail_seconds=0)


def script(marker_count: int, seed: int = 1) -> Iterator[Utterance]:
    """The utterances of an endless lecture; the same for the same seed."""
    random = np.random.default_rng(seed)
    said, number = 0, 0
    while True:
        number += 1
        if number % BREATHLESS_EVERY == 0:
            count, breaths = BREATHLESS_MARKERS, [0.0] * (BREATHLESS_MARKERS - 1)
        else:
            fewest, below = _one_of(MIX, random)
            count = int(random.integers(round(fewest), round(below)))
            breaths = [float(breath) for breath in random.uniform(*BREATH_SECONDS, count - 1)]
        markers = tuple((said + index) % marker_count for index in range(count))
        yield Utterance(markers, tuple(breaths), float(random.uniform(*_one_of(PAUSES, random))))
        said += count


def words(said: Said, placed: Sequence[sound.Placed], pcm: sound.IntArray) -> list[Word]:
    """When each marker of an utterance was said."""
    is_timed = abs(said.end - said.start - len(pcm) / sound.SAMPLE_RATE) < 0.005
    return [
        Word(
            one.marker_index,
            said.start + one.start_sample / sound.SAMPLE_RATE,
            (one.end_sample - one.start_sample) / sound.SAMPLE_RATE,
            is_timed,
        )
        for one in placed
    ]


def _one_of(
    choices: Sequence[tuple[tuple[float, float], float]], random: np.random.Generator
) -> tuple[float, float]:
    return choices[int(random.choice(len(choices), p=[weight for _, weight in choices]))][0]
