"""The health answer and the metrics."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from archive.files import prove_disk
from archive.outbox import Backlog
from config import Settings
from core import heartbeat, supervised
from core import worker_state as worker_state_module
from core.worker_state import WorkerState
from delivery.status import DeliveryMetrics, Status
from support import ROOT
from text.costs import TextMetrics
from worker import health
from worker.health import exposition, health_answer


@pytest.fixture(autouse=True)
def worker_state(monkeypatch: pytest.MonkeyPatch) -> WorkerState:
    """One for each test, in place of the process's own."""
    made = WorkerState()
    for module in (health, heartbeat, supervised, worker_state_module):
        monkeypatch.setattr(module, "worker_state", made)
    return made


@pytest.fixture
def clock(worker_state: WorkerState, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """``clock(40)``: 40 seconds have passed."""
    moved = 0.0

    def move(seconds: float) -> None:
        nonlocal moved
        moved += seconds

    monkeypatch.setattr(worker_state, "_clock", lambda: time.monotonic() + moved)
    yield move


@asynccontextmanager
async def answering(folder: Path, *, is_connected: bool = True, **changes: object) -> AsyncIterator[str]:
    settings = Settings(output_dir=str(folder), **{"health_port": 0, "metrics": True, **changes})  # type: ignore[arg-type]
    async with health_answer(settings, 12, lambda: is_connected) as port:
        yield f"http://127.0.0.1:{port}"


async def ask(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def metrics_at(url: str) -> dict[str, float]:
    _, text = await ask(f"{url}/metrics")
    return samples_in(text)


def samples_in(text: str) -> dict[str, float]:
    """All samples, by name with labels as Prometheus writes them."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sample.labels.items())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


# --- the health answer ---


async def test_a_healthy_worker_answers_ok(tmp_path: Path) -> None:
    async with answering(tmp_path) as url:
        assert await ask(url) == (200, "OK\n")


async def test_a_note_is_shown_and_changes_no_verdict(tmp_path: Path, worker_state: WorkerState) -> None:
    async with answering(tmp_path) as url:
        worker_state.note("text", "segments whose text was refused: 2")
        assert await ask(f"{url}/") == (200, "OK\nsegments whose text was refused: 2\n")
        assert await ask(f"{url}/live") == (200, "OK\n")
        worker_state.note("text", "")
        assert await ask(f"{url}/") == (200, "OK\n")


async def test_other_paths_are_not_found(tmp_path: Path) -> None:
    async with answering(tmp_path, metrics=False) as url:
        for path in ("worker", "metrics", "debug"):
            assert (await ask(f"{url}/{path}"))[0] == 404


async def test_an_unhealthy_worker_gives_the_reason_in_one_line(
    tmp_path: Path, worker_state: WorkerState
) -> None:
    async with answering(tmp_path) as url:
        room = heartbeat.start_room("RM_1")
        worker_state.disk_refuses("RM_1", "No space left on device")
        worker_state.no_audio("RM_1", time.monotonic() - 35)
        assert await ask(url) == (
            503,
            "the disk refuses: No space left on device; no audio from a recorded track in 1 room for 35 s\n",
        )
        worker_state.disk_works("RM_1")
        worker_state.has_audio("RM_1")
        assert await ask(url) == (200, "OK\n")
        room.cancel()


async def test_only_problems_that_a_restart_solves_ask_for_one(
    tmp_path: Path, worker_state: WorkerState, clock: Callable[[float], None]
) -> None:
    """While the disk refuses, a restart would lose what memory holds."""
    async with answering(tmp_path, is_connected=False) as url:
        room = heartbeat.start_room("RM_1")
        worker_state.disk_refuses("RM_1", "No space left on device")
        clock(130)
        await until_status(url, 503, "no connection")
        await until_status(f"{url}/live", 200, "OK")
        worker_state.no_audio("RM_1", time.monotonic() + 130 - 61)
        await until_status(f"{url}/live", 503, "no audio from a recorded track in 1 room")
        worker_state.has_audio("RM_1")
        await until_status(f"{url}/live", 200, "OK")
        room.cancel()


async def test_a_room_whose_loop_is_stuck_is_a_problem_until_it_ends(
    tmp_path: Path, worker_state: WorkerState, clock: Callable[[float], None]
) -> None:
    async with answering(tmp_path) as url:
        worker_state.room_opened("RM_1")  # and nobody says that it is alive
        clock(40)
        await until_status(f"{url}/live", 503, "event loops stuck")
        await until_status(url, 503, "event loops stuck")
        worker_state.room_closed("RM_1")
        await until_status(url, 200, "OK")


async def test_a_server_that_stays_away_is_a_problem(tmp_path: Path, clock: Callable[[float], None]) -> None:
    async with answering(tmp_path, is_connected=False) as url:
        await asyncio.sleep(0)
        await until_status(url, 200, "OK")
        clock(130)
        await until_status(url, 503, "no connection to the LiveKit server")


async def test_an_idle_worker_tries_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(health, "PROOF_SECONDS", 0.02)
    monkeypatch.setattr(health, "prove_disk", full)
    async with answering(tmp_path) as url:
        await until_status(url, 503, "the disk refuses: No space left on device")
        monkeypatch.setattr(health, "prove_disk", prove_disk)
        await until_status(url, 200, "OK")


async def until_status(url: str, status: int, text: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        seen = await ask(url)
        if seen[0] == status and text in seen[1]:
            return
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.02)


async def test_a_taken_port_is_no_reason_to_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with answering(tmp_path, health_port=port) as url:
            assert await ask(url) == (200, "OK\n")
    assert f"HEALTH_PORT={port} cannot be used" in caplog.text


async def test_an_address_that_is_not_ours_is_no_reason_to_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering(tmp_path, health_host="192.0.2.1") as url:
        assert url.endswith(":0")
    assert "there is no health answer" in caplog.text


# --- metrics ---


async def test_metrics_tell_what_happened(tmp_path: Path, worker_state: WorkerState) -> None:
    async with answering(tmp_path) as url:
        room = heartbeat.start_room("RM_1")
        worker_state.teachers("RM_1", 2)
        worker_state.counters.segments.inc()
        worker_state.counters.speech_seconds.inc(4.5)
        worker_state.counters.lost_seconds.inc(1.5)
        worker_state.counters.gaps.inc()
        worker_state.counters.gap_seconds.inc(2.5)
        worker_state.unsaved("RM_1", 7.5)
        worker_state.audio_delay("RM_1", 0.5)
        worker_state.counters.adoptions.inc()
        worker_state.counters.reconnects.inc()
        with worker_state.disk_step("RM_1"):
            pass
        seen = await metrics_at(url)
        room.cancel()
    expected = {
        "recorder_healthy": 1,
        "recorder_rooms": 1,
        "recorder_max_rooms": 12,
        "recorder_teachers": 2,
        "recorder_segments_total": 1,
        "recorder_speech_seconds_total": 4.5,
        "recorder_lost_seconds_total": 1.5,
        "recorder_gaps_total": 1,
        "recorder_gap_seconds_total": 2.5,
        "recorder_unsaved_seconds": 7.5,
        "recorder_audio_delay_seconds": 0.5,
        "recorder_adoptions_total": 1,
        "recorder_reconnects_total": 1,
        "recorder_disk_write_seconds_count": 1,
        "recorder_disk_write_seconds_bucket{le=+Inf}": 1,
    }
    assert {name: seen[name] for name in expected} == expected


async def test_free_space_is_measured(tmp_path: Path) -> None:
    async with answering(tmp_path) as url:
        assert await until_measured(url, "recorder_disk_free_bytes") > 0


async def until_measured(url: str, name: str) -> float:
    deadline = time.monotonic() + 20
    while name not in (seen := await metrics_at(url)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return seen[name]


def part_metrics() -> tuple[TextMetrics, DeliveryMetrics]:
    async def backlog() -> Backlog:
        return Backlog(3, 60.0, 1)

    statuses = [Status("s3", waiting=3, trouble="no such bucket"), Status('pg"\n', waiting=4)]
    return TextMetrics(backlog), DeliveryMetrics(lambda: statuses)


async def test_text_and_delivery_have_metrics() -> None:
    text, delivery = part_metrics()
    text.add(calls=9, refused=1)
    delivery.add("s3", delivered=2)
    for part in (text, delivery):
        await part.refresh()
    seen = samples_in(exposition([text.registry, delivery.registry]).decode())
    assert seen["recorder_delivery_waiting{target=s3}"] == 3
    assert seen['recorder_delivery_waiting{target=pg"\n}'] == 4
    assert seen["recorder_delivery_in_trouble{target=s3}"] == 1
    assert seen["recorder_delivery_delivered_total{target=s3}"] == 2
    assert seen['recorder_delivery_delivered_total{target=pg"\n}'] == 0, "shown before the first"
    assert (seen["recorder_text_calls_total"], seen["recorder_text_waiting"]) == (9, 3)


async def test_the_guide_has_every_metric_and_no_other(tmp_path: Path, worker_state: WorkerState) -> None:
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(recorder_\w+)`", guide.partition("## What the log says")[0]))
    for part in part_metrics():
        worker_state.add_source(part)
    async with answering(tmp_path) as url:
        await until_measured(url, "recorder_disk_free_bytes")
        seen = await metrics_at(url)
    names = {name.partition("{")[0] for name in seen if name.startswith("recorder_")}
    names = {re.sub("(?<=disk_write_seconds)_(bucket|sum|count)$", "", name) for name in names}
    assert names == named
