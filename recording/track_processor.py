"""Receives one subscribed audio track and passes its speech on as segments.

    track ──► frames ──► windows of 512 samples ──► Silero's probability ──► Segmenter ──► updates to a sink

:class:`TrackProcessor` is one task that owns the track's stream, the model's state and the segmenter.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import numpy as np
from livekit import rtc
from livekit.rtc._ffi_client import FfiClient
from livekit.rtc._proto.ffi_pb2 import FfiEvent

from audio_processor import WINDOW_SAMPLES, Segmenter, SpeechState, Update
from core.records import SAMPLE_RATE, EndReason, Pcm, StreamClock, TrackInfo
from core.stream_clock import Dating, Instant, Timekeeper
from core.worker_state import worker_state
from recording.event_routing import narrow
from recording.speech_detector import SpeechDetector

logger = logging.getLogger("recorder")

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


class LosslessAudioStream(rtc.AudioStream):
    """An audio stream that still yields, after ``aclose()``, every frame that had arrived before it (fact 3).

    The base class stops as soon as its receiving task is done, and discards what is queued. That task always queues
    ``None`` last, so this class reads the queue until then.

    It also receives only its own events: in the base class every stream gets the frames of all streams (fact 6).
    """

    def __init__(self, track: rtc.Track) -> None:
        super().__init__(track, sample_rate=SAMPLE_RATE, num_channels=1, frame_size_ms=FRAME_MILLISECONDS)
        handle = self._ffi_handle.handle

        def is_of_this_stream(event: FfiEvent) -> bool:
            is_audio = event.WhichOneof("message") == "audio_stream_event"
            return is_audio and event.audio_stream_event.stream_handle == handle

        narrow(FfiClient.instance, self._ffi_queue, is_of_this_stream)

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

    worst_delay_seconds: float = 0.0
    """The greatest delay of a frame since :meth:`take_delay` was called: what this machine, not the network, adds."""

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

    def take_delay(self) -> float:
        """The greatest delay, in seconds, with which frames have been processed since the last call, or are due now."""
        worst = max(self.worst_delay_seconds, time.monotonic() - self.last_frame_at)
        self.worst_delay_seconds = 0.0
        return worst

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
        self.worst_delay_seconds = max(self.worst_delay_seconds, self._time.delay_seconds)
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
