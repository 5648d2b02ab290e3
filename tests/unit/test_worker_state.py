"""What the worker knows of itself."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry

from core.metrics import DISK_STEP_BOUNDS, gauge
from core.worker_state import MAX_SERVER_LOST_SECONDS, STUCK_SECONDS, WORKER, WorkerState


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vitals(clock: Clock) -> WorkerState:
    made = WorkerState(clock)
    made.room_opened("RM_1")
    return made


def test_a_worker_without_trouble_is_healthy(vitals: WorkerState) -> None:
    assert vitals.snapshot().problems == []
    assert WorkerState().snapshot().problems == []


def test_a_deaf_room_is_a_problem_until_it_hears(vitals: WorkerState, clock: Clock) -> None:
    vitals.no_audio("RM_1", since=clock.now - 12)
    assert vitals.snapshot().problems == ["no audio from a recorded track in 1 room for 12 s"]
    vitals.has_audio("RM_1")
    assert vitals.snapshot().problems == []


def test_a_disk_that_refuses_is_a_problem_until_it_works(vitals: WorkerState) -> None:
    vitals.disk_refuses("RM_1", "No space left on device")
    assert vitals.snapshot().problems == ["the disk refuses: No space left on device"]
    vitals.disk_works("RM_1")
    assert vitals.snapshot().problems == []


def test_a_disk_that_does_not_answer_is_a_problem(vitals: WorkerState, clock: Clock) -> None:
    with vitals.disk_step("RM_1"):
        clock.now += STUCK_SECONDS
        vitals.alive("RM_1")
        assert vitals.snapshot().problems == []
        clock.now += 1
        vitals.alive("RM_1")
        assert vitals.snapshot().problems == ["the disk has not answered for 31 s"]
    assert vitals.snapshot().problems == []


def test_an_event_loop_that_does_not_run_is_a_problem(vitals: WorkerState, clock: Clock) -> None:
    vitals.room_opened(WORKER)
    clock.now += STUCK_SECONDS + 1
    vitals.alive(WORKER)
    assert vitals.snapshot().problems == ["1 of 2 event loops stuck for 31 s"]
    vitals.alive("RM_1")
    assert vitals.snapshot().problems == []


def test_a_server_may_be_away_for_a_while(vitals: WorkerState, clock: Clock) -> None:
    vitals.server_lost()
    for _ in range(2):
        clock.now += MAX_SERVER_LOST_SECONDS / 2
        vitals.server_lost()
        vitals.alive("RM_1")
        assert vitals.snapshot().problems == []
    clock.now += 5
    assert vitals.snapshot().problems == ["no connection to the LiveKit server for 125 s"]
    vitals.server_found()
    assert vitals.snapshot().problems == []


def test_a_late_word_about_a_room_that_is_over_makes_nobody_sick(vitals: WorkerState) -> None:
    vitals.room_closed("RM_1")
    vitals.no_audio("RM_1", since=0)
    vitals.disk_refuses("RM_1", "gone")
    assert (vitals.snapshot().problems, vitals.snapshot().rooms) == ([], [])


def test_the_worker_is_no_room(vitals: WorkerState) -> None:
    vitals.room_opened(WORKER)
    vitals.disk_refuses(WORKER, "Read-only file system")
    assert len(vitals.snapshot().rooms) == 1
    assert vitals.snapshot().problems == ["the disk refuses: Read-only file system"]


def value(vitals: WorkerState, name: str, **labels: str) -> float | None:
    return vitals.registry.get_sample_value(name, labels)


def test_how_rooms_are_is_measured(vitals: WorkerState, clock: Clock) -> None:
    vitals.room_opened("RM_2")
    vitals.teachers("RM_1", 2)
    vitals.teachers("RM_2", 1)
    vitals.unsaved("RM_1", 7.5)
    vitals.no_audio("RM_2", since=clock.now)
    assert value(vitals, "recorder_rooms") == 2
    assert value(vitals, "recorder_teachers") == 3
    assert value(vitals, "recorder_unsaved_seconds") == 7.5
    assert value(vitals, "recorder_deaf_rooms") == 1
    assert value(vitals, "recorder_healthy") == 0
    vitals.has_audio("RM_2")
    assert (value(vitals, "recorder_deaf_rooms"), value(vitals, "recorder_healthy")) == (0, 1)


def test_each_worker_counts_for_itself(vitals: WorkerState) -> None:
    vitals.counters.segments.inc()
    assert value(vitals, "recorder_segments_total") == 1
    assert value(WorkerState(), "recorder_segments_total") == 0


@pytest.mark.parametrize("seconds", [0.001, 0.005, 0.006, 60])
def test_disk_steps_are_sorted_by_their_length(seconds: float) -> None:
    clock = Clock(0)
    vitals = WorkerState(clock)
    with vitals.disk_step("RM_1"):
        clock.now += seconds
    assert value(vitals, "recorder_disk_write_seconds_sum") == seconds
    for bound in DISK_STEP_BOUNDS:
        found = value(vitals, "recorder_disk_write_seconds_bucket", le=str(bound))
        assert found == (seconds <= bound), bound
    assert value(vitals, "recorder_disk_write_seconds_bucket", le="+Inf") == 1


def test_a_disk_step_that_fails_counts_too(vitals: WorkerState, clock: Clock) -> None:
    with pytest.raises(OSError), vitals.disk_step("RM_1"):
        raise OSError
    assert value(vitals, "recorder_disk_write_seconds_count") == 1


def test_a_trial_of_the_disk_is_not_measured(vitals: WorkerState) -> None:
    with vitals.disk_step(WORKER):
        pass
    assert value(vitals, "recorder_disk_write_seconds_count") == 0


def test_rooms_are_threads(vitals: WorkerState) -> None:
    def work(room: str) -> None:
        vitals.room_opened(room)
        for _ in range(500):
            vitals.counters.segments.inc()
            with vitals.disk_step(room):
                pass
            vitals.snapshot()
        vitals.room_closed(room)

    threads = [threading.Thread(target=work, args=(f"RM_{count}",)) for count in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(vitals, "recorder_segments_total") == 2000
    assert value(vitals, "recorder_disk_write_seconds_count") == 2000


async def test_other_parts_have_metrics_too(vitals: WorkerState) -> None:
    class Part:
        def __init__(self, error: Exception | None = None) -> None:
            self.registry = CollectorRegistry()
            self._waiting = gauge(self.registry, "text_waiting", "What waits")
            self._error = error

        async def refresh(self) -> None:
            if self._error is not None:
                raise self._error
            self._waiting.set(3)

    vitals.add_source(Part(OSError("no disk, no figures")))
    vitals.add_source(Part())
    own, part = await vitals.registries()
    assert own is vitals.registry
    assert part.get_sample_value("recorder_text_waiting") == 3
