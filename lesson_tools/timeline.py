"""Lays the decoded pieces of a track out in time: holes become silence, so that a sample's index tells its time.

The number of samples and the timestamps are compared. A timestamp is believed only if the later ones agree with it: one
that is wrong, or the times of a whole cluster, leave no hole. A hole in which sound is missing is a :class:`Loss`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from core.records import SAMPLE_RATE, GapReason

Channels = npt.NDArray[np.int16]
"""PCM s16le, 16 kHz, shape (n, channels)."""

HOLE_SECONDS = 0.1
"""If a timestamp is this far ahead of the samples, sound is missing; less is jitter of the muxer."""

MAX_HOLE_SECONDS = 6 * 3600.0
"""A longer hole is a broken timestamp."""

MAX_SILENCE_SECONDS = 12 * 3600.0
"""After this much silence in a recording, its timestamps are ignored."""

LOOK_AHEAD_SECONDS = 40.0
"""How much sound is read to see whether the timestamps return to where they were. A Matroska cluster, whose time may be
wrong as a whole, has at most 33 s."""
SMALL_JUMP_SECONDS, SMALL_LOOK_AHEAD_SECONDS = 1.0, 5.0
"""The same for smaller jumps, which may be frequent."""

CONFIRMING_SECONDS = 2.0
"""At the end of a recording a hole is believed if at least this much sound follows it."""

PAUSE_SECONDS = 0.5
"""A codec with silence descriptors sends one at least this often."""

MAX_PIECES_AHEAD = 20_000
"""Pieces may be as short as 2.5 ms, and those that cannot be decoded may have no length at all."""

MAX_LOSSES = 1000
"""Losses that are kept apart; the last one then grows."""
JOINED_SECONDS = 1.0
"""Losses that are less than this apart are one."""

STEADY_STEPS = 12
"""If the steps between this many timestamps are too long by the same factor, they were computed with a wrong rate."""
MAX_RATE_FACTOR = 6.1
"""48 kHz for 8 kHz, and a little. A pause of a codec looks alike, with larger steps."""

MAX_COMPARISONS = 20_000_000
"""Timestamps that are compared in all; a recording of ten hours with a pause of the codec every second needs fewer."""

_SILENCE_SECONDS = 1.0


@dataclass(frozen=True)
class Piece:
    """What one packet has given."""

    seconds: float
    """Its length."""
    time: float | None = None
    """Its timestamp, in seconds."""
    pcm: Channels | None = None
    """The sound; None: it could not be decoded."""
    is_tiny: bool = False
    """It is as small as a silence descriptor."""
    begins_anew: bool = False
    """Another recording follows in the same file."""


@dataclass(frozen=True)
class Loss:
    """Sound that the recording should have and does not have. Seconds from the recording's beginning."""

    start: float
    end: float
    reason: GapReason

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Losses:
    """The losses of a track, in order; neighbours become one."""

    def __init__(self) -> None:
        self.all: list[Loss] = []

    def add(self, start: float, end: float, reason: GapReason) -> None:
        last = self.all[-1] if self.all else None
        is_near = last is not None and last.reason is reason and start - last.end < JOINED_SECONDS
        if last is not None and (is_near or len(self.all) >= MAX_LOSSES):
            self.all[-1] = Loss(last.start, end, last.reason)
        else:
            self.all.append(Loss(start, end, reason))


class Timeline:
    """The time of one track.

    Args:
        origin: the timestamp of the recording's beginning; None: that of the first piece.
        promised_seconds: the length by the container's header, if it has one.
        is_timed: the timestamps are stored in the file; otherwise only the samples count.
        has_pauses: the codec may leave out silence.
    """

    def __init__(
        self,
        origin: float | None = None,
        promised_seconds: float | None = None,
        *,
        is_timed: bool = True,
        has_pauses: bool = False,
    ) -> None:
        self.seconds = 0.0
        """Length so far, holes included."""
        self.losses = Losses()
        self.restarts = 0
        """How often the timestamps restarted."""
        self._origin = origin
        self._offset = origin
        self._promised = promised_seconds
        self._is_timed = is_timed
        self._has_pauses = has_pauses
        self._silence = 0.0
        self._lost = 0.0
        """Seconds of undecodable pieces since the last good one."""
        self._untimed = 0
        """How many of the next pieces have wrong timestamps."""
        self._comparisons = 0
        self._was_tiny = False

    def laid_out(self, pieces: Iterator[Piece]) -> Iterator[Channels]:
        """Yields the sound of all pieces, which may be empty, with silence in the holes."""
        ahead = _Ahead(pieces)
        while (piece := ahead.take()) is not None:
            if piece.pcm is None:
                self._lost += min(piece.seconds, CONFIRMING_SECONDS)
                continue
            yield from self._silent(self._hole_before(piece, ahead), piece.pcm.shape[1])
            self._was_tiny = piece.is_tiny
            self.seconds += piece.seconds
            yield piece.pcm
        yield from self._silent(self._untimed_hole(), 1)

    def _silent(self, hole: float, channels: int) -> Iterator[Channels]:
        missing = round(hole * SAMPLE_RATE)
        self.seconds += missing / SAMPLE_RATE
        self._silence += missing / SAMPLE_RATE
        while missing > 0:
            count = min(missing, round(_SILENCE_SECONDS * SAMPLE_RATE))
            yield np.zeros((count, channels), np.int16)
            missing -= count

    def _hole_before(self, piece: Piece, ahead: _Ahead) -> float:
        """Returns the seconds of silence before a piece."""
        if piece.begins_anew:
            self.restarts += 1
            self._offset = None
        if self._untimed or piece.time is None or not self._is_timed:
            self._untimed = max(0, self._untimed - 1)
            return self._untimed_hole()
        if self._offset is None:
            self._offset = piece.time - self.seconds
        if self._origin is None:
            self._origin = self._offset
        jump = piece.time - self._offset - self.seconds
        if abs(jump) < HOLE_SECONDS:
            self._lost = 0.0
            return 0.0
        return self._jumped(piece, jump, ahead)

    def _untimed_hole(self) -> float:
        """What could not be decoded where there are no timestamps."""
        lost, self._lost = self._lost, 0.0
        if lost < HOLE_SECONDS or self._silence > MAX_SILENCE_SECONDS:
            return 0.0
        self.losses.add(self.seconds, self.seconds + lost, GapReason.DAMAGED)
        return lost

    def _jumped(self, piece: Piece, jump: float, ahead: _Ahead) -> float:
        """Decides about a timestamp that does not fit; returns the seconds of silence before the piece."""
        reach = SMALL_LOOK_AHEAD_SECONDS if abs(jump) < SMALL_JUMP_SECONDS else LOOK_AHEAD_SECONDS
        assert self._offset is not None and piece.time is not None
        wrong = self._wrong_pieces(piece, ahead.next(reach))
        if wrong:
            self._untimed = wrong - 1
            return self._untimed_hole()
        self._offset = piece.time - self.seconds
        if jump < 0:
            self.restarts += 1 if jump < -1.0 else 0
            return self._untimed_hole()
        if not self._is_hole(piece, jump, ahead, reach):
            return self._untimed_hole()
        self._offset -= jump
        is_pause = self._has_pauses and (self._was_tiny or jump <= PAUSE_SECONDS)
        begins_later = (
            self.seconds < HOLE_SECONDS
        )  # than the picture, or than what the encoder puts before it
        if self._lost or not (is_pause or begins_later):
            self.losses.add(self.seconds, self.seconds + jump, GapReason.DAMAGED)
        self._lost = 0.0
        return jump

    def _wrong_pieces(self, head: Piece, following: list[Piece]) -> int:
        """Returns how many pieces, from this one on, have wrong timestamps; 0: the times do not return."""
        assert self._offset is not None
        expected, count = self._offset + self.seconds + self._lost + head.seconds, 1
        self._comparisons += len(following)
        if self._comparisons > MAX_COMPARISONS:
            self._is_timed = False
            return 1
        for piece in following:
            if piece.pcm is not None:
                if piece.time is not None and abs(piece.time - expected) < HOLE_SECONDS:
                    return count
                count += 1
            expected += piece.seconds
        return 0

    def _is_hole(self, piece: Piece, jump: float, ahead: _Ahead, reach: float) -> bool:
        """Whether a jump ahead, from which the times do not return, is missing sound."""
        following = ahead.next(reach)
        if jump > MAX_HOLE_SECONDS or self._silence + jump > MAX_SILENCE_SECONDS:
            return False
        if not self._has_pauses and _have_another_rate([piece, *following]):
            return False
        rest = piece.seconds + sum(one.seconds for one in following)
        if self._promised is not None:
            end = self.seconds + jump + (rest if rest < reach else piece.seconds)
            return end <= self._promised + 1.0
        return rest >= CONFIRMING_SECONDS or jump <= CONFIRMING_SECONDS


def _have_another_rate(pieces: list[Piece]) -> bool:
    """Whether the steps of the timestamps are all longer than the sound by the same factor."""
    times = [
        (piece.time, piece.seconds) for piece in pieces if piece.time is not None and piece.pcm is not None
    ]
    factors = [
        (later[0] - one[0]) / one[1]
        for one, later in zip(times, islice(times, 1, STEADY_STEPS + 1), strict=False)
        if one[1] > 0
    ]
    if len(factors) < STEADY_STEPS:
        return False
    lowest, highest = min(factors), max(factors)
    return lowest > 1.1 and highest < MAX_RATE_FACTOR and highest < 1.1 * lowest


class _Ahead:
    """Pieces of which some were read ahead."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._waiting: deque[Piece] = deque()
        self._seconds = 0.0

    def take(self) -> Piece | None:
        if not self._waiting:
            return next(self._pieces, None)
        piece = self._waiting.popleft()
        self._seconds -= piece.seconds
        return piece

    def next(self, seconds: float) -> list[Piece]:
        """Returns the next pieces, of at least this length together if there are so many."""
        while self._seconds < seconds and len(self._waiting) < MAX_PIECES_AHEAD:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._waiting.append(piece)
            self._seconds += piece.seconds
        found, length = [], 0.0
        for piece in self._waiting:
            if length >= seconds or piece.begins_anew:
                break
            found.append(piece)
            length += piece.seconds
        return found
