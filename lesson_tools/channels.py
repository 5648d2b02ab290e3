"""Makes one channel of all tracks and channels of a recording: those with speech, mixed where they are in phase.

The plain mean of all channels loses a voice: two channels of which one is upside down cancel each other, and a voice
on one of many channels drowns in the others. So each block of some seconds is judged by itself: channels that are
nearly the same are mixed, and where they differ the speech detector says which have a voice, and whether the mix still
has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from audio_processor import WINDOW_SAMPLES
from core.records import SAMPLE_RATE, Pcm
from lesson_tools.timeline import Channels
from recording.speech_detector import DetectorFactory

BLOCK_SAMPLES = 312 * WINDOW_SAMPLES
"""About ten seconds: judged together, and all that is in memory of a recording."""

FADE_SAMPLES = SAMPLE_RATE // 50
"""Over 20 ms the mix changes from a block's to the next one's, so that it makes no click."""

SILENT_PEAK = 8
"""A channel that is never louder is silent: dither, or what a lossy codec makes of silence."""

ALIKE = 0.3
"""Channels whose correlation is at least this are in phase; at most minus this: one is upside down."""
THE_SAME = 0.98
"""Channels whose correlation is at least this are mixed without listening. With less, they may share a hum, and have a
voice of opposite phase, which the mix has not."""
THE_SAME_LEVEL = 0.25
"""The lowest level of such a channel, as a share of the loudest one's."""

WARM_UP_WINDOWS = 31
"""The detector hears the first second of a block twice: without history it takes the onset of a tone for speech."""

SPEECH_PROBABILITY = 0.5
MIN_SPEECH_WINDOWS = 4
"""A channel with fewer windows of speech in a block (0.13 s) has none."""
MIN_OWN_WINDOWS = 8
"""A channel that is not in phase is taken only if it has at least this much speech (0.26 s) that no other has."""
KEPT_SPEECH = 0.8
"""The mix has lost a voice if it has less than this share of the best channel's speech."""
LEADER_BONUS = 2.0
"""Another channel replaces the one that led the last block only if it has this many times as much speech."""

Weights = npt.NDArray[np.float32]
"""How much of each channel is in the mix, shape (channels,)."""


@dataclass(frozen=True)
class Choice:
    """The mix of one block."""

    weights: Weights
    leader: int
    """The channel with the most speech."""
    is_sure: bool = True
    """False: the block has no speech, or nothing to choose from."""


@dataclass
class Chooser:
    """Chooses the channels block by block. It remembers the last choice, for blocks without speech."""

    new_detector: Callable[[], DetectorFactory]
    """Loads the speech detector; called only if channels differ."""
    languages: Sequence[str] = ()
    """The language of each channel's track, empty if it is not known: dubbed tracks are not mixed."""
    _last: Choice | None = None
    _detectors: DetectorFactory | None = None

    def choose(self, block: Channels) -> Choice:
        """Returns the mix of a block, shape (n, channels)."""
        count = block.shape[1]
        last = self._last if self._last is not None and len(self._last.weights) == count else None
        peaks = np.abs(block.astype(np.int32)).max(axis=0, initial=0)
        audible = [int(channel) for channel in np.flatnonzero(peaks > SILENT_PEAK)]
        if not audible:
            return last or Choice(np.full(count, 1 / count, np.float32), 0, is_sure=False)
        if len(audible) == 1:
            choice = Choice(_mix(count, audible), audible[0])
        else:
            choice = self._among(block, audible, last)
        self._last = choice
        return choice

    def _among(self, block: Channels, audible: list[int], last: Choice | None) -> Choice:
        count = block.shape[1]
        alike = _correlations(block, audible)
        level = np.sqrt(np.square(block[:, audible], dtype=np.float64).mean(axis=0))
        if (
            alike.min() >= THE_SAME
            and level.min() >= THE_SAME_LEVEL * level.max()
            and self._is_one_language(audible)
        ):
            leader = last.leader if last is not None and last.leader in audible else audible[0]
            return Choice(_mix(count, audible), leader)
        speech = np.stack([self._speech(block[:, channel]) for channel in audible])
        if speech.sum(axis=1).max() < MIN_SPEECH_WINDOWS:
            return last or Choice(_mix(count, audible, alike[int(level.argmax())]), audible[0], is_sure=False)
        leader = self._leader(speech, audible, last)
        weights = self._weights(count, audible, leader, speech, alike)
        if np.count_nonzero(weights) > 1 and self._loses_speech(block @ weights, speech):
            weights = _mix(count, [audible[leader]])
        return Choice(weights, audible[leader])

    def _loses_speech(self, mix: npt.NDArray[np.float32], speech: npt.NDArray[np.bool_]) -> bool:
        return bool(self._speech(_as_pcm(mix)).sum() < KEPT_SPEECH * speech.sum(axis=1).max())

    def _leader(self, speech: npt.NDArray[np.bool_], audible: list[int], last: Choice | None) -> int:
        windows = speech.sum(axis=1)
        best = int(windows.argmax())
        if last is not None and last.leader in audible:
            before = audible.index(last.leader)
            if windows[before] * LEADER_BONUS >= windows[best]:
                return before
        return best

    def _weights(
        self,
        count: int,
        audible: list[int],
        leader: int,
        speech: npt.NDArray[np.bool_],
        alike: npt.NDArray[np.float64],
    ) -> Weights:
        weights = np.zeros(count, np.float32)
        covered = np.zeros_like(speech[0])
        left = [index for index in range(len(audible)) if self._may_join(audible[leader], audible[index])]
        while left:
            own = [int((speech[index] & ~covered).sum()) for index in left]
            first = leader if leader in left else left[int(np.argmax(own))]
            if first != leader and max(own) < MIN_OWN_WINDOWS:
                break
            group = [index for index in left if index == first or abs(alike[first, index]) >= ALIKE]
            signs = [1.0 if alike[first, index] >= 0 else -1.0 for index in group]
            for index, sign in zip(group, signs, strict=True):
                weights[audible[index]] = sign / len(group)
                covered |= speech[index]
            left = [index for index in left if index not in group]
        return weights

    def _may_join(self, leader: int, other: int) -> bool:
        if not self.languages:
            return True
        one, another = self.languages[leader], self.languages[other]
        return one == another or not one or not another

    def _is_one_language(self, audible: list[int]) -> bool:
        return all(self._may_join(audible[0], other) for other in audible)

    def _speech(self, pcm: Pcm) -> npt.NDArray[np.bool_]:
        """Returns for each window of one channel whether it is speech."""
        if self._detectors is None:
            self._detectors = self.new_detector()
        detector = self._detectors()
        whole = len(pcm) - len(pcm) % WINDOW_SAMPLES
        windows = np.ascontiguousarray(pcm[:whole]).reshape(-1, WINDOW_SAMPLES)
        for window in windows[:WARM_UP_WINDOWS]:
            detector.probability(window)
        found = [detector.probability(window) >= SPEECH_PROBABILITY for window in windows]
        return np.array(found or [False], np.bool_)


def _mix(count: int, channels: list[int], alike: npt.NDArray[np.float64] | None = None) -> Weights:
    """The mean of some of the channels; those that are upside down are turned over."""
    weights = np.zeros(count, np.float32)
    weights[channels] = 1 / len(channels)
    if alike is not None:
        weights[channels] *= np.where(alike < 0, -1.0, 1.0).astype(np.float32)
    return weights


def _as_pcm(mix: npt.NDArray[np.float32]) -> Pcm:
    pcm: Pcm = np.clip(np.rint(mix), -32768, 32767).astype(np.int16)
    return pcm


def _correlations(block: Channels, channels: list[int]) -> npt.NDArray[np.float64]:
    samples = block[:, channels].astype(np.float32)
    samples -= samples.mean(axis=0)
    products = (samples.T @ samples).astype(np.float64)
    power = np.sqrt(np.diag(products)) + 1e-9
    correlations: npt.NDArray[np.float64] = products / np.outer(power, power)
    return correlations


@dataclass
class Mixer:
    """Mixes tracks, which are read in step, and counts which channels were taken."""

    chooser: Chooser
    sizes: list[int] = field(default_factory=list)
    """How many channels each track has, as far as it was read."""
    seconds: dict[tuple[int, int], float] = field(default_factory=dict)
    """How long each channel was taken where there was speech, by (track, channel), from 0."""
    upside_down: set[tuple[int, int]] = field(default_factory=set)
    _before: Weights | None = None

    def mixed(self, tracks: Sequence[Iterable[Channels]]) -> Iterator[Pcm]:
        """Yields the mix in blocks; it is as long as the longest track."""
        readers = [_Blocks(track) for track in tracks]
        while True:
            blocks = [reader.next() for reader in readers]
            length = max(len(block) for block in blocks)
            if not length:
                return
            self.sizes = [block.shape[1] for block in blocks]
            whole = np.zeros((length, sum(self.sizes)), np.int16)
            column = 0
            for block in blocks:
                whole[: len(block), column : column + block.shape[1]] = block
                column += block.shape[1]
            yield self._mixed(whole)

    def _mixed(self, block: Channels) -> Pcm:
        if block.shape[1] == 1:
            self._before = None
            self._count(Choice(np.ones(1, np.float32), 0), len(block))
            return np.ascontiguousarray(block[:, 0])
        choice = self.chooser.choose(block)
        self._count(choice, len(block))
        before, self._before = self._before, choice.weights
        mix = block @ choice.weights
        if before is not None and len(before) == len(choice.weights) and (before != choice.weights).any():
            fade = np.linspace(0, 1, min(FADE_SAMPLES, len(block)), dtype=np.float32)
            old = block[: len(fade)] @ before
            mix[: len(fade)] = fade * mix[: len(fade)] + (1 - fade) * old
        return _as_pcm(mix)

    def _count(self, choice: Choice, samples: int) -> None:
        if not choice.is_sure:
            return
        for index, weight in enumerate(choice.weights):
            if weight:
                place = self._place(index)
                self.seconds[place] = self.seconds.get(place, 0.0) + samples / SAMPLE_RATE
                if weight < 0:
                    self.upside_down.add(place)

    def _place(self, index: int) -> tuple[int, int]:
        for track, size in enumerate(self.sizes):
            if index < size:
                return track, index
            index -= size
        raise IndexError(index)


class _Blocks:
    """Cuts the pieces of one track into blocks of equal length."""

    def __init__(self, pieces: Iterable[Channels]) -> None:
        self._pieces = (piece for piece in pieces if len(piece))
        self._waiting: list[Channels] = []
        self._samples = 0
        self._channels = 1

    def next(self) -> Channels:
        """Returns the next block; it is shorter only at the end of the track, and then empty."""
        while self._samples < BLOCK_SAMPLES:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._waiting.append(piece)
            self._samples += len(piece)
        if not self._samples:
            return np.empty((0, self._channels), np.int16)
        self._channels = max(piece.shape[1] for piece in self._waiting if len(piece))
        whole = np.concatenate([_with_channels(piece, self._channels) for piece in self._waiting])
        rest = whole[BLOCK_SAMPLES:]
        self._waiting, self._samples = [rest], len(rest)
        return whole[:BLOCK_SAMPLES]


def _with_channels(piece: Channels, channels: int) -> Channels:
    """A piece with more channels: those of one channel are alike, further ones are silent."""
    if piece.shape[1] == channels:
        return piece
    if piece.shape[1] == 1:
        return np.repeat(piece, channels, axis=1)
    return np.pad(piece, ((0, 0), (0, channels - piece.shape[1])))
