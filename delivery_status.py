"""How the delivery to each target stands, as plain numbers and as metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge

from metrics import counter, gauge


@dataclass
class Status:
    """Plain numbers about one target."""

    target: str
    waiting: int = 0
    oldest_seconds: float = 0.0
    """How long ago the oldest of what waits was spoken."""
    delivered: int = 0
    """Since the start."""
    refused: int = 0
    """Dead letters, in all."""
    failures: int = 0
    """Attempts that failed and are repeated, since the start."""
    trouble: str = ""
    """What is wrong at this moment; empty while it works."""


class DeliveryMetrics:
    """The same for Prometheus, with the target's name as label."""

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
        """Takes the gauges over from the statuses."""
        for status in self._statuses():
            self._waiting.labels(status.target).set(status.waiting)
            self._oldest.labels(status.target).set(status.oldest_seconds)
            self._refused.labels(status.target).set(status.refused)
            self._in_trouble.labels(status.target).set(bool(status.trouble))
            self.add(status.target)  # a counter is shown from the start, not from its first event

    def add(self, target: str, *, delivered: int = 0, failures: int = 0) -> None:
        self._delivered.labels(target).inc(delivered)
        self._failures.labels(target).inc(failures)
