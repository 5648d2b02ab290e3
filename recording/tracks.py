"""The tracks of one room that are recorded or are to be recorded, and the actions on them.

:mod:`recording.track_state` has the states and the table of transitions. :class:`Tracks` owns the only dictionary of
tracks and carries out the actions: it subscribes, opens and closes streams, and keeps the gaps. It is used on the
room's event loop only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from livekit import rtc

from archive.handover_note import RoomProgress, TrackProgress
from config import Settings
from core.audit import AuditEvent, audit
from core.records import RoomInfo, TrackInfo, utc_now
from core.worker_state import worker_state
from recording.gaps import CurrentGap
from recording.roles import Places
from recording.room_log import RoomLog
from recording.segment_writer import SegmentWriter
from recording.streams import Stream, Streams
from recording.track_state import Action, OpenGap, Step, Stop, TrackEvent, TrackState, transition

logger = logging.getLogger("recorder")

LATE_SECONDS = 2.0
"""If a subscription takes longer than this, speech may have been missed, and a gap is opened."""

RECENTLY_GONE_SECONDS = 2.0
"""How long a gone track is kept: a full reconnect first reports all tracks as gone, and then that it reconnects."""

RETRY_SECONDS = 1.0
"""The pause before a subscription is requested again."""

_SOURCES = {
    rtc.TrackSource.SOURCE_MICROPHONE: "microphone",
    rtc.TrackSource.SOURCE_SCREENSHARE_AUDIO: "screen_share_audio",
}


class RecentlyGone(NamedTuple):
    """When a track went, and until when it was received. Both are seconds of the monotonic clock."""

    at: float
    received_until: float


@dataclass
class Track:
    """One track and its state. Times are seconds of the monotonic clock."""

    publication: rtc.RemoteTrackPublication
    participant: rtc.RemoteParticipant
    info: TrackInfo
    state: TrackState = TrackState.NEW
    is_preexisting: bool = False
    """It was published before this recorder joined: its first gap begins where the previous recorder stopped."""
    requested_at: float = 0.0
    """When the subscription was last requested."""
    media: rtc.RemoteTrack | None = None
    """The track as the server last delivered it."""
    stream: Stream | None = None
    """The open stream; None: it is not being recorded."""
    last_stream: Stream | None = None
    """The stream that was open when the recorder left the room."""
    gap: CurrentGap | None = None
    recently_gone: RecentlyGone | None = None
    no_frames_since: float | None = None
    """Since when it has delivered no frames, for the health answer; None: it delivers frames."""
    is_audio_late: bool = False
    """Whether the jitter buffer delays it much, as reported in the log."""

    @property
    def sid(self) -> str:
        return self.info.track_sid

    @property
    def received_until(self) -> float | None:
        """Until when all audio has been received. None: no stream is open."""
        return self.stream.packets.received_until if self.stream else None

    @property
    def missing_since(self) -> float | None:
        """Since when its speech has been missing, if it is not listened to. None: from now on."""
        if self.recently_gone is not None:
            return self.recently_gone.received_until
        return self.requested_at if self.state is TrackState.REQUESTED else None

    @property
    def has_progress(self) -> bool:
        """Whether it is listed in the handover note."""
        is_known = self.gap or self.recently_gone or self.stream or self.last_stream
        return bool(is_known) or self.state is TrackState.REQUESTED

    def progress(self, now: datetime, monotonic: float) -> TrackProgress | None:
        """Until when all audio has been received and passed on. None: this recorder has received nothing yet."""

        def until(moment: float | None) -> TrackProgress | None:
            return None if moment is None else TrackProgress(now - timedelta(seconds=monotonic - moment))

        if self.gap is not None:
            return until(self.gap.since)
        if self.recently_gone is not None:
            return until(self.recently_gone.received_until)
        if (stream := self.stream or self.last_stream) is not None:
            return stream.progress(now, monotonic)
        return None if self.is_preexisting else until(self.requested_at)


class Tracks:
    """The tracks of one room that have a state."""

    def __init__(
        self,
        settings: Settings,
        room: RoomInfo,
        streams: Streams,
        writer: SegmentWriter,
        reconsider: Callable[[rtc.RemoteParticipant], None],
        log: RoomLog,
    ) -> None:
        """``reconsider`` decides again which tracks of a participant are recorded, if it is still in the room."""
        self.reconnecting_since: float | None = None
        """Since when the recorder's own connection has been broken (monotonic clock); None: it is not."""
        self._room = room
        self._streams = streams
        self._writer = writer
        self._reconsider = reconsider
        self._log = log
        self._places = Places(settings)
        self._audited: set[str] = set()
        """The identities of whom the audit lines say that they are being recorded."""
        self._tracks: dict[str, Track] = {}
        """By sid."""

    def __iter__(self) -> Iterator[Track]:
        return iter(list(self._tracks.values()))

    def get(self, sid: str) -> Track | None:
        return self._tracks.get(sid)

    def get_or_add(
        self, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant
    ) -> Track:
        """Returns the track of a publication, with its current properties; adds it if it is new."""
        info = _track_info(publication, participant)
        track = self._tracks.setdefault(info.track_sid, Track(publication, participant, info))
        track.publication, track.participant, track.info = publication, participant, info
        return track

    def streaming(self) -> Iterator[tuple[Track, Stream]]:
        """The tracks that are being recorded, with their streams."""
        return ((track, track.stream) for track in self if track.stream is not None)

    def recorded_identities(self) -> set[str]:
        return {track.info.participant_identity for track, _ in self.streaming()}

    # Events.

    def apply(self, track: Track, event: TrackEvent, since: float | None = None) -> None:
        """Changes the state and carries out the actions.

        ``since``: from when on the track has not been received (monotonic clock); None: from now on.
        """
        change = transition(track.state, event)
        track.state = change.state
        moment = time.monotonic() if since is None else since
        for step in change.actions:
            try:
                self._do(step, track, moment)
            except Exception as error:  # the other actions and the other tracks must go on
                logger.error(
                    "%s of %s failed", step, track.sid, exc_info=error, extra={"room": self._room.name}
                )
                if step is Action.START:
                    self.apply(track, TrackEvent.NO_FRAMES, moment)

    def admit(self, track: Track) -> None:
        """Records the track as soon as there is a place for it."""
        bound = self._places.take(track.participant.identity, track.sid)
        if bound is None:
            self.apply(track, TrackEvent.ADMITTED)
        elif track.state is not TrackState.WAITING_FOR_PLACE:
            worker_state.counters.over_bound.inc()
            self._log(logging.ERROR, f"NOT RECORDED: {track.sid} is over {bound}", track.participant)
            self.apply(track, TrackEvent.NO_PLACE)

    def pause(self, track: Track) -> None:
        """The recording of the room is paused; the track is to be recorded when it is resumed."""
        track.no_frames_since = None
        since = track.received_until or track.missing_since
        self.apply(track, TrackEvent.PAUSED, since if track.gap is None else None)

    def arrived(self, track: Track, media: rtc.RemoteTrack) -> None:
        """Handles a track that the server has delivered."""
        track.media = media
        since = track.missing_since
        if track.is_preexisting:
            event = TrackEvent.ARRIVED_PREEXISTING
        elif track.recently_gone is not None:
            event = TrackEvent.ARRIVED_AGAIN
        else:
            is_late = since is not None and time.monotonic() - since > LATE_SECONDS
            event = TrackEvent.ARRIVED_LATE if is_late else TrackEvent.ARRIVED
        self.apply(track, event, since)
        self._log(logging.INFO, f"Track subscribed: {track.info.source} {track.sid}", track.participant)

    def unsubscribed(self, track: Track) -> None:
        is_reconnecting = self.reconnecting_since is not None
        event = TrackEvent.UNSUBSCRIBED_WHILE_RECONNECTING if is_reconnecting else TrackEvent.UNSUBSCRIBED
        self.apply(track, event, track.received_until)

    def unpublished(self, track: Track) -> None:
        track.no_frames_since = None
        is_reconnecting = self.reconnecting_since is not None
        event = TrackEvent.UNPUBLISHED_WHILE_RECONNECTING if is_reconnecting else TrackEvent.UNPUBLISHED
        self.apply(track, event, track.received_until)

    def connection_lost(self) -> None:
        """The recorder's connection is lost, which explains why some tracks went just before."""
        self.reconnecting_since = self.reconnecting_since or time.monotonic()
        self.forget_recently_gone()
        for track in self:
            if track.recently_gone is not None:
                self.apply(track, TrackEvent.CONNECTION_LOST, track.recently_gone.received_until)
                track.recently_gone = None

    def leave(self) -> None:
        """Ends all tracks: the recorder has left the room, or is about to. Idempotent."""
        for track in self:
            self.apply(track, TrackEvent.LEFT if track.gap is None else TrackEvent.LEFT_WITH_GAP)

    def forget_recently_gone(self) -> None:
        """Drops the tracks that went more than RECENTLY_GONE_SECONDS ago: a lost connection was not the reason."""
        earliest = time.monotonic() - RECENTLY_GONE_SECONDS
        for track in self:
            gone = track.recently_gone
            if gone is None or gone.at >= earliest:
                continue
            track.recently_gone = None
            if track.state in (TrackState.GONE, TrackState.ENDED):
                self._forget(track)
            else:
                if track.state is TrackState.REQUESTED_AGAIN and track.gap is None:
                    message = (
                        f"NO AUDIO: the server does not deliver {track.sid}: does its publisher permit it?"
                    )
                    self._log(logging.WARNING, message, track.participant)
                self.apply(track, TrackEvent.STILL_PUBLISHED, gone.received_until)

    def progress(self) -> RoomProgress:
        """Until when each track has been received and passed on, for the handover note."""
        now, monotonic = utc_now(), time.monotonic()
        tracks = {track.sid: track.progress(now, monotonic) for track in self if track.has_progress}
        # Tracks that are published while the recorder reconnects are not in the dictionary yet.
        since = monotonic if self.reconnecting_since is None else self.reconnecting_since
        return RoomProgress(now - timedelta(seconds=monotonic - since), tracks, now)

    # Actions.

    def _do(self, step: Step, track: Track, moment: float) -> None:
        if isinstance(step, OpenGap):
            self._open_gap(track, step, moment)
        elif isinstance(step, Stop):
            self._stop(track, step)
        elif step is Action.REMEMBER:
            track.recently_gone = track.recently_gone or RecentlyGone(time.monotonic(), moment)
        elif step is Action.KEEP_PROGRESS:
            track.last_stream = track.stream
        else:
            _ACTIONS[step](self, track)

    def _subscribe(self, track: Track) -> None:
        track.requested_at = time.monotonic()
        track.publication.set_subscribed(True)

    def _unsubscribe(self, track: Track) -> None:
        track.publication.set_subscribed(False)

    def _retry(self, track: Track) -> None:
        async def reconsider_later() -> None:
            await asyncio.sleep(RETRY_SECONDS)
            self._reconsider(track.participant)

        self._streams.in_background(reconsider_later())

    def _start(self, track: Track) -> None:
        assert track.media is not None
        track.recently_gone = None
        track.stream = self._streams.open(track.info, track.media, track.publication)
        self._note_recorded()

    def _stop(self, track: Track, stop: Stop) -> None:
        if track.stream is not None:
            stream, track.stream = track.stream, None
            self._note_recorded()
            self._streams.close(stream, stop.reason)

    def _note_recorded(self) -> None:
        """Counts who is being recorded, and writes an audit line for each participant who begins or ends to be."""
        recorded = self.recorded_identities()
        worker_state.teachers(self._room.sid, len(recorded))
        for identity in sorted(recorded - self._audited):
            audit(AuditEvent.RECORDING_BEGUN, self._room.name, identity)
        for identity in sorted(self._audited - recorded):
            audit(AuditEvent.RECORDING_ENDED, self._room.name, identity)
        self._audited = recorded

    def _open_gap(self, track: Track, gap: OpenGap, since: float) -> None:
        if gap.replaces and track.gap is not None and track.gap.reason is not gap.reason:
            self._close_gap(track)
        if track.gap is None:
            start = None if track.is_preexisting else since
            track.gap = CurrentGap(start, gap.reason, time.monotonic())
            track.is_preexisting = False

    def _close_gap(self, track: Track) -> None:
        if track.gap is not None:
            gap, track.gap = track.gap, None
            self._writer.record_gap(track.info, gap.closed(utc_now(), time.monotonic()))

    def _free_place(self, track: Track) -> None:
        track.is_preexisting = False
        track.no_frames_since = None
        if self._places.free(track.sid):
            self._admit_next()

    def _admit_next(self) -> None:
        """Gives a place that has become free to the track that has waited longest, of those that the bounds allow."""
        gaps = [(track.gap.opened_at, track) for track in self if track.gap is not None]
        for _, track in sorted(gaps, key=lambda entry: entry[0]):
            if track.state is TrackState.WAITING_FOR_PLACE:
                self._reconsider(track.participant)
                if track.sid in self._places.held():
                    return

    def _forget(self, track: Track) -> None:
        if track.recently_gone is None:
            self._tracks.pop(track.sid, None)


_ACTIONS: dict[Action, Callable[[Tracks, Track], None]] = {
    Action.SUBSCRIBE: Tracks._subscribe,
    Action.UNSUBSCRIBE: Tracks._unsubscribe,
    Action.RETRY: Tracks._retry,
    Action.START: Tracks._start,
    Action.CLOSE_GAP: Tracks._close_gap,
    Action.FREE_PLACE: Tracks._free_place,
    Action.FORGET: Tracks._forget,
}


def _track_info(publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant) -> TrackInfo:
    return TrackInfo(
        participant_identity=participant.identity,
        participant_name=participant.name,
        track_sid=publication.sid,
        source=_SOURCES.get(publication.source, "unknown"),
    )
