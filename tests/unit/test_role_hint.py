"""Why nobody is recorded: the one line that the log has about it, and what it names."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from config import Settings
from recording import role_hint
from recording.role_hint import HINT_SECONDS, Publisher, RoleHint, why_nobody_is_recorded
from recording.roles import ParticipantFacts, RoleRules
from recording.room_log import RoomLog

STUDENT = '{"role": "student"}'


def publisher(
    metadata: str = "",
    attributes: Mapping[str, str] | None = None,
    *,
    kind: str = "standard",
    can_update: bool = False,
    **changes: Any,
) -> Publisher:
    facts = ParticipantFacts("PA_1", "Sam Secret", kind, metadata, attributes or {}, can_update)
    return Publisher(facts, RoleRules(replace(Settings(), **changes)).judge(facts))


def line(*publishers: Publisher, **changes: Any) -> str:
    return why_nobody_is_recorded(publishers, replace(Settings(), **changes))


def test_roles_that_were_seen_and_settings_are_named_and_nobody_s_name() -> None:
    told = line(publisher(STUDENT), publisher(STUDENT), publisher('{"role": ["tutor"]}'), publisher())
    assert told == (
        "Nobody is recorded, and audio has been published for 10 s. "
        "Roles seen: student (2), tutor (1), no role (1). "
        "TEACHER_ROLES is teacher; RECORD=everyone would record all"
    )


@pytest.mark.parametrize(
    ("metadata", "attributes", "advice"),
    [
        ('{"user": {"role": "teacher"}}', {}, "ROLE_KEY=user.role"),
        ('{"a": {"b": {"c": ["x", "Teacher"]}}}', {}, "ROLE_KEY=a.b.c"),
        ('{"type": "teacher"}', {}, "ROLE_KEY=type"),
        ('{"a.b": {"c.d": "teacher"}}', {}, "ROLE_KEY=a.b.c.d"),
        ("'teacher'", {}, 'JSON, such as {"role": "teacher"}'),
        ("", {"kind": "teacher"}, "ROLE_ATTRIBUTE=kind"),
        ("teacher", {}, 'JSON, such as {"role": "teacher"}'),
        (' "Teacher" ', {}, 'JSON, such as {"role": "teacher"}'),
        ("", {}, "ROLE_KEY, ROLE_ATTRIBUTE"),
        ("[" * 5_000, {}, "ROLE_KEY, ROLE_ATTRIBUTE"),
    ],
)
def test_a_role_in_another_place_is_found(metadata: str, attributes: dict[str, str], advice: str) -> None:
    told = line(publisher(metadata, attributes))
    assert advice in told and "RECORD=everyone" in told
    if "=" in advice:
        setting, _, value = advice.partition("=")
        changes: dict[str, Any] = {setting.lower(): value}
        assert publisher(metadata, attributes, **changes).verdict.is_recorded, "it is true"
    assert "Roles seen: no role (1)" in told


def test_a_role_in_the_metadata_is_found_though_an_attribute_is_asked_for() -> None:
    told = line(publisher('{"role": "teacher"}', role_attribute="kind"), role_attribute="kind")
    assert "set ROLE_KEY=role and no ROLE_ATTRIBUTE" in told


@pytest.mark.parametrize(
    ("one", "advice"),
    [
        (publisher('{"role": "teacher"}', kind="bridge"), "TEACHER_KINDS does not contain bridge"),
        (publisher('{"role": "teacher"}', {"recording": "no"}), "the attribute recording=no"),
        (publisher('{"role": "teacher"}', can_update=True, role_trust="strict"), "ROLE_TRUST is strict"),
    ],
)
def test_reasons_other_than_the_role_are_named(one: Publisher, advice: str) -> None:
    assert advice in line(one)
    would_be_recorded = RoleRules(Settings(record="everyone")).judge(one.facts).is_recorded
    assert ("RECORD=everyone" in line(one)) is would_be_recorded


def test_a_crowd_and_huge_metadata_make_one_short_line() -> None:
    deep = json.dumps({f"key{number}": "teacher" for number in range(10_000)})
    told = line(*(publisher(json.dumps({"role": "x" * 500 + str(at)})) for at in range(50)), publisher(deep))
    assert len(told) < 1_500


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def told(caplog: pytest.LogCaptureFixture) -> int:
    return sum("Nobody is recorded" in record.getMessage() for record in caplog.records)


def test_the_line_comes_once_after_ten_seconds(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    hint = RoleHint(Settings(), RoomLog("math101"), clock)
    with caplog.at_level(logging.INFO):
        for seconds in range(30):
            hint.look(False, [publisher(STUDENT)])
            assert told(caplog) == (seconds >= HINT_SECONDS)
            clock.now += 1


def test_the_line_does_not_come_if_somebody_is_recorded_or_nobody_publishes(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    hint = RoleHint(Settings(), RoomLog("math101"), clock)
    with caplog.at_level(logging.INFO):
        for at in range(40):
            hint.look(at % 8 == 0, [publisher(STUDENT)])
            clock.now += 1
        for _ in range(40):
            hint.look(False, [publisher(STUDENT, kind=kind) for kind in role_hint.NEVER_RECORDED])
            clock.now += 1
    assert told(caplog) == 0
