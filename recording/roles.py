"""Decides who is recorded, by pure rules over the properties of a participant.

Metadata comes from tokens and, where a token allows it, from the participant itself. How roles are read from it is in
:mod:`recording.role_reading`.
"""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from config import Settings
from recording.role_reading import roles_of

MAX_ROLE_CHARACTERS = 60
"""A role is cut to this length in the log."""

MAX_PARTICIPANTS = 10_000
"""The most participants of a room whose roles and languages are remembered: 5 MB, as much as two recorded tracks need.
Teachers beyond it are recorded too."""

CONSENT_ATTRIBUTE = "recording"
"""A participant with this attribute set to ``no`` is never recorded, whatever its role (docs/apps.md)."""

_DECLINED = ("no", "false", "off", "0")

NO_ROLE = "no role"


@dataclass(frozen=True)
class ParticipantFacts:
    """The properties of a participant that the rules use."""

    sid: str
    identity: str
    kind: str
    """LiveKit's kind of participant in lower case, such as ``standard``, ``ingress``, ``sip`` or ``agent``."""
    metadata: str
    attributes: Mapping[str, str]
    can_update_metadata: bool


@dataclass(frozen=True)
class Verdict:
    """Whether a participant is recorded."""

    is_recorded: bool
    role: str
    """For log lines."""
    warning: str | None = None
    """Logged once per participant."""
    is_teacher: bool = False
    """Whether it is a teacher by its role, also with RECORD=everyone. A teacher may pause the recording."""
    advice: str = ""
    """Why it is not recorded if its role is not the reason, and what would change that."""


MAX_NOTED_PARTICIPANTS = 1_000
"""The most participants that the handover note names; it is rewritten every second."""


class RoleRules:
    """The rules of one room. Remembers the first role of participants, to detect that one made itself a teacher: of at
    most MAX_PARTICIPANTS, those judged last.
    """

    def __init__(self, settings: Settings) -> None:
        self._records_everyone = settings.record == "everyone"
        self._role_key = settings.role_key
        self._role_attribute = settings.role_attribute
        self._teacher_roles = {role.casefold() for role in settings.teacher_roles}
        self._kinds = settings.teacher_kinds
        self._is_strict = settings.role_trust == "strict"
        self._began_as_teacher: OrderedDict[str, bool] = OrderedDict()
        self._no_teachers: dict[str, None] = {}
        """Sids of participants who may change their own metadata and were no teachers at first, in this order."""

    def judge(self, participant: ParticipantFacts) -> Verdict:
        """Decides about a participant as it is now. Call it again whenever the participant changes."""
        if participant.kind not in self._kinds:
            return Verdict(
                False, f"kind {participant.kind}", advice=f"TEACHER_KINDS does not contain {participant.kind}"
            )
        by_role = self._judge_role(participant)
        if is_declined(participant.attributes):
            role = f"{by_role.role}, {CONSENT_ATTRIBUTE}=no"
            advice = f"a participant has the attribute {CONSENT_ATTRIBUTE}=no"
            return Verdict(False, role, by_role.warning, by_role.is_teacher, advice)
        if self._records_everyone:
            return Verdict(True, by_role.role, by_role.warning, by_role.is_teacher)
        return by_role

    def forget(self, sid: str) -> None:
        """Drops a participant who has left. Not after a reconnect of the recorder, when it reappears."""
        self._began_as_teacher.pop(sid, None)
        self._no_teachers.pop(sid, None)

    def no_teachers(self) -> tuple[str, ...]:
        """The sids of participants who were no teachers at first and may change their own role, for a successor."""
        return tuple(itertools.islice(self._no_teachers, MAX_NOTED_PARTICIPANTS))

    def take_over(self, no_teachers: Iterable[str]) -> None:
        """Takes over what an earlier recorder knew of the participants. Call it before the first is judged."""
        for sid in itertools.islice(no_teachers, MAX_NOTED_PARTICIPANTS):
            self._began_as_teacher[sid] = False
            self._no_teachers[sid] = None

    def _judge_role(self, participant: ParticipantFacts) -> Verdict:
        """Whether the participant is a teacher, and recorded as such."""
        roles, problem = roles_of(
            participant.metadata, participant.attributes, self._role_key, self._role_attribute
        )
        claims_teacher = any(role.strip().casefold() in self._teacher_roles for role in roles)
        began_as_teacher = self._remember(participant.sid, claims_teacher)
        if participant.can_update_metadata and not began_as_teacher:
            self._no_teachers[participant.sid] = None
        shown = ", ".join(roles)[:MAX_ROLE_CHARACTERS] or NO_ROLE
        if claims_teacher and participant.can_update_metadata:
            return self._judge_self_styled(shown, began_as_teacher)
        return Verdict(claims_teacher, shown, problem, claims_teacher)

    def _judge_self_styled(self, role: str, began_as_teacher: bool) -> Verdict:
        """A teacher whose token lets it write its own role (fact 28)."""
        advice = "the token of a teacher allows it to change its own metadata (canUpdateOwnMetadata)"
        if self._is_strict:
            warning = "may change its own metadata and is therefore no teacher (ROLE_TRUST=strict)"
            return Verdict(False, role, warning, advice=f"{advice}, and ROLE_TRUST is strict")
        if not began_as_teacher:
            warning = "became a teacher during the call, may have done so itself, and is not recorded"
            return Verdict(False, role, warning, advice=f"{advice}, and it was no teacher at first")
        return Verdict(True, role, is_teacher=True)

    def _remember(self, sid: str, is_teacher: bool) -> bool:
        """Returns whether the participant was a teacher when it was first judged."""
        began_as_teacher = self._began_as_teacher.setdefault(sid, is_teacher)
        self._began_as_teacher.move_to_end(sid)
        if len(self._began_as_teacher) > MAX_PARTICIPANTS:
            self.forget(next(iter(self._began_as_teacher)))
        return began_as_teacher


def is_declined(attributes: Mapping[str, str]) -> bool:
    """Whether a participant's attributes say that it must not be recorded."""
    return any(
        name.casefold() == CONSENT_ATTRIBUTE and value.strip().casefold() in _DECLINED
        for name, value in attributes.items()
    )


class Places:
    """The places for recorded tracks in one room, within the configured bounds. First come, first served."""

    def __init__(self, settings: Settings) -> None:
        self._max_teachers = settings.max_teachers_per_room
        self._max_tracks = settings.max_tracks_per_teacher
        self._held: dict[str, str] = {}
        """The identity of the participant, by the track's sid."""

    def take(self, identity: str, sid: str) -> str | None:
        """Gives the track a place, unless it has one. Returns the bound that prevents it, or None."""
        if sid in self._held:
            return None
        tracks = Counter(self._held.values())
        if identity not in tracks and len(tracks) >= self._max_teachers:
            return f"MAX_TEACHERS_PER_ROOM={self._max_teachers}"
        if tracks[identity] >= self._max_tracks:
            return f"MAX_TRACKS_PER_TEACHER={self._max_tracks}"
        self._held[sid] = identity
        return None

    def free(self, sid: str) -> bool:
        """Frees the place of a track. Returns whether it had one."""
        return self._held.pop(sid, None) is not None

    def held(self) -> Collection[str]:
        """The sids of the tracks that have a place."""
        return self._held.keys()
