"""The tracks of one room that are recorded or are to be recorded.

:class:`Tracks` owns the only dictionary of tracks. It turns what happens to a track into an event of
:mod:`recording.track_state`, which has the table of transitions; :mod:`recording.track_actions` carries out the
resulting actions. It is used on the room's event loop only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from livekit import rtc

from archive.handover_note import RoomProgress
from config import Settings
from core.records import RoomInfo, utc_now
from core.worker_state import worker_state
from recording.roles import Places
from recording.room_log import RoomLog
from recording.segment_writer import SegmentWriter
from recording.streams import Stream, Streams
from recording.track import Track, track_info
from recording.track_actions import TrackActions, recorded_identities
from recording.track_state import Action, TrackEvent, TrackState, transition

logger = logging.getLogger("recorder")

LATE_SECONDS = 2.0
"""If the subscription to a new track takes longer than this, speech may have been missed, and a gap is opened."""

RECENTLY_GONE_SECONDS = 2.0
"""How long a gone track is kept: a full reconnect first reports all tracks as gone, and then that it reconnects."""


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
        self._log = log
        self._places = Places(settings)
        self._tracks: dict[str, Track] = {}
        """By sid."""
        self._actions = TrackActions(room, self._tracks, self._places, streams, writer, reconsider)

    def __iter__(self) -> Iterator[Track]:
        return iter(list(self._tracks.values()))

    def get(self, sid: str) -> Track | None:
        return self._tracks.get(sid)

    def get_or_add(
        self, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant
    ) -> Track:
        """Returns the track of a publication, with its current properties; adds it if it is new."""
        info = track_info(publication, participant)
        track = self._tracks.setdefault(info.track_sid, Track(publication, participant, info))
        track.publication, track.participant, track.info = publication, participant, info
        return track

    def streaming(self) -> Iterator[tuple[Track, Stream]]:
        """The tracks that are being recorded, with their streams."""
        return ((track, track.stream) for track in self if track.stream is not None)

    def recorded_identities(self) -> set[str]:
        return recorded_identities(self._tracks)

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
                if step is Action.FORGET:
                    self._forget(track)
                else:
                    self._actions.carry_out(step, track, moment)
            except Exception as error:  # the other actions and the other tracks must go on
                logger.error(
                    "A step for %s failed (%s)",
                    track.sid,
                    step,
                    exc_info=error,
                    extra={"room": self._room.name},
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
        track.is_in_use = True
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
            patience = 0.0 if track.is_in_use else LATE_SECONDS
            is_late = since is not None and time.monotonic() - since > patience
            event = TrackEvent.ARRIVED_LATE if is_late else TrackEvent.ARRIVED
        track.is_in_use = False
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

    def set_muted(self, sid: str, *, is_muted: bool) -> None:
        track = self._tracks.get(sid)
        if track is not None and track.stream is not None:
            processor = track.stream.processor
            (processor.mute if is_muted else processor.unmute)()

    def decryption_changed(
        self, participant: rtc.RemoteParticipant, undecrypted_seconds: float | None
    ) -> None:
        """Handles a participant whose packets could not be decrypted for these seconds; None: they can be again."""
        for track, stream in self.streaming():
            if track.info.participant_identity != participant.identity:
                continue
            if undecrypted_seconds is None:
                self.apply(track, TrackEvent.DECRYPTION_RECOVERED)
            else:
                since = max(time.monotonic() - undecrypted_seconds, stream.packets.began_at)
                self.apply(track, TrackEvent.DECRYPTION_FAILED, since)

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
            self._actions.record_unplayed(track)
            self.apply(track, TrackEvent.LEFT if track.gap is None else TrackEvent.LEFT_WITH_GAP)

    def forget_recently_gone(self) -> None:
        """Drops the tracks that went more than RECENTLY_GONE_SECONDS ago: a lost connection was not the reason."""
        earliest = time.monotonic() - RECENTLY_GONE_SECONDS
        for track in self:
            gone = track.recently_gone
            if gone is None or gone.at >= earliest:
                continue
            if is_over := track.state in (TrackState.GONE, TrackState.ENDED):
                self._actions.record_unplayed(track)
            track.recently_gone = None
            if is_over:
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

    def _forget(self, track: Track) -> None:
        if track.recently_gone is None:
            self._tracks.pop(track.sid, None)
