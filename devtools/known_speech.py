"""Recognises parts of a known lecture by their sound, and returns their words.

The local stand-in for Gemini uses it, so that the demo and tests show what was really said.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from devtools.listening import DECIMATION, SAMPLE_RATE, Floats, Pcm, thinned

PIECE = SAMPLE_RATE // DECIMATION
"""One second: long enough to be found in a lecture, short enough that the jitter buffer stretches it little."""
MAX_PIECES = 5
"""This many pieces suffice to locate a part of the lecture."""
ALIKE = 0.6
"""Normalised correlation of the same speech before and after Opus."""


@dataclass(frozen=True)
class _Word:
    text: str
    at_seconds: float
    """The middle of the word."""


class KnownSpeech:
    """A lecture whose sentences and their times are known."""

    def __init__(self, pcm: Pcm, sentences: list[dict[str, object]]) -> None:
        sound = thinned(pcm)
        running = np.concatenate([[0.0], np.cumsum(sound**2)])
        self._energy: Floats = running[PIECE:] - running[:-PIECE]
        self._size = 2 ** (len(sound) + PIECE).bit_length()
        self._spectrum: npt.NDArray[np.complex128] = np.fft.rfft(sound, self._size)
        self._words = [word for sentence in sentences for word in _words(sentence)]

    @classmethod
    def load(cls, folder: Path, name: str) -> KnownSpeech:
        """``NAME.flac`` and ``NAME.json`` of the folder."""
        pcm, rate = soundfile.read(folder / f"{name}.flac", dtype="int16")
        assert rate == SAMPLE_RATE
        described = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return cls(np.asarray(pcm, dtype=np.int16), described["sentences"])

    def words_in(self, pcm: Pcm) -> str:
        """The words in a part of the lecture; empty if it is other sound."""
        begins = self._place(thinned(pcm))
        if begins is None:
            return ""
        ends = begins + len(pcm) / SAMPLE_RATE
        return " ".join(word.text for word in self._words if begins <= word.at_seconds < ends)

    def _place(self, sound: Floats) -> float | None:
        """Where the part begins, in seconds: the median over its pieces. None if it is not in the lecture."""
        votes = []
        starts = range(0, len(sound) - PIECE + 1, PIECE)
        for start in starts[:: max(1, len(starts) // MAX_PIECES)]:
            place, likeness = self._find(sound[start : start + PIECE])
            if likeness > ALIKE:
                votes.append((place - start) * DECIMATION / SAMPLE_RATE)
        return float(np.median(votes)) if votes else None

    def _find(self, piece: Floats) -> tuple[int, float]:
        energy = float(np.sum(piece**2))
        if energy < 1.0:
            return 0, 0.0
        spectrum = self._spectrum * np.conj(np.fft.rfft(piece, self._size))
        likeness = np.fft.irfft(spectrum, self._size)[: len(self._energy)]
        likeness = likeness / np.sqrt(np.maximum(self._energy, 0.01 * energy) * energy)
        place = int(np.argmax(likeness))
        return place, float(likeness[place])


def _words(sentence: dict[str, object]) -> list[_Word]:
    """The words of a sentence, spread over its time by their length."""
    texts = str(sentence["text"]).split()
    start, end = float(str(sentence["start"])), float(str(sentence["end"]))
    ends = np.cumsum([len(text) for text in texts], dtype=np.float64)
    middles = (ends - np.array([len(text) for text in texts]) / 2) / ends[-1]
    return [_Word(text, start + (end - start) * float(at)) for text, at in zip(texts, middles, strict=True)]
