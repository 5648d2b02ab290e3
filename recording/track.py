"""One track that is recorded or is to be recorded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from livekit import rtc

from archive.handover_note import TrackProgress
from core.records import TrackInfo
from recording.gaps import CurrentGap
from recording.streams import Stream
from recording.track_state import TrackState

_SOURCES = {
    rtc.TrackSource.SOURCE_MICROPHONE: "microphone",
    rtc.TrackSource.SOURCE_SCREENSHARE_AUDIO: "screen_share_audio",
}


class RecentlyGone(NamedTuple):
    """When a track went, and until when it was received. Both are seconds of the monotonic clock."""

    at: float
    received_until: float
    unplayed_since: float | None
    """From when on its audio had not left the jitter buffer, if that was more than usual."""


@dataclass
class Track:
    """One track and its state. Times are seconds of the monotonic clock."""

    publication: rtc.RemoteTrackPublication
    participant: rtc.RemoteParticipant
    info: TrackInfo
    state: TrackState = TrackState.NEW
    is_preexisting: bool = False
    """It was published before this recorder joined: its first gap begins where the previous recorder stopped."""
    was_paused: bool = False
    """The recording was paused when the recorder before ended."""
    is_in_use: bool = False
    """It was published before it was to be recorded: what is said until it arrives is a gap, however short."""
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


def track_info(publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant) -> TrackInfo:
    """What is known of a track by its publication."""
    return TrackInfo(
        participant_identity=participant.identity,
        participant_name=participant.name,
        track_sid=publication.sid,
        source=_SOURCES.get(publication.source, "unknown"),
    )


def audio_of(participant: rtc.RemoteParticipant) -> list[rtc.RemoteTrackPublication]:
    """The audio tracks that a participant has published."""
    return [
        publication
        for publication in participant.track_publications.values()
        if publication.kind == rtc.TrackKind.KIND_AUDIO
    ]
