"""Pytest plugin: of parallel processes that import the same tests, the first compiles them, and the others wait for it.

In a fresh clone each would compile all tests and libraries, which takes more processor time than most modules of tests.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from devtools.machine import try_lock

POLL_SECONDS = 0.05


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    if not hasattr(session.config, "workerinput"):  # not one of xdist's processes
        return (yield)
    of_this_run = Path(session.config.getoption("basetemp")).parent
    with first_alone(of_this_run / "collection.lock"):
        return (yield)


@contextlib.contextmanager
def first_alone(path: Path) -> Iterator[None]:
    """The first to enter is alone in it; the others enter together as soon as it has left, or has died."""
    with open(path, "ab") as lock:
        if try_lock(lock):
            yield
            return
        while not try_lock(lock):
            time.sleep(POLL_SECONDS)
    yield
