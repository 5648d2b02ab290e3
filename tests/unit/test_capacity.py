"""How many rooms fit: the machine's figures, or the container's where they are smaller."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from worker import capacity
from worker.capacity import MAX_WORKERS, default_max_rooms, worker_count

ROOT = Path(__file__).resolve().parent.parent.parent

V2_MEMORY = "/sys/fs/cgroup/memory.max"
V1_MEMORY = "/sys/fs/cgroup/memory/memory.limit_in_bytes"
V2_CPU = "/sys/fs/cgroup/cpu.max"


def rooms(
    monkeypatch: pytest.MonkeyPatch, *, megabytes: int, cores: int | None, files: dict[str, str] | None = None
) -> int:
    """The rooms of a machine with this much memory and so many cores, and these files in its cgroup."""
    found = files or {}
    monkeypatch.setattr(capacity, "_read", lambda path: found.get(path, ""))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=megabytes * 2**20))
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    return default_max_rooms()


@pytest.mark.parametrize(
    ("megabytes", "cores", "expected"),
    [
        (512, 1, 16),
        (512, 8, 16),
        (240, 8, 10),
        (64_000, 4, 16),
        (64_000, 64, 16),
        (16_000, None, 16),
    ],
)
def test_memory_or_cores_whichever_is_less(
    monkeypatch: pytest.MonkeyPatch, megabytes: int, cores: int | None, expected: int
) -> None:
    assert rooms(monkeypatch, megabytes=megabytes, cores=cores) == expected


@pytest.mark.parametrize("megabytes", [1, 100, 160, 167])
def test_there_is_always_room_for_one(monkeypatch: pytest.MonkeyPatch, megabytes: int) -> None:
    assert rooms(monkeypatch, megabytes=megabytes, cores=1) == 1


@pytest.mark.parametrize("path", [V2_MEMORY, V1_MEMORY])
def test_a_container_s_memory_counts(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    files = {path: str(240 * 2**20)}
    assert rooms(monkeypatch, megabytes=64_000, cores=8, files=files) == 10


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", "", "-1", "a lot"])
def test_a_container_without_a_limit_has_the_machine_s_memory(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    files = {V2_MEMORY: limit, V1_MEMORY: limit}
    assert rooms(monkeypatch, megabytes=512, cores=8, files=files) == 16


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ("50000 100000", 8),
        ("100000 100000", 16),
        ("1000 100000", 1),
        ("800000 100000", 16),
        ("max 100000", 16),
        ("max", 16),
        ("", 16),
        ("x y", 16),
    ],
)
def test_a_container_s_share_of_the_cores_counts(
    monkeypatch: pytest.MonkeyPatch, share: str, expected: int
) -> None:
    assert rooms(monkeypatch, megabytes=64_000, cores=4, files={V2_CPU: share}) == expected


@pytest.mark.parametrize(
    ("limited", "expected"),
    [("/system.slice/recorder.service", 10), ("/system.slice", 10), ("", 10), ("/elsewhere", 16)],
)
def test_a_limit_around_a_service_counts(
    monkeypatch: pytest.MonkeyPatch, limited: str, expected: int
) -> None:
    files = {
        "/proc/self/cgroup": "1:name=systemd:/x\n0::/system.slice/recorder.service",
        f"/sys/fs/cgroup{limited}/memory.max": str(240 * 2**20),
    }
    assert rooms(monkeypatch, megabytes=64_000, cores=8, files=files) == expected


@pytest.mark.parametrize(
    ("limited", "expected"),
    [("/system.slice/recorder.service", 8), ("/system.slice", 8), ("", 8), ("/elsewhere", 16)],
)
def test_a_share_around_a_service_counts(
    monkeypatch: pytest.MonkeyPatch, limited: str, expected: int
) -> None:
    files = {
        "/proc/self/cgroup": "0::/system.slice/recorder.service",
        f"/sys/fs/cgroup{limited}/cpu.max": "50000 100000",
    }
    assert rooms(monkeypatch, megabytes=64_000, cores=8, files=files) == expected


def test_the_least_of_several_limits_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/self/cgroup": "0::/a/b",
        "/sys/fs/cgroup/a/b/memory.max": str(512 * 2**20),
        "/sys/fs/cgroup/a/memory.max": str(240 * 2**20),
        "/sys/fs/cgroup/memory.max": "max",
    }
    assert rooms(monkeypatch, megabytes=64_000, cores=8, files=files) == 10


def test_half_a_core_and_512_megabytes_take_eight_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {V2_MEMORY: str(512 * 2**20), V2_CPU: "50000 100000"}
    assert rooms(monkeypatch, megabytes=64_000, cores=32, files=files) == 8


def test_a_file_that_is_not_there_is_no_limit() -> None:
    assert capacity._read("/nowhere/at/all") == ""


def test_this_machine_takes_at_least_one() -> None:
    assert 1 <= default_max_rooms() <= 16
    assert 1 <= worker_count() <= MAX_WORKERS


@pytest.mark.parametrize(
    ("megabytes", "cores", "expected"),
    [(512, 0.5, 1), (512, 8, 1), (1_500, 8, 2), (8_000, 2, 2), (64_000, 8, 8), (10**6, 256, MAX_WORKERS)],
)
def test_as_many_workers_as_cores_and_memory_allow(
    monkeypatch: pytest.MonkeyPatch, megabytes: int, cores: float, expected: int
) -> None:
    files = {V2_MEMORY: str(megabytes * 2**20), V2_CPU: f"{round(cores * 100_000)} 100000"}
    monkeypatch.setattr(capacity, "_read", lambda path: files.get(path, ""))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=10**13))
    monkeypatch.setattr("os.cpu_count", lambda: 512)
    assert worker_count() == expected


def test_several_workers_share_memory_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms(monkeypatch, megabytes=1_024, cores=2)
    assert (default_max_rooms(1), default_max_rooms(2), default_max_rooms(4)) == (16, 16, 8)


def rows_of_the_scaling_table() -> list[list[float]]:
    """The rows of the table in docs/scaling.md as numbers, with the memory in megabytes."""
    lines = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8").splitlines()
    start = lines.index(next(line for line in lines if line.startswith("| rooms | machines |"))) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        cells = [cell.strip().replace(",", "") for cell in line.strip("|").split("|")]
        cells[3] = str(float(cells[3].split()[0]) * (1024 if cells[3].endswith("GB") else 1))
        rows.append([float(cell) for cell in cells])
    return rows


@pytest.mark.parametrize(
    ("rooms", "machines", "cores", "megabytes", "workers", "rooms_each"), rows_of_the_scaling_table()
)
def test_the_table_to_choose_by_is_what_the_recorder_does(
    monkeypatch: pytest.MonkeyPatch,
    rooms: float,
    machines: float,
    cores: float,
    megabytes: float,
    workers: float,
    rooms_each: float,
) -> None:
    monkeypatch.setattr(capacity, "_cores", lambda: cores)
    monkeypatch.setattr(capacity, "_memory_megabytes", lambda: megabytes)
    assert worker_count() == workers
    assert worker_count() * default_max_rooms(worker_count()) == rooms_each
    assert rooms <= rooms_each * max(1, machines - 1), "one of several machines may fail"
