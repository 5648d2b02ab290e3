"""Pytest plugin: marks what each test needs, and orders tests so that several processes end at about the same time."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import pytest

REAL_TIME_FOLDERS = ("tests/room/", "tests/faults/", "tests/browser/")
"""Only there `dev.py test` looks for tests that need a livekit-server (devtools/check_all.py)."""
SERVICES = {"s3_server", "postgres_server"}
ORDER = ("long", "room", "services", "browser", "unit")
"""Tests that mostly wait come first; unit tests are short, and fill the end."""


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, None, None]:
    for item in items:
        mark(item)
        if item.get_closest_marker("room") and not item.nodeid.startswith(REAL_TIME_FOLDERS):
            raise pytest.UsageError(f"{item.nodeid} needs a livekit-server: put it into tests/room")
    yield  # now the deselected tests are removed
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    if processes > 1:
        items[:] = in_order(items, processes)


def mark(item: pytest.Item) -> None:
    """As ``room`` (needs a livekit-server), ``services`` (S3, Postgres), or ``unit`` if it needs no browser either."""
    needs = set(getattr(item, "fixturenames", ()))
    if "livekit_server_binary" in needs or item.get_closest_marker("e2e"):
        item.add_marker("room")
    if needs & SERVICES:
        item.add_marker("services")
    if not any(item.get_closest_marker(name) for name in ("room", "services", "browser")):
        item.add_marker("unit")


def in_order(items: Sequence[pytest.Item], processes: int) -> list[pytest.Item]:
    """For xdist's ``worksteal``, which gives each process a block of the list.

    In each block the long ones come first, of every kind there are as many as in the others, and what stands together
    in a module stays together.
    """
    kinds: dict[str, list[pytest.Item]] = {name: [] for name in ORDER}
    for item in items:
        kinds[next(name for name in ORDER if item.get_closest_marker(name))].append(item)
    ordered: list[pytest.Item] = []
    for process in range(processes):
        left = processes - process
        size = (len(items) - len(ordered)) // left
        block = kinds["long"][process::processes]
        for name in ORDER[1:]:
            share = size - len(block) if name == "unit" else -(-len(kinds[name]) // left)
            block += kinds[name][: max(0, share)]
            del kinds[name][: max(0, share)]
        ordered += block
    return ordered + kinds["unit"]
