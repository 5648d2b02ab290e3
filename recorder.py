"""One room: who is in it, whom we listen to, and which of their tracks are being recorded.

:class:`RoomRecorder` turns the room's events into subscriptions and :class:`~audio_processor.TrackProcessor` s. It
lives on the room's event loop, and everything it owns is touched from there only.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from livekit import rtc

import liveness
from audio_processor import DetectorFactory, Segmenter, SegmenterOptions, TrackProcessor, open_stream
from captions import Captions
from config import Settings
from encryption import Encryption
from hearing import Heard, Hearing
from languages import language_tag_or_empty
from pipeline import RoomPipeline
from pulse import start_room
from reception import Reception
from roles import MAX_PARTICIPANTS, ParticipantFacts, Places, RoleRules, Verdict
from segments import SAMPLE_RATE, EndReason, GapReason, RoomInfo, TextWishes, TrackInfo, utc_now
from vitals import vitals

logger = logging.getLogger("recorder")

RECORDED_ATTRIBUTE = "recorded_participants"
"""Our own participant attribute: a JSON list of the identities that are being recorded."""

SPEAKING_LANGUAGE_ATTRIBUTE = "speaking_language"
"""A teacher's attribute: the BCP 47 tag of what is spoken, a hint for the transcript (fact 26)."""

DEAF_SECONDS = 5.0
"""Even a muted publisher's track brings a hundred frames a second (fact 4); one that brings none is asked for anew."""

LATE_SECONDS = 2.0
"""One that takes longer may have brought speech meanwhile."""

COMING_SECONDS = 10.0
"""A track that was subscribed to comes within a second; one that has not come after so long is asked for anew."""

WATCH_SECONDS = 1.0

FIRST_PACKET_POLL_SECONDS = 0.05
STATS_SECONDS = 2.0
"""How long the client may take to tell how many packets came."""
MOST_FAILURES = 3

FLEETING_SECONDS = 2.0
"""Our own full reconnect says that everybody has left before it says what it is: so long nobody is forgotten."""

MAX_ANNOUNCED_PARTICIPANTS = 100
"""LiveKit bounds the size of attributes (64 KiB by default)."""

_SOURCES = {
    rtc.TrackSource.SOURCE_MICROPHONE: "microphone",
    rtc.TrackSource.SOURCE_SCREENSHARE_AUDIO: "screen_share_audio",
}


@dataclass(frozen=True)
class _Interruption:
    """A track brings us nothing that its publisher may be saying. Without a start: from where the recorder before us
    stopped."""

    track: TrackInfo
    since: float | None
    """Of the monotonic clock: the other may be set meanwhile."""
    reason: GapReason


@dataclass
class _Person:
    """A participant who is in the room, and what has been said about it."""

    verdict: Verdict
    is_warned_of: bool = False
    is_refused: bool = False


class RoomRecorder:
    """Records the teachers of one room, from :meth:`attach` to :meth:`aclose`."""

    def __init__(
        self, room: rtc.Room, info: RoomInfo, settings: Settings, new_detector: DetectorFactory
    ) -> None:
        self._room = room
        self._info = info
        self._settings = settings
        self._new_detector = new_detector
        self._rules = RoleRules(settings)
        self._pulse = start_room(info.sid)
        self._captions = Captions(room, info, settings) if settings.captions else None
        stages = [self._captions] if self._captions else []
        self._pipeline = RoomPipeline(settings, info, stages, wishes=self._wishes, how_far=self._how_far)
        self._places = Places(settings)
        self._people: dict[str, _Person] = {}
        """By identity. Those who are recorded, and others up to MAX_PARTICIPANTS."""
        self._is_crowded = False
        self._encryption = Encryption(room, settings.e2ee_passphrase, self._log, self._on_failing_to_decipher)
        self._asked_for: dict[str, float] = {}
        """Tracks that we have subscribed to, by sid, and when (monotonic clock)."""
        self._tracks: dict[str, TrackProcessor] = {}
        self._receptions: dict[str, Reception] = {}
        """Of the tracks that we listen to, by sid."""
        self._heard_last: dict[str, tuple[TrackProcessor, Reception]] = {}
        """The tracks that we listened to when we left, by sid."""
        self._beginning: set[asyncio.Task[None]] = set()
        """Wait for the first packet of a track."""
        self._closing: dict[asyncio.Task[None], TrackProcessor | None] = {}
        self._announced: list[str] = []
        self._announcing: asyncio.Task[None] | None = None
        self._there_before_us: set[str] = set()
        """Tracks that were being published when we came, until we begin with them."""
        self._interrupted: dict[str, _Interruption] = {}
        """By the track's sid, until it brings sound or is gone for good."""
        self._deaf_since: dict[str, float] = {}
        """Tracks that bring no sound, since when (monotonic clock)."""
        self._left_at: dict[str, float] = {}
        """Participants who may be back in a moment, by sid (monotonic clock)."""
        self._fleeting: dict[str, tuple[float, _Interruption]] = {}
        """Tracks that have just gone, when (monotonic clock), and what of them would be an interruption if a reconnect
        were the reason."""
        self._reconnecting_since: float | None = None
        """Seconds of the monotonic clock."""
        self._watching: list[asyncio.Task[None]] = []
        self._is_closed = False

    def attach(self) -> None:
        """Listens to the room's events. Call it before connecting, so that none is missed."""
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
            "track_muted": self._on_track_muted,
            "reconnecting": self._on_reconnecting,
            "reconnected": self._on_reconnected,
            "e2ee_state_changed": self._encryption.on_state_changed,
            "disconnected": self._on_disconnected,
        }
        for event, handler in handlers.items():
            self._room.on(event, handler)  # type: ignore[arg-type]
        if self._captions is not None:
            self._captions.attach()

    def begin(self) -> None:
        """Looks at who is there already. Call it right after connecting."""
        people = len(self._room.remote_participants)
        logger.info("Connected to room %s (%d participants)", self._info.name, people)
        self._room.local_participant.register_rpc_method(liveness.METHOD, self._say_alive)
        self._watching = [
            asyncio.create_task(watch, name=f"watch {self._info.name}")
            for watch in (self._watch(), self._watch_packets(), self._encryption.keep_trying())
        ]
        self._pipeline.listen()
        self._there_before_us = self._published()
        if self._captions is not None:
            self._captions.begin()
        for participant in list(self._room.remote_participants.values()):
            self._on_participant_connected(participant)

    def _published(self) -> set[str]:
        people = self._room.remote_participants.values()
        return {sid for participant in people for sid in participant.track_publications}

    async def aclose(self) -> None:
        """Closes every track and saves every segment. Idempotent; called before the room is disconnected."""
        if self._is_closed:
            return
        self._is_closed = True
        for task in (self._announcing, *self._watching, *self._beginning):
            if task is not None:
                task.cancel()
        self._stop_listening()
        if self._closing:
            await asyncio.wait(list(self._closing))
        totals = await self._pipeline.aclose()
        if self._captions is not None:
            await self._captions.aclose()
        self._pulse.cancel()
        self._log(
            logging.INFO,
            f"Room over: {totals.segments} segments, {totals.speech_seconds:.1f} s of speech of "
            f"{len(totals.participants)} participants, {totals.lost_seconds:.1f} s lost, "
            f"{totals.gap_seconds:.1f} s of gaps",
        )
        # A method that stays registered keeps the whole room in the native client, half a megabyte for ever.
        self._room.local_participant.unregister_rpc_method(liveness.METHOD)

    # People.

    def _on_participant_connected(self, participant: rtc.RemoteParticipant) -> None:
        self._left_at.pop(participant.sid, None)
        verdict = self._judge(participant)
        self._log(
            logging.INFO,
            f"Participant joined: {verdict.role}, {'recorded' if verdict.is_recorded else 'not recorded'}",
            participant,
        )
        self._reconsider(participant)

    def _on_participant_disconnected(self, participant: rtc.RemoteParticipant) -> None:
        identity = participant.identity
        for sid, processor in list(self._tracks.items()):
            if processor.track.participant_identity == identity:
                self._close_track(sid, EndReason.LEFT)
        for processor_closing in self._closing.values():
            if processor_closing is not None and processor_closing.track.participant_identity == identity:
                processor_closing.end_reason = EndReason.LEFT
        person = self._people.pop(identity, None)
        role = person.verdict.role if person else "unknown role"
        self._left_at[participant.sid] = time.monotonic()
        self._encryption.forget(participant)
        self._log(logging.INFO, f"Participant left: {role}", participant)
        self._announce()

    def _reconsider(self, participant: rtc.Participant) -> None:
        """Brings the subscriptions of a participant in line with what it is now."""
        if not isinstance(participant, rtc.RemoteParticipant) or self._is_closed:
            return
        person = self._people.get(participant.identity)
        was_recorded = person.verdict.is_recorded if person else None
        verdict = self._judge(participant)
        if was_recorded is not None and was_recorded != verdict.is_recorded:
            change = "is now recorded" if verdict.is_recorded else "is no longer recorded"
            self._log(logging.INFO, f"Role changed to {verdict.role}: {change}", participant)
        for publication in list(participant.track_publications.values()):
            if publication.kind == rtc.TrackKind.KIND_AUDIO:
                self._apply(verdict, publication, participant)
        self._announce()

    def _judge(self, participant: rtc.RemoteParticipant) -> Verdict:
        verdict = self._rules.judge(_facts(participant))
        person = self._note(participant.identity, verdict)
        if verdict.warning and person is not None and not person.is_warned_of:
            person.is_warned_of = True
            self._log(logging.WARNING, f"Participant {verdict.warning}", participant)
        return verdict

    def _note(self, identity: str, verdict: Verdict) -> _Person | None:
        """Remembers a participant. None: it is not recorded, and one too many for that."""
        person = self._people.get(identity)
        if person is not None:
            person.verdict = verdict
        elif verdict.is_recorded or len(self._people) < MAX_PARTICIPANTS:
            person = self._people[identity] = _Person(verdict)
        elif not self._is_crowded:
            self._is_crowded = True
            self._log(
                logging.WARNING,
                f"More than {MAX_PARTICIPANTS} people: teachers are recorded as ever, "
                "nothing is remembered of further students",
            )
        return person

    # Tracks.

    def _apply(
        self, verdict: Verdict, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant
    ) -> None:
        if verdict.is_recorded:
            self._want(publication, participant)
        else:
            self._refuse(verdict, publication, participant)

    def _want(self, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant) -> None:
        sid = publication.sid
        if not self._encryption.has_key_for(publication, participant):
            self._pass_over(_track_info(publication, participant), GapReason.ENCRYPTED)
        elif bound := self._places.take(participant.identity, sid):
            self._leave_out(publication, participant, bound)
        elif sid not in self._asked_for:
            self._asked_for[sid] = time.monotonic()
            publication.set_subscribed(True)

    def _refuse(
        self, verdict: Verdict, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant
    ) -> None:
        sid = publication.sid
        self._give_up(sid)
        if sid in self._asked_for:
            self._asked_for.pop(sid, None)
            publication.set_subscribed(False)
            self._close_track(sid, EndReason.ROLE_LOST)
        elif (person := self._people.get(participant.identity)) is not None and not person.is_refused:
            person.is_refused = True
            self._log(
                logging.INFO, f"Track refused: its participant is not recorded ({verdict.role})", participant
            )

    def _leave_out(
        self, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant, bound: str
    ) -> None:
        waiting = self._interrupted.get(publication.sid)
        if waiting is None or waiting.reason is not GapReason.OVER_BOUND:
            self._own_up(publication.sid)
            vitals.counters.over_bound.inc()
            self._log(logging.ERROR, f"NOT RECORDED: {publication.sid} is over {bound}", participant)
            self._pass_over(_track_info(publication, participant), GapReason.OVER_BOUND)

    def _give_up(self, sid: str) -> None:
        """A track is gone for good, or is not to be recorded."""
        self._own_up(sid)
        self._there_before_us.discard(sid)
        self._deaf_since.pop(sid, None)
        if self._places.leave(sid):
            self._let_in()

    def _let_in(self) -> None:
        """A place has become free: for who has waited longest, of those whom it fits."""
        for waiting in list(self._interrupted.values()):
            participant = self._room.remote_participants.get(waiting.track.participant_identity)
            has_place = waiting.track.track_sid in self._places.held()  # and has not brought a packet yet
            if waiting.reason is GapReason.OVER_BOUND and participant is not None and not has_place:
                self._reconsider(participant)
                if waiting.track.track_sid in self._places.held():
                    return

    def _on_track_subscribed(
        self,
        track: rtc.RemoteTrack,
        publication: rtc.RemoteTrackPublication,
        participant: rtc.RemoteParticipant,
    ) -> None:
        if track.kind != rtc.TrackKind.KIND_AUDIO or self._is_closed:
            return
        if not self._judge(participant).is_recorded:  # demoted while the subscription was on its way
            self._asked_for.pop(publication.sid, None)
            publication.set_subscribed(False)
            return
        info = _track_info(publication, participant)
        asked_at = self._asked_for.get(publication.sid, time.monotonic())
        is_new = publication.sid not in self._tracks and publication.sid not in self._there_before_us
        if is_new and time.monotonic() - asked_at > LATE_SECONDS:
            self._pass_over(info, GapReason.DEAF, asked_at)
        self._close_track(publication.sid, EndReason.UNPUBLISHED)
        processor = TrackProcessor(
            track=info,
            stream=open_stream(track),
            detector=self._new_detector(),
            segmenter=Segmenter(SegmenterOptions.from_settings(self._settings)),
            sink=self._pipeline.sink(info),
            room_name=self._info.name,
        )
        processor.start()
        reception = Reception(track, publication)
        self._tracks[publication.sid] = processor
        self._receptions[publication.sid] = reception
        self._fleeting.pop(publication.sid, None)
        self._tell_teachers()
        self._log(logging.INFO, f"Track subscribed: {info.source} {info.track_sid}", participant)
        if info.track_sid in self._there_before_us:
            self._pass_over(info, GapReason.NO_RECORDER)
        beginning = asyncio.create_task(self._own_up_when_it_comes(info.track_sid, reception))
        self._beginning.add(beginning)
        beginning.add_done_callback(self._beginning.discard)
        self._announce()

    def _pass_over(self, track: TrackInfo, reason: GapReason, since: float | None = None) -> None:
        """A track is not heard, since then or from now on. One that was there before us: from where our predecessor
        stopped."""
        is_new = track.track_sid not in self._there_before_us
        self._interrupt(track, (since or time.monotonic()) if is_new else None, reason)
        self._there_before_us.discard(track.track_sid)

    def _interrupt(self, track: TrackInfo, since: float | None, reason: GapReason) -> None:
        self._interrupted.setdefault(track.track_sid, _Interruption(track, since, reason))

    def _own_up(self, sid: str) -> None:
        """An interruption of this track, if there is one, is over: the manifest is to say so."""
        over = self._interrupted.pop(sid, None)
        if over is not None:
            end = utc_now()
            start = None if over.since is None else end - timedelta(seconds=time.monotonic() - over.since)
            self._pipeline.missed(over.track, start, end, over.reason)

    async def _own_up_when_it_comes(self, sid: str, reception: Reception) -> None:
        """A subscription is not sound yet: an interruption is over with the first packet."""
        interruption, asked_first, failures = self._interrupted.get(sid), time.monotonic(), 0
        while interruption is not None and self._interrupted.get(sid) is interruption:
            try:
                async with asyncio.timeout(STATS_SECONDS):
                    has_begun = await reception.has_begun()
            except Exception as error:  # of a client that cannot tell, the subscription has to do
                logger.debug("Packets of %s cannot be counted", sid, exc_info=error)
                failures += 1
                has_begun = failures == MOST_FAILURES
            if self._receptions.get(sid) is not reception:
                return  # gone again, and still interrupted
            if has_begun and self._interrupted.get(sid) is interruption:
                self._own_up(sid)
                return
            waited = time.monotonic() - asked_first
            await asyncio.sleep(min(WATCH_SECONDS, max(FIRST_PACKET_POLL_SECONDS, waited / 10)))

    def _on_track_unsubscribed(
        self, _: rtc.RemoteTrack, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant
    ) -> None:
        # Whether the participant leaves altogether is said by the events right behind this one.
        if publication.sid in self._tracks:
            since = self._receptions[publication.sid].heard_until(time.monotonic())
            broken = _Interruption(self._tracks[publication.sid].track, since, GapReason.RECONNECT)
            if self._reconnecting_since is None:
                self._fleeting.setdefault(publication.sid, (time.monotonic(), broken))
            else:
                self._interrupted.setdefault(publication.sid, broken)
        self._asked_for.pop(publication.sid, None)
        self._close_track(publication.sid, EndReason.UNPUBLISHED)

    def _on_track_unpublished(
        self, publication: rtc.RemoteTrackPublication, _: rtc.RemoteParticipant
    ) -> None:
        self._asked_for.pop(publication.sid, None)
        self._deaf_since.pop(publication.sid, None)
        if self._reconnecting_since is None:  # else it may come back
            self._give_up(publication.sid)

    def _on_track_subscription_failed(
        self, participant: rtc.RemoteParticipant, track_sid: str, error: str
    ) -> None:
        asked_at = self._asked_for.pop(track_sid, None)
        self._log(logging.ERROR, f"Track {track_sid} cannot be subscribed: {error}", participant)
        publication = participant.track_publications.get(track_sid)
        if publication is not None and self._judge(participant).is_recorded:
            self._pass_over(_track_info(publication, participant), GapReason.DEAF, asked_at)
        self._background(self._ask_again(participant))

    async def _ask_again(self, participant: rtc.RemoteParticipant) -> None:
        await asyncio.sleep(1)
        if self._room.remote_participants.get(participant.identity) is participant:
            self._reconsider(participant)

    def _on_track_muted(self, _: rtc.Participant, publication: rtc.TrackPublication) -> None:
        processor = self._tracks.get(publication.sid)
        if processor is not None:
            processor.mute()

    def _on_disconnected(self, reason: rtc.DisconnectReason.ValueType) -> None:
        name = rtc.DisconnectReason.Name(reason)
        if name == "DUPLICATE_IDENTITY":
            self._log(logging.WARNING, "Another recorder has taken over this room")
        else:
            self._log(logging.INFO, f"Disconnected from room: {name}")
        self._stop_listening()

    def _stop_listening(self) -> None:
        self._pipeline.stop_listening()
        for sid, processor in self._tracks.items():
            if sid not in self._interrupted:  # else its gap, until now, says it all
                self._heard_last[sid] = processor, self._receptions[sid]
        for sid in (*self._tracks, *self._interrupted):
            self._asked_for.pop(sid, None)
        for sid in list(self._tracks):
            self._close_track(sid, EndReason.SHUTDOWN)
        for sid in list(self._interrupted):
            self._own_up(sid)

    def _close_track(self, sid: str, reason: EndReason) -> None:
        """Stops listening at once (fact 2); what has been heard is saved in the background."""
        self._receptions.pop(sid, None)
        processor = self._tracks.pop(sid, None)
        if processor is not None:
            self._tell_teachers()
            processor.end_reason = reason
            self._background(processor.aclose(), processor)

    def _tell_teachers(self) -> None:
        teachers = {processor.track.participant_identity for processor in self._tracks.values()}
        vitals.teachers(self._info.sid, len(teachers))

    def _background(self, work: Coroutine[Any, Any, None], processor: TrackProcessor | None = None) -> None:
        task = asyncio.create_task(work)
        self._closing[task] = processor
        task.add_done_callback(self._on_background_done)

    def _on_background_done(self, task: asyncio.Task[None]) -> None:
        self._closing.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            logger.error("Closing a track failed", exc_info=task.exception(), extra={"room": self._info.name})

    # Faults: a connection that breaks, a track that brings nothing.

    def _on_reconnecting(self) -> None:
        self._reconnecting_since = self._reconnecting_since or time.monotonic()
        self._forget_who_is_gone()
        for sid, (_, broken) in self._fleeting.items():
            self._interrupted.setdefault(sid, broken)
        self._fleeting.clear()
        self._log(logging.WARNING, "Connection lost, reconnecting")

    def _on_reconnected(self) -> None:
        self._interrupt_who_was_not_heard(self._reconnecting_since or time.monotonic())
        self._reconnecting_since = None
        known = {*self._interrupted, *self._places.held(), *self._there_before_us}
        for sid in known - self._published():
            self._give_up(sid)
        vitals.counters.reconnects.inc()
        self._log(logging.INFO, "Connection is back")
        # What was asked for while it broke went nowhere.
        self._asked_for = {sid: at for sid, at in self._asked_for.items() if sid in self._tracks}
        for participant in list(self._room.remote_participants.values()):
            self._reconsider(participant)

    def _interrupt_who_was_not_heard(self, away_since: float) -> None:
        """Who has published while we were away, or was asked for into a connection that broke."""
        for participant in list(self._room.remote_participants.values()):
            for sid, publication in participant.track_publications.items():
                is_new = publication.kind == rtc.TrackKind.KIND_AUDIO and sid not in self._tracks
                is_wanted = is_new and self._judge(participant).is_recorded
                if is_wanted and self._encryption.has_key_for(publication, participant):
                    since = min(away_since, self._asked_for.get(sid, away_since))
                    self._pass_over(_track_info(publication, participant), GapReason.RECONNECT, since)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._reconnecting_since is None:
                self._look_after_tracks()
                self._forget_who_is_gone()
            self._tell_hearing()

    async def _watch_packets(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for sid, reception in list(self._receptions.items()):
                try:
                    async with asyncio.timeout(STATS_SECONDS):
                        is_lost = await reception.is_lost()
                except Exception as error:  # a client that cannot tell must not end the watch
                    logger.debug("Packets of %s cannot be counted", sid, exc_info=error)
                    continue
                if self._receptions.get(sid) is reception:
                    self._note_packets(sid, reception.lost_since if is_lost else None)

    def _note_packets(self, sid: str, lost_since: float | None) -> None:
        interruption = self._interrupted.get(sid)
        if lost_since is not None and interruption is None:
            track = self._tracks[sid].track
            participant = self._room.remote_participants.get(track.participant_identity)
            self._log(
                logging.WARNING, f"Nothing of {sid} comes in: its network is away, or ours", participant
            )
            self._interrupt(track, lost_since, GapReason.NO_MEDIA)
        elif lost_since is None and interruption is not None and interruption.reason is GapReason.NO_MEDIA:
            self._own_up(sid)

    def _look_after_tracks(self) -> None:
        for sid, processor in list(self._tracks.items()):
            if self._is_deaf(processor):
                self._deaf_since.setdefault(sid, processor.heard_at)
                self._listen_anew(processor.track, processor.heard_at)
        for track in self._overdue():
            self._listen_anew(track, self._asked_for[track.track_sid])

    def _overdue(self) -> list[TrackInfo]:
        """What was subscribed to and has not come."""
        latest = time.monotonic() - COMING_SECONDS
        waiting = {sid for sid, at in self._asked_for.items() if sid not in self._tracks and at < latest}
        return [
            _track_info(publication, participant)
            for participant in (self._room.remote_participants.values() if waiting else ())
            for sid, publication in participant.track_publications.items()
            if sid in waiting
        ]

    def _forget_who_is_gone(self) -> None:
        earliest = time.monotonic() - FLEETING_SECONDS
        for sid in [sid for sid, left_at in self._left_at.items() if left_at < earliest]:
            del self._left_at[sid]
            self._rules.forget(sid)
        self._fleeting = {sid: one for sid, one in self._fleeting.items() if one[0] >= earliest}

    def _listen_anew(self, track: TrackInfo, silent_since: float) -> None:
        """A track brings no sound, or has not come at all."""
        sid = track.track_sid
        participant = self._room.remote_participants.get(track.participant_identity)
        publication = participant.track_publications.get(sid) if participant else None
        if sid not in self._interrupted:
            seconds = time.monotonic() - silent_since
            self._log(
                logging.ERROR,
                f"DEAF: {sid} brings no sound for {seconds:.0f} s, asking for it anew",
                participant,
            )
        self._pass_over(track, GapReason.DEAF, silent_since)
        self._close_track(sid, EndReason.UNPUBLISHED)
        self._asked_for.pop(sid, None)
        if participant is not None and publication is not None:
            publication.set_subscribed(False)
            self._background(self._ask_again(participant))

    def _on_failing_to_decipher(self, participant: rtc.RemoteParticipant, seconds: float | None) -> None:
        for sid, processor in self._tracks.items():
            if processor.track.participant_identity != participant.identity:
                continue
            interruption = self._interrupted.get(sid)
            is_known = interruption is not None and interruption.reason is GapReason.ENCRYPTED
            if seconds is None or not is_known:
                self._own_up(sid)  # of any other reason: it does come in
            if seconds is not None:
                heard = processor.segmenter.position / SAMPLE_RATE
                self._interrupt(processor.track, time.monotonic() - min(heard, seconds), GapReason.ENCRYPTED)

    def _tell_hearing(self) -> None:
        """The room is deaf until the track that fell silent brings sound again, or is gone."""
        for sid, processor in self._tracks.items():
            if processor.segmenter.position and not self._is_deaf(processor):
                self._deaf_since.pop(sid, None)
        if self._deaf_since:
            vitals.deaf(self._info.sid, since=min(self._deaf_since.values()))
        else:
            vitals.hears(self._info.sid)

    def _is_deaf(self, processor: TrackProcessor) -> bool:
        return time.monotonic() - processor.heard_at > DEAF_SECONDS

    async def _say_alive(self, _: rtc.RpcInvocationData) -> str:
        is_deaf = any(self._is_deaf(processor) for processor in self._tracks.values())
        return liveness.DEAF if is_deaf else liveness.ALIVE

    def _how_far(self) -> Heard:
        """How far we have heard by now: the tracks that we wait for, those that we listen to, and those that bring
        nothing."""
        now, monotonic = utc_now(), time.monotonic()

        def date(moment: float) -> datetime:
            return now - timedelta(seconds=monotonic - moment)

        def hearing(processor: TrackProcessor, reception: Reception) -> Hearing:
            known = monotonic if reception.silent_since is None else reception.silent_since
            return Hearing(min(processor.heard_until, date(known)), reception.held_seconds)

        tracks: dict[str, Hearing | None] = {
            sid: None if sid in self._there_before_us else Hearing(date(at))
            for sid, at in self._asked_for.items()
        }
        for sid, (processor, reception) in self._heard_last.items():
            tracks[sid] = hearing(processor, reception)
        for sid, processor in self._tracks.items():
            tracks[sid] = hearing(processor, self._receptions[sid])
        fleeting = {sid: broken for sid, (_, broken) in self._fleeting.items()}
        for sid, broken in {**fleeting, **self._interrupted}.items():
            tracks[sid] = None if broken.since is None else Hearing(date(broken.since))
        # While we are away, others may publish whom we do not see.
        until = now if self._reconnecting_since is None else date(self._reconnecting_since)
        return Heard(until, tracks, now)

    def cut(self) -> None:
        """Closes every open segment and goes on listening. For a worker that may be killed in a moment."""
        for processor in self._tracks.values():
            processor.cut(EndReason.SHUTDOWN)

    # What people want of the text.

    def _wishes(self, track: TrackInfo) -> TextWishes:
        """As of now, while the segment ends; the speaker may be gone already."""
        speaker = self._room.remote_participants.get(track.participant_identity)
        spoken = speaker.attributes.get(SPEAKING_LANGUAGE_ATTRIBUTE, "") if speaker else ""
        return TextWishes(
            speaking_language=language_tag_or_empty(spoken),
            caption_languages=self._captions.languages() if self._captions else (),
        )

    # The announcement: people can see who is recorded.

    def _announce(self) -> None:
        if self._settings.hidden or self._is_closed:
            return
        if self._announcing is None or self._announcing.done():
            self._announcing = asyncio.create_task(self._keep_announcing())

    async def _keep_announcing(self) -> None:
        while (identities := self._recorded_identities()) != self._announced:
            self._announced = identities
            try:
                await self._room.local_participant.set_attributes(
                    {RECORDED_ATTRIBUTE: json.dumps(identities)}
                )
            except Exception as error:  # an announcement that fails must not end the recording
                self._log(logging.WARNING, f"The list of recorded participants could not be shown: {error}")

    def _recorded_identities(self) -> list[str]:
        identities = {processor.track.participant_identity for processor in self._tracks.values()}
        return sorted(identities)[:MAX_ANNOUNCED_PARTICIPANTS]

    def _log(self, level: int, message: str, participant: rtc.Participant | None = None) -> None:
        context = {"room": self._info.name, "participant": participant.identity if participant else None}
        logger.log(level, "%s", message, extra=context)


def _track_info(publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant) -> TrackInfo:
    return TrackInfo(
        participant_identity=participant.identity,
        participant_name=participant.name,
        track_sid=publication.sid,
        source=_SOURCES.get(publication.source, "unknown"),
    )


def _facts(participant: rtc.RemoteParticipant) -> ParticipantFacts:
    return ParticipantFacts(
        sid=participant.sid,
        identity=participant.identity,
        is_standard=participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD,
        metadata=participant.metadata,
        attributes=participant.attributes,
        can_update_metadata=participant.permissions.can_update_metadata,
    )
