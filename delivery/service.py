"""The delivery service: delivers everything on disk to all targets, without delaying the recording.

The manifests list the segments, :mod:`archive.delivery_log` what has been delivered, and the outbox what is still to be
delivered. Of each room each target gets one item after the other, in the order spoken; texts follow when they are
there, and lists after the files that they name. Targets do not wait for each other. While a target fails it is retried
without end, with one item at a time, until one succeeds. An item that a target refuses while it accepts others is a
dead letter.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from pathlib import Path

from archive.names import MANIFEST, SESSION_FILES, TEXTS
from archive.outbox import Order, Outbox
from config import Settings
from core import notify
from core.backoff import Backoff
from core.errors import ConfigError, RecorderError, Refused, RetryLater, StorageError
from core.session_records import OnSettled, ignore_settled
from core.supervised import supervised
from delivery.attempts import DeliveryAttempts
from delivery.item_reader import ItemReader
from delivery.items import Target
from delivery.session_reader import SessionReader
from delivery.status import DeliveryMetrics, Status, TargetState

logger = logging.getLogger("recorder")

DELIVERIES_AT_ONCE = 8
"""How many items are delivered to each target at once, each of another room."""

LOOK_SECONDS = 2.0
"""How often folders are checked without a notification."""
LAST_SECONDS = 5.0
"""Time for the last deliveries at the end of the process; hosts kill it soon after."""
COUNT_SECONDS = 5.0
"""How often the figures of the backlog are updated."""
REPORT_SECONDS = 60.0
"""How often a backlog is logged."""


def kind_of(target: Target) -> str:
    """The kind of work in the outbox for the items of a target."""
    return f"delivery {target.name}"


class DeliveryService:
    """Delivers from one OUTPUT_DIR to all targets; one service a process. Several share the work through the outbox."""

    def __init__(
        self,
        settings: Settings,
        targets: Sequence[Target],
        outbox: Outbox,
        backoff: Backoff | None = None,
        on_settled: OnSettled = ignore_settled,
    ) -> None:
        """``on_settled``: called with folder and session sid when an item is delivered or a dead letter."""
        self.metrics = DeliveryMetrics(self.status)
        self._output_dir = Path(settings.output_dir)
        self._lanes = [
            _Lane(settings, target, outbox, backoff or Backoff(), self.metrics, on_settled)
            for target in targets
        ]

    def status(self) -> list[Status]:
        """The figures of each target."""
        return [replace(lane.status) for lane in self._lanes]

    async def run(self) -> None:
        """Delivers until cancelled, then for :data:`LAST_SECONDS` the last segments of the rooms that have ended: the
        disk may be deleted with the container. The rest is delivered after the next start."""
        stops = [notify.listen(name, self._on_notified) for name in (MANIFEST, TEXTS)]
        stops.append(notify.listen(SESSION_FILES, self._on_session))
        running = [supervised(lane.run, f"delivery to {lane.status.target}") for lane in self._lanes]
        try:
            await asyncio.gather(*running)
        finally:
            for stop in stops:
                stop()
            with contextlib.suppress(asyncio.TimeoutError):
                async with asyncio.timeout(LAST_SECONDS):
                    await self.drain(max_failing_seconds=0)
            await self.aclose()

    async def drain(self, max_failing_seconds: float) -> bool:
        """Delivers everything there is, then returns True. Returns False if a target failed for this long, or with an
        error that only the operator can fix, and items are left."""
        return all(await asyncio.gather(*(lane.drain(max_failing_seconds) for lane in self._lanes)))

    async def look(self) -> None:
        """Updates the outbox, so that :meth:`status` includes the whole backlog."""
        for lane in self._lanes:
            await lane.look(with_lists=True)
            await lane.count()

    async def aclose(self) -> None:
        """Closes the targets; the outbox is the caller's. Idempotent."""
        for lane in self._lanes:
            await lane.aclose()

    def _on_notified(self, path: Path) -> None:
        if path.parent.parent == self._output_dir:
            for lane in self._lanes:
                lane.notify(path.parent.name)

    def _on_session(self, path: Path) -> None:
        if path.parent.parent == self._output_dir:
            for lane in self._lanes:
                lane.notify_of_session(path.parent.name)


class _Lane:
    """The delivery to one target: claims items and runs their attempts."""

    def __init__(
        self,
        settings: Settings,
        target: Target,
        outbox: Outbox,
        backoff: Backoff,
        metrics: DeliveryMetrics,
        on_settled: OnSettled,
    ) -> None:
        self._state = TargetState(target.name, backoff, metrics)
        self.status = self._state.status
        self._target = target
        self._kind = kind_of(target)
        self._outbox = outbox
        self._reader = ItemReader(settings, outbox, target.name, self._kind)
        self._sessions = SessionReader(settings, outbox, target.name, self._kind)
        self._attempts = DeliveryAttempts(target, outbox, settings, self._state, backoff, on_settled)
        self._running: set[asyncio.Task[bool]] = set()
        self._may_claim = True
        """Whether something may be there to claim that was not at the last attempt."""
        self._may_wait = True
        """Whether items may be pending that are not due."""
        self._more = asyncio.Event()
        self._reported_at = -REPORT_SECONDS
        self._counted_at = -COUNT_SECONDS
        self._look_at = 0.0
        self._notified: set[str] = set()
        """Folders with a notification that their lists have grown."""

    def notify(self, folder: str) -> None:
        """A folder's lists have grown."""
        self._notified.add(folder)
        self._more.set()

    def notify_of_session(self, folder: str) -> None:
        """A folder's session file has changed."""
        self._sessions.notify(folder)
        self._more.set()

    async def run(self) -> None:
        await self._check_target()
        while True:
            await self._step(with_lists=False)
            await self._rest(LOOK_SECONDS)

    async def drain(self, max_failing_seconds: float) -> bool:
        self._state.begin()
        while True:
            await self._step(with_lists=True)
            if not self._running and not self._state.failures:
                await self.count()
                if not self.status.waiting and not await self.look(with_lists=True):
                    return True
            is_hopeless = self._state.failures and self._state.is_operators
            if is_hopeless or self._state.has_failed_for(max_failing_seconds):
                await self.count()
                return False
            await self._rest(0.2)

    async def look(self, *, with_lists: bool) -> bool:
        """Adds what is new to the outbox; whether there was anything."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        self._may_claim = True
        has_news = await self._added(self._reader.look(with_lists=with_lists))
        return await self._added(self._sessions.look(everything=with_lists)) or has_news

    async def _look_at_notified(self) -> None:
        notified, self._notified = self._notified, set()
        if notified:
            self._may_claim |= await self._added(self._reader.look_at(notified))
        self._may_claim |= await self._added(self._sessions.look_at_notified())

    async def _added(self, looking: Awaitable[bool]) -> bool:
        try:
            return await looking
        except (OSError, StorageError) as error:
            self._state.fails(error)
            return False

    async def count(self) -> None:
        """Updates the figures of the backlog."""
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
        """Tests the target at the start, and logs the result in one line."""
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
            await self._look_at_notified()
            if time.monotonic() >= self._look_at:
                await self.look(with_lists=with_lists)
            await self._begin()
            await self._report()
        except StorageError as error:
            self._state.fails(error)
        except Exception as error:  # unexpected: the next step tries again
            logger.error("Delivery failed unexpectedly", exc_info=error)
            self._state.fails(RetryLater("unexpected error"))

    async def _begin(self) -> None:
        """Claims items and starts their attempts, up to the maximum; after a failure only one at a time."""
        if not self._may_claim or self._state.seconds_to_wait > 0:
            return
        free = (1 if self._state.failures else DELIVERIES_AT_ONCE) - len(self._running)
        if free <= 0:
            return
        works = await self._outbox.claim(self._kind, Order.ROOMS_IN_ORDER, free)
        self._may_claim, self._may_wait = len(works) == free, not works
        for work in works:
            task = asyncio.create_task(self._attempts.deliver(work))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[bool]) -> None:
        self._running.discard(task)
        self._may_claim |= task.cancelled() or task.result()
        self._more.set()

    async def _rest(self, seconds: float) -> None:
        """Waits until an attempt has ended, a list has grown or an item is due, at most for this long."""
        if self._may_wait and not self._running:
            with contextlib.suppress(StorageError):
                due = await self._outbox.due_in(self._kind)
                seconds = seconds if due is None else min(seconds, max(0.01, due))
        pause = self._state.seconds_to_wait
        if pause > 0:
            await asyncio.sleep(max(0.01, min(seconds, pause)))
            self._may_claim = True
        else:
            try:
                async with asyncio.timeout(seconds):
                    await self._more.wait()
            except TimeoutError:
                self._may_claim = True
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
