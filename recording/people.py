"""The participants of a room, and whether each is recorded. The rules are in :mod:`recording.roles`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from livekit import rtc

from config import Settings
from recording.role_hint import Publisher, RoleHint
from recording.roles import MAX_PARTICIPANTS, ParticipantFacts, RoleRules, Verdict
from recording.room_log import RoomLog
from recording.track import audio_of

SHOWN_METADATA_CHARACTERS = 40
"""How much of metadata that cannot be read is logged, at DEBUG."""

REMEMBERED_SECONDS = 2.0
"""How long participants who left are remembered: a full reconnect of the recorder first reports that all have left."""


@dataclass
class Person:
    """A participant who is in the room, and what has been logged about it."""

    verdict: Verdict
    is_warned_of: bool = False
    is_refusal_logged: bool = False


class People:
    """The participants of one room: those who are recorded, and others up to
    :data:`~recording.roles.MAX_PARTICIPANTS`."""

    def __init__(self, settings: Settings, log: RoomLog) -> None:
        self._rules = RoleRules(settings)
        self._log = log
        self._hint = RoleHint(settings, log)
        self._people: dict[str, Person] = {}
        """By identity."""
        self._left_at: dict[str, float] = {}
        """When participants left who may come back soon, by sid (monotonic clock)."""
        self._is_crowded = False

    def joined(self, participant: rtc.RemoteParticipant) -> Verdict:
        """The participant has joined or rejoined. Returns whether it is recorded."""
        self._left_at.pop(participant.sid, None)
        verdict = self.judge(participant)
        recorded = "recorded" if verdict.is_recorded else "not recorded"
        self._log_presence(f"Participant joined: {verdict.role}, {recorded}", participant, verdict)
        return verdict

    def judge(self, participant: rtc.RemoteParticipant) -> Verdict:
        """Decides whether the participant is recorded, as it is now. A warning about it is logged once."""
        verdict = self._rules.judge(_facts(participant))
        person = self._remember(participant.identity, verdict)
        if verdict.warning and person is not None and not person.is_warned_of:
            person.is_warned_of = True
            self._log_named_if_recorded(
                logging.WARNING, f"Participant {verdict.warning}", participant, verdict
            )
            begins = f"Its metadata begins {participant.metadata[:SHOWN_METADATA_CHARACTERS]!r}"
            self._log(logging.DEBUG, begins, participant)
        return verdict

    def rejudge(self, participant: rtc.RemoteParticipant) -> Verdict:
        """Decides again after a change of the participant. A change of its role is logged."""
        before = self._people.get(participant.identity)
        was_recorded = before.verdict.is_recorded if before else None
        verdict = self.judge(participant)
        if was_recorded is not None and was_recorded != verdict.is_recorded:
            change = "is now recorded" if verdict.is_recorded else "is no longer recorded"
            self._log(logging.INFO, f"Role changed to {verdict.role}: {change}", participant)
        return verdict

    def is_refused(self, participant: rtc.RemoteParticipant) -> bool:
        """Whether it was not recorded when it was last judged."""
        person = self._people.get(participant.identity)
        return person is not None and not person.verdict.is_recorded

    def log_refusal(self, participant: rtc.RemoteParticipant) -> None:
        """Logs once that the tracks of this participant are not recorded."""
        person = self._people.get(participant.identity)
        if person is not None and not person.is_refusal_logged:
            person.is_refusal_logged = True
            message = f"Track refused: its participant is not recorded ({person.verdict.role})"
            self._log_named_if_recorded(logging.INFO, message, participant, person.verdict)

    def left(self, participant: rtc.RemoteParticipant) -> None:
        """The participant has left the room."""
        person = self._people.pop(participant.identity, None)
        self._left_at[participant.sid] = time.monotonic()
        verdict = person.verdict if person else Verdict(False, "unknown role")
        self._log_presence(f"Participant left: {verdict.role}", participant, verdict)

    def look_for_hint(self, participants: Iterable[rtc.RemoteParticipant]) -> None:
        """Says once why nobody is recorded if audio has been published for a while. Call it about once a second."""
        if self._hint.is_over:
            return
        is_anybody_recorded = any(person.verdict.is_recorded for person in self._people.values())
        publishing = [] if is_anybody_recorded else [one for one in participants if audio_of(one)]
        self._hint.look(
            is_anybody_recorded,
            [Publisher(facts := _facts(one), self._rules.judge(facts)) for one in publishing],
        )

    def no_teachers(self) -> tuple[str, ...]:
        """See :meth:`recording.roles.RoleRules.no_teachers`."""
        return self._rules.no_teachers()

    def take_over(self, no_teachers: Iterable[str]) -> None:
        """See :meth:`recording.roles.RoleRules.take_over`."""
        self._rules.take_over(no_teachers)

    def forget_who_left(self) -> None:
        """Drops what is known of those who left some time ago. Must not be called while reconnecting."""
        earliest = time.monotonic() - REMEMBERED_SECONDS
        for sid in [sid for sid, left_at in self._left_at.items() if left_at < earliest]:
            del self._left_at[sid]
            self._rules.forget(sid)

    def _log_presence(self, message: str, participant: rtc.RemoteParticipant, verdict: Verdict) -> None:
        self._log(logging.INFO if verdict.is_recorded else logging.DEBUG, message, participant)

    def _log_named_if_recorded(
        self, level: int, message: str, participant: rtc.RemoteParticipant, verdict: Verdict
    ) -> None:
        """Logs a line without the participant if it is not recorded: its name is shown with LOG_LEVEL=DEBUG only."""
        is_named = verdict.is_recorded or self._log.shows_debug
        self._log(level, message, participant if is_named else None)

    def _remember(self, identity: str, verdict: Verdict) -> Person | None:
        """The remembered participant. None: it is not recorded, and MAX_PARTICIPANTS are remembered already."""
        person = self._people.get(identity)
        if person is not None:
            person.verdict = verdict
        elif verdict.is_recorded or len(self._people) < MAX_PARTICIPANTS:
            person = self._people[identity] = Person(verdict)
        elif not self._is_crowded:
            self._is_crowded = True
            self._log(
                logging.WARNING,
                f"More than {MAX_PARTICIPANTS} people: teachers are still recorded, "
                "further students are not remembered",
            )
        return person


def _facts(participant: rtc.RemoteParticipant) -> ParticipantFacts:
    return ParticipantFacts(
        sid=participant.sid,
        identity=participant.identity,
        kind=_kind(participant),
        metadata=participant.metadata,
        attributes=participant.attributes,
        can_update_metadata=participant.permissions.can_update_metadata,
    )


def _kind(participant: rtc.RemoteParticipant) -> str:
    if participant.kind not in rtc.ParticipantKind.values():
        return "unknown"
    return rtc.ParticipantKind.Name(participant.kind).removeprefix("PARTICIPANT_KIND_").lower()
