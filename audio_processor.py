"""From a subscribed audio track to speech segments.

    track ──► frames ──► windows of 512 samples ──► Silero's probability ──► Segmenter ──► updates to a sink

:class:`Segmenter` is pure: PCM and a probability in, segments out; no clock, no I/O, no await. It owns the PCM
(fact 9: the plugin cuts speech at 60 s and drops its last sentence, so only the model's probabilities are used).
:class:`TrackProcessor` is the thin edge: one task that owns one track's stream, model state and segmenter.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol

import numpy as np
from livekit import rtc
from livekit.rtc._ffi_client import FfiClient
from livekit.rtc._proto.ffi_pb2 import FfiEvent

from config import Settings
from core.records import SAMPLE_RATE, EndReason, Pcm, SpeechSegment, StreamClock, TrackInfo
from core.stream_clock import Dating, Instant, Timekeeper
from core.worker_state import worker_state

logger = logging.getLogger("recorder")

WINDOW_SAMPLES = 512
"""The input of Silero in one step: 32 ms at 16 kHz."""

FRAME_MILLISECONDS = 96
"""Length of the frames that the native client delivers. Longer ones cost less CPU, shorter ones have less delay."""

MUTE_GRACE_SECONDS = 0.4
"""The mute signal arrives before the audio in the jitter buffer: this much audio after it is still speech."""

TOLERATED_CLOCK_SECONDS = 0.02
"""An error of a stream's date up to this is not corrected, as some systems do not read clocks more exactly."""

ORDINARY_CORRECTION_SECONDS = 0.5
"""Smaller corrections are what time synchronization does all day; a larger one is a warning."""

REASON_GRACE_SECONDS = 0.25
"""How long the end reason of an unpublished track stays open: if the participant has left, that is reported next."""

SURVIVING_ONSET_WINDOWS = 2
"""If a stream ends during an onset of at least this length, it is kept as speech: the word was cut off."""


# --- the segmenter ---


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


# --- the detector ---


class SpeechDetector(Protocol):
    """A voice activity model with the state of one stream."""

    def probability(self, window: Pcm) -> float:
        """Speech probability (0 to 1) of the next window, shape (512,)."""
        ...


DetectorFactory = Callable[[], SpeechDetector]
"""Returns a new detector for one stream."""


# --- one track ---


class LosslessAudioStream(rtc.AudioStream):
    """An audio stream that still yields, after ``aclose()``, every frame that had arrived before it (fact 3).

    The base class stops as soon as its receiving task is done, and discards what is queued. That task always queues
    ``None`` last, so this class reads the queue until then.

    It also receives only its own events: in the base class every stream of the process gets the frames of all streams
    on its event loop, and discards those of others (fact 6). With ten rooms that takes a quarter of the CPU.
    """

    def __init__(self, track: rtc.Track) -> None:
        super().__init__(track, sample_rate=SAMPLE_RATE, num_channels=1, frame_size_ms=FRAME_MILLISECONDS)
        handle = self._ffi_handle.handle

        def is_of_this_stream(event: FfiEvent) -> bool:
            is_audio = event.WhichOneof("message") == "audio_stream_event"
            return is_audio and event.audio_stream_event.stream_handle == handle

        # The filter is replaced in place, under the queue's lock: a new subscription could miss a frame.
        events = FfiClient.instance.queue
        with events._lock:
            events._subscribers[:] = [
                (queue, loop, is_of_this_stream if queue is self._ffi_queue else is_wanted)
                for queue, loop, is_wanted in events._subscribers
            ]

    async def __anext__(self) -> rtc.AudioFrameEvent:
        event = await self._queue.get()
        if event is None:
            raise StopAsyncIteration
        return event


class FrameStream(Protocol):
    """What a :class:`TrackProcessor` reads: frames of 16 kHz mono s16le until it is closed."""

    def __aiter__(self) -> AsyncIterator[rtc.AudioFrameEvent]: ...

    async def aclose(self) -> None: ...


def open_stream(track: rtc.Track) -> FrameStream:
    """A stream of 16 kHz mono frames of a subscribed track; resampling happens natively (fact 7)."""
    return LosslessAudioStream(track)


class SegmentSink(Protocol):
    """Takes the updates of a segmenter. Must not block: disk work is done elsewhere."""

    def take(self, update: Update, clock: StreamClock) -> None: ...


@dataclass
class TrackProcessor:
    """Processes one track until it is closed. One task owns the stream, the model state and the segmenter.

    The model runs inline: 96 ms of audio cost about 0.1 ms (fact 10), less than passing it to a thread.
    """

    track: TrackInfo
    stream: FrameStream
    detector: SpeechDetector
    segmenter: Segmenter
    sink: SegmentSink
    room_name: str = ""
    """For the log."""
    end_reason: EndReason = EndReason.SHUTDOWN
    """Why the track ends. It may be changed until the last frame has been processed."""

    last_frame_at: float = 0.0
    """When the last frame arrived, in seconds of the monotonic clock."""

    now: Callable[[], Instant] = Instant.now

    _began: datetime | None = None
    _time: Timekeeper = field(default_factory=Timekeeper)
    _dating: Dating | None = None
    """The dating of segments; it does not change while a segment is open."""
    _has_spoken: bool = False
    _has_vad_failed: bool = False
    _remainder: Pcm = field(default_factory=lambda: np.empty(0, np.int16))
    _flush_at_sample: int | None = None
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.last_frame_at = time.monotonic()
        self._began = self.now().utc
        self._task = asyncio.create_task(self._listen(), name=f"track {self.track.track_sid}")

    @property
    def received_until(self) -> datetime:
        """All speech before this date (UTC) has been passed to the sink. Call it after :meth:`start`."""
        if self._dating is None:
            assert self._began is not None, "it has not been started"
            return self._began
        return self._dating.clock.at(self.segmenter.settled)

    def mute(self) -> None:
        """The publisher has muted: the open segment ends when that has lasted as long as a pause."""
        wait = max(self.segmenter.pause_samples, int(MUTE_GRACE_SECONDS * SAMPLE_RATE))
        self._flush_at_sample = self.segmenter.position + wait

    def unmute(self) -> None:
        """The publisher has unmuted: a mute shorter than a pause ends nothing."""
        self._flush_at_sample = None

    def cut(self, reason: EndReason) -> None:
        """Ends the open segment here and goes on processing: further speech begins another one."""
        self._pass_on(self.segmenter.cut(reason))

    async def aclose(self) -> None:
        """Closes the stream, processes every frame that has arrived, and ends the open segment. Idempotent.

        Must be called as soon as a track is unsubscribed: a stream left open receives another track's audio (fact 2).
        """
        if self._task is None:
            return
        await self.stream.aclose()
        await self._task

    async def _listen(self) -> None:
        try:
            async for event in self.stream:
                self._take(np.frombuffer(event.frame.data, dtype=np.int16))
            if self.end_reason is EndReason.UNPUBLISHED:
                await asyncio.sleep(REASON_GRACE_SECONDS)
        finally:
            # What was received is passed on even if the task is cancelled or fails.
            self._pass_on(self.segmenter.finish(self.end_reason, self._remainder))

    def _take(self, pcm: Pcm) -> None:
        self.last_frame_at = time.monotonic()
        self._keep_time(len(pcm))
        if len(self._remainder):
            pcm = np.concatenate([self._remainder, pcm])
        whole = len(pcm) - len(pcm) % WINDOW_SAMPLES
        for start in range(0, whole, WINDOW_SAMPLES):
            window = pcm[start : start + WINDOW_SAMPLES]
            self._pass_on(self.segmenter.push(window, self._probability(window)))
        self._remainder = pcm[whole:]
        if self._flush_at_sample is not None and self.segmenter.position >= self._flush_at_sample:
            self._flush_at_sample = None
            self.cut(EndReason.MUTED)

    def _probability(self, window: Pcm) -> float:
        try:
            return self.detector.probability(window)
        except Exception as error:  # a model that fails must not lose a word: everything is recorded then
            if not self._has_vad_failed:
                self._has_vad_failed = True
                logger.error(
                    "Silero VAD fails: %s is recorded with its silence",
                    self.track.track_sid,
                    exc_info=error,
                    extra=self._log_context,
                )
            return 1.0

    def _keep_time(self, arrived: int) -> None:
        self._time.received(self.segmenter.position + len(self._remainder) + arrived, self.now())
        if self._dating is None or not self._has_spoken:
            self._dating = self._time.dating
        elif self.segmenter.state is SpeechState.SILENCE:
            self._correct(self._dating, self._time.dating)

    def _correct(self, used: Dating, found: Dating) -> None:
        """Corrects the date. Between segments only: within one, and across a split, time is counted in samples."""
        drifted, was_set = found.began - used.began, found.wall_offset - used.wall_offset
        if abs(drifted + was_set) <= TOLERATED_CLOCK_SECONDS:
            return
        self._dating = found
        worker_state.counters.clock_corrections.inc()
        is_large = abs(drifted + was_set) > ORDINARY_CORRECTION_SECONDS
        logger.log(
            logging.WARNING if is_large else logging.INFO,
            "Clock corrected by %+.3f s: the machine's was set by %+.3f s, the samples drifted by %+.3f s",
            drifted + was_set,
            was_set,
            drifted,
            extra=self._log_context,
        )

    @property
    def _log_context(self) -> dict[str, str]:
        return {"room": self.room_name, "participant": self.track.participant_identity}

    def _pass_on(self, updates: list[Update]) -> None:
        for update in updates:
            assert self._dating is not None, "a segment without a single frame"
            self._has_spoken = True
            self.sink.take(update, self._dating.clock)
