"""When the text service may call the engine, by the engine's last answers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from archive.outbox import Outbox
from config import Settings
from core.errors import RetryLater
from text.gate import CallGate
from translator import OPERATOR_PAUSE_SECONDS, Rejected, WrongSettings


@pytest.mark.parametrize(
    ("error", "is_fatal"),
    [
        (WrongSettings("GEMINI_MODEL is not known"), True),
        (Rejected("400 INVALID_ARGUMENT"), False),
        (RetryLater("429 RESOURCE_EXHAUSTED", OPERATOR_PAUSE_SECONDS), False),
        (RetryLater("503 UNAVAILABLE"), False),
    ],
)
def test_a_pause_that_the_engine_asks_for_is_no_wrong_setting(
    tmp_path: Path, error: RetryLater, is_fatal: bool
) -> None:
    gate = CallGate(Settings(), Outbox(tmp_path))
    gate.failed(error, time.monotonic())
    assert bool(gate.fatal) is is_fatal
    assert gate.seconds_closed > 0


def test_rejections_are_a_wrong_setting_only_if_nothing_is_answered_between_them(tmp_path: Path) -> None:
    gate = CallGate(Settings(), Outbox(tmp_path))
    began = time.monotonic()
    for _ in range(3):  # calls that run at the same time
        gate.failed(Rejected("400 INVALID_ARGUMENT"), began)
    assert not gate.fatal and gate.seconds_closed < OPERATOR_PAUSE_SECONDS / 2, "one segment may be at fault"
    gate.answered()
    gate.has_answered = False  # a segment has been refused
    gate.failed(Rejected("400 INVALID_ARGUMENT"), time.monotonic())
    assert not gate.fatal
    gate.failed(Rejected("400 INVALID_ARGUMENT"), time.monotonic())
    assert gate.fatal and gate.seconds_closed > OPERATOR_PAUSE_SECONDS / 2
