"""Helpers for the tests of the outbox and of delivery: an open outbox, and deliveries with short retries."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

from archive.outbox import Outbox, State
from archive.outbox_file import OUTBOX
from config import Settings
from core.backoff import Backoff
from delivery.folder_store import set_up
from delivery.items import ListsItem
from delivery.object_store import ObjectTarget
from delivery.service import DeliveryService
from delivery.targets import open_targets

FAST = Backoff(0.02, 0.1)
SOON = 60.0


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Outbox]:
    box = Outbox(folder)
    try:
        yield box
    finally:
        await box.aclose()


def state_of(output_dir: Path, file: str, kind: str = "text", folder: str = "math101") -> State | None:
    """The state of an item in the outbox; None: it has none."""
    query = "SELECT state FROM work WHERE kind = ? AND folder = ? AND file = ?"
    with contextlib.closing(sqlite3.connect(output_dir / OUTBOX, timeout=10)) as database:
        row = database.execute(query, (kind, folder, file)).fetchone()
    return State(row[0]) if row else None


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[DeliveryService]:
    """A service that delivers in the background, as in a worker."""
    async with opened(Path(settings.output_dir)) as box:
        service = _service(settings, box)
        task = asyncio.create_task(service.run())
        try:
            yield service
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def deliver(settings: Settings, seconds: float = SOON) -> bool:
    """Delivers everything; returns whether everything was delivered within ``seconds``."""
    async with opened(Path(settings.output_dir)) as box:
        service = _service(settings, box)
        try:
            return await service.drain(seconds)
        finally:
            await service.aclose()


async def delivered_lists(item: ListsItem, shelf: Path) -> dict[str, list[bytes]]:
    """Delivers lists to an empty folder, and returns their lines there by the lists' names."""
    shelf.mkdir()
    set_up(shelf)
    target = ObjectTarget.at_store_url(Settings(store_url=shelf.as_uri()))
    await target.put(item)
    return {path.name: whole_lines(path) for path in (shelf / item.folder.name).iterdir()}


def whole_lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def _service(settings: Settings, box: Outbox) -> DeliveryService:
    targets, problems = open_targets(settings)
    assert not problems
    return DeliveryService(settings, targets, box, FAST)
