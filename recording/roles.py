"""Decides who is recorded, by pure rules over the properties of a participant.

Metadata comes from tokens and, where a token allows it, from the participant itself; it may be anything (fact 27).
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from config import Settings

MAX_METADATA_CHARACTERS = 1_000_000
"""Longer metadata is not parsed; LiveKit itself allows 512 KiB."""

MAX_ROLE_CHARACTERS = 60
"""A role is cut to this length in the log."""


MAX_PARTICIPANTS = 10_000
"""The most participants of a room whose roles and languages are remembered: 5 MB, as much as two recorded tracks need.
Teachers beyond it are recorded too."""


@dataclass(frozen=True)
class ParticipantFacts:
    """The properties of a participant that the rules use."""

    sid: str
    identity: str
    is_standard: bool
    """Participant kind STANDARD: a person, not an agent, an egress or a phone bridge."""
    metadata: str
    attributes: Mapping[str, str]
    can_update_metadata: bool


@dataclass(frozen=True)
class Verdict:
    """Whether a participant is recorded. ``role`` is for log lines; ``warning`` is logged once per participant."""

    is_recorded: bool
    role: str
    warning: str | None = None


class RoleRules:
    """The rules of one room. Remembers the first role of participants, to detect that one made itself a teacher: of at
    most MAX_PARTICIPANTS, those judged last.
    """

    def __init__(self, settings: Settings) -> None:
        self._records_everyone = settings.record == "everyone"
        self._role_key = settings.role_key
        self._role_attribute = settings.role_attribute
        self._teacher_roles = {role.casefold() for role in settings.teacher_roles}
        self._is_strict = settings.role_trust == "strict"
        self._began_as_teacher: OrderedDict[str, bool] = OrderedDict()

    def judge(self, participant: ParticipantFacts) -> Verdict:
        """Decides about a participant as it is now. Call it again whenever the participant changes."""
        if not participant.is_standard:
            return Verdict(False, "not a person")
        role, problem = self._role_of(participant)
        claims_teacher = role is not None and role.strip().casefold() in self._teacher_roles
        began_as_teacher = self._remember(participant.sid, claims_teacher)
        shown = role[:MAX_ROLE_CHARACTERS] if role else "no role"
        if self._records_everyone:
            return Verdict(True, shown, problem)
        if claims_teacher and participant.can_update_metadata:
            return self._judge_self_styled(shown, began_as_teacher)
        return Verdict(claims_teacher, shown, problem)

    def forget(self, sid: str) -> None:
        """Drops a participant who has left. Not after a reconnect of the recorder, when it reappears."""
        self._began_as_teacher.pop(sid, None)

    def _judge_self_styled(self, role: str, began_as_teacher: bool) -> Verdict:
        """A teacher whose token lets it write its own role (fact 28)."""
        if self._is_strict:
            warning = "may change its own metadata and is therefore no teacher (ROLE_TRUST=strict)"
            return Verdict(False, role, warning)
        if not began_as_teacher:
            warning = "became a teacher during the call, may have done so itself, and is not recorded"
            return Verdict(False, role, warning)
        return Verdict(True, role)

    def _remember(self, sid: str, is_teacher: bool) -> bool:
        """Returns whether the participant was a teacher when it was first judged."""
        began_as_teacher = self._began_as_teacher.setdefault(sid, is_teacher)
        self._began_as_teacher.move_to_end(sid)
        if len(self._began_as_teacher) > MAX_PARTICIPANTS:
            self._began_as_teacher.popitem(last=False)
        return began_as_teacher

    def _role_of(self, participant: ParticipantFacts) -> tuple[str | None, str | None]:
        """The role and, where it cannot be read, the problem with it."""
        if self._role_attribute:
            return participant.attributes.get(self._role_attribute) or None, None
        return role_in_metadata(participant.metadata, self._role_key)


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


def role_in_metadata(metadata: str, key: str) -> tuple[str | None, str | None]:
    """The role in a participant's metadata, and the problem if the metadata cannot be read."""
    if not metadata:
        return None, None
    if len(metadata) > MAX_METADATA_CHARACTERS:
        return None, f"has metadata of {len(metadata)} characters, too long to be read: no role"
    try:
        value = json.loads(metadata)
    except (ValueError, RecursionError):
        return None, f"has metadata that is not JSON: no role (it begins {metadata[:40]!r})"
    if not isinstance(value, dict):
        return None, f"has metadata that is JSON but no object ({type(value).__name__}): no role"
    role = value.get(key)
    if role is not None and not isinstance(role, str):
        return None, f"has a {key!r} in its metadata that is no text ({type(role).__name__}): no role"
    return role, None
