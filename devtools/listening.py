"""Whether something that was said is in a recording: by its sound, not by what anybody wrote about it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pcm = npt.NDArray[np.int16]
"""PCM s16le mono, shape (n,), 16 kHz."""
Floats = npt.NDArray[np.float64]

SAMPLE_RATE = 16_000
DECIMATION = 4
"""Speech is told apart by what lies below 2 kHz, and that is sixteen times as fast to search."""
PIECE = SAMPLE_RATE // DECIMATION // 2
"""Half a second: long enough to be unlike its surroundings, too short to be stretched much on the way."""
EARLY, LATE = SAMPLE_RATE // DECIMATION // 2, 2 * SAMPLE_RATE // DECIMATION
"""How far from its time a piece is looked for: on a busy machine sound arrives late, and what follows it, too."""
ALIKE = 0.6
"""Normalised correlation of the same speech before and after Opus; other speech nearby rarely gets there."""


def share_heard(recording: Pcm, said: Pcm, at_sample: int) -> float:
    """Which share of it, from 0 to 1, is heard in the recording about where it was said."""
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
    likeness = np.correlate(window, piece, "valid")
    running = np.concatenate([[0.0], np.cumsum(window**2)])
    energy = running[len(piece) :] - running[: -len(piece)]
    return bool(np.max(likeness / np.sqrt(np.maximum(energy, 1.0) * max(_energy(piece), 1.0))) > ALIKE)


def thinned(pcm: Pcm) -> Floats:
    """The same sound at 4 kHz."""
    whole = pcm[: len(pcm) // DECIMATION * DECIMATION]
    sound: Floats = whole.reshape(-1, DECIMATION).mean(axis=1)
    return sound


def _energy(sound: Floats) -> float:
    return float(np.sum(sound**2))
