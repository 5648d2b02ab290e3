"""Who is recorded: pure rules over what LiveKit says of a participant.

Metadata comes from tokens and, where a token allows it, from the participant itself; it may be anything (fact 27).
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from config import Settings

MAX_METADATA_CHARACTERS = 1_000_000
"""LiveKit itself allows 512 KiB; more than this is not looked at."""

MAX_REMEMBERED_PARTICIPANTS = 2_000


@dataclass(frozen=True)
class ParticipantFacts:
    """What the rules look at."""

    sid: str
    identity: str
    is_standard: bool
    """Participant kind STANDARD: a person, not an agent, an egress or a phone bridge."""
    metadata: str
    attributes: Mapping[str, str]
    can_update_metadata: bool


@dataclass(frozen=True)
class Verdict:
    """Whether a participant is recorded, and a sentence about it: ``role`` for every log line, ``warning`` if a
    person should know more (said once a participant)."""

    is_recorded: bool
    role: str
    warning: str | None = None


class RoleRules:
    """The rules of one room. Remembers what each participant was at first sight, to notice self-made promotions."""

    def __init__(self, settings: Settings) -> None:
        self._records_everyone = settings.record == "everyone"
        self._role_key = settings.role_key
        self._role_attribute = settings.role_attribute
        self._teacher_roles = {role.casefold() for role in settings.teacher_roles}
        self._is_strict = settings.role_trust == "strict"
        self._began_as_teacher: OrderedDict[str, bool] = OrderedDict()

    def judge(self, participant: ParticipantFacts) -> Verdict:
        """Decides about a participant as it is now. To be asked again whenever anything about it changes."""
        if not participant.is_standard:
            return Verdict(False, "not a person")
        role, problem = self._role_of(participant)
        claims_teacher = role is not None and role.strip().casefold() in self._teacher_roles
        began_as_teacher = self._remember(participant.sid, claims_teacher)
        shown = role if role else "no role"
        if self._records_everyone:
            return Verdict(True, shown, problem)
        if claims_teacher and participant.can_update_metadata:
            return self._judge_self_styled(shown, began_as_teacher)
        return Verdict(claims_teacher, shown, problem)

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
        """What the participant was at first sight. Kept after it leaves: our own reconnect brings it anew."""
        began_as_teacher = self._began_as_teacher.setdefault(sid, is_teacher)
        self._began_as_teacher.move_to_end(sid)
        if len(self._began_as_teacher) > MAX_REMEMBERED_PARTICIPANTS:
            self._began_as_teacher.popitem(last=False)
        return began_as_teacher

    def _role_of(self, participant: ParticipantFacts) -> tuple[str | None, str | None]:
        """The role and, where it cannot be read, the problem with it."""
        if self._role_attribute:
            return participant.attributes.get(self._role_attribute) or None, None
        return role_in_metadata(participant.metadata, self._role_key)


def role_in_metadata(metadata: str, key: str) -> tuple[str | None, str | None]:
    """The role in a participant's metadata, and what is wrong with the metadata if it has none for a bad reason."""
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
