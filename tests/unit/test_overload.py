"""A worker that hears late takes no further rooms, and says so once."""

from __future__ import annotations

import logging

import pytest

from core.worker_state import WorkerState
from worker.overload import LATE_LOOKS, LATE_SECONDS, NOTE, PROMPT_LOOKS, Overload

LATE, PROMPT = LATE_SECONDS * 2, LATE_SECONDS / 2


async def nothing() -> None: ...


@pytest.fixture
def state() -> WorkerState:
    return WorkerState()


@pytest.fixture
def overload(state: WorkerState) -> Overload:
    return Overload(nothing, state)


def rooms(state: WorkerState, *delays: float, teachers: int = 1) -> None:
    for number, delay in enumerate(delays):
        state.room_opened(str(number))
        state.teachers(str(number), teachers)
        state.audio_delay(str(number), delay)


def test_late_frames_in_half_of_the_rooms_are_noted_and_logged_once(
    overload: Overload, state: WorkerState, caplog: pytest.LogCaptureFixture
) -> None:
    rooms(state, LATE, PROMPT, LATE, PROMPT)
    changes = [overload.look() for _ in range(3 * LATE_LOOKS)]
    assert changes.index(True) == LATE_LOOKS - 1
    assert (changes.count(True), overload.is_late, state.snapshot().notes) == (1, True, (NOTE,))
    (line,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert "2 of 4 rooms" in line.getMessage()
    assert not state.snapshot().problems, "the worker still records its rooms"


def test_a_short_stall_is_none(overload: Overload, state: WorkerState) -> None:
    for _ in range(5):
        rooms(state, LATE, LATE)
        assert not any(overload.look() for _ in range(LATE_LOOKS - 1))
        rooms(state, PROMPT, PROMPT)
        assert not overload.look()
    assert not overload.is_late


def test_it_is_over_when_audio_has_been_in_time_for_a_while(overload: Overload, state: WorkerState) -> None:
    rooms(state, LATE)
    for _ in range(LATE_LOOKS):
        overload.look()
    rooms(state, PROMPT)
    changes = [overload.look() for _ in range(PROMPT_LOOKS)]
    assert (changes.count(True), changes[-1], overload.is_late, state.snapshot().notes) == (
        1,
        True,
        False,
        (),
    )


@pytest.mark.parametrize(
    ("delays", "teachers"),
    [((), 1), ((PROMPT, PROMPT), 1), ((LATE, PROMPT, PROMPT), 1), ((LATE, LATE), 0)],
    ids=["no rooms", "in time", "one room of three", "nobody is recorded"],
)
def test_a_worker_hears_in_time(
    overload: Overload, state: WorkerState, delays: tuple[float, ...], teachers: int
) -> None:
    rooms(state, *delays, teachers=teachers)
    assert not any(overload.look() for _ in range(2 * LATE_LOOKS))
    assert not overload.is_late
