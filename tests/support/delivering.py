"""What the tests of the outbox and of delivery share: one that is open for a while, and deliveries in a hurry."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from archive.outbox import Outbox
from config import Settings
from core.backoff import Backoff
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


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[DeliveryService]:
    """A service that delivers meanwhile, as in a worker."""
    async with opened(Path(settings.output_dir)) as box:
        service = _service(settings, box)
        task = asyncio.create_task(service.run())
        try:
            yield service
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def deliver(settings: Settings, patience: float = SOON) -> bool:
    """Delivers all there is; whether all of it has arrived."""
    async with opened(Path(settings.output_dir)) as box:
        service = _service(settings, box)
        try:
            return await service.drain(patience)
        finally:
            await service.aclose()


def _service(settings: Settings, box: Outbox) -> DeliveryService:
    targets, problems = open_targets(settings)
    assert not problems
    return DeliveryService(settings, targets, box, FAST)
