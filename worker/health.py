"""The worker's health server: ``/`` for operators, ``/live`` for the process manager, ``/metrics`` for Prometheus.

``/`` is 200 ``OK``, possibly with notes on further lines, or 503 with one line that says what is wrong; ``/live`` is
503 only if a restart helps. No answer names a room or a person. :mod:`worker.recorder_server` closes the framework's
own health server, whose answers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from archive.files import prove_disk
from config import Settings
from core.heartbeat import beat_for_worker
from core.metrics import gauge
from core.supervised import supervised
from core.trouble import Trouble, trouble_of
from core.worker_state import WORKER, WorkerState, worker_state

logger = logging.getLogger("recorder")

PROOF_SECONDS = 15.0
"""How often a file is written to test the disk. While nobody speaks, nothing else is written."""

REFUSED_PROOF_SECONDS = 1.0

Handler = Callable[[web.Request], Awaitable[web.Response]]
"""Answers a request."""


@contextlib.asynccontextmanager
async def health_answer(
    settings: Settings, max_rooms: int, is_connected: Callable[[], bool]
) -> AsyncIterator[int]:
    """Serves health requests and checks event loop, server and disk of the worker while the context is open.

    Yields the port; 0 if none could be opened, which does not stop the recording.
    """
    own = _ProcessMetrics(max_rooms)
    disk = _DiskProof(Path(settings.output_dir), own.registry)
    worker_state.add_source(own)
    async with contextlib.AsyncExitStack() as stack:
        runner = web.AppRunner(
            health_app(worker_state, with_metrics=settings.metrics), access_log=None, shutdown_timeout=1
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        stack.callback(disk.close)
        worker_state.room_opened(WORKER)
        stack.callback(worker_state.room_closed, WORKER)
        tasks = [
            supervised(lambda: beat_for_worker(is_connected), "heartbeat"),
            supervised(disk.run, "test of the disk"),
        ]
        stack.push_async_callback(_end, tasks)
        yield await listen(runner, settings.health_host, settings.health_port)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def listen(runner: web.AppRunner, host: str, port: int) -> int:
    """Listens on this port, or on any free one if it is taken. Returns the port; 0: none could be opened."""
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


def health_app(of: WorkerState, *, with_metrics: bool) -> web.Application:
    """The web application that reports the state ``of``."""

    async def health(_: web.Request) -> web.Response:
        seen = of.snapshot()
        return _verdict(seen.problems, seen.notes)

    async def live(_: web.Request) -> web.Response:
        seen = of.snapshot()
        return _verdict(seen.problems if seen.needs_restart else [])

    async def metrics(_: web.Request) -> web.Response:
        text = exposition(await of.registries())
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return application(health, live, metrics if with_metrics else None)


def application(health: Handler, live: Handler, metrics: Handler | None) -> web.Application:
    """The web application with these answers."""
    app = web.Application()
    app.router.add_get("/", health)
    app.router.add_get("/live", live)
    if metrics is not None:
        app.router.add_get("/metrics", metrics)
    return app


def _verdict(problems: list[str], notes: Sequence[str] = ()) -> web.Response:
    lines = ("; ".join(problems) or "OK", *notes)
    return web.Response(status=503 if problems else 200, text="".join(f"{line}\n" for line in lines))


# --- the disk ---


class _DiskProof:
    """Tests the disk regularly, so that an idle worker reports a failing disk before a lesson begins."""

    def __init__(self, folder: Path, registry: CollectorRegistry) -> None:
        self._folder = folder
        self._registry = registry
        self._free_bytes = gauge(None, "disk_free_bytes", "Free space where OUTPUT_DIR is")
        self._is_measured = False
        self._trouble = Trouble()
        # Not the default executor: a process waits for that one when it ends, and a disk may hang for ever.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="proof")

    async def run(self) -> None:
        """Tests the disk every ``PROOF_SECONDS``, more often while it refuses, until cancelled."""
        while True:
            await self._prove()
            await asyncio.sleep(REFUSED_PROOF_SECONDS if self._trouble.current else PROOF_SECONDS)

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def _prove(self) -> None:
        try:
            with worker_state.disk_step(WORKER):
                loop = asyncio.get_running_loop()
                free_bytes = await loop.run_in_executor(self._thread, prove_disk, self._folder)
        except OSError as error:
            self._refused(trouble_of(error))
        else:
            self._worked()
            self._show(free_bytes)

    def _show(self, free_bytes: int) -> None:
        self._free_bytes.set(free_bytes)
        if not self._is_measured:  # before a measurement, 0 would look like a full disk
            self._is_measured = True
            self._registry.register(self._free_bytes)

    def _refused(self, trouble: str) -> None:
        if self._trouble.begins(trouble):
            logger.error(
                "OUTPUT_DIR cannot be written: %s. Speech is kept in memory until it can be written", trouble
            )
        worker_state.disk_refuses(WORKER, trouble)

    def _worked(self) -> None:
        if self._trouble.ends():
            logger.warning("OUTPUT_DIR can be written again")
        worker_state.disk_works(WORKER)


# --- metrics ---


class _ProcessMetrics:
    """Metrics of the worker's process (memory and CPU on Linux only), and its limit of rooms."""

    def __init__(self, max_rooms: int) -> None:
        self.registry = CollectorRegistry()
        gauge(self.registry, "max_rooms", "Rooms that this worker takes (MAX_ROOMS)").set(max_rooms)
        ProcessCollector(registry=self.registry)

    async def refresh(self) -> None:
        """Does nothing: these metrics are read when they are collected."""


def exposition(registries: Iterable[CollectorRegistry]) -> bytes:
    """All metrics of these registries in Prometheus' text format."""
    # By default every counter has a second line with the time of its creation.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    return b"".join(generate_latest(registry) for registry in registries)
