"""Opens and closes the audio streams of recorded tracks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from livekit import rtc

from archive.handover_note import TrackProgress
from audio_processor import Segmenter, SegmenterOptions
from config import Settings
from core.records import EndReason, RoomInfo, TrackInfo
from recording.encryption import Encryption
from recording.packet_stats import PacketStats
from recording.segment_writer import SegmentWriter
from recording.speech_detector import DetectorFactory
from recording.track_processor import TrackProcessor, open_stream

logger = logging.getLogger("recorder")


class Stream(NamedTuple):
    """The open stream of a track, with its packet statistics."""

    processor: TrackProcessor
    packets: PacketStats

    def progress(self, now: datetime, monotonic: float) -> TrackProgress:
        """Until when all audio has been received and passed on."""
        arrived_until = now - timedelta(seconds=monotonic - self.packets.arrived_until)
        until = min(self.processor.received_until, arrived_until)
        return TrackProgress(until, self.packets.jitter_buffer_seconds)


class Streams:
    """Opens and closes the streams of one room."""

    def __init__(
        self,
        settings: Settings,
        room: RoomInfo,
        new_detector: DetectorFactory,
        writer: SegmentWriter,
        encryption: Encryption,
    ) -> None:
        self._settings = settings
        self._room = room
        self._new_detector = new_detector
        self._writer = writer
        self._encryption = encryption
        self._background: dict[asyncio.Task[None], TrackProcessor | None] = {}
        """Running background tasks, each with the processor that it closes, if any."""

    def open(
        self, info: TrackInfo, media: rtc.RemoteTrack, publication: rtc.RemoteTrackPublication
    ) -> Stream:
        """Starts to record a track."""
        detector = self._new_detector()  # before the stream, which must not stay open if this fails (fact 2)
        stream = open_stream(media)
        if publication.encryption_type != rtc.EncryptionType.NONE:
            stream = self._encryption.held_back(stream, info.participant_identity)
        processor = TrackProcessor(
            track=info,
            stream=stream,
            detector=detector,
            segmenter=Segmenter(SegmenterOptions.from_settings(self._settings)),
            sink=self._writer.sink(info),
            room_name=self._room.name,
        )
        processor.start()
        return Stream(processor, PacketStats(media, publication))

    def close(self, stream: Stream, reason: EndReason) -> None:
        """Closes the stream at once (fact 2); what has been received is saved in the background."""
        stream.processor.end_reason = reason
        self.in_background(stream.processor.aclose(), stream.processor)

    def participant_left(self, identity: str) -> None:
        """Sets LEFT as the end reason of this participant's streams that are being closed."""
        for processor in self._background.values():
            if processor is not None and processor.track.participant_identity == identity:
                processor.end_reason = EndReason.LEFT

    def in_background(self, work: Coroutine[Any, Any, None], processor: TrackProcessor | None = None) -> None:
        """Runs a short task in the background. A failure is logged."""
        task = asyncio.create_task(work)
        self._background[task] = processor
        task.add_done_callback(self._on_done)

    async def aclose(self) -> None:
        """Waits until all streams are closed, and all received audio has been passed on."""
        if self._background:
            await asyncio.wait(list(self._background))

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._background.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            logger.error("Closing a track failed", exc_info=task.exception(), extra={"room": self._room.name})
