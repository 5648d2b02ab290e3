"""What the worker answers when it is asked how it is: ``/`` for people, ``/live`` for whatever restarts it by itself,
``/metrics`` for Prometheus.

``/`` is 200 ``OK``, or 503 with one plain line that says what is wrong; ``/live`` is so only where a restart is the
cure. Nothing here names a room or a person, and nothing else is answered: the framework's own server, which tells more,
is closed by :mod:`agent`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from config import Settings
from files import prove_disk
from pulse import beat_for_worker
from supervised import supervised
from vitals import LATENCY_BOUNDS, WORKER, Figure, Snapshot, Vitals, vitals

logger = logging.getLogger("recorder")

PROOF_SECONDS = 15.0
"""How often the disk is tried while nobody may be speaking."""

PREFIX = "recorder_"


@contextlib.asynccontextmanager
async def health_answer(
    settings: Settings, max_rooms: int, is_connected: Callable[[], bool]
) -> AsyncIterator[int]:
    """Answers until left, and keeps an eye on the worker's own loop, its server and its disk. Yields the port, 0 if
    there is none to be had: no reason to leave rooms unrecorded."""
    disk = _DiskProof(Path(settings.output_dir))

    async def figures() -> list[Figure]:
        capacity = Figure("max_rooms", "Rooms that this worker takes (MAX_ROOMS)", max_rooms)
        return [capacity, *disk.figures()]

    vitals.add_source(figures)
    async with contextlib.AsyncExitStack() as stack:
        runner = web.AppRunner(
            health_app(vitals, with_metrics=settings.metrics), access_log=None, shutdown_timeout=1
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        stack.callback(disk.close)
        vitals.room_opened(WORKER)
        stack.callback(vitals.room_closed, WORKER)
        tasks = [
            supervised(lambda: beat_for_worker(is_connected), "heartbeat"),
            supervised(disk.run, "test of the disk"),
        ]
        stack.push_async_callback(_end, tasks)
        yield await _listen(runner, settings.health_host, settings.health_port)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _listen(runner: web.AppRunner, host: str, port: int) -> int:
    """Listens on this port, or on any free one if it is taken."""
    for choice in dict.fromkeys((port, 0)):
        try:
            await web.TCPSite(runner, host, choice).start()
        except OSError as error:
            what = "using any free port" if choice else "there is no health answer"
            logger.warning(
                "HEALTH_HOST=%s, HEALTH_PORT=%d cannot be used (%s): %s",
                host,
                choice,
                error.strerror or error,
                what,
            )
        else:
            return int(runner.addresses[0][1])
    return 0


def health_app(of: Vitals, *, with_metrics: bool) -> web.Application:
    """The answers, about ``of``."""

    async def health(_: web.Request) -> web.Response:
        return _verdict(of.snapshot().problems)

    async def live(_: web.Request) -> web.Response:
        seen = of.snapshot()
        return _verdict(seen.problems if seen.needs_restart else [])

    async def metrics(_: web.Request) -> web.Response:
        text = exposition(of.snapshot(), await of.figures())
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/", health)
    app.router.add_get("/live", live)
    if with_metrics:
        app.router.add_get("/metrics", metrics)
    return app


def _verdict(problems: list[str]) -> web.Response:
    return web.Response(status=503 if problems else 200, text=("; ".join(problems) or "OK") + "\n")


# --- the disk ---


class _DiskProof:
    """Tries the disk now and then, so that an idle worker knows before the lesson begins."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._free_bytes: int | None = None
        self._trouble = ""
        # Of its own: the default one is waited for at the end, and a disk may hang for ever.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="proof")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._prove()
            await asyncio.sleep(PROOF_SECONDS)

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def _prove(self) -> None:
        try:
            with vitals.disk_step(WORKER):
                loop = asyncio.get_running_loop()
                self._free_bytes = await loop.run_in_executor(self._thread, prove_disk, self._folder)
        except OSError as error:
            self._say(error.strerror or type(error).__name__)
        else:
            self._say("")

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            logger.error("OUTPUT_DIR cannot be written: %s. What is said now is held in memory", trouble)
        if self._trouble and not trouble:
            logger.warning("OUTPUT_DIR can be written again")
        self._trouble = trouble
        vitals.disk_refuses(WORKER, trouble)  # by nothing, where there is none

    def figures(self) -> list[Figure]:
        if self._free_bytes is None:
            return []
        return [Figure("disk_free_bytes", "Free space where OUTPUT_DIR is", self._free_bytes)]


# --- as Prometheus reads it ---


def exposition(seen: Snapshot, figures: Iterable[Figure] = ()) -> bytes:
    """The metrics in Prometheus' text format. Memory and CPU are those of the worker's own process (Linux only)."""

    class Metrics(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from _metrics(seen)
            yield from _families(figures)

    registry = CollectorRegistry()
    registry.register(Metrics())
    ProcessCollector(registry=registry)
    return generate_latest(registry)


def _metrics(seen: Snapshot) -> Iterator[Metric]:
    totals, rooms = seen.totals, seen.rooms
    yield _gauge("healthy", "1 while the health answer is OK", not seen.problems)
    yield _gauge("rooms", "Rooms with a recorder of this worker", len(rooms))
    yield _gauge("teachers", "Participants being recorded", sum(room.teachers for room in rooms))
    yield _gauge(
        "deaf_rooms",
        "Rooms where no sound comes from a recorded track",
        sum(room.deaf_since is not None for room in rooms),
    )
    yield _gauge(
        "unsaved_seconds",
        "Speech in memory that waits for the disk",
        sum(room.unsaved_seconds for room in rooms),
    )
    yield _total("segments", "Segments saved", totals.segments)
    yield _total("speech_seconds", "Speech saved", totals.speech_seconds)
    yield _total("gaps", "Stretches not heard, as the manifests own up to them", totals.gaps)
    yield _total("gap_seconds", "Length of those stretches", totals.gap_seconds)
    yield _total("lost_seconds", "Speech that was heard and could not be kept", totals.lost_seconds)
    yield _total("reconnects", "Rooms that had their connection back after a loss", totals.reconnects)
    yield _total("adoptions", "Recorders asked for, for rooms that had none", totals.adoptions)
    yield _total("refused_rooms", "Rooms offered while the worker was full", totals.refused_rooms)
    yield _total("clock_corrections", "Times that a stream was dated anew", totals.clock_corrections)
    yield _total(
        "undecipherable_participants",
        "Participants whose encrypted sound could not be deciphered",
        totals.undecipherable,
    )
    yield _total(
        "tracks_over_bound",
        "Tracks that had to wait for a place (MAX_TEACHERS_PER_ROOM, MAX_TRACKS_PER_TEACHER)",
        totals.over_bound,
    )
    yield _latency(totals.disk_steps, totals.disk_seconds)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, help, value=value)


def _total(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, help, value=value)


def _latency(steps: list[int], seconds: float) -> Metric:
    bounds = [*(str(bound) for bound in LATENCY_BOUNDS), "+Inf"]
    buckets = [(bound, float(sum(steps[: index + 1]))) for index, bound in enumerate(bounds)]
    help = "How long the disk took for one step: a piece of speech, a segment made final"
    return HistogramMetricFamily(PREFIX + "disk_write_seconds", help, buckets=buckets, sum_value=seconds)


def _families(figures: Iterable[Figure]) -> Iterator[Metric]:
    """One family a name, with a sample for each of its figures."""
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for figure in figures:
        kind = CounterMetricFamily if figure.is_total else GaugeMetricFamily
        names = [name for name, _ in figure.labels]
        family = families.setdefault(figure.name, kind(PREFIX + figure.name, figure.help, labels=names))
        family.add_metric([value for _, value in figure.labels], figure.value)
    yield from families.values()
