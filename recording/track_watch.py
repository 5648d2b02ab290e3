"""Checks whether the recorded tracks of one room deliver frames and packets, and reports those that do not."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import TypeVar

from core.records import RoomInfo
from core.supervised import supervised
from core.worker_state import worker_state
from recording.packet_stats import PacketStats, Reception
from recording.room_log import RoomLog
from recording.streams import Stream
from recording.track import Track
from recording.track_state import TrackEvent, TrackState
from recording.tracks import Tracks

logger = logging.getLogger("recorder")

WATCH_SECONDS = 1.0
"""How often frames and packets are checked."""

NO_FRAMES_SECONDS = 5.0
"""A track without frames for this long is subscribed to again; even a muted one delivers 100 a second (fact 4)."""

OVERDUE_SECONDS = 10.0
"""A requested track arrives within a second and brings packets at once; after this long it is requested again."""

FORBIDDEN_SECONDS = 0.5
"""The same while the publisher forbids it: in every round, as the server itself looks only every 3 s whether it is
permitted again."""

FIRST_PACKET_POLL_SECONDS = 0.05
"""The shortest pause between two checks for the first packet; it grows with the time waited."""
STATS_SECONDS = 2.0
"""How long the client may take to return its packet statistics."""
MAX_STATS_FAILURES = 3
"""After this many failed queries the first packet is assumed to have arrived."""

_EVENTS = {
    Reception.ARRIVING: TrackEvent.PACKETS_RESUMED,
    Reception.STOPPED: TrackEvent.PACKETS_STOPPED,
    Reception.ENDED: TrackEvent.SUBSCRIPTION_ENDED,
}

Result = TypeVar("Result")


LATE_ROUND_SECONDS = 2.0
"""A round that comes this much too late shows that this process was stopped, or the machine asleep."""

LATE_AUDIO_SECONDS = 1.0
"""A jitter buffer that delays audio by more than this is reported: the dates of segments are late by as much."""


async def next_round() -> float:
    """Waits for the next round of a watch. Returns for how many seconds this process has not run meanwhile; 0: it has.

    What the system has kept then arrives within a moment, so after a late round it waits for one more before anything
    is judged.
    """
    late = await _late()
    if late < LATE_ROUND_SECONDS:
        return 0.0
    await _late()
    return late


async def _late() -> float:
    """Waits for a round, and returns by how many seconds that took too long. What a round does itself does not count:
    a query may hang."""
    began = time.monotonic()
    await asyncio.sleep(WATCH_SECONDS)
    return time.monotonic() - began - WATCH_SECONDS


class TrackWatch:
    """Turns missing frames and packets into events of the tracks."""

    def __init__(self, tracks: Tracks, room: RoomInfo, log: RoomLog) -> None:
        self._tracks = tracks
        self._room = room
        self._log = log
        self.has_no_frames = False
        """Whether a recorded track delivered no frames at the last round."""
        self._waiting: set[asyncio.Task[None]] = set()
        """Tasks that wait for the first packet of a track."""

    def close(self) -> None:
        """Stops waiting for first packets."""
        for task in self._waiting:
            task.cancel()

    def check_frames(self) -> None:
        """Subscribes again to tracks that deliver neither frames nor packets, or have not arrived at all."""
        for track in self._tracks:
            if track.stream is not None and _has_no_frames(track.stream):
                last_frame_at = track.stream.processor.last_frame_at
                track.no_frames_since = track.no_frames_since or last_frame_at
                self._resubscribe(track, TrackEvent.NO_FRAMES, last_frame_at)
            elif time.monotonic() - track.requested_at > _patience(track):
                self._overdue(track)

    def _overdue(self, track: Track) -> None:
        if track.state is TrackState.REQUESTED:
            self._resubscribe(track, TrackEvent.OVERDUE, track.requested_at)
        else:
            self._tracks.apply(track, TrackEvent.OVERDUE)

    def _resubscribe(self, track: Track, event: TrackEvent, since: float) -> None:
        if track.gap is None:
            seconds = time.monotonic() - since
            message = f"NO AUDIO: {track.sid} has delivered none for {seconds:.0f} s, subscribing again"
            self._log(logging.ERROR, message, track.participant)
        self._tracks.apply(track, event, since)

    def report(self) -> None:
        """Reports tracks without audio to the health answer, until they deliver frames again or are gone, and how late
        frames are."""
        delays = [stream.processor.take_delay() for _, stream in self._tracks.streaming()]
        worker_state.audio_delay(self._room.sid, max(delays, default=0.0))
        self.has_no_frames = any(_has_no_frames(stream) for _, stream in self._tracks.streaming())
        for track, stream in self._tracks.streaming():
            if stream.processor.segmenter.position and not _has_no_frames(stream):
                track.no_frames_since = None
        silent = [track.no_frames_since for track in self._tracks if track.no_frames_since is not None]
        if silent:
            worker_state.no_audio(self._room.sid, since=min(silent))
        else:
            worker_state.has_audio(self._room.sid)

    async def watch_packets(self) -> None:
        """Checks packets once a second, until cancelled. A track whose query fails delays the others only briefly.

        The time in which this process did not run is a gap: the system and the jitter buffer keep a few seconds, and
        nothing says reliably what they dropped.
        """
        while True:
            stopped_seconds = await next_round()
            if stopped_seconds:
                self._report_stop(stopped_seconds)
            for track, stream in self._tracks.streaming():
                received_until = stream.packets.received_until
                reception = await _result(stream.packets.query(), track)
                if track.stream is not stream:
                    continue
                if stopped_seconds:
                    self._tracks.apply(track, TrackEvent.PACKETS_STOPPED, received_until)
                if reception is not None:
                    self._apply_packets(track, stream.packets, reception)

    def _report_stop(self, seconds: float) -> None:
        logger.warning(
            "This process did not run for %.1f s: speech of that time may be missing, or be dated late",
            seconds,
            extra={"room": self._room.name},
        )

    def _apply_packets(self, track: Track, packets: PacketStats, reception: Reception) -> None:
        if reception is Reception.ENDED and self._tracks.reconnecting_since is not None:
            return  # the recorder's own connection is being replaced
        self._report_delay(track, packets.jitter_buffer_seconds)
        if reception is Reception.STOPPED and track.gap is None:
            seconds = time.monotonic() - packets.arrived_until
            self._log(
                logging.WARNING,
                f"No packets of {track.sid} for {seconds:.0f} s, although it is not muted: check the participant's "
                "network; if several participants are affected, the network of this machine",
                track.participant,
            )
        self._tracks.apply(track, _EVENTS[reception], packets.received_until)

    def _report_delay(self, track: Track, seconds: float) -> None:
        if not track.is_audio_late and seconds > LATE_AUDIO_SECONDS:
            track.is_audio_late = True
            message = (
                f"The audio of {track.sid} comes {seconds:.1f} s late, and so are the dates of its segments"
            )
            self._log(logging.WARNING, message, track.participant)
        elif track.is_audio_late and seconds < LATE_AUDIO_SECONDS / 2:
            track.is_audio_late = False
            self._log(logging.INFO, f"The audio of {track.sid} comes in time again", track.participant)

    def await_first_packet(self, track: Track) -> None:
        """Waits in the background for the first packet, which closes the track's gap."""
        stream = track.stream
        if stream is None:
            return
        task = supervised(
            lambda: self._first_packet(track, stream),
            "wait for the first packet",
            room=self._room.sid,
            room_name=self._room.name,
        )
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _first_packet(self, track: Track, stream: Stream) -> None:
        began, failures = time.monotonic(), 0
        while track.stream is stream and track.state is TrackState.SUBSCRIBED:
            has_begun = await _result(stream.packets.has_begun(), track)
            failures += has_begun is None
            is_unknown = failures >= MAX_STATS_FAILURES
            if (has_begun or is_unknown) and track.stream is stream:
                self._tracks.apply(track, TrackEvent.FIRST_PACKET)
                return
            waited = time.monotonic() - began
            await asyncio.sleep(min(WATCH_SECONDS, max(FIRST_PACKET_POLL_SECONDS, waited / 10)))


def _patience(track: Track) -> float:
    """How many seconds after a request for a subscription the next is made."""
    is_forbidden = track.state is TrackState.REQUESTED_AGAIN and track.gap is not None
    return FORBIDDEN_SECONDS if is_forbidden else OVERDUE_SECONDS


def _has_no_frames(stream: Stream) -> bool:
    return time.monotonic() - stream.processor.last_frame_at > NO_FRAMES_SECONDS


async def _result(query: Awaitable[Result], track: Track) -> Result | None:
    """The result of a query for packet statistics; None: the query failed, which is logged."""
    try:
        async with asyncio.timeout(STATS_SECONDS):
            return await query
    except Exception as error:
        logger.debug("The packet statistics of %s cannot be read", track.sid, exc_info=error)
        return None
