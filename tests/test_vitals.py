"""What the worker knows of itself."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from vitals import LATENCY_BOUNDS, SERVER_PATIENCE_SECONDS, STUCK_SECONDS, WORKER, Figure, Vitals


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vitals(clock: Clock) -> Vitals:
    made = Vitals(clock)
    made.room_opened("RM_1")
    return made


def test_a_worker_without_trouble_is_healthy(vitals: Vitals) -> None:
    assert vitals.snapshot().problems == []
    assert Vitals().snapshot().problems == []


def test_a_deaf_room_is_a_problem_until_it_hears(vitals: Vitals, clock: Clock) -> None:
    vitals.deaf("RM_1", since=clock.now - 12)
    assert vitals.snapshot().problems == ["deaf in 1 room: no sound from a recorded track for 12 s"]
    vitals.hears("RM_1")
    assert vitals.snapshot().problems == []


def test_a_disk_that_refuses_is_a_problem_until_it_works(vitals: Vitals) -> None:
    vitals.disk_refuses("RM_1", "No space left on device")
    assert vitals.snapshot().problems == ["the disk refuses: No space left on device"]
    vitals.disk_works("RM_1")
    assert vitals.snapshot().problems == []


def test_a_disk_that_does_not_answer_is_a_problem(vitals: Vitals, clock: Clock) -> None:
    with vitals.disk_step("RM_1"):
        clock.now += STUCK_SECONDS
        vitals.alive("RM_1")
        assert vitals.snapshot().problems == []
        clock.now += 1
        vitals.alive("RM_1")
        assert vitals.snapshot().problems == ["the disk has not answered for 31 s"]
    assert vitals.snapshot().problems == []


def test_an_event_loop_that_does_not_run_is_a_problem(vitals: Vitals, clock: Clock) -> None:
    vitals.room_opened(WORKER)
    clock.now += STUCK_SECONDS + 1
    vitals.alive(WORKER)
    assert vitals.snapshot().problems == ["1 of 2 event loops stuck for 31 s"]
    vitals.alive("RM_1")
    assert vitals.snapshot().problems == []


def test_a_server_may_be_away_for_a_while(vitals: Vitals, clock: Clock) -> None:
    vitals.server_lost()
    for _ in range(2):
        clock.now += SERVER_PATIENCE_SECONDS / 2
        vitals.server_lost()
        vitals.alive("RM_1")
        assert vitals.snapshot().problems == []
    clock.now += 5
    assert vitals.snapshot().problems == ["no connection to the LiveKit server for 125 s"]
    vitals.server_found()
    assert vitals.snapshot().problems == []


def test_a_late_word_about_a_room_that_is_over_makes_nobody_sick(vitals: Vitals) -> None:
    vitals.room_closed("RM_1")
    vitals.deaf("RM_1", since=0)
    vitals.disk_refuses("RM_1", "gone")
    assert (vitals.snapshot().problems, vitals.snapshot().rooms) == ([], [])


def test_the_worker_is_no_room(vitals: Vitals) -> None:
    vitals.room_opened(WORKER)
    vitals.disk_refuses(WORKER, "Read-only file system")
    assert len(vitals.snapshot().rooms) == 1
    assert vitals.snapshot().problems == ["the disk refuses: Read-only file system"]


def test_what_happens_is_counted(vitals: Vitals) -> None:
    vitals.segment_saved(4.5)
    vitals.segment_saved(2.5)
    vitals.gap(1.5)
    vitals.lost(0.5)
    vitals.reconnected()
    vitals.adopted()
    vitals.refused_room()
    vitals.undecipherable()
    vitals.clock_corrected()
    vitals.teachers("RM_1", 2)
    vitals.unsaved("RM_1", 7.5)
    seen = vitals.snapshot()
    assert (seen.totals.segments, seen.totals.speech_seconds) == (2, 7.0)
    assert (seen.totals.gaps, seen.totals.gap_seconds, seen.totals.lost_seconds) == (1, 1.5, 0.5)
    assert (seen.totals.reconnects, seen.totals.adoptions) == (1, 1)
    assert (seen.totals.refused_rooms, seen.totals.undecipherable) == (1, 1)
    assert seen.totals.clock_corrections == 1
    assert (seen.rooms[0].teachers, seen.rooms[0].unsaved_seconds) == (2, 7.5)


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.001, 0), (0.005, 0), (0.006, 1), (60, len(LATENCY_BOUNDS))]
)
def test_disk_steps_are_sorted_by_their_length(seconds: float, bucket: int) -> None:
    clock = Clock(0)
    vitals = Vitals(clock)
    with vitals.disk_step("RM_1"):
        clock.now += seconds
    totals = vitals.snapshot().totals
    assert totals.disk_seconds == seconds
    assert [index for index, count in enumerate(totals.disk_steps) if count] == [bucket]


def test_a_disk_step_that_fails_counts_too(vitals: Vitals, clock: Clock) -> None:
    with pytest.raises(OSError), vitals.disk_step("RM_1"):
        raise OSError
    assert sum(vitals.snapshot().totals.disk_steps) == 1


def test_rooms_are_threads(vitals: Vitals) -> None:
    def work(room: str) -> None:
        vitals.room_opened(room)
        for _ in range(500):
            vitals.segment_saved(1)
            with vitals.disk_step(room):
                pass
            vitals.snapshot()
        vitals.room_closed(room)

    threads = [threading.Thread(target=work, args=(f"RM_{count}",)) for count in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    totals = vitals.snapshot().totals
    assert (totals.segments, sum(totals.disk_steps)) == (2000, 2000)


async def test_other_parts_have_figures_too(vitals: Vitals) -> None:
    async def text() -> list[Figure]:
        return [Figure("text_waiting", "what waits", 3)]

    async def broken() -> list[Figure]:
        raise OSError("no disk, no figures")

    for source in (broken, text):
        vitals.add_source(source)
    assert [figure.value for figure in await vitals.figures()] == [3]
