"""One track, from frames to updates: with frames made by the test, and with Silero on the shipped speech."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, cast

import numpy as np
import pytest
from livekit import rtc
from livekit.rtc._ffi_client import FfiClient, FfiHandle
from livekit.rtc._proto.ffi_pb2 import FfiEvent

from audio_processor import WINDOW_SAMPLES, Closed, Grown, Segmenter, SegmenterOptions, Update
from core.records import SAMPLE_RATE, EndReason, Pcm, SpeechSegment, StreamClock, TrackInfo
from core.stream_clock import Instant
from devtools import sound
from recording import track_processor
from recording.event_routing import RoutedEvents
from recording.speech_detector import NativeDetector, OnnxDetector, SpeechDetector, load_detector
from recording.track_processor import MUTE_GRACE_SECONDS, LosslessAudioStream, TrackProcessor

TRACK = TrackInfo("anna", "Anna", "TR_1", "microphone")
FRAME_SAMPLES = 1536
LOUD = 5_000
SHIPPED_SPEECH = ["lecture", "student"]


BEGINNING = datetime(2025, 10, 8, 14, 5, 23, tzinfo=UTC)
"""When the first sample of a stream is heard."""


@dataclass
class Clocks:
    """What a machine's clocks show when a frame comes in: as much time has gone by as the frames are long."""

    heard_samples: int = 0
    late_seconds: float = 0.0
    """How long the frame was on its way."""
    wall_clock_off: float = 0.0
    """What the wall clock was set by, in seconds."""
    uncertainty: float = 0.0
    """How far apart the two may have been read."""
    drift: float = 0.0
    """How much longer a second is on this machine than a second of samples."""

    def now(self) -> Instant:
        seconds = self.heard_samples / SAMPLE_RATE * (1 + self.drift) + self.late_seconds
        return Instant(
            seconds, BEGINNING + timedelta(seconds=seconds + self.wall_clock_off), self.uncertainty
        )


class Frames:
    """A stream that a test feeds. Like the real one, it ends behind the last frame that had arrived at its close."""

    def __init__(self) -> None:
        self.clocks = Clocks()
        self._queue: asyncio.Queue[rtc.AudioFrameEvent | None] = asyncio.Queue()
        self._is_taking = False

    def arrive(self, pcm: Pcm, frame_samples: int = FRAME_SAMPLES) -> None:
        for start in range(0, len(pcm), frame_samples):
            piece = pcm[start : start + frame_samples]
            frame = rtc.AudioFrame(piece.tobytes(), SAMPLE_RATE, 1, len(piece))
            self._queue.put_nowait(rtc.AudioFrameEvent(frame))

    def __aiter__(self) -> AsyncIterator[rtc.AudioFrameEvent]:
        return self

    async def __anext__(self) -> rtc.AudioFrameEvent:
        if self._is_taking:
            self._queue.task_done()
        event = await self._queue.get()
        self._is_taking = True
        if event is None:
            raise StopAsyncIteration
        self.clocks.heard_samples += event.frame.samples_per_channel
        return event

    async def taken(self) -> None:
        """Waits until all frames have been taken, and what came of them has been passed on."""
        await self._queue.join()

    async def aclose(self) -> None:
        self._queue.put_nowait(None)


class LoudIsSpeech:
    def probability(self, window: Pcm) -> float:
        return 0.9 if np.abs(window).max() > LOUD // 2 else 0.02


@dataclass
class Ears:
    """A sink that remembers."""

    updates: list[Update] = field(default_factory=list)
    clocks: dict[int, StreamClock] = field(default_factory=dict)
    """Of each segment, by its first sample."""

    def take(self, update: Update, clock: StreamClock) -> None:
        start = update.segment.start_sample if isinstance(update, Closed) else update.start_sample
        assert self.clocks.setdefault(start, clock) == clock, "a segment has one clock"
        self.updates.append(update)

    @property
    def segments(self) -> list[SpeechSegment]:
        return [update.segment for update in self.updates if isinstance(update, Closed)]


@dataclass
class Listening:
    processor: TrackProcessor
    frames: Frames
    ears: Ears

    async def hears(self, pcm: Pcm, frame_samples: int = FRAME_SAMPLES) -> None:
        """The frames arrive and are taken."""
        self.frames.arrive(pcm, frame_samples)
        await self.frames.taken()

    @property
    def task(self) -> asyncio.Task[None]:
        (task,) = (task for task in asyncio.all_tasks() if task.get_name() == f"track {TRACK.track_sid}")
        return task


def listen(detector: SpeechDetector | None = None, options: SegmenterOptions | None = None) -> Listening:
    frames, ears = Frames(), Ears()
    processor = TrackProcessor(
        TRACK, frames, detector or LoudIsSpeech(), Segmenter(options), ears, now=frames.clocks.now
    )
    processor.start()
    return Listening(processor, frames, ears)


def loud(seconds: float, seed: int = 0) -> Pcm:
    """Speech, as far as these tests go: no two samples in a row are alike."""
    samples = np.random.default_rng(seed).integers(LOUD // 2, LOUD, round(seconds * SAMPLE_RATE))
    samples[::2] *= -1
    samples[:: WINDOW_SAMPLES // 4] = LOUD
    return samples.astype(np.int16)


def quiet(seconds: float) -> Pcm:
    return np.full(round(seconds * SAMPLE_RATE), 3, np.int16)


def bounds(segments: list[SpeechSegment]) -> list[tuple[int, int, EndReason]]:
    return [(segment.start_sample, segment.end_sample, segment.end_reason) for segment in segments]


# --- frames ---


LESSON = np.concatenate([quiet(0.5), loud(2.5), quiet(1.1), loud(3), quiet(0.7), loud(1.003)])


@pytest.mark.parametrize("frame_samples", [1536, 160, 512, 100, 513, 3333, len(LESSON)])
async def test_frames_of_any_size_give_the_same_segments(frame_samples: int) -> None:
    listening = listen()
    await listening.hears(LESSON, frame_samples)
    await listening.processor.aclose()
    expected = listen()
    await expected.hears(LESSON)
    await expected.processor.aclose()
    assert bounds(listening.ears.segments) == bounds(expected.ears.segments)
    assert len(listening.ears.segments) == 3


async def test_segments_hold_the_sound_of_the_track() -> None:
    listening = listen()
    await listening.hears(LESSON, frame_samples=160)
    await listening.processor.aclose()
    for segment in listening.ears.segments:
        np.testing.assert_array_equal(segment.pcm, LESSON[segment.start_sample : segment.end_sample])


async def test_speech_up_to_the_end_is_kept_to_its_last_sample() -> None:
    listening = listen()
    await listening.hears(LESSON)
    await listening.processor.aclose()
    assert listening.ears.segments[-1].end_sample == len(LESSON)
    assert len(LESSON) % WINDOW_SAMPLES


async def test_frames_that_had_arrived_before_the_end_are_all_taken() -> None:
    listening = listen()
    await asyncio.sleep(0)
    listening.frames.arrive(loud(5))
    await listening.processor.aclose()
    (segment,) = listening.ears.segments
    np.testing.assert_array_equal(segment.pcm, loud(5))


async def test_a_track_without_a_frame_brings_nothing() -> None:
    listening = listen()
    await listening.processor.aclose()
    assert listening.ears.updates == []


async def test_less_than_a_window_brings_nothing() -> None:
    listening = listen()
    await listening.hears(loud(0.01))
    await listening.processor.aclose()
    assert listening.ears.updates == []


async def test_a_track_that_never_began_can_be_closed() -> None:
    await TrackProcessor(TRACK, Frames(), LoudIsSpeech(), Segmenter(), Ears()).aclose()


async def test_closing_twice_closes_once() -> None:
    listening = listen()
    await listening.hears(loud(1))
    await listening.processor.aclose()
    await listening.processor.aclose()
    assert len(listening.ears.segments) == 1


async def test_two_may_close_at_once() -> None:
    listening = listen()
    await listening.hears(loud(1))
    await asyncio.gather(listening.processor.aclose(), listening.processor.aclose())
    assert len(listening.ears.segments) == 1


async def test_speech_is_passed_on_before_it_ends() -> None:
    listening = listen()
    await listening.hears(loud(3))
    grown = sum(len(update.pcm) for update in listening.ears.updates if isinstance(update, Grown))
    assert grown >= 3 * SAMPLE_RATE - WINDOW_SAMPLES
    assert listening.ears.segments == []
    await listening.processor.aclose()


def seconds_off(listening: Listening) -> list[float]:
    """By how much each segment's date is off, in the order in which they were said."""
    clocks = listening.ears.clocks
    return [(clocks[start].anchor - BEGINNING).total_seconds() for start in sorted(clocks)]


TO_A_MILLISECOND = 0.001


async def test_a_stream_is_dated_by_its_earliest_frame() -> None:
    """A frame can come late and never early."""
    listening = listen()
    for late_seconds in (0.3, 0.0, 0.2, 0.4):
        listening.frames.clocks.late_seconds = late_seconds
        await listening.hears(quiet(0.096))
    await listening.hears(loud(1))
    await listening.processor.aclose()
    assert seconds_off(listening) == pytest.approx([0], abs=TO_A_MILLISECOND)


async def test_a_busy_machine_does_not_move_the_clock() -> None:
    """Frames that come late for as long as a minute, but for one now and then."""
    listening = listen()
    await listening.hears(quiet(1))
    for _ in range(20):
        listening.frames.clocks.late_seconds = 2.0
        await listening.hears(np.concatenate([loud(2), quiet(3)]))
        listening.frames.clocks.late_seconds = 0.0
        await listening.hears(quiet(0.096))
    await listening.processor.aclose()
    assert seconds_off(listening) == pytest.approx([0] * 20, abs=TO_A_MILLISECOND)


@pytest.mark.parametrize("set_by", [7.0, -4.0, 3_600.0, -3_600.0, 0.05])
async def test_a_changed_clock_applies_from_the_next_segment(
    set_by: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "recorder")
    listening = listen()
    await listening.hears(np.concatenate([quiet(1), loud(2)]))
    listening.frames.clocks.wall_clock_off = set_by
    await listening.hears(np.concatenate([loud(2), quiet(3), loud(2), quiet(3)]))
    await listening.processor.aclose()
    assert seconds_off(listening) == pytest.approx([0, set_by], abs=TO_A_MILLISECOND)
    (line,) = (record for record in caplog.records if "Clock corrected" in record.message)
    assert (
        f"by {set_by:+.3f} s: the machine's was set by {set_by:+.3f} s, the samples drifted" in line.message
    )
    assert line.levelno == (logging.WARNING if abs(set_by) > 0.5 else logging.INFO)
    assert vars(line)["participant"] == TRACK.participant_identity


@pytest.mark.slow
@pytest.mark.parametrize("drift", [100e-6, -100e-6], ids=["samples too slow", "samples too fast"])
async def test_after_an_hour_of_drift_the_clock_is_right(drift: float) -> None:
    """A hundred millionths is more than crystals differ: a third of a second in an hour."""
    listening = listen()
    listening.frames.clocks.drift = drift
    speech = np.concatenate([loud(3), quiet(57)])
    for _ in range(60):
        await listening.hears(speech, frame_samples=16_000)
    await listening.processor.aclose()
    true = [start / SAMPLE_RATE * drift for start in sorted(listening.ears.clocks)]
    assert abs(true[-1]) > 0.35
    assert seconds_off(listening) == pytest.approx(true, abs=0.03)


async def test_where_one_segment_goes_on_in_the_next_no_time_is_between_them() -> None:
    listening = listen()
    await listening.hears(quiet(1))
    await listening.hears(loud(8))
    listening.frames.clocks.wall_clock_off = 5.0
    await listening.hears(loud(8, seed=1))
    await listening.processor.aclose()
    assert len(listening.ears.segments) == 3
    assert seconds_off(listening) == pytest.approx([0, 0, 0], abs=TO_A_MILLISECOND)


async def test_a_reading_of_the_clocks_that_was_disturbed_moves_nothing() -> None:
    listening = listen()
    await listening.hears(np.concatenate([quiet(1), loud(2), quiet(3)]))
    listening.frames.clocks.wall_clock_off = 0.3
    listening.frames.clocks.uncertainty = 0.5
    await listening.hears(np.concatenate([loud(2), quiet(3)]))
    await listening.processor.aclose()
    assert seconds_off(listening) == pytest.approx([0, 0], abs=TO_A_MILLISECOND)


def test_an_instant_is_one_moment_on_both_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of readings between which the machine has done something else, the best counts."""
    readings = iter([0.0, 0.8, 1.0, 1.2, 2.0, 2.4])
    monkeypatch.setattr("core.stream_clock.time.perf_counter", lambda: next(readings))
    now = Instant.now()
    assert (now.monotonic, now.uncertainty) == pytest.approx((1.1, 0.1))


# --- the ends of a track ---


@pytest.mark.parametrize(
    ("pause_seconds", "lasts"), [(0.512, 0.512), (1.024, 1.024), (0.1, MUTE_GRACE_SECONDS)]
)
async def test_a_mute_ends_the_speech_when_it_has_lasted_as_long_as_a_pause(
    pause_seconds: float, lasts: float
) -> None:
    """And no sooner than its last audio has arrived."""
    listening = listen(options=SegmenterOptions(pause_seconds=pause_seconds))
    await listening.hears(loud(1.024))
    listening.processor.mute()
    await listening.hears(loud(lasts - 0.1))
    assert listening.ears.segments == []
    await listening.hears(loud(0.2))
    (segment,) = listening.ears.segments
    assert segment.end_reason is EndReason.MUTED
    assert (1.024 + lasts) <= segment.duration_seconds <= (1.024 + lasts + 0.13)
    await listening.processor.aclose()


async def test_mutes_shorter_than_a_pause_end_nothing() -> None:
    """Push-to-talk: 34 mutes of 0.3 s in a minute."""
    lecture = sound.load("lecture")[: 60 * SAMPLE_RATE].copy()
    mutes = np.linspace(SAMPLE_RATE, len(lecture) - 2 * SAMPLE_RATE, 34).astype(int)
    for start in mutes:
        lecture[start : start + 3 * SAMPLE_RATE // 10] = 0
    segments: list[list[SpeechSegment]] = []
    for is_signalled in (True, False):
        listening = listen(NativeDetector())
        position = 0
        for start in mutes:
            end = start + 3 * SAMPLE_RATE // 10
            await listening.hears(lecture[position:start])
            if is_signalled:
                listening.processor.mute()
            await listening.hears(lecture[start:end])
            if is_signalled:
                listening.processor.unmute()
            position = end
        await listening.hears(lecture[position:])
        await listening.processor.aclose()
        segments.append(listening.ears.segments)
    assert bounds(segments[0]) == bounds(segments[1])


@pytest.mark.parametrize("windows_before", range(1, 5))
async def test_a_word_that_has_just_begun_when_a_mute_ends_the_speech_is_kept(windows_before: int) -> None:
    """The publisher has unmuted and speaks, before the signal of that has come."""
    word = loud(0.192)
    before = windows_before * WINDOW_SAMPLES
    listening = listen()
    listening.processor.mute()
    wait = listening.processor.segmenter.pause_samples
    await listening.hears(np.concatenate([quiet(wait / SAMPLE_RATE)[before:], word, quiet(3)]), 512)
    await listening.processor.aclose()
    kept = np.concatenate([segment.pcm for segment in listening.ears.segments])
    assert (np.abs(kept) >= LOUD // 2).sum() == len(word)


@pytest.mark.parametrize("windows_after", range(1, 5))
async def test_the_rest_of_a_word_that_a_mute_has_cut_is_kept(windows_after: int) -> None:
    after = windows_after * WINDOW_SAMPLES
    listening = listen()
    await listening.hears(quiet(1.024), 512)
    listening.processor.mute()
    speech = loud((listening.processor.segmenter.pause_samples + after) / SAMPLE_RATE)
    await listening.hears(np.concatenate([speech, quiet(3)]), 512)
    await listening.processor.aclose()
    kept = np.concatenate([segment.pcm for segment in listening.ears.segments])
    assert (np.abs(kept) >= LOUD // 2).sum() == len(speech)


async def test_sound_that_the_mute_overtook_is_kept() -> None:
    listening = listen()
    await listening.hears(loud(1))
    listening.processor.mute()
    late = loud(0.3, seed=1)
    await listening.hears(np.concatenate([late, quiet(1)]))
    (segment,) = listening.ears.segments
    np.testing.assert_array_equal(segment.pcm[16_000 : 16_000 + len(late)], late)
    await listening.processor.aclose()


async def test_after_a_mute_speech_is_heard_again() -> None:
    listening = listen()
    await listening.hears(loud(1))
    listening.processor.mute()
    await listening.hears(np.concatenate([quiet(3), loud(1, seed=1)]))
    await listening.processor.aclose()
    assert [segment.end_reason for segment in listening.ears.segments] == [
        EndReason.MUTED,
        EndReason.SHUTDOWN,
    ]


async def test_a_mute_in_mid_word_loses_and_doubles_nothing_of_what_goes_on() -> None:
    """Unmuted again before the last sound had come through."""
    listening, speech = listen(), loud(4)
    await listening.hears(speech[:16_000], frame_samples=100)
    listening.processor.mute()
    await listening.hears(speech[16_000:], frame_samples=100)
    await listening.processor.aclose()
    np.testing.assert_array_equal(
        np.concatenate([segment.pcm for segment in listening.ears.segments]), speech
    )


async def test_a_mute_in_silence_brings_nothing() -> None:
    listening = listen()
    listening.processor.mute()
    await listening.hears(quiet(2))
    await listening.processor.aclose()
    assert listening.ears.updates == []


@pytest.mark.parametrize("reason", list(EndReason))
async def test_the_end_has_the_reason_it_was_given(
    reason: EndReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_processor, "REASON_GRACE_SECONDS", 0.01)
    listening = listen()
    await listening.hears(loud(1))
    listening.processor.end_reason = reason
    await listening.processor.aclose()
    (segment,) = listening.ears.segments
    assert segment.end_reason is reason


async def test_unpublished_becomes_left_when_that_is_heard_within_the_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(track_processor, "REASON_GRACE_SECONDS", 0.1)
    listening = listen()
    await listening.hears(loud(1))
    listening.processor.end_reason = EndReason.UNPUBLISHED
    closing = asyncio.create_task(listening.processor.aclose())
    await asyncio.sleep(0.02)
    listening.processor.end_reason = EndReason.LEFT
    await closing
    (segment,) = listening.ears.segments
    assert segment.end_reason is EndReason.LEFT


async def test_whoever_leaves_does_not_wait_for_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track_processor, "REASON_GRACE_SECONDS", 60)
    listening = listen()
    await listening.hears(loud(1))
    listening.processor.end_reason = EndReason.LEFT
    async with asyncio.timeout(5):
        await listening.processor.aclose()


async def test_a_cancelled_track_still_passes_on_what_was_received() -> None:
    listening = listen()
    await listening.hears(loud(1.005))
    task = listening.task
    task.cancel()
    await asyncio.wait([task])
    (segment,) = listening.ears.segments
    np.testing.assert_array_equal(segment.pcm, loud(1.005))


async def test_a_track_cancelled_in_the_grace_still_passes_on_what_was_received() -> None:
    listening = listen()
    await listening.hears(loud(1))
    listening.processor.end_reason = EndReason.UNPUBLISHED
    await listening.frames.aclose()
    await asyncio.sleep(0.01)
    task = listening.task
    task.cancel()
    await asyncio.wait([task])
    assert len(listening.ears.segments) == 1


async def test_a_model_that_fails_loses_no_word(caplog: pytest.LogCaptureFixture) -> None:
    """From then on everything counts as speech, and the log says so once."""

    class Breaking(LoudIsSpeech):
        windows = 0

        def probability(self, window: Pcm) -> float:
            self.windows += 1
            if self.windows > 30:
                raise RuntimeError("the model is broken")
            return super().probability(window)

    listening = listen(Breaking())
    listening.frames.arrive(loud(2))
    await listening.processor.aclose()
    (segment,) = listening.ears.segments
    assert len(segment.pcm) == 2 * SAMPLE_RATE
    (line,) = (record.getMessage() for record in caplog.records)
    assert "recorded with its silence" in line


# --- the real stream, as far as it goes without a server ---


class OwnQueue(LosslessAudioStream):
    """The stream's queue and receiving task, without a track behind them."""

    def __init__(self) -> None:
        from livekit.rtc._utils import RingQueue

        self._queue = RingQueue(0)

    def __del__(self) -> None:
        pass


def frame(number: int) -> rtc.AudioFrameEvent:
    return rtc.AudioFrameEvent(rtc.AudioFrame(np.full(160, number, np.int16).tobytes(), SAMPLE_RATE, 1, 160))


async def test_the_real_stream_yields_what_had_arrived_before_it_was_closed() -> None:
    stream = OwnQueue()
    for number in range(20):
        stream._queue.put(frame(number))
    stream._queue.put(None)
    stream._task = asyncio.create_task(asyncio.sleep(0))
    await stream._task  # the receiving task is done before anybody has read
    heard = [np.frombuffer(event.frame.data, np.int16)[0] async for event in stream]
    assert heard == list(range(20))


async def test_the_real_stream_is_woken_by_its_own_frames_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def subscribe(stream: rtc.AudioStream, *_: object, **__: object) -> None:
        """What the base class does with its track, without the track."""
        stream._ffi_queue = FfiClient.instance.queue.subscribe()
        stream._ffi_handle = cast("FfiHandle", handles.pop())

    class Handle(NamedTuple):
        handle: int

    handles = [Handle(2), Handle(1)]
    monkeypatch.setattr(rtc.AudioStream, "__init__", subscribe)
    monkeypatch.setattr(FfiClient.instance, "_queue", RoutedEvents())
    one, two = (LosslessAudioStream(cast("rtc.Track", None)) for _ in range(2))
    for number in (1, 2, 1, 3):
        event = FfiEvent()
        event.audio_stream_event.stream_handle = number
        FfiClient.instance.queue.put(event)
    FfiClient.instance.queue.put(FfiEvent())
    await asyncio.sleep(0)
    assert [queue.qsize() for queue in (one._ffi_queue, two._ffi_queue)] == [2, 1]


async def test_the_real_stream_ends_when_its_source_does() -> None:
    stream = OwnQueue()

    async def arrive_and_end() -> None:
        stream._queue.put(frame(1))
        await asyncio.sleep(0.01)
        stream._queue.put(frame(2))
        stream._queue.put(None)

    stream._task = asyncio.create_task(arrive_and_end())
    heard = [np.frombuffer(event.frame.data, np.int16)[0] async for event in stream]
    assert heard == [1, 2]


# --- Silero ---


def probabilities(detector: SpeechDetector, pcm: Pcm) -> list[float]:
    whole = len(pcm) - len(pcm) % WINDOW_SAMPLES
    return [
        detector.probability(pcm[start : start + WINDOW_SAMPLES]) for start in range(0, whole, WINDOW_SAMPLES)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED_SPEECH)
async def test_both_runtimes_hear_the_same_and_cut_the_same(name: str) -> None:
    pcm = sound.load(name)
    native, onnx = (probabilities(detector(), pcm) for detector in (NativeDetector, OnnxDetector))
    assert np.abs(np.subtract(native, onnx)).max() < 1e-3
    heard: list[list[tuple[int, int, EndReason]]] = []
    for probability in (native, onnx):
        segmenter, updates = Segmenter(), list[Update]()
        for index, value in enumerate(probability):
            start = index * WINDOW_SAMPLES
            updates += segmenter.push(pcm[start : start + WINDOW_SAMPLES], value)
        updates += segmenter.finish(EndReason.SHUTDOWN)
        heard.append(bounds([update.segment for update in updates if isinstance(update, Closed)]))
    assert heard[0] == heard[1]
    assert heard[0], "no speech in the shipped speech"


@pytest.mark.parametrize("new_detector", [NativeDetector, OnnxDetector])
def test_each_stream_has_a_model_state_of_its_own(new_detector: Callable[[], SpeechDetector]) -> None:
    pcm = sound.load(SHIPPED_SPEECH[0])[: 3 * SAMPLE_RATE]
    alone = probabilities(new_detector(), pcm)
    one, other = new_detector(), new_detector()
    noise = np.random.default_rng(0).integers(-9000, 9000, WINDOW_SAMPLES).astype(np.int16)
    beside = []
    for start in range(0, len(pcm) - len(pcm) % WINDOW_SAMPLES, WINDOW_SAMPLES):
        beside.append(one.probability(pcm[start : start + WINDOW_SAMPLES]))
        other.probability(noise)
    np.testing.assert_allclose(beside, alone, atol=1e-6)


@pytest.mark.parametrize(("runtime", "kind"), [("native", NativeDetector), ("onnx", OnnxDetector)])
def test_the_runtime_that_was_asked_for_is_loaded(runtime: str, kind: type[SpeechDetector]) -> None:
    assert load_detector(runtime) is kind


def test_where_the_native_library_is_missing_onnx_takes_over_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(self: NativeDetector) -> None:
        raise ImportError("no library for this platform")

    monkeypatch.setattr(NativeDetector, "__init__", missing)
    assert load_detector("native") is OnnxDetector
    (line,) = (record.getMessage() for record in caplog.records)
    assert "no library for this platform" in line and "ONNX" in line


async def test_the_shipped_lecture_is_cut_into_segments_of_two_to_ten_seconds() -> None:
    listening = listen(NativeDetector())
    pcm = sound.load("lecture")
    await listening.hears(pcm)
    await listening.processor.aclose()
    lengths = [segment.duration_seconds for segment in listening.ears.segments]
    assert max(lengths) <= 10
    assert np.mean([2 <= length for length in lengths]) >= 0.95
