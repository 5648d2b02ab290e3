"""Packet statistics of one track: whether packets arrive, and how long the jitter buffer delays them.

Frames do not show that: without packets the jitter buffer still delivers a hundred frames of silence a second. So the
client is queried for the number of packets received. A publisher sends a few packets a second even during silence, and
none while it is muted. When the server ends a subscription, the statistics disappear.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from livekit import rtc

LOST_SECONDS = 2.0
"""This long without packets is an outage. A publisher may send as few as two packets a second during silence."""

MAX_USUAL_DELAY_SECONDS = 0.5
"""A jitter buffer that delays audio by more than this has not caught up, for example after the process was stopped."""

MAX_QUERY_AGE_SECONDS = 3.0
"""The process was stopped, or the machine is overloaded, if the last query is older than this."""


class Reception(Enum):
    """What the statistics say about a track."""

    ARRIVING = "arriving"
    """Packets arrive, or the publisher is muted."""
    STOPPED = "stopped"
    """Packets should arrive and do not."""
    ENDED = "ended"
    """There are no statistics any more: the server has ended the subscription, or the track is being unpublished."""


class _Emitted(NamedTuple):
    """The sum of the delays of all samples that have left the jitter buffer, and their number.

    W3C webrtc-stats: jitterBufferDelay, jitterBufferEmittedCount.
    """

    delay_seconds: float
    samples: int


class _Received(NamedTuple):
    """What has arrived of a track: the number of packets, and how long before the query the last of them came."""

    packets: int | None
    """None: the client has no statistics of the track."""
    last_age_seconds: float | None
    """None: the client does not say."""


class PacketStats:
    """Packet statistics of one track. Query them once a second: a query takes 0.7 ms of CPU."""

    def __init__(
        self,
        track: rtc.Track,
        publication: rtc.TrackPublication,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._track = track
        self._publication = publication
        self._clock = clock
        self._packets: int | None = 0
        self._was_muted = publication.muted
        self._has_statistics = False
        self.began_at = clock()
        """When the stream was opened."""
        self._queried_at = self.began_at
        self.arrived_until = self._queried_at
        """Until when packets are known to have arrived, or the publisher to have been muted (monotonic clock): at most
        a second before now. What came later may be missing."""
        self.jitter_buffer_seconds = 0.0
        """The recent delay of the jitter buffer: about 50 ms, up to 1 s on an overloaded machine or network."""
        self._emitted = _Emitted(0.0, 0)

    @property
    def received_until(self) -> float:
        """Until when all audio is known to have left the jitter buffer (monotonic clock)."""
        return self.arrived_until - self.jitter_buffer_seconds

    @property
    def unplayed_since(self) -> float | None:
        """From when on audio is lost if the stream ends now, as it has not left the jitter buffer (monotonic clock).

        None: the buffer delays no more than usual, or the publisher is muted.
        """
        is_late = self.jitter_buffer_seconds > MAX_USUAL_DELAY_SECONDS
        is_unknown = self._clock() - self._queried_at > MAX_QUERY_AGE_SECONDS
        return self.received_until if (is_late or is_unknown) and not self._was_muted else None

    async def has_begun(self) -> bool:
        """Whether a packet has arrived, or the publisher is muted. Raises the client's exception if the query fails."""
        return self._publication.muted or bool((await self._received()).packets)

    async def query(self) -> Reception:
        """Queries whether packets arrive. Raises the client's exception if that fails."""
        now = self._clock()
        received = await self._received()
        if received.packets is None and self._has_statistics:
            return Reception.ENDED
        is_muted, was_muted = self._publication.muted, self._was_muted
        if is_muted and was_muted:  # a mute that has just begun says nothing of the time before it
            self.arrived_until = now
        elif received.packets and received.packets != self._packets:
            age = now - self._queried_at if received.last_age_seconds is None else received.last_age_seconds
            self.arrived_until = max(self.arrived_until, now - age)
        self._packets, self._was_muted, self._queried_at = received.packets, is_muted, now
        return Reception.STOPPED if now - self.arrived_until >= LOST_SECONDS else Reception.ARRIVING

    async def _received(self) -> _Received:
        """Queries what has been received so far, and updates the delay."""
        packets, ages = None, []
        for report in await self._track.get_stats():
            if report.WhichOneof("stats") == "inbound_rtp":
                self._has_statistics = True
                packets = (packets or 0) + report.inbound_rtp.received.packets_received
                inbound = report.inbound_rtp.inbound
                self._note_delay(_Emitted(inbound.jitter_buffer_delay, inbound.jitter_buffer_emitted_count))
                if inbound.last_packet_received_timestamp:
                    milliseconds = report.inbound_rtp.rtc.timestamp / 1000
                    ages.append(max(0.0, milliseconds - inbound.last_packet_received_timestamp) / 1000)
        return _Received(packets, min(ages, default=None))

    def _note_delay(self, emitted: _Emitted) -> None:
        """Updates the mean delay since the previous query."""
        samples = emitted.samples - self._emitted.samples
        if samples > 0:
            delay = emitted.delay_seconds - self._emitted.delay_seconds
            self.jitter_buffer_seconds = max(0.0, delay) / samples
            self._emitted = emitted
