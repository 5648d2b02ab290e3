"""Counters of the worker since it started, as Prometheus objects in a registry of their own.

The worker's current state, and whether it is a problem, is in :mod:`core.worker_state`. No label names a room or a
person: anyone who can reach the port may read the metrics.
"""

from __future__ import annotations

from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

NAMESPACE = "recorder"

DISK_STEP_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram of disk steps, in seconds."""


class MetricSource(Protocol):
    """A part of the worker with metrics of its own."""

    registry: CollectorRegistry

    async def refresh(self) -> None:
        """Updates the gauges whose values are read elsewhere. If it raises, the metrics of this part are left out."""
        ...


def counter(registry: CollectorRegistry, name: str, help: str, *labels: str) -> Counter:
    """A counter ``recorder_NAME_total`` in this registry."""
    return Counter(name, help, labels, namespace=NAMESPACE, registry=registry)


def gauge(registry: CollectorRegistry | None, name: str, help: str, *labels: str) -> Gauge:
    """A gauge ``recorder_NAME`` in this registry; None: it is registered later."""
    return Gauge(name, help, labels, namespace=NAMESPACE, registry=registry)


class Counters:
    """Counters of what recording has saved and lost."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.segments = counter(registry, "segments", "Segments saved")
        self.speech_seconds = counter(registry, "speech_seconds", "Speech saved")
        self.gaps = counter(registry, "gaps", "Gaps in the recordings, as the manifests list them")
        self.gap_seconds = counter(registry, "gap_seconds", "Length of those gaps")
        self.lost_seconds = counter(
            registry, "lost_seconds", "Speech that was received and could not be kept"
        )
        self.reconnects = counter(registry, "reconnects", "Rooms whose connection was restored after a loss")
        self.adoptions = counter(registry, "adoptions", "Recorders requested for rooms that had none")
        self.refused_rooms = counter(registry, "refused_rooms", "Rooms offered while the worker was full")
        self.clock_corrections = counter(
            registry, "clock_corrections", "Corrections of a stream's time: a clock was set, or has drifted"
        )
        self.undecipherable = counter(
            registry,
            "undecipherable_participants",
            "Participants whose encrypted audio could not be decrypted",
        )
        self.over_bound = counter(
            registry,
            "tracks_over_bound",
            "Tracks that had to wait for a place (MAX_TEACHERS_PER_ROOM, MAX_TRACKS_PER_TEACHER)",
        )
        self.disk_step_seconds = Histogram(
            "disk_write_seconds",
            "How long the disk took for one step, such as writing a piece of speech or committing a segment",
            namespace=NAMESPACE,
            buckets=DISK_STEP_BOUNDS,
            registry=registry,
        )
