"""Says once per room why nobody is recorded although somebody publishes audio, and which setting would change it."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from config import Settings
from recording.role_reading import MAX_METADATA_CHARACTERS
from recording.roles import NO_ROLE, ParticipantFacts, Verdict, is_declined
from recording.room_log import RoomLog

HINT_SECONDS = 10.0
"""How long a track is published before the log says why nobody is recorded."""

MAX_SHOWN = 5
"""The most roles, and the most pieces of advice, in the line."""

MAX_SEARCHED_VALUES = 1000
"""How much of a participant's metadata is searched for a role."""

NEVER_RECORDED = ("agent", "egress")


class Publisher(NamedTuple):
    """A participant who publishes audio, and whether it is recorded."""

    facts: ParticipantFacts
    verdict: Verdict


class RoleHint:
    """Watches whether anybody in the room is recorded; call :meth:`look` about once a second."""

    def __init__(self, settings: Settings, log: RoomLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._log = log
        self._clock = clock
        self._published_since: float | None = None
        self.is_over = False
        """The line has been logged."""

    def look(self, is_anybody_recorded: bool, publishers: Collection[Publisher]) -> None:
        """Logs the line when there have been publishers for ``HINT_SECONDS`` and nobody in the room is recorded."""
        people = [one for one in publishers if one.facts.kind not in NEVER_RECORDED]
        if is_anybody_recorded or not people:
            self._published_since = None
            return
        now = self._clock()
        if self._published_since is None:
            self._published_since = now
        elif now - self._published_since >= HINT_SECONDS and not self.is_over:
            self.is_over = True
            self._log(logging.INFO, why_nobody_is_recorded(people, self._settings))


def why_nobody_is_recorded(publishers: Collection[Publisher], settings: Settings) -> str:
    """The line of the log. It names no participant."""
    roles = Counter(one.verdict.role for one in publishers)
    seen = ", ".join(f"{role} ({count})" for role, count in roles.most_common(MAX_SHOWN))
    advice = list(dict.fromkeys(text for one in publishers for text in _advice(one, settings)))[:MAX_SHOWN]
    if any(not one.verdict.advice and one.verdict.role != NO_ROLE for one in publishers):
        advice.append(f"TEACHER_ROLES is {','.join(settings.teacher_roles)}")
    if not advice:
        where = f"attribute {settings.role_attribute}" if settings.role_attribute else settings.role_key
        advice.append(f"no participant has a role (ROLE_KEY, ROLE_ATTRIBUTE: it is looked for in {where})")
    if any(_is_recorded_with_everyone(one.facts, settings) for one in publishers):
        advice.append("RECORD=everyone would record all")
    return (
        f"Nobody is recorded, and audio has been published for {HINT_SECONDS:.0f} s. "
        f"Roles seen: {seen}. {'; '.join(advice)}"
    )


def _is_recorded_with_everyone(facts: ParticipantFacts, settings: Settings) -> bool:
    return facts.kind in settings.teacher_kinds and not is_declined(facts.attributes)


def _advice(publisher: Publisher, settings: Settings) -> Iterator[str]:
    if publisher.verdict.advice:
        yield publisher.verdict.advice
        return
    facts = publisher.facts
    teacher_roles = {role.casefold() for role in settings.teacher_roles}

    def is_teacher(value: object) -> bool:
        values = value if isinstance(value, list) else [value]
        return any(isinstance(one, str) and one.strip().casefold() in teacher_roles for one in values)

    if is_teacher(facts.metadata.strip().strip("\"'")):
        yield f'a teacher\'s role is the whole metadata: it must be JSON, such as {{"{settings.role_key}": "teacher"}}'
    for path in _paths(facts.metadata, is_teacher):
        instead = " and no ROLE_ATTRIBUTE" if settings.role_attribute else ""
        yield f"a teacher's role is in the metadata under {path}: set ROLE_KEY={path}{instead}"
    for name, value in facts.attributes.items():
        if is_teacher(value):
            yield f"a teacher's role is in an attribute: set ROLE_ATTRIBUTE={name}"


def _paths(metadata: str, is_teacher: Callable[[object], bool]) -> Iterator[str]:
    """The paths in JSON whose value is a teacher's role, those near its top first."""
    if len(metadata) > MAX_METADATA_CHARACTERS:
        return
    try:
        value = json.loads(metadata or "null")
    except (ValueError, RecursionError):
        return
    waiting: deque[tuple[str, Any]] = deque([("", value)])
    for _ in range(MAX_SEARCHED_VALUES):
        if not waiting:
            return
        path, found = waiting.popleft()
        if path and is_teacher(found):
            yield path
        elif isinstance(found, dict):
            waiting.extend((f"{path}.{key}" if path else key, inner) for key, inner in found.items())
