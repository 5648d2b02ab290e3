"""Speech for the tests: loads it, concatenates it, and finds it in recordings.

Markers are short spoken sentences that do not resemble each other (devtools/speech/markers). A test says them in
a known order, sends them through Opus and the recorder, and checks which of them are in the recording.
A marker is found where the recording has nearly its shape: where their normalised cross-correlation, which
is 1 for the same shape at any loudness and 0 for an unrelated one, exceeds a threshold. Its square is about
the share of the marker's energy that is there.

Everywhere: PCM s16le mono, shape (n,), 16 kHz; positions and lengths in samples unless a name says seconds.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from devtools.correlation import (
    OVERLAP,
    ROUNDING,
    EnergyArray,
    FloatArray,
    Recording,
    correlated,
    normalised,
    running_energy,
)

IntArray = npt.NDArray[np.int16]

SPEECH = Path(__file__).resolve().parent / "speech"
SAMPLE_RATE = 16_000

THRESHOLD = 0.5
"""Two markers score 0.32 at most, a marker in other speech 0.41, one that went through Opus 0.82 at least."""
OPENING = round(0.4 * SAMPLE_RATE)
"""A cut-off marker is located by its first 0.4 s: less than that resembles too much other speech."""
OPENING_THRESHOLD = 0.75
"""Through Opus an opening scores at least 0.86; in a minute of other speech it seldom scores over 0.7."""
PIECE = round(0.2 * SAMPLE_RATE)
"""Shortest piece of a marker that `partly_heard` looks for."""
PIECE_ENERGY = 0.05
"""Least share of the marker's energy that a piece holds."""
PIECE_THRESHOLD = 0.55
"""Through Opus at 16 kbit/s or more a piece scores at least 0.64."""
PIECE_DRIFT = round(0.050 * SAMPLE_RATE)
"""How far a piece may lie from where the marker's start puts it: a jitter buffer on a busy machine shifts speech."""
STRETCH = round(0.050 * SAMPLE_RATE)
"""How far such a buffer may move the pieces of one marker apart."""
VOTE_THRESHOLD = 0.7
MAX_PIECES = 0.55
"""The share of a stretched marker that must be heard: at least 0.69 in recordings, in other speech at most 0.38."""
TORN_THRESHOLD = 0.65
FRAME = SAMPLE_RATE // 50
SPEECH_ENERGY = 0.01
"""A frame with at least this share of the loudest frame's energy may be speech."""
MIN_OTHER_FRAMES = 15
"""Less than 0.3 s of other speech holds no marker."""


@dataclass(frozen=True)
class Marker:
    """One short sentence that can be found again. Tight: it starts and ends with sound."""

    index: int
    text: str
    pcm: IntArray = field(repr=False, compare=False)


class Placed(NamedTuple):
    """Where `sequence` put a marker: samples start_sample <= i < end_sample."""

    marker_index: int
    start_sample: int
    end_sample: int


class Occurrence(NamedTuple):
    """Where a marker begins in a recording (below 0: its beginning is cut off), and its score, 0 to 1."""

    start_sample: int
    score: float


@functools.cache
def load(name: str) -> IntArray:
    """The samples of devtools/speech/<name>.flac, which is decoded once: they cannot be changed."""
    pcm, rate = soundfile.read(SPEECH / f"{name}.flac", dtype="int16")
    assert rate == SAMPLE_RATE and pcm.ndim == 1
    pcm.flags.writeable = False
    return np.asarray(pcm, dtype=np.int16)


def markers() -> list[Marker]:
    """All markers, in the order of their index."""
    return list(_markers())


@functools.cache
def _markers() -> tuple[Marker, ...]:
    listed = json.loads((SPEECH / "markers" / "markers.json").read_text(encoding="utf-8"))
    return tuple(
        Marker(index, entry["text"], load(f"markers/{Path(entry['file']).stem}"))
        for index, entry in enumerate(listed)
    )


def sequence(
    markers: Sequence[Marker],
    gap_seconds: float | Sequence[float],
    lead_seconds: float = 0.5,
    tail_seconds: float = 1.0,
) -> tuple[IntArray, list[Placed]]:
    """Joins the markers with near-silence between them; returns the sound, and where each marker is.

    `gap_seconds` is one length for all gaps, or one for each of the len(markers) - 1 gaps.
    """
    gaps = _gap_list(gap_seconds, len(markers) - 1)
    pauses = [lead_seconds, *gaps, tail_seconds]
    pieces = [near_silence(pauses[0])]
    placed: list[Placed] = []
    position = pieces[0].size
    for marker, pause_seconds in zip(markers, pauses[1:], strict=True):
        placed.append(Placed(marker.index, position, position + marker.pcm.size))
        pieces += [marker.pcm, near_silence(pause_seconds, seed=len(placed))]
        position += marker.pcm.size + pieces[-1].size
    return np.concatenate(pieces), placed


def _gap_list(gap_seconds: float | Sequence[float], count: int) -> list[float]:
    gaps = [float(gap_seconds)] * count if isinstance(gap_seconds, (int, float)) else list(gap_seconds)
    if len(gaps) != count:
        raise ValueError(f"{count} gaps between the markers, but {len(gaps)} lengths for them")
    return gaps


def near_silence(length_seconds: float, seed: int = 0) -> IntArray:
    """Noise at about -76 dBFS, as in a quiet room: digital zeros would be easier than a microphone's sound."""
    noise = np.random.default_rng(seed).normal(scale=5, size=round(length_seconds * SAMPLE_RATE))
    return np.round(noise).astype(np.int16)


def find_marker(recording: IntArray, marker: Marker) -> list[Occurrence]:
    """Finds every place where the marker is heard, in order; of places closer than its length, only the best."""
    return _occurrences(_prepared(recording), marker.pcm, THRESHOLD)


def find_markers(recording: IntArray, markers: Sequence[Marker]) -> list[list[Occurrence]]:
    """Does the same as :func:`find_marker` for each of several markers."""
    searched = _prepared(recording)
    return [_occurrences(searched, marker.pcm, THRESHOLD) for marker in markers]


def heard(recording: IntArray, markers: Sequence[Marker], threshold: float = THRESHOLD) -> list[int]:
    """The indices of the markers in the recording, in order of position; one said twice is listed twice.

    A marker that was cut off is still found if it keeps about a third of its energy. A threshold of 0.75
    asks for more than half of it, and `partly_heard` measures how much there is.
    """
    searched = _prepared(recording)
    found = _placed(markers, lambda marker: _occurrences(searched, marker.pcm, threshold))
    if _has_other_speech(recording, found):
        whole = {marker.index for _, marker in found}
        others = [marker for marker in markers if marker.index not in whole]
        found += _placed(others, lambda marker: _stretched(searched, marker.pcm))
    return [index for _, index in sorted((start, marker.index) for start, marker in found)]


def _placed(
    markers: Sequence[Marker], search: Callable[[Marker], list[Occurrence]]
) -> list[tuple[int, Marker]]:
    return [(place.start_sample, marker) for marker in markers for place in search(marker)]


def _has_other_speech(recording: IntArray, found: Sequence[tuple[int, Marker]]) -> bool:
    """Whether there is more speech than these markers. If not, no other marker has to be sought, which is most of the
    work: most markers are in no recording."""
    rest = _as_float(recording)
    least = SPEECH_ENERGY * _frame_energies(rest).max(initial=0.0)
    for start, marker in found:
        rest[max(0, start) : max(0, start + marker.pcm.size)] = 0
    return int((_frame_energies(rest) > least).sum()) >= MIN_OTHER_FRAMES


def _frame_energies(samples: FloatArray) -> EnergyArray:
    """Shape (n // FRAME,)."""
    frames = samples[: samples.size // FRAME * FRAME].reshape(-1, FRAME)
    energies: EnergyArray = np.square(frames, dtype=np.float64).sum(axis=1)
    return energies


def _stretched(recording: Recording, pcm: IntArray) -> list[Occurrence]:
    """Finds where most pieces of a marker are heard at about the same place, although the whole has lost its shape.

    On a busy machine a receiver's jitter buffer stretches or shortens speech by 10 ms here and there.
    """
    votes = np.zeros(recording.size, np.float32)
    undecided = 1.0
    for offset, piece in _pieces(pcm):
        share = np.float32(piece.size / pcm.size)
        undecided -= float(share)
        starts = recording.places(_as_float(piece), VOTE_THRESHOLD)[0] - offset
        if starts.size:
            voted = np.zeros(recording.size + 1, np.int32)
            np.add.at(voted, np.clip(starts - STRETCH, 0, recording.size), 1)
            np.add.at(voted, np.clip(starts + STRETCH, 0, recording.size), -1)
            votes += (np.cumsum(voted[:-1]) > 0) * share
        if float(votes.max()) + undecided < MAX_PIECES - ROUNDING:
            return []  # most markers are in no recording, and testing their other pieces would be most of the work
    return _peaks(*_above(votes, MAX_PIECES), pcm.size)


def partly_heard(recording: IntArray, marker: Marker) -> float:
    """The fraction, 0 to 1, of a marker that was cut off; right within 0.25 s, mostly within 0.15 s.

    The marker is cut into pieces of 0.2 s or a little more, and the pieces that are found at their
    places count. If it was said several times, the most complete one counts. Less than about 0.35 s cannot be
    distinguished from other speech and counts as none.
    """
    searched = _prepared(recording)
    starts = [place.start_sample for place in _likely_places(searched, marker.pcm)]
    return max((_fraction_at(searched, marker.pcm, start) for start in starts), default=0.0)


def heard_in_place(recording: IntArray, pcm: IntArray, start_sample: int, drift: int) -> int:
    """How many samples of a marker, or of a part of one, are heard about where they should be: each that lies in the
    middle of a piece, of 0.2 s or a little more, which is found within ``drift`` samples of its place. (A piece of
    which half has gone is found as well.) Finds what is left of a marker at both sides of a hole, within 0.2 s. In less
    than 0.2 s nothing is found."""
    searched = _prepared(recording)
    is_heard = np.zeros(pcm.size, bool)
    for offset, piece in _overlapping_pieces(pcm):
        if _best_score_near(searched, piece, start_sample + offset, drift) > TORN_THRESHOLD:
            edge = piece.size // 4
            begin = offset + edge if offset else 0
            end = offset + piece.size
            is_heard[begin : end - edge if end < pcm.size else end] = True
    return int(is_heard.sum())


def _overlapping_pieces(pcm: IntArray) -> Iterator[tuple[int, IntArray]]:
    """A piece from every 50 ms on, each loud enough to have a shape."""
    if pcm.size < PIECE:
        return
    energy = running_energy(_as_float(pcm))
    least = PIECE_ENERGY * energy[-1]
    for offset in range(0, pcm.size - PIECE, PIECE // 4):
        loud = int(np.searchsorted(energy, energy[offset] + least))
        if loud < pcm.size:
            yield offset, pcm[offset : max(loud, offset + PIECE)]
    loud = int(np.searchsorted(energy, energy[-1] - least))
    yield min(loud, pcm.size - PIECE), pcm[min(loud, pcm.size - PIECE) :]


def share_heard(recording: IntArray, marker: Marker) -> float:
    """The fraction, 0 to 1, of a marker that is somewhere in the recording, even if its parts were moved.

    For tests on a machine that is too busy to deliver speech in time. For a marker that was said it is at least 0.6,
    for others up to 0.9, so this only proves that nothing is missing.
    """
    searched = _prepared(recording)
    return (
        sum(
            piece.size
            for _, piece in _pieces(marker.pcm)
            if float(searched.scores(_as_float(piece)).max()) > TORN_THRESHOLD
        )
        / marker.pcm.size
    )


def _likely_places(recording: Recording, pcm: IntArray) -> list[Occurrence]:
    whole = _occurrences(recording, pcm, THRESHOLD)
    return whole or _occurrences(recording, pcm[:OPENING], OPENING_THRESHOLD)


def _fraction_at(recording: Recording, pcm: IntArray, start: int) -> float:
    present = sum(
        piece.size
        for offset, piece in _pieces(pcm)
        if _best_score_near(recording, piece, start + offset) > PIECE_THRESHOLD
    )
    return present / pcm.size


def _pieces(pcm: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Offset and samples of consecutive pieces, each long and loud enough to survive a codec.

    Opus keeps the level of a hiss but not its shape, so that an s must share its piece with a vowel.
    """
    energy = running_energy(_as_float(pcm))
    least = PIECE_ENERGY * energy[-1]
    offset = 0
    for end in range(PIECE, pcm.size, PIECE // 10):
        rest_is_a_piece = pcm.size - end >= PIECE and energy[-1] - energy[end] >= least
        if end - offset >= PIECE and energy[end] - energy[offset] >= least and rest_is_a_piece:
            yield offset, pcm[offset:end]
            offset = end
    yield offset, pcm[offset:]


def _best_score_near(recording: Recording, piece: IntArray, start: int, drift: int = PIECE_DRIFT) -> float:
    nearby = recording.samples(start - drift, start + drift + piece.size)
    shape = _as_float(piece)
    scores = normalised(correlated(nearby, shape), running_energy(nearby), shape)
    return float(scores.max())


def _occurrences(recording: Recording, pcm: IntArray, threshold: float) -> list[Occurrence]:
    """The peaks of the score, by position. A peak excludes lower ones near it."""
    return _peaks(*recording.places(_as_float(pcm), threshold), pcm.size)


def _above(scores: FloatArray, threshold: float) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """The positions with a higher score, and their scores."""
    positions = np.flatnonzero(scores > threshold)
    return positions, scores[positions]


def _peaks(positions: npt.NDArray[np.intp], scores: FloatArray, length: int) -> list[Occurrence]:
    places: list[Occurrence] = []
    for candidate in np.argsort(-scores):
        start = int(positions[candidate]) - OVERLAP
        if all(abs(start - place.start_sample) >= length for place in places):
            places.append(Occurrence(start, float(scores[candidate])))
    return sorted(places)


def _prepared(recording: IntArray) -> Recording:
    return Recording(_as_float(recording))


def _as_float(pcm: IntArray) -> FloatArray:
    scaled: FloatArray = pcm.astype(np.float32) / np.float32(32768)
    return scaled
