"""From windows of 16 kHz mono PCM and their speech probabilities to speech segments.

    windows of 512 samples ──► Silero's probability ──► Segmenter ──► updates of open segments

:class:`Segmenter` is pure: PCM and a probability in, segments out; no clock, no I/O, no await. It owns the PCM
(fact 9: the plugin cuts speech at 60 s and drops its last sentence, so only the model's probabilities are used).
``recording/track_processor.py`` gives it a live track, ``lesson_tools/importing.py`` a recording.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import Enum

import numpy as np

from config import Settings
from core.records import SAMPLE_RATE, EndReason, Pcm, SpeechSegment

WINDOW_SAMPLES = 512
"""The input of Silero in one step: 32 ms at 16 kHz."""

SURVIVING_ONSET_WINDOWS = 2
"""If a stream ends during an onset of at least this length, it is kept as speech: the word was cut off."""


@dataclass(frozen=True)
class SegmenterOptions:
    """Speech rules. Probabilities are 0 to 1, everything else is seconds."""

    start_probability: float = 0.25
    """A window at or above this may begin speech."""
    end_probability: float = 0.1
    """Speech goes on until a window falls below this (hysteresis)."""
    min_speech_seconds: float = 0.16
    """Less speech than this opens no segment (a cough, a click)."""
    pre_roll_seconds: float = 0.3
    """Kept before the first speech window: Silero detects an onset about 30 ms late (fact 10b), and breath and
    soft consonants come before that."""
    post_roll_seconds: float = 0.2
    """Kept after the last speech window."""
    pause_seconds: float = 0.5
    """A pause of this length ends a segment that is long enough."""
    join_seconds: float = 2.0
    """A segment shorter than ``min_segment_seconds`` waits this long for the next utterance."""
    min_segment_seconds: float = 2.0
    """From this length on a segment ends at the next pause."""
    fill_seconds: float = 0.5
    """A segment that stays too short keeps up to this much more of the silence after it, to reach
    ``min_segment_seconds``."""
    max_segment_seconds: float = 10.0
    """No segment is longer than this, pre-roll and post-roll included."""

    @classmethod
    def from_settings(cls, settings: Settings) -> SegmenterOptions:
        return cls(
            start_probability=settings.speech_start_probability,
            end_probability=settings.speech_end_probability,
            min_speech_seconds=settings.min_speech_seconds,
            pre_roll_seconds=settings.pre_roll_seconds,
            post_roll_seconds=settings.post_roll_seconds,
            pause_seconds=settings.pause_seconds,
            join_seconds=settings.join_seconds,
            min_segment_seconds=settings.min_segment_seconds,
            max_segment_seconds=settings.max_segment_seconds,
        )


class SpeechState(Enum):
    SILENCE = "silence"
    """No speech; only the pre-roll is kept."""
    ONSET = "onset"
    """Possibly the beginning of speech, not enough of it yet."""
    SPEECH = "speech"
    """A segment is open, and there is speech."""
    PAUSE = "pause"
    """A segment is open without speech; the silence is held back until it is known to belong to the segment."""


@dataclass(frozen=True)
class Opened:
    """A segment has begun. ``start_sample`` identifies it until it is closed."""

    start_sample: int
    speech_start_sample: int


@dataclass(frozen=True)
class Grown:
    """More PCM of the open segment, so that it can be written to disk before the segment ends."""

    start_sample: int
    """Of the segment, not of ``pcm``."""
    pcm: Pcm


@dataclass(frozen=True)
class Closed:
    """A segment has ended; its bounds and its PCM are now final.

    It may be shorter than the PCM of its ``Grown`` updates: at a split the rest has moved to the next segment. The
    ``Opened`` and ``Grown`` updates of that one come before this update, so that the rest always belongs to a segment.
    """

    segment: SpeechSegment


Update = Opened | Grown | Closed


@dataclass(frozen=True)
class _Window:
    pcm: Pcm
    probability: float
    is_speech: bool


@dataclass
class _OpenSegment:
    """The segment being spoken: its windows, and how many of them have been passed on."""

    start_sample: int
    windows: list[_Window]
    speech_start: int
    """Index of the first speech window."""
    speech_end: int
    """One past the index of the last speech window."""
    passed_on: int = 0
    """How many windows have been passed on as ``Grown``."""


class Segmenter:
    """Cuts a stream of windows into speech segments.

    Call :meth:`push` with every window of a stream in order, and :meth:`finish` wherever the stream is interrupted.
    Every window of speech ends up in exactly one segment, segments come in order and never overlap, and none
    is longer than ``max_segment_seconds``.
    """

    def __init__(self, options: SegmenterOptions | None = None) -> None:
        options = options or SegmenterOptions()
        self._start_probability = options.start_probability
        self._end_probability = options.end_probability
        self._min_speech = max(1, _windows(options.min_speech_seconds))
        self._pre_roll = _windows(options.pre_roll_seconds)
        self._post_roll = _windows(options.post_roll_seconds)
        self._pause = max(1, _windows(options.pause_seconds))
        self._join = max(self._pause, _windows(options.join_seconds))
        self._min_segment = _windows(options.min_segment_seconds)
        self._fill = _windows(options.fill_seconds)
        # A remainder of less than a window may follow the last one at the end of a stream; it must fit as well.
        max_samples = int(options.max_segment_seconds * SAMPLE_RATE)
        self._max_segment = (max_samples - (WINDOW_SAMPLES - 1)) // WINDOW_SAMPLES

        self.state = SpeechState.SILENCE
        self._position = 0
        self._waiting: list[_Window] = []
        self._onset_windows = 0
        self._silent_windows = 0
        self._is_in_a_word = False
        """The previous segment was cut in the middle of speech."""
        self._open: _OpenSegment | None = None

    @property
    def pause_samples(self) -> int:
        """The length of a pause that ends a segment."""
        return self._pause * WINDOW_SAMPLES

    @property
    def position(self) -> int:
        """The number of samples that have been pushed."""
        return self._position

    @property
    def settled(self) -> int:
        """All speech before this sample has been returned; samples after it may still turn out to be speech."""
        pending = len(self._waiting) if self.state is SpeechState.ONSET else 0
        return self._position - pending * WINDOW_SAMPLES

    def push(self, pcm: Pcm, probability: float) -> list[Update]:
        """Takes the next window: PCM of shape (512,) and its speech probability. Returns the updates.

        Raises:
            ValueError: the window has another length.
        """
        if len(pcm) != WINDOW_SAMPLES:
            raise ValueError(f"a window is {WINDOW_SAMPLES} samples, not {len(pcm)}")
        self._position += WINDOW_SAMPLES
        is_silent = self.state is SpeechState.SILENCE and not self._is_in_a_word
        threshold = self._start_probability if is_silent else self._end_probability
        window = _Window(pcm, probability, probability >= threshold)
        if self._open is None:
            return self._listen(window)
        return self._extend(self._open, window)

    def finish(self, reason: EndReason, remainder: Pcm | None = None) -> list[Update]:
        """Ends the speech here: closes the open segment, or an onset that was cut off, for ``reason``.

        ``remainder`` is the end of the stream after the last full window, shape (n,) with n < 512. More windows may be
        pushed afterwards.
        """
        updates: list[Update] = []
        if self.state is SpeechState.ONSET and self._onset_windows >= SURVIVING_ONSET_WINDOWS:
            updates += self._open_segment()
        if self._open is not None:
            end = min(self._open.speech_end + self._post_roll, len(self._open.windows))
            is_cut_short = end == len(self._open.windows)
            tail = remainder if is_cut_short and remainder is not None else None
            updates += self._close(self._open, end, reason, tail)
        self._waiting = []
        self._position += 0 if remainder is None else len(remainder)
        self.state = SpeechState.SILENCE
        return updates

    def cut(self, reason: EndReason) -> list[Update]:
        """Ends the open segment in a stream that continues; the rest of a word opens the next segment.

        An onset goes on: whether it is speech is not known yet.
        """
        if self._open is None:
            return []
        is_in_a_word = self.state is SpeechState.SPEECH
        updates = self._end(self._open, self._open.speech_end + self._post_roll, reason)
        self._is_in_a_word = is_in_a_word
        return updates

    # No segment is open: wait for enough speech.

    def _listen(self, window: _Window) -> list[Update]:
        self._waiting.append(window)
        is_in_a_word, self._is_in_a_word = self._is_in_a_word, False
        if window.is_speech:
            self._begin_or_continue_onset()
            is_enough = self._onset_windows >= self._min_speech or is_in_a_word
            return self._open_segment() if is_enough else []
        self._silent_windows += 1
        is_too_thin = len(self._waiting) > self._pre_roll + self._max_segment // 2
        if self.state is SpeechState.ONSET and (self._silent_windows > self._min_speech or is_too_thin):
            self.state = SpeechState.SILENCE
        if self.state is SpeechState.SILENCE:
            del self._waiting[: -self._pre_roll or None]
        return []

    def _begin_or_continue_onset(self) -> None:
        if self.state is SpeechState.SILENCE:
            self.state = SpeechState.ONSET
            self._onset_windows = 0
            del self._waiting[: -(self._pre_roll + 1)]
        self._onset_windows += 1
        self._silent_windows = 0

    def _open_segment(self) -> list[Update]:
        speech = [index for index, window in enumerate(self._waiting) if window.is_speech]
        opened = _OpenSegment(
            start_sample=self._position - len(self._waiting) * WINDOW_SAMPLES,
            windows=self._waiting,
            speech_start=speech[0],
            speech_end=speech[-1] + 1,
        )
        return self._start(opened)

    def _start(self, opened: _OpenSegment) -> list[Update]:
        self._open = opened
        self._waiting = []
        self.state = SpeechState.SPEECH
        speech_start_sample = opened.start_sample + opened.speech_start * WINDOW_SAMPLES
        return [Opened(opened.start_sample, speech_start_sample), *self._newly_certain(opened)]

    # A segment is open: follow the speech, until a pause or the maximum ends it.

    def _extend(self, opened: _OpenSegment, window: _Window) -> list[Update]:
        opened.windows.append(window)
        if window.is_speech:
            self.state = SpeechState.SPEECH
            opened.speech_end = len(opened.windows)
            updates = self._newly_certain(opened)
            if opened.speech_end + self._post_roll >= self._max_segment:
                updates += self._split(opened)
            return updates
        self.state = SpeechState.PAUSE
        updates = self._newly_certain(opened)
        if self._pause_is_over(opened):
            updates += self._close_at_pause(opened)
        return updates

    def _newly_certain(self, opened: _OpenSegment) -> list[Update]:
        """The PCM that is certain to stay in the segment and has not been passed on yet."""
        certain = min(opened.speech_end + self._post_roll, len(opened.windows))
        if certain <= opened.passed_on:
            return []
        fresh = opened.windows[opened.passed_on : certain]
        opened.passed_on = certain
        return [Grown(opened.start_sample, np.concatenate([window.pcm for window in fresh]))]

    def _pause_is_over(self, opened: _OpenSegment) -> bool:
        silent = len(opened.windows) - opened.speech_end
        is_long_enough = opened.speech_end + self._post_roll >= self._min_segment
        limit = self._pause if is_long_enough else self._join
        return silent >= limit or len(opened.windows) >= self._max_segment

    def _close_at_pause(self, opened: _OpenSegment) -> list[Update]:
        end = opened.speech_end + self._post_roll
        if end < self._min_segment:
            end = min(self._min_segment, end + self._fill)
        return self._end(opened, end, EndReason.PAUSE)

    def _end(self, opened: _OpenSegment, end: int, reason: EndReason) -> list[Update]:
        """Closes the segment after ``end`` windows, or all; the rest may be the pre-roll of the next one."""
        rest = opened.windows[end:]
        updates = self._close(opened, min(end, len(opened.windows)), reason)
        self.state = SpeechState.SILENCE
        self._waiting = rest[-self._pre_roll :] if self._pre_roll else []
        return updates

    def _split(self, opened: _OpenSegment) -> list[Update]:
        """Ends the segment at the best place so far; the rest begins the next segment."""
        first_end, second_start = self._best_cut(opened)
        rest = opened.windows[second_start:]
        speech = [index for index, window in enumerate(rest) if window.is_speech]
        following = _OpenSegment(
            start_sample=opened.start_sample + second_start * WINDOW_SAMPLES,
            windows=rest,
            speech_start=speech[0],
            speech_end=speech[-1] + 1,
        )
        is_seamless = first_end == second_start
        reason = EndReason.MAX_LENGTH if is_seamless else EndReason.PAUSE
        started = self._start(following)
        return started + self._closed(opened, first_end, reason)

    def _best_cut(self, opened: _OpenSegment) -> tuple[int, int]:
        """Where the first part ends and where the second begins, as window indices.

        In the later half of the segment: the middle of the longest pause, else the quietest moment. If the pause
        is longer than post-roll and pre-roll together, the silence between them is dropped; otherwise the parts meet.
        """
        earliest = min(max(self._min_segment, len(opened.windows) // 2), len(opened.windows) - 1)
        pauses = [pause for pause in _pauses(opened.windows) if (pause[0] + pause[1]) // 2 >= earliest]
        if not pauses:
            quietest = _quietest_boundary(opened.windows, earliest)
            return quietest, quietest
        start, end = max(pauses, key=lambda pause: (pause[1] - pause[0], pause[0]))
        if end - start > self._post_roll + self._pre_roll:
            return start + self._post_roll, end - self._pre_roll
        middle = (start + end) // 2
        return middle, middle

    def _close(
        self, opened: _OpenSegment, end: int, reason: EndReason, tail: Pcm | None = None
    ) -> list[Update]:
        self._open = None
        return self._closed(opened, end, reason, tail)

    def _closed(
        self, opened: _OpenSegment, end: int, reason: EndReason, tail: Pcm | None = None
    ) -> list[Update]:
        windows = opened.windows[:end]
        pieces = [window.pcm for window in windows] + ([] if tail is None else [tail])
        probabilities = [window.probability for window in windows if window.is_speech]
        segment = SpeechSegment(
            start_sample=opened.start_sample,
            speech_start_sample=opened.start_sample + opened.speech_start * WINDOW_SAMPLES,
            pcm=np.concatenate(pieces),
            mean_probability=float(np.mean(probabilities)),
            lowest_probability=float(min(probabilities)),
            end_reason=reason,
        )
        return [Closed(segment)]


def _windows(seconds: float) -> int:
    """Seconds as whole windows, rounded up."""
    return int(-(-seconds * SAMPLE_RATE // WINDOW_SAMPLES))


def _pauses(windows: list[_Window]) -> list[tuple[int, int]]:
    """Runs of windows without speech, as (first, one past the last)."""
    runs: list[tuple[int, int]] = []
    start: int | None = None
    for index, window in enumerate(windows):
        if window.is_speech and start is not None:
            runs.append((start, index))
            start = None
        elif not window.is_speech and start is None:
            start = index
    return runs


def _quietest_boundary(windows: list[_Window], earliest: int) -> int:
    """The boundary between two windows, from ``earliest`` on, with the least energy on its two sides."""
    energy = [float(np.square(window.pcm, dtype=np.float64).sum()) for window in windows[earliest - 1 :]]
    around = [before + after for before, after in itertools.pairwise(energy)]
    return earliest + int(np.argmin(around))
