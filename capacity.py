"""How many rooms this machine can record at once."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

WORKER_MEGABYTES = 160
"""The worker with its first room (docs/architecture.md has the measurement)."""

ROOM_MEGABYTES = 8
"""Each further room, with half a minute of speech that waits for the disk."""

ROOMS_PER_CORE = 16
"""Ten rooms measured 33 to 46 % of a core (fact 18b); half of the core is left for the rest."""

MOST_ROOMS = 200


def default_max_rooms() -> int:
    """Rooms that fit both the memory and the cores this process may use; at least one."""
    by_memory = (_memory_megabytes() - WORKER_MEGABYTES) / ROOM_MEGABYTES
    by_cores = _cores() * ROOMS_PER_CORE
    return int(max(1, min(by_memory, by_cores, MOST_ROOMS)))


def _memory_megabytes() -> float:
    """The machine's memory, or the container's limit (cgroup v2, then v1)."""
    limits = [int(psutil.virtual_memory().total)]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(path)
        if text.isdigit():
            limits.append(int(text))
    return min(limits) / 2**20


def _cores() -> float:
    """The machine's cores, or the container's share of them (cgroup v2)."""
    cores = float(os.cpu_count() or 1)
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, int(quota) / int(period))
    return cores


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
