"""Delivery: everything that is safe on disk goes on to where it lasts, and nobody waits for it.

The manifests are the list of what there is, :mod:`archive.delivery_log` of what has been delivered, and the outbox
of what is under way. Of each room one item after the other goes to each target, in the order spoken, its texts when
they are there, and the lists of both after what they name. Targets do not wait for each other. A target in trouble
is retried without end, with one item at a time, until it takes one; an item that it refuses while it takes others is
a dead letter.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from archive.names import MANIFEST, TEXTS
from archive.outbox import Order, Outbox
from config import Settings
from core import notify
from core.backoff import Backoff
from core.errors import ConfigError, RecorderError, Refused, RetryLater, StorageError
from core.supervised import supervised
from delivery.attempts import DeliveryAttempts
from delivery.feed import DeliveryFeed
from delivery.items import Target
from delivery.status import DeliveryMetrics, Status, TargetState

logger = logging.getLogger("recorder")

DELIVERIES_AT_ONCE = 8
"""Under way to each target, each of another room."""

LOOK_SECONDS = 2.0
"""How often folders are looked at without a notification."""
LAST_SECONDS = 5.0
"""What the end of the process may take; hosts kill it soon after."""
COUNT_SECONDS = 5.0
"""How old the figures of a backlog may be."""
REPORT_SECONDS = 60.0
"""How often a backlog is worth a line in the log."""


def kind_of(target: Target) -> str:
    """The outbox's name for what goes to a target."""
    return f"delivery {target.name}"


class DeliveryService:
    """Delivers from one OUTPUT_DIR to all targets. One a process; several share the work through the outbox."""

    def __init__(
        self, settings: Settings, targets: Sequence[Target], outbox: Outbox, backoff: Backoff | None = None
    ) -> None:
        self.metrics = DeliveryMetrics(self.status)
        self._lanes = [
            _Lane(settings, target, outbox, backoff or Backoff(), self.metrics) for target in targets
        ]

    def status(self) -> list[Status]:
        """One for each target."""
        return [replace(lane.status) for lane in self._lanes]

    async def run(self) -> None:
        """Delivers until cancelled, then for a few seconds what the end of the rooms has brought: a container's disk
        may go with it. What is left is left to the next start."""
        stops = [notify.listen(name, self._wake) for name in (MANIFEST, TEXTS)]
        running = [supervised(lane.run, f"delivery to {lane.status.target}") for lane in self._lanes]
        try:
            await asyncio.gather(*running)
        finally:
            for stop in stops:
                stop()
            with contextlib.suppress(asyncio.TimeoutError):
                async with asyncio.timeout(LAST_SECONDS):
                    await self.drain(patience_seconds=0)
            await self.aclose()

    async def drain(self, patience_seconds: float) -> bool:
        """Delivers what there is and returns; False if something is left because a target stayed in trouble for so
        long, or is in trouble that only the operator can mend."""
        return all(await asyncio.gather(*(lane.drain(patience_seconds) for lane in self._lanes)))

    async def look(self) -> None:
        """Brings the outbox up to date, so that :meth:`status` tells the whole backlog."""
        for lane in self._lanes:
            await lane.look(with_lists=True)
            await lane.count()

    async def aclose(self) -> None:
        """Closes the targets; the outbox is the caller's. Idempotent."""
        for lane in self._lanes:
            await lane.aclose()

    def _wake(self, path: Path) -> None:
        for lane in self._lanes:
            lane.wake()


class _Lane:
    """The way to one target: what is claimed, and when."""

    def __init__(
        self,
        settings: Settings,
        target: Target,
        outbox: Outbox,
        backoff: Backoff,
        metrics: DeliveryMetrics,
    ) -> None:
        output_dir = Path(settings.output_dir)
        self._state = TargetState(target.name, backoff, metrics)
        self.status = self._state.status
        self._target = target
        self._kind = kind_of(target)
        self._outbox = outbox
        self._feed = DeliveryFeed(settings, outbox, target.name, self._kind)
        self._attempts = DeliveryAttempts(target, outbox, output_dir, self._state, backoff)
        self._running: set[asyncio.Task[None]] = set()
        self._more = asyncio.Event()
        self._reported_at = -REPORT_SECONDS
        self._counted_at = -COUNT_SECONDS
        self._look_at = 0.0

    def wake(self) -> None:
        self._look_at = 0.0
        self._more.set()

    async def run(self) -> None:
        await self._check_target()
        while True:
            await self._step(with_lists=False)
            await self._rest(LOOK_SECONDS)

    async def drain(self, patience_seconds: float) -> bool:
        self._state.begin()
        while True:
            await self._step(with_lists=True)
            if not self._running and not self._state.failures:
                await self.count()
                if not self.status.waiting and not await self.look(with_lists=True):
                    return True
            is_hopeless = self._state.failures and self._state.is_operators
            if is_hopeless or self._state.has_failed_for(patience_seconds):
                await self.count()
                return False
            await self._rest(0.2)

    async def look(self, *, with_lists: bool) -> bool:
        """Whether there was anything new."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        try:
            return await self._feed.look(with_lists=with_lists)
        except (OSError, StorageError) as error:
            self._state.fails(error)
            return False

    async def count(self) -> None:
        """Brings the backlog's figures up to date."""
        with contextlib.suppress(StorageError):
            backlog = await self._outbox.backlog(self._kind)
            self.status.waiting, self.status.refused = backlog.count, backlog.refused
            self.status.oldest_seconds = backlog.oldest_seconds

    async def aclose(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._target.aclose()

    async def _check_target(self) -> None:
        """One line at the start that says whether the target would take something."""
        try:
            await self._target.check()
            logger.info("Delivery to %s", self._target.name)
        except (ConfigError, Refused) as error:
            logger.error("Delivery to %s: %s. Recording goes on locally", self._target.name, error)
        except RecorderError as error:
            logger.warning("Delivery to %s: %s. Recording goes on locally", self._target.name, error)
        except Exception as error:
            logger.error("Delivery to %s cannot be tried", self._target.name, exc_info=error)

    async def _step(self, *, with_lists: bool) -> None:
        try:
            if time.monotonic() >= self._look_at:
                await self.look(with_lists=with_lists)
            await self._begin()
            await self._report()
        except StorageError as error:
            self._state.fails(error)
        except Exception as error:  # the next step may go better
            logger.error("Delivery failed unexpectedly", exc_info=error)
            self._state.fails(RetryLater("unexpected error"))

    async def _begin(self) -> None:
        """Claims as much as may be under way at once: one item only while it is not known whether it will go."""
        if self._state.seconds_to_wait > 0:
            return
        free = (1 if self._state.failures else DELIVERIES_AT_ONCE) - len(self._running)
        if free <= 0:
            return
        for work in await self._outbox.claim(self._kind, Order.ROOMS_IN_ORDER, free):
            task = asyncio.create_task(self._attempts.deliver(work))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._more.set()

    async def _rest(self, seconds: float) -> None:
        """Until something has ended, grown or become due, or for so long."""
        if not self._running:
            with contextlib.suppress(StorageError):
                due = await self._outbox.due_in(self._kind)
                seconds = seconds if due is None else min(seconds, max(0.01, due))
        pause = self._state.seconds_to_wait
        if pause > 0:
            await asyncio.sleep(max(0.01, min(seconds, pause)))
        else:
            with contextlib.suppress(asyncio.TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._more.wait()
        self._more.clear()

    async def _report(self) -> None:
        now = time.monotonic()
        if now - self._counted_at >= COUNT_SECONDS:
            self._counted_at = now
            await self.count()
        if now - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = now
        if self.status.waiting > DELIVERIES_AT_ONCE or (self.status.waiting and self._state.failures):
            logger.info(
                "Delivery to %s: %d waiting, the oldest for %s",
                self.status.target,
                self.status.waiting,
                _duration(self.status.oldest_seconds),
            )


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
