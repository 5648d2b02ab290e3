"""A room as the SDK shows it to a recorder, without a server: the tests produce its events."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from unittest.mock import AsyncMock, MagicMock, Mock

import numpy as np
import pytest
from livekit import rtc
from livekit.rtc._proto.stats_pb2 import RtcStats

from core import heartbeat, supervised
from core.records import RoomInfo
from core.worker_state import WorkerState
from devtools.room_folders import STUDENT
from recording import people, room_recorder, track_actions, track_watch, tracks
from recording.gaps import CurrentGap
from recording.streams import Stream as RecordedStream

ROOM = RoomInfo("math101", "RM_1", datetime(2025, 10, 8, 14, 0, tzinfo=UTC))


class Stream:
    """Frames of silence without end, or nothing at all, until it is closed."""

    def __init__(self, *, is_silent: bool = False) -> None:
        self._is_silent = is_silent
        self._closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[rtc.AudioFrameEvent]:
        while not self._closed.is_set():
            if not self._is_silent:
                frame = rtc.AudioFrame(np.zeros(1_536, np.int16).tobytes(), 16_000, 1, 1_536)
                yield rtc.AudioFrameEvent(frame)
            await asyncio.sleep(0.01)

    async def aclose(self) -> None:
        self._closed.set()


class Detector:
    def probability(self, _: object) -> float:
        return 0.0


def own_worker_state(monkeypatch: pytest.MonkeyPatch) -> WorkerState:
    """The counters and problems of the recorder of this test."""
    made = WorkerState()
    for module in (heartbeat, room_recorder, supervised, tracks, track_actions, track_watch):
        monkeypatch.setattr(module, "worker_state", made)
    return made


class FakeRoom:
    """Pass ``rtc`` to a recorder. A track is identified by its sid."""

    def __init__(self) -> None:
        self.people: dict[str, Mock] = {}
        self.rtc = MagicMock(spec=rtc.Room, remote_participants=self.people)
        self.rtc.local_participant.sid = "PA_recorder"
        self.rtc.on.side_effect = lambda event, handler: self._handlers.setdefault(event, []).append(handler)
        self.rtc.metadata = ""
        self.rtc.local_participant.set_attributes = AsyncMock()
        self._handlers: dict[str, list[Callable[..., None]]] = {}
        self._numbers = itertools.count(1)
        self.is_wire_cut = False
        """No more packets arrive; streams continue, as a jitter buffer does."""
        self.has_statistics = True
        """Whether the client has statistics of tracks: it has none after the server has ended the subscription."""
        self.jitter_delay_seconds = 0.0
        """How long the jitter buffer holds each sample."""
        self._packets = 0
        self._last_packet_at = time.monotonic()

    def tell(self, event: str, *arguments: object) -> None:
        for handler in self._handlers.get(event, ()):
            handler(*arguments)

    def joins(self, identity: str, metadata: str = STUDENT, *tracks: str) -> Mock:
        """A participant joins and publishes; returns it."""
        participant = Mock(
            spec=rtc.RemoteParticipant,
            sid=f"PA_{next(self._numbers)}",
            identity=identity,
            kind=rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD,
            metadata=metadata,
            attributes={},
            track_publications={},
        )
        participant.name = identity.title()
        participant.permissions.can_update_metadata = False
        self.people[identity] = participant
        self.tell("participant_connected", participant)
        for sid in tracks:
            self.publishes(participant, sid)
        return participant

    def leaves(self, participant: Mock) -> None:
        """In the SDK's order."""
        for sid in list(participant.track_publications):
            self.unpublishes(participant, sid)
        del self.people[participant.identity]
        self.tell("participant_disconnected", participant)

    def comes_back(self, participant: Mock, *tracks: Mock) -> None:
        """After a full reconnect of the recorder: the same participant with the same publications."""
        self.people[participant.identity] = participant
        self.tell("participant_connected", participant)
        for publication in tracks:
            self.publishes(participant, publication.sid, publication=publication)

    def sets_metadata(self, metadata: str) -> None:
        """The app's backend changes the metadata of the room."""
        before, self.rtc.metadata = self.rtc.metadata, metadata
        self.tell("room_metadata_changed", before, metadata)

    def becomes(self, participant: Mock, metadata: str) -> None:
        before, participant.metadata = participant.metadata, metadata
        self.tell("participant_metadata_changed", participant, before, metadata)

    def publishes(
        self,
        participant: Mock,
        sid: str,
        encryption: str = "NONE",
        *,
        publication: Mock | None = None,
    ) -> Mock:
        """A new publication, or after a reconnect an old one; returns it."""
        publication = publication or Mock(
            spec=rtc.RemoteTrackPublication,
            sid=sid,
            kind=rtc.TrackKind.KIND_AUDIO,
            source=rtc.TrackSource.SOURCE_MICROPHONE,
            encryption_type=rtc.EncryptionType.Value(encryption),
            muted=False,
        )
        participant.track_publications[sid] = publication
        self.tell("track_published", publication, participant)
        return publication

    def unpublishes(self, participant: Mock, sid: str) -> None:
        self.unsubscribed(participant, sid)
        publication = participant.track_publications.pop(sid)
        self.tell("track_unpublished", publication, participant)

    def subscribed(self, participant: Mock, sid: str) -> None:
        """The server brings a track that was asked for."""
        track = Mock(spec=rtc.RemoteTrack, kind=rtc.TrackKind.KIND_AUDIO)
        track.get_stats = AsyncMock(side_effect=self._stats)
        self.tell("track_subscribed", track, participant.track_publications[sid], participant)

    async def _stats(self) -> list[RtcStats]:
        """What the client says: the time of a report in microseconds, of the last packet in milliseconds."""
        if not self.has_statistics:
            return []
        now = time.monotonic()
        if not self.is_wire_cut:
            self._packets += 1
            self._last_packet_at = now
        reports = [RtcStats(), RtcStats()]
        reports[1].inbound_rtp.rtc.timestamp = int(now * 1e6)
        reports[1].inbound_rtp.inbound.last_packet_received_timestamp = self._last_packet_at * 1e3
        reports[0].codec.codec.mime_type = "audio/opus"
        reports[1].inbound_rtp.received.packets_received = self._packets
        samples = self._packets * 960
        reports[1].inbound_rtp.inbound.jitter_buffer_emitted_count = samples
        reports[1].inbound_rtp.inbound.jitter_buffer_delay = samples * self.jitter_delay_seconds
        return reports

    def unsubscribed(self, participant: Mock, sid: str) -> None:
        self.tell("track_unsubscribed", Mock(), participant.track_publications[sid], participant)


def set_recently_gone(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """For how long a participant or a track that has gone is remembered."""
    monkeypatch.setattr(tracks, "RECENTLY_GONE_SECONDS", seconds)
    monkeypatch.setattr(people, "REMEMBERED_SECONDS", seconds)


def open_gaps(one: room_recorder.RoomRecorder) -> dict[str, CurrentGap]:
    """The gaps that last, by the track's sid."""
    return {track.sid: track.gap for track in one._tracks if track.gap is not None}


def recorded_streams(one: room_recorder.RoomRecorder) -> dict[str, RecordedStream]:
    """What is being recorded, by the track's sid."""
    return {track.sid: stream for track, stream in one._tracks.streaming()}


def is_asked_for(participant: Mock, sid: str) -> bool:
    """Whether the recorder wants the track, by its last request."""
    calls = participant.track_publications[sid].set_subscribed.call_args_list
    return bool(calls) and calls[-1].args == (True,)
