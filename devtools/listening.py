"""Finds speech in a recording by its sound, without using any manifest or text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from devtools.correlation import correlated

Pcm = npt.NDArray[np.int16]
"""PCM s16le mono, shape (n,), 16 kHz."""
Floats = npt.NDArray[np.float64]

SAMPLE_RATE = 16_000
DECIMATION = 4
"""Frequencies below 2 kHz suffice to distinguish speech, and are sixteen times as fast to search."""
PIECE = SAMPLE_RATE // DECIMATION // 2
"""Half a second: long enough to be unique nearby, short enough that the jitter buffer stretches it little."""
EARLY, LATE = SAMPLE_RATE // DECIMATION // 2, 2 * SAMPLE_RATE // DECIMATION
"""How far before and after its time a piece is searched: on a busy machine sound arrives late."""
ALIKE = 0.6
"""Normalised correlation of the same speech before and after Opus; other speech nearby rarely gets there."""


def share_heard(recording: Pcm, said: Pcm, at_sample: int) -> float:
    """The share of ``said``, from 0 to 1, that is in the recording near ``at_sample``, where it was said."""
    sound, where = thinned(said), max(0, at_sample) // DECIMATION
    searched = np.pad(thinned(recording), (EARLY, LATE + PIECE))  # so that ``where`` is the earliest place
    pieces = {
        start: sound[start : start + PIECE] for start in range(0, max(1, len(sound) - PIECE + 1), PIECE)
    }
    loudest = max(_energy(piece) for piece in pieces.values())
    audible = {start: piece for start, piece in pieces.items() if _energy(piece) > 0.01 * loudest}
    found = 0
    for start, piece in audible.items():
        found += _is_in(searched[where + start : where + start + EARLY + LATE + len(piece)], piece)
    return found / len(audible)


def _is_in(window: Floats, piece: Floats) -> bool:
    if len(window) < len(piece):
        return False
    likeness = correlated(window, piece)
    running = np.concatenate([[0.0], np.cumsum(window**2)])
    energy = running[len(piece) :] - running[: -len(piece)]
    return bool(np.max(likeness / np.sqrt(np.maximum(energy, 1.0) * max(_energy(piece), 1.0))) > ALIKE)


def thinned(pcm: Pcm) -> Floats:
    """The sound at a sample rate of 4 kHz."""
    whole = pcm[: len(pcm) // DECIMATION * DECIMATION]
    sound: Floats = whole.reshape(-1, DECIMATION).mean(axis=1)
    return sound


def _energy(sound: Floats) -> float:
    return float(np.sum(sound**2))
