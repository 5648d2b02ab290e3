"""Memory and CPU of a process and its child processes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

import psutil

CALM = 0.15
"""Of one core: what other programs may use while something is measured."""
CALM_TIMEOUT_SECONDS = 90.0
LOOK_SECONDS = 3.0

Report = Callable[[str], None]


def memory_megabytes(pid: int) -> float:
    """The PSS of the process tree as if no other program used the same libraries: what a container would need.

    The speakers of a benchmark do use them, which reduces the PSS that the system shows by up to 30 MB. Memory that the
    tree's own processes share counts once. USS if the system has no PSS.
    """
    private = 0
    shared: Counter[str] = Counter()
    for process in _tree(pid):
        try:
            own, of_files = _memory(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        private += own
        shared |= of_files  # for each file, the largest value of any process of the tree
    return (private + shared.total()) / 2**20


def _memory(process: psutil.Process) -> tuple[int, Counter[str]]:
    """Bytes that count for each process, and by file those that may be shared with any other."""
    if sys.platform != "linux":
        return int(process.memory_full_info().uss), Counter()
    own, of_files = 0, Counter[str]()
    for part in process.memory_maps(grouped=True):
        if part.path.startswith("/"):
            own += part.private_clean + part.private_dirty
            of_files[part.path] = part.shared_clean + part.shared_dirty
        else:
            own += part.pss
    return own, of_files


def pss_megabytes(pid: int) -> float | None:
    """The whole tree's PSS as the system shows it, smaller where other programs share its libraries."""
    try:
        return sum(int(process.memory_full_info().pss) for process in _tree(pid)) / 2**20
    except (AttributeError, psutil.NoSuchProcess):
        return None


async def settled_memory_megabytes(pid: int) -> float:
    """The tree's memory as soon as it stays the same within 1 % for two seconds, or after 30 s."""
    deadline = time.monotonic() + 30
    before = await asyncio.to_thread(memory_megabytes, pid)
    while True:
        await asyncio.sleep(2)
        now = await asyncio.to_thread(memory_megabytes, pid)
        if abs(now - before) <= 0.01 * now or time.monotonic() > deadline:
            return now
        before = now


def cpu_seconds(pid: int) -> float:
    """User and system time of the whole tree so far, with that of its processes that have ended."""
    total = 0.0
    for process in _tree(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


class Others:
    """Measures how much of one core all other programs use, from one reading to the next."""

    def __init__(self) -> None:
        self._last = self._now()

    def cores(self) -> float:
        """Mean since the last reading."""
        at, used = self._last
        self._last = now, used_now = self._now()
        return max(0.0, (used_now - used) / max(now - at, 0.01))

    def _now(self) -> tuple[float, float]:
        times = psutil.cpu_times()
        whole = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
        return time.monotonic(), whole - cpu_seconds(os.getpid())


async def calm(say: Report) -> None:
    """Waits until other programs are nearly idle, for a limited time."""
    others, deadline, told = Others(), time.monotonic() + CALM_TIMEOUT_SECONDS, False
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        used = others.cores()
        if used <= CALM:
            return
        if time.monotonic() > deadline:
            say(f"  measuring although other programs use {used:.0%} of a core")
            return
        if not told:
            say(f"  waiting: other programs use {used:.0%} of a core ...")
            told = True


def _tree(pid: int) -> Iterator[psutil.Process]:
    try:
        root = psutil.Process(pid)
        yield root
        yield from root.children(recursive=True)
    except psutil.NoSuchProcess:
        return
