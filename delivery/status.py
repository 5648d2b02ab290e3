"""The state of the delivery to each target: whether it works, its figures, and its metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge

from core.backoff import Backoff
from core.errors import ConfigError, RetryLater
from core.metrics import counter, gauge
from core.trouble import Trouble

logger = logging.getLogger("recorder")


@dataclass
class Status:
    """The figures of one target."""

    target: str
    waiting: int = 0
    oldest_seconds: float = 0.0
    """How long ago the oldest waiting item was spoken."""
    delivered: int = 0
    """Since the start."""
    refused: int = 0
    """Dead letters, in all."""
    failures: int = 0
    """Attempts that failed and are repeated, since the start."""
    trouble: str = ""
    """What is wrong at this moment; empty while it works."""


class DeliveryMetrics:
    """The figures as Prometheus metrics, with the target's name as label."""

    def __init__(self, statuses: Callable[[], Iterable[Status]]) -> None:
        self.registry = CollectorRegistry()
        self._statuses = statuses
        self._waiting = self._gauge("waiting", "Items that wait for delivery")
        self._oldest = self._gauge("oldest_seconds", "How long ago the oldest was spoken")
        self._refused = self._gauge("refused", "Dead letters: items that will never be delivered")
        self._in_trouble = self._gauge("in_trouble", "1 while the target takes nothing")
        self._delivered = counter(self.registry, "delivery_delivered", "Items delivered", "target")
        self._failures = counter(self.registry, "delivery_failures", "Attempts that are repeated", "target")

    def _gauge(self, name: str, help: str) -> Gauge:
        return gauge(self.registry, f"delivery_{name}", help, "target")

    async def refresh(self) -> None:
        """Sets the gauges to the present figures."""
        for status in self._statuses():
            self._waiting.labels(status.target).set(status.waiting)
            self._oldest.labels(status.target).set(status.oldest_seconds)
            self._refused.labels(status.target).set(status.refused)
            self._in_trouble.labels(status.target).set(bool(status.trouble))
            self.add(status.target)  # a counter is shown from the start, not from its first event

    def add(self, target: str, *, delivered: int = 0, failures: int = 0) -> None:
        self._delivered.labels(target).inc(delivered)
        self._failures.labels(target).inc(failures)


class TargetState:
    """Whether a target works, by the last attempts. After a failure all items for it wait."""

    def __init__(self, target: str, backoff: Backoff, metrics: DeliveryMetrics) -> None:
        self.status = Status(target)
        self.failures = 0
        """Failed attempts in a row, of any items."""
        self.is_operators = False
        """Whether only the operator can fix the last failure."""
        self._backoff = backoff
        self._metrics = metrics
        self._trouble = Trouble()
        self._not_before = 0.0
        self._well_at = time.monotonic()

    @property
    def seconds_to_wait(self) -> float:
        """Seconds until the next attempt may be made; 0 or less: now."""
        return self._not_before - time.monotonic()

    def has_failed_for(self, seconds: float) -> bool:
        """Whether all attempts have failed for this long, counted from the last success or :meth:`begin`."""
        return bool(self.failures) and time.monotonic() - self._well_at >= seconds

    def begin(self) -> None:
        """Starts the time that :meth:`has_failed_for` measures."""
        self._well_at = time.monotonic()

    def delivered(self) -> None:
        """Counts a delivered item."""
        self.status.delivered += 1
        self._metrics.add(self.status.target, delivered=1)

    def works(self) -> None:
        """Notes a success, and logs it after failures."""
        if self.failures:
            logger.warning("Delivery to %s works again", self.status.target)
        self.failures, self._not_before, self.is_operators = 0, 0.0, False
        self._well_at = time.monotonic()
        self._trouble.ends()
        self.status.trouble = ""

    def fails(self, error: Exception) -> None:
        """Notes a failure: all items wait. It is logged when it is new or differs from the last one."""
        self.failures += 1
        self.status.failures += 1
        self._metrics.add(self.status.target, failures=1)
        hint = error.after_seconds if isinstance(error, RetryLater) else None
        self._not_before = time.monotonic() + (hint or self._backoff.pause(self.failures))
        self.is_operators = isinstance(error, ConfigError)
        self.status.trouble = str(error) or "no answer in time"
        if self._trouble.begins(self.status.trouble):
            level = logging.ERROR if self.is_operators else logging.WARNING
            logger.log(
                level,
                "Delivery to %s has to wait: %s. It is retried until it works",
                self.status.target,
                self.status.trouble,
            )
