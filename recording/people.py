"""The participants of a room, and whether each is recorded. The rules are in :mod:`recording.roles`."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from livekit import rtc

from config import Settings
from recording.roles import MAX_PARTICIPANTS, ParticipantFacts, RoleRules, Verdict
from recording.room_log import RoomLog

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
        self._people: dict[str, Person] = {}
        """By identity."""
        self._left_at: dict[str, float] = {}
        """When participants left who may come back soon, by sid (monotonic clock)."""
        self._is_crowded = False

    def joined(self, participant: rtc.RemoteParticipant) -> Verdict:
        """The participant has joined or rejoined. Returns whether it is recorded."""
        self._left_at.pop(participant.sid, None)
        return self.judge(participant)

    def judge(self, participant: rtc.RemoteParticipant) -> Verdict:
        """Decides whether the participant is recorded, as it is now. A warning about it is logged once."""
        verdict = self._rules.judge(_facts(participant))
        person = self._remember(participant.identity, verdict)
        if verdict.warning and person is not None and not person.is_warned_of:
            person.is_warned_of = True
            self._log(logging.WARNING, f"Participant {verdict.warning}", participant)
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

    def log_refusal(self, participant: rtc.RemoteParticipant) -> None:
        """Logs once that the tracks of this participant are not recorded."""
        person = self._people.get(participant.identity)
        if person is not None and not person.is_refusal_logged:
            person.is_refusal_logged = True
            message = f"Track refused: its participant is not recorded ({person.verdict.role})"
            self._log(logging.INFO, message, participant)

    def left(self, participant: rtc.RemoteParticipant) -> None:
        """The participant has left the room."""
        person = self._people.pop(participant.identity, None)
        self._left_at[participant.sid] = time.monotonic()
        role = person.verdict.role if person else "unknown role"
        self._log(logging.INFO, f"Participant left: {role}", participant)

    def forget_who_left(self) -> None:
        """Drops what is known of those who left some time ago. Must not be called while reconnecting."""
        earliest = time.monotonic() - REMEMBERED_SECONDS
        for sid in [sid for sid, left_at in self._left_at.items() if left_at < earliest]:
            del self._left_at[sid]
            self._rules.forget(sid)

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
        is_standard=participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD,
        metadata=participant.metadata,
        attributes=participant.attributes,
        can_update_metadata=participant.permissions.can_update_metadata,
    )
