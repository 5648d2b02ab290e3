"""Records one room: handles its events.

:class:`RoomRecorder` passes LiveKit's events on: :mod:`recording.admission` decides which tracks are recorded, and
:mod:`recording.tracks` keeps their states. It runs on the room's event loop; what it owns is used on that loop only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from datetime import datetime

from livekit import rtc

from archive.handover_note import RoomProgress
from config import Settings
from core.heartbeat import start_room
from core.language_tags import language_tag_or_empty
from core.records import EndReason, RoomInfo, TextOptions, TrackInfo, utc_now
from core.supervised import supervised
from core.worker_state import worker_state
from recording import recorder_ping
from recording.admission import Admission
from recording.announcement import Announcement
from recording.captions import Captions
from recording.encryption import Encryption
from recording.pause import Pause
from recording.people import People
from recording.room_log import RoomLog
from recording.rpc_methods import RpcMethods
from recording.segment_writer import SegmentWriter
from recording.speech_detector import DetectorFactory
from recording.streams import Streams
from recording.track import audio_of
from recording.track_state import TrackEvent
from recording.track_watch import TrackWatch, next_round
from recording.tracks import Tracks

SPEAKING_LANGUAGE_ATTRIBUTE = "speaking_language"
"""Attribute of a teacher: the BCP 47 tag of the language spoken. It is a hint for the transcript (fact 26)."""


ROOM_ENDED = ("ROOM_DELETED", "ROOM_CLOSED")
"""The server's reasons for a disconnect that mean that the session is over. After all others it may go on: with
another recorder, or without any."""

OnOver = Callable[[str, str, datetime], None]
"""Called with the folder, the room's sid and the time when a session is over and everything is saved."""


def ignore_end(folder: str, room_sid: str, ended_at: datetime) -> None: ...


class RoomRecorder:
    """Records the teachers of one room, from :meth:`attach` to :meth:`aclose`."""

    def __init__(
        self,
        room: rtc.Room,
        info: RoomInfo,
        settings: Settings,
        new_detector: DetectorFactory,
        on_over: OnOver = ignore_end,
    ) -> None:
        self._room = room
        self._info = info
        self._settings = settings
        self._log = RoomLog(info.name)
        self._heartbeat = start_room(info.sid)
        self._captions = Captions(room, info, settings) if settings.captions else None
        stages = [self._captions] if self._captions else []
        self._writer = SegmentWriter(
            settings, info, stages, text_options=self._text_options, progress=self._progress
        )
        self._encryption = Encryption(
            room,
            settings.e2ee_passphrase,
            self._log,
            lambda *change: self._tracks.decryption_changed(*change),
        )
        self._streams = Streams(settings, info, new_detector, self._writer, self._encryption)
        self._tracks = Tracks(
            settings, info, self._streams, self._writer, self._reconsider_if_present, self._log
        )
        self._watch = TrackWatch(self._tracks, info, self._log)
        self._people = People(settings, self._log)
        self._pause = Pause(room, info, settings, self._is_teacher, self._on_paused_or_resumed, self._log)
        self._admission = Admission(self._people, self._pause, self._encryption, self._tracks)
        self._announcement = Announcement(
            room, self._tracks.recorded_identities, lambda: self._pause.is_paused, self._log
        )
        self._methods = RpcMethods(room)
        self._watching: list[asyncio.Task[None]] = []
        self._was_paused = False
        """Whether the recorder before was paused when it ended."""
        self._is_closed = False
        self._on_over = on_over
        self._ended_at: datetime | None = None
        """When the room ended; None: it has not, as far as this recorder knows."""

    def attach(self) -> None:
        """Subscribes to the room's events. Call it before connecting, so that none is missed."""
        handlers = {
            "participant_connected": self._on_participant_connected,
            "participant_disconnected": self._on_participant_disconnected,
            "participant_metadata_changed": lambda participant, *_: self._reconsider(participant),
            "participant_attributes_changed": lambda _, participant: self._reconsider(participant),
            "participant_permissions_changed": lambda participant, *_: self._reconsider(participant),
            "track_published": lambda _, participant: self._reconsider(participant),
            "track_unpublished": self._on_track_unpublished,
            "track_subscribed": self._on_track_subscribed,
            "track_unsubscribed": self._on_track_unsubscribed,
            "track_subscription_failed": self._on_track_subscription_failed,
            "track_muted": lambda _, publication: self._tracks.set_muted(publication.sid, is_muted=True),
            "track_unmuted": lambda _, publication: self._tracks.set_muted(publication.sid, is_muted=False),
            "reconnecting": self._on_reconnecting,
            "reconnected": self._on_reconnected,
            "e2ee_state_changed": self._encryption.on_state_changed,
            "disconnected": self._on_disconnected,
        }
        for event, handler in handlers.items():
            self._room.on(event, handler)  # type: ignore[arg-type]
        self._pause.attach()
        if self._captions is not None:
            self._captions.attach()

    async def prepare(self) -> None:
        """Reads what an earlier recorder of this session has noted. Call it before connecting."""
        before = await self._writer.notes.before()
        if before is not None:
            self._people.take_over(before.no_teachers)
            self._pause.take_over(before.unstored_pause)
            self._was_paused = before.is_paused

    def begin(self) -> None:
        """Handles the participants who are already in the room. Call it right after connecting."""
        people = list(self._room.remote_participants.values())
        self._log(logging.INFO, f"Connected to room {self._info.name} ({len(people)} participants)")
        self._methods.offer(recorder_ping.METHOD, self._answer_ping)
        loops = {
            "watch over tracks": self._watch_tracks,
            "watch over packets": self._watch.watch_packets,
            "encryption key": self._encryption.keep_trying,
        }
        self._watching = [
            supervised(loop, name, room=self._info.sid, room_name=self._info.name)
            for name, loop in loops.items()
        ]
        self._writer.notes.start()
        self._add_preexisting(people)
        if self._captions is not None:
            self._captions.begin()
        self._pause.begin()
        for participant in people:
            self._on_participant_connected(participant)
        self._announce()

    def _add_preexisting(self, people: Iterable[rtc.RemoteParticipant]) -> None:
        for participant in people:
            for publication in audio_of(participant):
                track = self._tracks.get_or_add(publication, participant)
                track.is_preexisting = True
                track.was_paused = self._was_paused

    async def aclose(self) -> None:
        """Closes every track and saves every segment. Idempotent; called before the room is disconnected."""
        if self._is_closed:
            return
        self._is_closed = True
        self._announcement.cancel()
        for task in self._watching:
            task.cancel()
        self._watch.close()
        self._leave()
        await self._streams.aclose()
        totals = await self._writer.aclose()
        if self._captions is not None:
            await self._captions.aclose()
        self._heartbeat.cancel()
        self._log(
            logging.INFO,
            f"Room over: {totals.segments} segments, {totals.speech_seconds:.1f} s of speech of "
            f"{len(totals.participants)} participants, {totals.lost_seconds:.1f} s lost, "
            f"{totals.gap_seconds:.1f} s of gaps",
        )
        if self._ended_at is not None and self._writer.folder is not None:
            self._on_over(self._writer.folder.name, self._info.sid, self._ended_at)
        await self._pause.aclose()
        self._methods.withdraw()

    def cut(self) -> None:
        """Closes every open segment and continues to record. For a worker that may be killed soon."""
        for _, stream in self._tracks.streaming():
            stream.processor.cut(EndReason.SHUTDOWN)

    # People.

    def _on_participant_connected(self, participant: rtc.RemoteParticipant) -> None:
        self._people.joined(participant)
        self._reconsider(participant)

    def _on_participant_disconnected(self, participant: rtc.RemoteParticipant) -> None:
        for track in self._tracks:
            if track.participant.sid == participant.sid:
                # Most are gone by now. The SDK drops the event of a track whose participant it has already forgotten.
                self._tracks.unpublished(track)
        self._streams.participant_left(participant.identity)
        self._encryption.forget(participant)
        self._people.left(participant)
        self._announce()

    def _is_teacher(self, identity: str) -> bool:
        participant = self._room.remote_participants.get(identity)
        return participant is not None and self._people.judge(participant).is_teacher

    def _on_paused_or_resumed(self) -> None:
        if self._captions is not None:
            self._captions.is_paused = self._pause.is_paused
        for participant in list(self._room.remote_participants.values()):
            self._reconsider(participant)
        self._announce()

    def _reconsider_if_present(self, participant: rtc.RemoteParticipant) -> None:
        present = self._room.remote_participants.get(participant.identity)
        if present is not None:
            self._reconsider(present)

    def _reconsider(self, participant: rtc.Participant) -> None:
        if isinstance(participant, rtc.RemoteParticipant) and not self._is_closed:
            self._admission.reconsider(participant)
            self._announce()

    # Tracks.

    def _on_track_subscribed(
        self,
        media: rtc.RemoteTrack,
        publication: rtc.RemoteTrackPublication,
        participant: rtc.RemoteParticipant,
    ) -> None:
        if media.kind != rtc.TrackKind.KIND_AUDIO or self._is_closed:
            return
        if not self._admission.accepts(publication, participant):
            return
        track = self._tracks.get_or_add(publication, participant)
        self._tracks.arrived(track, media)
        self._watch.await_first_packet(track)
        self._announce()

    def _on_track_unsubscribed(
        self, _: rtc.RemoteTrack, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant
    ) -> None:
        # Whether the participant leaves the room is known from the events right after this one.
        if (track := self._tracks.get(publication.sid)) is not None:
            self._tracks.unsubscribed(track)

    def _on_track_unpublished(
        self, publication: rtc.RemoteTrackPublication, _: rtc.RemoteParticipant
    ) -> None:
        if (track := self._tracks.get(publication.sid)) is not None:
            self._tracks.unpublished(track)

    def _on_track_subscription_failed(
        self, participant: rtc.RemoteParticipant, track_sid: str, error: str
    ) -> None:
        self._log(logging.ERROR, f"Track {track_sid} cannot be subscribed: {error}", participant)
        if (track := self._tracks.get(track_sid)) is not None:
            self._tracks.apply(track, TrackEvent.SUBSCRIPTION_FAILED, track.missing_since)

    # The connection.

    def _on_reconnecting(self) -> None:
        self._tracks.connection_lost()
        self._people.forget_who_left()
        self._log(logging.WARNING, "Connection lost, reconnecting")

    def _on_reconnected(self) -> None:
        reconnecting_since = self._tracks.reconnecting_since or time.monotonic()
        people = list(self._room.remote_participants.values())
        for participant in people:
            self._admission.connection_is_back(participant, reconnecting_since)
        self._tracks.reconnecting_since = None
        published = {publication.sid for participant in people for publication in audio_of(participant)}
        for track in self._tracks:
            if track.sid not in published:
                self._tracks.unpublished(track)
        worker_state.counters.reconnects.inc()
        self._log(logging.INFO, "Connection is back")
        for participant in people:
            self._reconsider(participant)

    def _on_disconnected(self, reason: rtc.DisconnectReason.ValueType) -> None:
        name = rtc.DisconnectReason.Name(reason)
        if name == "DUPLICATE_IDENTITY":
            self._log(logging.WARNING, "Another recorder has taken over this room")
        else:
            self._log(logging.INFO, f"Disconnected from room: {name}")
        if name in ROOM_ENDED:
            self._ended_at = utc_now()
        self._leave()

    def _leave(self) -> None:
        self._writer.notes.stop()
        self._tracks.leave()

    async def _watch_tracks(self) -> None:
        while True:
            await next_round()
            if self._tracks.reconnecting_since is None:
                self._watch.check_frames()
                self._tracks.forget_recently_gone()
                self._people.forget_who_left()
                self._people.look_for_hint(self._room.remote_participants.values())
            self._watch.report()

    def _progress(self) -> RoomProgress:
        return self._tracks.progress()._replace(
            recorder_sid=self._room.local_participant.sid,
            no_teachers=self._people.no_teachers(),
            unstored_pause=self._pause.unstored,
            is_paused=self._pause.is_paused,
        )

    async def _answer_ping(self, _: rtc.RpcInvocationData) -> str:
        return recorder_ping.NO_FRAMES if self._watch.has_no_frames else recorder_ping.ALIVE

    def _text_options(self, track: TrackInfo) -> TextOptions:
        """The text options for a segment that ends now; its speaker may have left already."""
        speaker = self._room.remote_participants.get(track.participant_identity)
        spoken = speaker.attributes.get(SPEAKING_LANGUAGE_ATTRIBUTE, "") if speaker else ""
        return TextOptions(
            speaking_language=language_tag_or_empty(spoken),
            caption_languages=self._captions.languages() if self._captions else (),
        )

    def _announce(self) -> None:
        if not self._settings.hidden and not self._is_closed:
            self._announcement.update()
