"""Passes the updates of one track to its room's writer, and collects small pieces of speech. Never waits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from audio_processor import Closed, Grown, Update
from core.records import NO_TEXT_OPTIONS, SAMPLE_RATE, Pcm, StreamClock, TextOptions, TrackInfo
from recording.gaps import Gap

logger = logging.getLogger("recorder")

BATCH_SECONDS = 0.5
"""Speech is written to disk in pieces of this length: a crash loses at most this and the 0.1 s of a frame."""

TextOptionsSource = Callable[[TrackInfo], TextOptions]
"""Returns the current text options for speech on a track. Must not block or raise."""

SegmentKey = tuple[str, datetime, int]
"""Identifies an open segment: track sid, anchor of the stream, first sample."""


def no_text_options(_: TrackInfo) -> TextOptions:
    return NO_TEXT_OPTIONS


@dataclass(frozen=True)
class Item:
    """An update or a gap of one track."""

    track: TrackInfo
    clock: StreamClock
    update: Update | Gap
    text_options: TextOptions = NO_TEXT_OPTIONS

    def key(self, start_sample: int) -> SegmentKey:
        """The key of the segment that begins at this sample."""
        return self.track.track_sid, self.clock.anchor, start_sample

    @property
    def seconds(self) -> float:
        """Seconds of speech that are lost if this item is dropped."""
        return self.update.segment.duration_seconds if isinstance(self.update, Closed) else 0.0


@dataclass
class _Growing:
    """Speech of one open segment that has not been passed on yet."""

    clock: StreamClock
    pieces: list[Pcm] = field(default_factory=list)
    samples: int = 0


class TrackSink:
    """Passes the updates of one track on; pieces of speech are collected up to ``BATCH_SECONDS``."""

    def __init__(
        self, track: TrackInfo, put: Callable[[Item], None], text_options: TextOptionsSource = no_text_options
    ) -> None:
        self._track = track
        self._put = put
        self._text_options = text_options
        self._growing: dict[int, _Growing] = {}

    def take(self, update: Update, clock: StreamClock) -> None:
        if isinstance(update, Grown):
            self._grow(update, clock)
            return
        text_options = NO_TEXT_OPTIONS
        if isinstance(update, Closed):
            self._growing.pop(update.segment.start_sample, None)  # the closed segment holds all of its PCM
            text_options = self._text_options_now()
        self._put(Item(self._track, clock, update, text_options))

    def _text_options_now(self) -> TextOptions:
        try:
            return self._text_options(self._track)
        except Exception as error:  # the segment must be saved in any case
            logger.error("The text options cannot be determined", exc_info=error)
            return NO_TEXT_OPTIONS

    def _grow(self, update: Grown, clock: StreamClock) -> None:
        growing = self._growing.setdefault(update.start_sample, _Growing(clock))
        growing.pieces.append(update.pcm)
        growing.samples += len(update.pcm)
        if growing.samples >= BATCH_SECONDS * SAMPLE_RATE:
            self._send(update.start_sample)

    def flush(self) -> None:
        """Sends what has been collected so far."""
        for start_sample in list(self._growing):
            self._send(start_sample)

    def _send(self, start_sample: int) -> None:
        growing = self._growing.pop(start_sample)
        self._put(Item(self._track, growing.clock, Grown(start_sample, np.concatenate(growing.pieces))))
