"""Decides which tracks of a room are recorded: by its participants' roles, the pause and the encryption key."""

from __future__ import annotations

from livekit import rtc

from recording.encryption import Encryption
from recording.pause import Pause
from recording.people import People
from recording.track import audio_of
from recording.track_state import PENDING, STREAMING, TrackEvent, TrackState
from recording.tracks import Tracks


class Admission:
    """Requests the tracks that are to be recorded, and refuses the others."""

    def __init__(self, people: People, pause: Pause, encryption: Encryption, tracks: Tracks) -> None:
        self._people = people
        self._pause = pause
        self._encryption = encryption
        self._tracks = tracks

    def reconsider(self, participant: rtc.RemoteParticipant) -> None:
        """Updates the subscriptions to a participant after anything that decides about them may have changed."""
        was_refused = self._people.is_refused(participant)
        is_recorded = self._people.rejudge(participant).is_recorded
        for publication in audio_of(participant):
            if is_recorded:
                if was_refused:
                    self._tracks.get_or_add(publication, participant).is_in_use = True
                self._want(publication, participant)
            else:
                self._refuse(publication, participant)

    def accepts(self, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant) -> bool:
        """Whether a track that the server delivers is still to be recorded. If not, it is unsubscribed."""
        is_recorded = self._people.judge(participant).is_recorded
        if is_recorded and not self._pause.is_paused:
            return True
        publication.set_subscribed(False)
        if is_recorded:
            self._want(publication, participant)
        else:
            self._refuse(publication, participant)
        return False

    def connection_is_back(self, participant: rtc.RemoteParticipant, reconnecting_since: float) -> None:
        """Marks tracks as not received that were published or requested while the connection was broken.

        ``reconnecting_since`` is of the monotonic clock.
        """
        if not self._people.judge(participant).is_recorded:
            return
        for publication in audio_of(participant):
            if self._encryption.has_key_for(publication, participant):
                track = self._tracks.get_or_add(publication, participant)
                is_requested = track.state is TrackState.REQUESTED
                since = min(reconnecting_since, track.requested_at) if is_requested else reconnecting_since
                self._tracks.apply(track, TrackEvent.RECONNECTED, since)

    def _want(self, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant) -> None:
        track = self._tracks.get_or_add(publication, participant)
        if self._pause.is_paused:
            self._tracks.pause(track)
        elif self._encryption.has_key_for(publication, participant):
            self._tracks.admit(track)
        else:
            self._tracks.apply(track, TrackEvent.NO_KEY)

    def _refuse(self, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant) -> None:
        track = self._tracks.get(publication.sid)
        was_requested = track is not None and track.state in STREAMING | PENDING
        if track is not None:
            self._tracks.apply(track, TrackEvent.REFUSED)
        if not was_requested:
            self._people.log_refusal(participant)
