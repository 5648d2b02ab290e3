"""Counts the work that a step does, in place of its time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import IO

import pytest

from archive import jsonl


@contextlib.contextmanager
def lines_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Counts the lines that are read from files of JSON lines, by any thread."""
    count, lock, next_line = 0, threading.Lock(), jsonl._next_line

    def counted(file: IO[bytes]) -> tuple[bytes, int]:
        nonlocal count
        line, size = next_line(file)
        with lock:
            count += bool(size)
        return line, size

    with monkeypatch.context() as patched:
        patched.setattr(jsonl, "_next_line", counted)
        yield lambda: count
