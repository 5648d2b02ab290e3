"""The worker's problems and counters."""

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
def worker_state(clock: Clock) -> WorkerState:
    made = WorkerState(clock)
    made.room_opened("RM_1")
    return made


def test_a_worker_without_trouble_is_healthy(worker_state: WorkerState) -> None:
    assert worker_state.snapshot().problems == []
    assert WorkerState().snapshot().problems == []


def test_a_room_that_receives_nothing_is_a_problem_until_it_receives(
    worker_state: WorkerState, clock: Clock
) -> None:
    worker_state.no_audio("RM_1", since=clock.now - 12)
    assert worker_state.snapshot().problems == ["no audio from a recorded track in 1 room for 12 s"]
    worker_state.has_audio("RM_1")
    assert worker_state.snapshot().problems == []


def test_a_disk_that_refuses_is_a_problem_until_it_works(worker_state: WorkerState) -> None:
    worker_state.disk_refuses("RM_1", "No space left on device")
    assert worker_state.snapshot().problems == ["the disk refuses: No space left on device"]
    worker_state.disk_works("RM_1")
    assert worker_state.snapshot().problems == []


def test_a_disk_that_does_not_answer_is_a_problem(worker_state: WorkerState, clock: Clock) -> None:
    with worker_state.disk_step("RM_1"):
        clock.now += STUCK_SECONDS
        worker_state.alive("RM_1")
        assert worker_state.snapshot().problems == []
        clock.now += 1
        worker_state.alive("RM_1")
        assert worker_state.snapshot().problems == ["the disk has not answered for 31 s"]
    assert worker_state.snapshot().problems == []


def test_an_event_loop_that_does_not_run_is_a_problem(worker_state: WorkerState, clock: Clock) -> None:
    worker_state.room_opened(WORKER)
    clock.now += STUCK_SECONDS + 1
    worker_state.alive(WORKER)
    assert worker_state.snapshot().problems == ["1 of 2 event loops stuck for 31 s"]
    worker_state.alive("RM_1")
    assert worker_state.snapshot().problems == []


def test_a_server_may_be_away_for_a_while(worker_state: WorkerState, clock: Clock) -> None:
    worker_state.server_lost()
    for _ in range(2):
        clock.now += MAX_SERVER_LOST_SECONDS / 2
        worker_state.server_lost()
        worker_state.alive("RM_1")
        assert worker_state.snapshot().problems == []
    clock.now += 5
    assert worker_state.snapshot().problems == ["no connection to the LiveKit server for 125 s"]
    worker_state.server_found()
    assert worker_state.snapshot().problems == []


def test_a_late_report_about_a_room_that_has_ended_is_no_problem(worker_state: WorkerState) -> None:
    worker_state.room_closed("RM_1")
    worker_state.no_audio("RM_1", since=0)
    worker_state.disk_refuses("RM_1", "gone")
    assert (worker_state.snapshot().problems, worker_state.snapshot().rooms) == ([], [])


def test_the_worker_is_no_room(worker_state: WorkerState) -> None:
    worker_state.room_opened(WORKER)
    worker_state.disk_refuses(WORKER, "Read-only file system")
    assert len(worker_state.snapshot().rooms) == 1
    assert worker_state.snapshot().problems == ["the disk refuses: Read-only file system"]


def value(worker_state: WorkerState, name: str, **labels: str) -> float | None:
    return worker_state.registry.get_sample_value(name, labels)


def test_how_rooms_are_is_measured(worker_state: WorkerState, clock: Clock) -> None:
    worker_state.room_opened("RM_2")
    worker_state.teachers("RM_1", 2)
    worker_state.teachers("RM_2", 1)
    worker_state.unsaved("RM_1", 7.5)
    worker_state.no_audio("RM_2", since=clock.now)
    assert value(worker_state, "recorder_rooms") == 2
    assert value(worker_state, "recorder_teachers") == 3
    assert value(worker_state, "recorder_unsaved_seconds") == 7.5
    assert value(worker_state, "recorder_deaf_rooms") == 1
    assert value(worker_state, "recorder_healthy") == 0
    worker_state.has_audio("RM_2")
    assert (value(worker_state, "recorder_deaf_rooms"), value(worker_state, "recorder_healthy")) == (0, 1)


def test_each_worker_counts_for_itself(worker_state: WorkerState) -> None:
    worker_state.counters.segments.inc()
    assert value(worker_state, "recorder_segments_total") == 1
    assert value(WorkerState(), "recorder_segments_total") == 0


@pytest.mark.parametrize("seconds", [0.001, 0.005, 0.006, 60])
def test_disk_steps_are_sorted_by_their_length(seconds: float) -> None:
    clock = Clock(0)
    worker_state = WorkerState(clock)
    with worker_state.disk_step("RM_1"):
        clock.now += seconds
    assert value(worker_state, "recorder_disk_write_seconds_sum") == seconds
    for bound in DISK_STEP_BOUNDS:
        found = value(worker_state, "recorder_disk_write_seconds_bucket", le=str(bound))
        assert found == (seconds <= bound), bound
    assert value(worker_state, "recorder_disk_write_seconds_bucket", le="+Inf") == 1


def test_a_disk_step_that_fails_counts_too(worker_state: WorkerState, clock: Clock) -> None:
    with pytest.raises(OSError), worker_state.disk_step("RM_1"):
        raise OSError
    assert value(worker_state, "recorder_disk_write_seconds_count") == 1


def test_a_trial_of_the_disk_is_not_measured(worker_state: WorkerState) -> None:
    with worker_state.disk_step(WORKER):
        pass
    assert value(worker_state, "recorder_disk_write_seconds_count") == 0


def test_rooms_are_threads(worker_state: WorkerState) -> None:
    def work(room: str) -> None:
        worker_state.room_opened(room)
        for _ in range(500):
            worker_state.counters.segments.inc()
            with worker_state.disk_step(room):
                pass
            worker_state.snapshot()
        worker_state.room_closed(room)

    threads = [threading.Thread(target=work, args=(f"RM_{count}",)) for count in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(worker_state, "recorder_segments_total") == 2000
    assert value(worker_state, "recorder_disk_write_seconds_count") == 2000


async def test_other_parts_have_metrics_too(worker_state: WorkerState) -> None:
    class Part:
        def __init__(self, error: Exception | None = None) -> None:
            self.registry = CollectorRegistry()
            self._waiting = gauge(self.registry, "text_waiting", "What waits")
            self._error = error

        async def refresh(self) -> None:
            if self._error is not None:
                raise self._error
            self._waiting.set(3)

    worker_state.add_source(Part(OSError("no disk, no figures")))
    worker_state.add_source(Part())
    own, part = await worker_state.registries()
    assert own is worker_state.registry
    assert part.get_sample_value("recorder_text_waiting") == 3
