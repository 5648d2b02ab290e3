"""How many worker processes this machine needs, and how many rooms each can record at once."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import psutil

WORKER_MEGABYTES = 160
"""Memory of the worker with its first room; 131 were measured (docs/benchmarks.md)."""

ROOM_MEGABYTES = 8
"""Memory of each further room, with half a minute of speech that waits for the disk."""

ROOMS_PER_CORE = 16
"""Ten rooms took less than half a core (docs/benchmarks.md), so sixteen leave a part of a core for the rest of the
machine. One process uses about one core: its rooms share an interpreter and a native client."""

MEMORY_PER_WORKER = 512
"""Megabytes of the machine for each worker process by default: half of it for the rest of the machine."""

MAX_WORKERS = 64


def worker_count() -> int:
    """How many worker processes the cores and the memory that this process may use allow; at least one."""
    return int(max(1, min(_cores(), _memory_megabytes() / MEMORY_PER_WORKER, MAX_WORKERS)))


def default_max_rooms(workers: int = 1) -> int:
    """How many rooms each of ``workers`` processes can record; at least one."""
    by_memory = (_memory_megabytes() / workers - WORKER_MEGABYTES) / ROOM_MEGABYTES
    by_cores = min(1, _cores() / workers) * ROOMS_PER_CORE
    return int(max(1, min(by_memory, by_cores)))


def _memory_megabytes() -> float:
    """The machine's memory, or the lowest limit of this process's control groups."""
    limits = [int(psutil.virtual_memory().total)]
    files = [folder + "/memory.max" for folder in _control_groups()]
    files.append("/sys/fs/cgroup/memory/memory.limit_in_bytes")  # version 1
    limits += [int(text) for text in map(_read, files) if text.isdigit()]
    return min(limits) / 2**20


def _cores() -> float:
    """The machine's cores, or the lowest CPU quota of this process's control groups."""
    cores = [float(os.cpu_count() or 1)]
    for folder in _control_groups():
        quota, _, period = _read(folder + "/cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cores.append(int(quota) / int(period))
    return min(cores)


def _control_groups() -> list[str]:
    """The folders of this process's control group (version 2) and its parents, as far as a container can see them."""
    own = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    path = PurePosixPath(own)
    return [f"/sys/fs/cgroup{str(one).rstrip('/')}" for one in (path, *path.parents)]


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
