"""Packet statistics of one track: whether packets arrive, and how long the jitter buffer delays them.

Frames do not tell: where nothing arrives any more, the jitter buffer goes on delivering, a hundred frames of silence a
second. So the client is asked for the packets that it has received. A publisher sends some even of silence, a few a
second; only one that is muted sends none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from livekit import rtc

LOST_SECONDS = 2.0
"""A publisher that is silent may send as few as two packets a second; so long without any is an outage."""


class _Emitted(NamedTuple):
    """All samples that have left the jitter buffer: the sum of their delays, and how many they were.
    (W3C webrtc-stats: jitterBufferDelay, jitterBufferEmittedCount.)"""

    delay_seconds: float
    samples: int


class PacketStats:
    """One track's packets. Ask once a second: a question costs 0.7 ms of CPU."""

    def __init__(
        self,
        track: rtc.Track,
        publication: rtc.TrackPublication,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._track = track
        self._publication = publication
        self._clock = clock
        self._packets = -1
        self._asked_at = self._came_at = clock()
        self.lost_since = self._asked_at
        """From when on packets may be missing (monotonic clock): nobody knows when the last one came, but that it was
        after this."""
        self.silent_since: float | None = None
        """The same, if the last question found nothing new, and the publisher is not muted."""
        self.jitter_buffer_seconds = 0.0
        """How long the jitter buffer has delayed audio recently: some 50 ms, and up to a second where a machine or a
        network is overloaded."""
        self._emitted = _Emitted(0.0, 0)

    def received_until(self, now: float) -> float:
        """Until when everything that was said has come out of the jitter buffer, as far as is known."""
        return (now if self.silent_since is None else self.silent_since) - self.jitter_buffer_seconds

    async def has_begun(self) -> bool:
        """Whether any packet has arrived, or none can: the publisher is muted. Raises what the client raises when it
        cannot tell."""
        return self._publication.muted or await self._received() > 0

    async def is_lost(self) -> bool:
        """Whether packets should arrive and do not. Raises what the client raises when it cannot tell."""
        packets = await self._received()
        before, self._asked_at = self._asked_at, self._clock()
        if self._publication.muted or packets != self._packets:
            self._packets, self._came_at, self.lost_since = packets, self._asked_at, before
            self.silent_since = None
        else:
            self.silent_since = self.lost_since
        return self._asked_at - self._came_at >= LOST_SECONDS

    async def _received(self) -> int:
        """Packets so far; 0 before the first."""
        packets = 0
        for report in await self._track.get_stats():
            if report.WhichOneof("stats") == "inbound_rtp":
                packets += report.inbound_rtp.received.packets_received
                inbound = report.inbound_rtp.inbound
                self._note_delay(_Emitted(inbound.jitter_buffer_delay, inbound.jitter_buffer_emitted_count))
        return packets

    def _note_delay(self, emitted: _Emitted) -> None:
        """The mean since the question before."""
        samples = emitted.samples - self._emitted.samples
        if samples > 0:
            delay = emitted.delay_seconds - self._emitted.delay_seconds
            self.jitter_buffer_seconds = max(0.0, delay) / samples
            self._emitted = emitted
