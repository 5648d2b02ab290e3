"""Audit lines: each event is one line of the log, in both formats."""

from __future__ import annotations

import json
import logging

import pytest

from core.audit import AuditEvent, audit
from core.logs import JsonFormatter, TextFormatter


def test_an_event_is_one_line_in_either_format(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        audit(AuditEvent.PERSON_ERASED, "math 101", "anna\nINFO forged", segments=0, seconds=2.5)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    fields = 'event=person_erased room="math 101" participant='
    line = TextFormatter().format(record)
    assert f"AUDIT person erased {fields}" in line and line.endswith(" segments=0 seconds=2.5")
    assert len(line.splitlines()) == 1
    found = json.loads(JsonFormatter().format(record))
    assert found["event"] == "person_erased" and found["segments"] == "0"
    assert found["participant"] == "anna\nINFO forged"


def test_a_room_as_a_whole_has_no_participant(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        audit(AuditEvent.ROOM_ERASED, "math101")
    line = TextFormatter().format(caplog.records[0])
    assert line.endswith("AUDIT room erased event=room_erased room=math101")
