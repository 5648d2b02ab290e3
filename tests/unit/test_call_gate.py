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
        (Rejected("400 INVALID_ARGUMENT"), True),
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
