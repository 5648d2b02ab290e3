"""Who is recorded: roles in the metadata, forged roles, and who may change them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config import Settings
from recording import roles
from recording.role_reading import MAX_METADATA_CHARACTERS, Roles, roles_in_metadata
from recording.roles import (
    MAX_ROLE_CHARACTERS,
    ParticipantFacts,
    Places,
    RoleRules,
    Verdict,
)

TEACHER = '{"role": "teacher"}'
STUDENT = '{"role": "student"}'
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def rules(**changes: Any) -> RoleRules:
    return RoleRules(replace(Settings(), **changes))


def person(
    metadata: str = "",
    *,
    sid: str = "PA_1",
    can_update: bool = False,
    attributes: Mapping[str, str] | None = None,
    kind: str = "standard",
) -> ParticipantFacts:
    return ParticipantFacts(sid, "anna", kind, metadata, attributes or {}, can_update)


def verdict_of(is_teacher: bool, role: str) -> Verdict:
    """The verdict on a participant whose role alone decides."""
    return Verdict(is_teacher, role, is_teacher=is_teacher)


def is_recorded(metadata: str, **changes: Any) -> bool:
    return rules(**changes).judge(person(metadata)).is_recorded


# --- the role in the metadata ---


@pytest.mark.parametrize(
    ("metadata", "recorded", "role"),
    [
        (TEACHER, True, "teacher"),
        ('{"role": "Teacher"}', True, "Teacher"),
        ('{"role": " TEACHER "}', True, " TEACHER "),
        ('{"name": "x", "role": "teacher", "deep": [1, {}]}', True, "teacher"),
        ('{"role": "student", "role": "teacher"}', True, "teacher"),
        (STUDENT, False, "student"),
        ('{"role": "teachers"}', False, "teachers"),
        ('{"role": ""}', False, "no role"),
        ('{"role": null}', False, "no role"),
        ('{"Role": "teacher"}', True, "teacher"),
        ('{"Role": "teacher", "role": "student"}', False, "student"),
        ('{"role": ["student", "Teacher"]}', True, "student, Teacher"),
        ('{"role": ["student"]}', False, "student"),
        ('{"role": [5, "teacher", null]}', True, "teacher"),
        ('{"role": []}', False, "no role"),
        ('["teacher"]', True, "teacher"),
        ('["student", "admin"]', False, "student, admin"),
        ('{"other": "teacher"}', False, "no role"),
        ('{"user": {"role": "teacher"}}', False, "no role"),
        ("{}", False, "no role"),
        ("", False, "no role"),
    ],
)
def test_a_teacher_is_whom_the_metadata_calls_one(metadata: str, recorded: bool, role: str) -> None:
    assert rules().judge(person(metadata)) == verdict_of(recorded, role)


@pytest.mark.parametrize(
    ("metadata", "recorded"),
    [
        ('{"user": {"role": "teacher"}}', True),
        ('{"User": {"ROLE": ["teacher"]}}', True),
        ('{"user.role": "teacher"}', True),
        ('{"user": {"role": null, "x": 1}, "user.role": null}', False),
        ('{"user.role": "student", "user": {"role": "teacher"}}', False),
        ('{"user": {"role": "student"}, "role": "teacher"}', False),
        ('{"user": "teacher"}', False),
        ('{"user": [{"role": "teacher"}]}', False),
        ('{"role": "teacher"}', False),
    ],
)
def test_the_key_may_be_a_path(metadata: str, recorded: bool) -> None:
    assert is_recorded(metadata, role_key="user.role") is recorded


BAD_METADATA = {
    "no JSON": ("teacher", "not JSON"),
    "half a JSON": ('{"role": "teacher"', "not JSON"),
    "a byte order mark": ("\ufeff" + TEACHER, "not JSON"),
    "NUL": ("\x00", "not JSON"),
    "a list without a text": ('[5, {"role": "teacher"}]', "no object (list)"),
    "a text": ('"teacher"', "no object (str)"),
    "a number": ("5", "no object (int)"),
    "null": ("null", "no object (NoneType)"),
    "NaN": ("NaN", "no object (float)"),
    "nested 5000 deep": ("[" * 5_000 + "]" * 5_000, "no object (list)|not JSON"),
    "nested 100 000 deep": ('{"role":' * 100_000, "not JSON"),
    "a number of 5000 digits": ('{"role": ' + "9" * 5_000 + "}", "not JSON"),
    "500 kB of nothing": ("x" * 500_000, "not JSON"),
    "too long": (" " * MAX_METADATA_CHARACTERS + TEACHER, "too long"),
    "a role that is a number": ('{"role": 5}', "no text (int)"),
    "a role that is NaN": ('{"role": NaN}', "no text (float)"),
    "a role that is infinite": ('{"role": 1e999}', "no text (float)"),
    "a role that is true": ('{"role": true}', "no text (bool)"),
    "a role that is a list without a text": ('{"role": [5]}', "no text (list)"),
    "a role that is an object": ('{"role": {"role": "teacher"}}', "no text (dict)"),
}


@pytest.mark.parametrize(("metadata", "problem"), BAD_METADATA.values(), ids=BAD_METADATA.keys())
def test_bad_metadata_is_no_role_and_one_line(metadata: str, problem: str) -> None:
    verdict = rules().judge(person(metadata))
    assert (verdict.is_recorded, verdict.role) == (False, "no role")
    assert verdict.warning is not None
    assert any(phrase in verdict.warning for phrase in problem.split("|"))
    assert len(verdict.warning) < 200 and "\n" not in verdict.warning


def test_500_kb_of_good_metadata_is_read() -> None:
    assert is_recorded(json.dumps({"notes": "x" * 500_000, "role": "teacher"}))


@unhurried
@given(st.text(max_size=200) | st.from_regex(r'[\[\]{}",:a-z0-9 ]{0,80}'))
def test_no_metadata_at_all_breaks_the_rules(metadata: str) -> None:
    verdict = rules().judge(person(metadata))
    assert isinstance(verdict.is_recorded, bool)


@pytest.mark.slow
@unhurried
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner)))
def test_whatever_the_role_is_only_text_counts(value: object) -> None:
    found = roles_in_metadata(json.dumps({"role": value}), "role")
    values = value if isinstance(value, list) else [value]
    texts = tuple(one for one in values if isinstance(one, str) and one)
    if texts or value in (None, "", []):
        assert found == Roles(texts)
    else:
        assert not found.names and found.problem is not None


def test_key_and_values_of_the_role_are_settings() -> None:
    changes = {"role_key": "rolle", "teacher_roles": ("Lehrkraft", "dozentin")}
    assert is_recorded('{"rolle": "lehrkraft"}', **changes)
    assert is_recorded('{"rolle": "Dozentin"}', **changes)
    assert not is_recorded('{"rolle": "teacher"}', **changes)
    assert not is_recorded('{"role": "lehrkraft"}', **changes)


# --- an attribute in its place ---


@pytest.mark.parametrize(
    ("attributes", "recorded", "role"),
    [
        ({"kind": "teacher"}, True, "teacher"),
        ({"kind": "student"}, False, "student"),
        ({"kind": ""}, False, "no role"),
        ({"role": "teacher"}, False, "no role"),
        ({}, False, "no role"),
    ],
)
def test_an_attribute_replaces_the_metadata(attributes: dict[str, str], recorded: bool, role: str) -> None:
    judged = rules(role_attribute="kind").judge(person(TEACHER, attributes=attributes))
    assert judged == verdict_of(recorded, role)


@pytest.mark.parametrize(
    ("metadata", "recorded", "role"),
    [
        ("", True, "teacher"),
        ("{}", True, "teacher"),
        ("no JSON", True, "teacher"),
        (STUDENT, False, "student"),
    ],
)
def test_an_attribute_of_the_key_s_name_counts_if_the_metadata_has_no_role(
    metadata: str, recorded: bool, role: str
) -> None:
    for name in ("role", "Role"):
        judged = rules().judge(person(metadata, attributes={name: "teacher"}))
        assert judged == verdict_of(recorded, role)
    judged = rules(role_key="user.role").judge(person(attributes={"user.role": "teacher"}))
    assert judged.is_recorded


def test_an_attribute_is_trusted_no_more_than_metadata() -> None:
    teacher = {"role": "teacher"}
    room = rules()
    assert not room.judge(person(can_update=True)).is_recorded
    verdict = room.judge(person(can_update=True, attributes=teacher))
    assert not verdict.is_recorded and not verdict.is_teacher
    assert verdict.warning is not None and "during the call" in verdict.warning
    assert not rules(role_trust="strict").judge(person(can_update=True, attributes=teacher)).is_recorded


def test_with_an_attribute_nobody_looks_at_bad_metadata() -> None:
    assert rules(role_attribute="kind").judge(person("no JSON")).warning is None


# --- promotions and demotions ---


def test_a_promotion_and_a_demotion_take_effect() -> None:
    room = rules()
    verdicts = [room.judge(person(metadata)).is_recorded for metadata in (STUDENT, TEACHER, STUDENT, TEACHER)]
    assert verdicts == [False, True, False, True]


def test_whoever_came_as_a_teacher_is_one_though_its_token_could_change_that() -> None:
    assert rules().judge(person(TEACHER, can_update=True)) == verdict_of(True, "teacher")


def test_whoever_may_change_itself_and_becomes_a_teacher_is_not_recorded() -> None:
    room = rules()
    assert not room.judge(person(STUDENT, can_update=True)).is_recorded
    verdict = room.judge(person(TEACHER, can_update=True))
    assert (verdict.is_recorded, verdict.role) == (False, "teacher")
    assert verdict.warning is not None and "during the call" in verdict.warning


@pytest.mark.parametrize("metadata", ["", "no JSON", "{}", STUDENT])
def test_a_promotion_of_ones_own_is_seen_from_any_beginning(metadata: str) -> None:
    room = rules()
    room.judge(person(metadata, can_update=True))
    assert not room.judge(person(TEACHER, can_update=True)).is_recorded


def test_a_permission_that_comes_later_does_not_help() -> None:
    room = rules()
    room.judge(person(STUDENT))
    room.judge(person(STUDENT, can_update=True))
    assert not room.judge(person(TEACHER, can_update=True)).is_recorded


def test_a_teacher_of_the_server_s_making_stays_one_until_it_may_change_itself() -> None:
    room = rules()
    room.judge(person(STUDENT))
    assert room.judge(person(TEACHER)).is_recorded
    assert not room.judge(person(TEACHER, can_update=True)).is_recorded
    assert room.judge(person(TEACHER)).is_recorded


def test_a_teacher_may_step_down_and_up_again() -> None:
    room = rules()
    metadata = (TEACHER, STUDENT, TEACHER)
    assert [room.judge(person(text, can_update=True)).is_recorded for text in metadata] == [True, False, True]


def test_a_former_role_is_remembered_for_the_same_participant_only() -> None:
    room = rules()
    room.judge(person(STUDENT, sid="PA_1", can_update=True))
    assert room.judge(person(TEACHER, sid="PA_2", can_update=True)).is_recorded
    assert not room.judge(person(TEACHER, sid="PA_1", can_update=True)).is_recorded


def test_a_crowd_does_not_fill_the_memory_and_those_who_are_here_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(roles, "MAX_PARTICIPANTS", 200)
    room = rules()
    room.judge(person(STUDENT, sid="PA_here", can_update=True))
    for index in range(400):
        room.judge(person(STUDENT, sid=f"PA_{index}"))
        if index % 100 == 0:
            room.judge(person(STUDENT, sid="PA_here", can_update=True))
    assert not room.judge(person(TEACHER, sid="PA_here", can_update=True)).is_recorded
    assert len(room._began_as_teacher) == 200


def test_who_has_left_is_forgotten() -> None:
    room = rules()
    for sid in ("PA_1", "PA_2"):
        room.judge(person(STUDENT, sid=sid, can_update=True))
    room.forget("PA_1")
    room.forget("PA_unknown")
    assert not room.judge(person(TEACHER, sid="PA_2", can_update=True)).is_recorded
    assert list(room._began_as_teacher) == ["PA_2"]


def test_a_role_as_long_as_a_book_is_not_kept() -> None:
    verdict = rules().judge(person(json.dumps({"role": "x" * 10_000})))
    assert verdict.role == "x" * MAX_ROLE_CHARACTERS


def test_a_successor_knows_who_was_no_teacher_at_first() -> None:
    before = rules()
    before.judge(person(STUDENT, sid="PA_forger", can_update=True))
    before.judge(person(TEACHER, sid="PA_teacher", can_update=True))
    before.judge(person(STUDENT, sid="PA_student"))
    before.judge(person(STUDENT, sid="PA_gone", can_update=True))
    before.forget("PA_gone")
    assert before.no_teachers() == ("PA_forger",)
    after = rules()
    after.take_over(before.no_teachers())
    assert not after.judge(person(TEACHER, sid="PA_forger", can_update=True)).is_recorded
    assert after.judge(person(TEACHER, sid="PA_teacher", can_update=True)).is_recorded
    assert after.no_teachers() == ("PA_forger",), "and its successor"


def test_the_note_for_a_successor_is_bounded() -> None:
    crowd = rules()
    for number in range(roles.MAX_NOTED_PARTICIPANTS + 5):
        crowd.judge(person(STUDENT, sid=f"PA_{number}", can_update=True))
    assert len(crowd.no_teachers()) == roles.MAX_NOTED_PARTICIPANTS


def test_what_is_remembered_of_participants_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules of the reconciler see all rooms of the server, and are never told who has left."""
    monkeypatch.setattr(roles, "MAX_PARTICIPANTS", 5)
    crowd = rules()
    for number in range(20):
        crowd.judge(person(STUDENT, sid=f"PA_{number}", can_update=True))
    assert crowd.no_teachers() == tuple(f"PA_{number}" for number in range(15, 20))


def test_strict_trust_excludes_participants_who_may_change_their_metadata() -> None:
    room = rules(role_trust="strict")
    verdict = room.judge(person(TEACHER, can_update=True))
    assert (verdict.is_recorded, verdict.role) == (False, "teacher")
    assert verdict.warning is not None and "ROLE_TRUST=strict" in verdict.warning
    assert room.judge(person(TEACHER, sid="PA_2")).is_recorded


@pytest.mark.parametrize("trust", ["metadata", "strict"])
def test_a_student_who_may_change_itself_is_no_news(trust: str) -> None:
    assert rules(role_trust=trust).judge(person(STUDENT, can_update=True)) == verdict_of(False, "student")


# --- everyone, and everything that is no person ---


@pytest.mark.parametrize("metadata", [TEACHER, STUDENT, "", "no JSON"])
@pytest.mark.parametrize("can_update", [True, False])
@pytest.mark.parametrize("trust", ["metadata", "strict"])
def test_everyone_is_everyone(metadata: str, can_update: bool, trust: str) -> None:
    verdict = rules(record="everyone", role_trust=trust).judge(person(metadata, can_update=can_update))
    assert verdict.is_recorded


@pytest.mark.parametrize("record", ["teachers", "everyone"])
@pytest.mark.parametrize("kind", ["standard", "ingress", "sip"])
def test_teachers_who_come_by_browser_encoder_or_telephone_are_recorded(record: str, kind: str) -> None:
    assert rules(record=record).judge(person(TEACHER, kind=kind)).is_recorded


@pytest.mark.parametrize("record", ["teachers", "everyone"])
@pytest.mark.parametrize("kind", ["agent", "egress", "connector", "bridge", "unknown"])
def test_other_kinds_are_never_recorded(record: str, kind: str) -> None:
    verdict = rules(record=record).judge(person(TEACHER, kind=kind))
    assert (verdict.is_recorded, verdict.is_teacher, verdict.role) == (False, False, f"kind {kind}")


def test_kinds_are_a_setting() -> None:
    room = rules(teacher_kinds=("sip", "bridge"))
    recorded = [
        kind for kind in ("standard", "sip", "bridge") if room.judge(person(TEACHER, kind=kind)).is_recorded
    ]
    assert recorded == ["sip", "bridge"]


# --- consent ---


@pytest.mark.parametrize("record", ["teachers", "everyone"])
@pytest.mark.parametrize("value", ["no", " No ", "false", "off", "0"])
def test_who_does_not_consent_is_never_recorded(record: str, value: str) -> None:
    room = rules(record=record)
    for metadata in (TEACHER, STUDENT):
        verdict = room.judge(person(metadata, attributes={"recording": value}))
        assert not verdict.is_recorded
        assert verdict.is_teacher is (metadata == TEACHER), "a teacher may still pause the recording"
        assert verdict.role.endswith(", recording=no")


@pytest.mark.parametrize("attributes", [{}, {"recording": ""}, {"recording": "yes"}, {"recording": "paused"}])
def test_who_says_nothing_else_is_recorded_by_its_role(attributes: dict[str, str]) -> None:
    assert is_recorded(TEACHER)
    assert rules().judge(person(TEACHER, attributes=attributes)).is_recorded
    assert not rules().judge(person(STUDENT, attributes=attributes)).is_recorded


def test_who_withdraws_and_consents_again_is_recorded_again() -> None:
    room = rules()
    no = {"recording": "no"}
    assert not rules().judge(person(TEACHER, attributes={"Recording": "NO"})).is_recorded
    verdicts = [
        room.judge(person(TEACHER, can_update=True, attributes=attributes)).is_recorded
        for attributes in (no, {}, no, {})
    ]
    assert verdicts == [False, True, False, True]


# --- places ---


def test_places_are_given_in_turn_and_to_whom_has_one_already() -> None:
    places = Places(replace(Settings(), max_teachers_per_room=2, max_tracks_per_teacher=2))
    for identity, sid in (("anna", "TR_1"), ("anna", "TR_2"), ("ben", "TR_3"), ("anna", "TR_1")):
        assert places.take(identity, sid) is None
    assert places.take("anna", "TR_4") == "MAX_TRACKS_PER_TEACHER=2"
    assert places.take("cleo", "TR_5") == "MAX_TEACHERS_PER_ROOM=2"
    assert places.take("ben", "TR_6") is None
    assert places.free("TR_3")
    assert not places.free("TR_3")
    assert not places.free("TR_5")
    assert places.take("cleo", "TR_5") == "MAX_TEACHERS_PER_ROOM=2", "ben has another track"
    assert places.free("TR_6")
    assert places.take("cleo", "TR_5") is None
    assert set(places.held()) == {"TR_1", "TR_2", "TR_5"}
