"""What is done when the state of a track changes. The table of transitions is in :mod:`recording.track_state`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

from livekit import rtc

from core.audit import AuditEvent, audit
from core.records import GapReason, RoomInfo, utc_now
from core.worker_state import worker_state
from recording.gaps import CurrentGap
from recording.roles import Places
from recording.segment_writer import SegmentWriter
from recording.streams import Streams
from recording.track import RecentlyGone, Track
from recording.track_state import Action, OpenGap, Step, Stop, TrackState

RETRY_SECONDS = 1.0
"""The pause before a subscription is requested again."""


def recorded_identities(tracks: Mapping[str, Track]) -> set[str]:
    """The identities of the participants who are being recorded."""
    return {track.info.participant_identity for track in tracks.values() if track.stream is not None}


class TrackActions:
    """Subscribes, opens and closes streams, and records gaps, for the tracks of one room."""

    def __init__(
        self,
        room: RoomInfo,
        tracks: Mapping[str, Track],
        places: Places,
        streams: Streams,
        writer: SegmentWriter,
        reconsider: Callable[[rtc.RemoteParticipant], None],
    ) -> None:
        """``tracks``: all tracks of the room by sid, which :class:`recording.tracks.Tracks` owns."""
        self._room = room
        self._tracks = tracks
        self._places = places
        self._streams = streams
        self._writer = writer
        self._reconsider = reconsider
        self._audited: set[str] = set()
        """The identities of whom the audit lines say that they are being recorded."""

    def carry_out(self, step: Step, track: Track, moment: float) -> None:
        """``moment``: from when on the track has not been received (monotonic clock), if the step needs it."""
        if isinstance(step, OpenGap):
            self._open_gap(track, step, moment)
        elif isinstance(step, Stop):
            self._stop(track, step)
        elif step is Action.REMEMBER:
            unplayed_since = track.stream.packets.unplayed_since if track.stream else None
            track.recently_gone = track.recently_gone or RecentlyGone(
                time.monotonic(), moment, unplayed_since
            )
        elif step is Action.KEEP_PROGRESS:
            track.last_stream = track.stream
        else:
            _ACTIONS[step](self, track)

    def record_unplayed(self, track: Track) -> None:
        """Records what the jitter buffer still held when the track went as a gap, once."""
        gone = track.recently_gone
        if gone is not None:
            self._record_unplayed(track, gone.unplayed_since, gone.at)
            track.recently_gone = gone._replace(unplayed_since=None)

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
            if track.recently_gone is None:
                self._record_unplayed(track, stream.packets.unplayed_since, time.monotonic())
            self._note_recorded()
            self._streams.close(stream, stop.reason)

    def _note_recorded(self) -> None:
        """Counts who is being recorded, and writes an audit line for each participant who begins or ends to be."""
        recorded = recorded_identities(self._tracks)
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
            is_from_before = track.is_preexisting
            if is_from_before and gap.reason is GapReason.PAUSED and not track.was_paused:
                self._record_gap(track, CurrentGap(None, GapReason.NO_RECORDER, since), since)
                is_from_before = False
            track.gap = CurrentGap(None if is_from_before else since, gap.reason, time.monotonic())
            track.is_preexisting = False

    def _close_gap(self, track: Track) -> None:
        if track.gap is not None:
            gap, track.gap = track.gap, None
            self._record_gap(track, gap, time.monotonic())

    def _record_unplayed(self, track: Track, since: float | None, until: float) -> None:
        if since is not None and track.gap is None:
            self._record_gap(track, CurrentGap(since, GapReason.NO_MEDIA, until), until)

    def _record_gap(self, track: Track, gap: CurrentGap, until: float) -> None:
        now = utc_now() - timedelta(seconds=time.monotonic() - until)
        self._writer.record_gap(track.info, gap.closed(now, until))

    def _free_place(self, track: Track) -> None:
        track.is_preexisting = False
        track.no_frames_since = None
        if self._places.free(track.sid):
            self._admit_next()

    def _admit_next(self) -> None:
        """Gives a place that has become free to the track that has waited longest, of those that the bounds allow."""
        gaps = [(track.gap.opened_at, track) for track in self._tracks.values() if track.gap is not None]
        for _, track in sorted(gaps, key=lambda entry: entry[0]):
            if track.state is TrackState.WAITING_FOR_PLACE:
                self._reconsider(track.participant)
                if track.sid in self._places.held():
                    return


_ACTIONS: dict[Action, Callable[[TrackActions, Track], None]] = {
    Action.SUBSCRIBE: TrackActions._subscribe,
    Action.UNSUBSCRIBE: TrackActions._unsubscribe,
    Action.RETRY: TrackActions._retry,
    Action.START: TrackActions._start,
    Action.CLOSE_GAP: TrackActions._close_gap,
    Action.FREE_PLACE: TrackActions._free_place,
}
