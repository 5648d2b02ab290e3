"""Runs several worker processes on one machine: ``WORKERS``.

    parent ──► worker 1, worker 2, …    each with its rooms as threads, its interpreter and its native client

One process ends near sixteen rooms, however many cores there are (docs/scaling.md). LiveKit's dispatch distributes the
rooms over the processes, as it does over machines. The parent restarts a process that has ended or does not answer,
restarts one after the other at SIGHUP, and answers for all of them at the health port (:mod:`worker.fleet_health`).

A worker runs as long as its standard input is open. The parent closes it to stop the worker, and the system closes it
when the parent dies. Unlike signals, that works in the same way on Windows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from config import Settings, environment
from core.errors import ConfigError
from core.logs import end_at_once, set_up_logging
from core.supervised import pauses, supervised
from worker.capacity import default_max_rooms, worker_count
from worker.fleet_health import Health, fleet_health, is_live, is_ready

logger = logging.getLogger("recorder")

NUMBER = "WORKER_NUMBER"
"""The variable that tells a worker that it has a parent, and which of its workers it is: 1 and up."""

PORT_FILE = "WORKER_PORT_FILE"
"""The variable with the file into which a worker writes the port of its health answer. Only the worker can choose one
that is free."""

RESTART_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses before a worker that has ended is started again; the last is repeated."""

WORKING_SECONDS = 60.0
"""After a worker has run for this long, the pauses begin with the first again."""

LOOK_SECONDS = 5.0
SILENT_LOOKS = 6
"""A worker that needs a restart, or does not answer, in this many looks in a row is restarted."""

READY_SECONDS = 60.0
"""How long a rolling restart waits until a new worker takes rooms. If it does not, the others are not restarted."""

READY_LOOK_SECONDS = 0.2

STOP_SECONDS = 30.0
"""How long a worker that does not answer gets to save what it has, before it is killed."""

WRONG_SETTINGS = 2
"""The exit code of a worker whose settings are wrong: a restart would not help."""


def run_if_several(program: Path) -> None:
    """Runs ``program start`` in several processes until a signal, and then ends this process, if ``WORKERS`` is more
    than one. Returns at once otherwise, also if the settings are wrong: the worker itself says what is wrong.
    """
    if NUMBER in os.environ:
        return
    try:
        settings = Settings.from_env(environment(program.parent))
    except ConfigError:
        return
    count = settings.workers or worker_count()
    if count > 1:
        set_up_logging(settings.log_level, settings.log_format, colours=sys.stdout.isatty())
        end_at_once(asyncio.run(Supervisor(program, settings, count).run()))


def stop_at_end_of_input(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Calls ``stop`` on the event loop when the parent closes the standard input. Does nothing without a parent."""
    if NUMBER not in os.environ:
        return

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker has stopped by itself
            loop.call_soon_threadsafe(stop)

    threading.Thread(target=wait, name="end of input", daemon=True).start()


def tell_port(port: int) -> None:
    """Tells the parent the port of this worker's health answer. Does nothing without a parent."""
    if PORT_FILE in os.environ:
        path = Path(os.environ[PORT_FILE])
        part = path.with_suffix(".new")
        part.write_text(str(port), encoding="ascii")
        part.replace(path)


def shared(settings: Settings, count: int) -> dict[str, str]:
    """The settings of each of ``count`` workers that differ from those of one. Limits for all of them are divided; the
    budgets for Gemini are counted in the outbox, which all share."""
    return {
        "WORKERS": "1",
        "MAX_ROOMS": str(settings.max_rooms or default_max_rooms(count)),
        "GEMINI_MAX_AT_ONCE": str(max(1, settings.gemini_max_at_once // count)),
        "HEALTH_HOST": "127.0.0.1",
        "HEALTH_PORT": "0",
    }


class WorkerProcess:
    """One worker: its process and the port of its health answer."""

    def __init__(
        self, number: int, command: list[str], variables: Mapping[str, str], port_file: Path
    ) -> None:
        self.number = number
        self.starts = 0
        """How often it has been started."""
        self._command = command
        self._port_file = port_file
        self._variables = {**variables, NUMBER: str(number), PORT_FILE: str(port_file)}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def port(self) -> int:
        """The port of its health answer; 0: not known yet."""
        try:
            return int(self._port_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def run(self) -> int:
        """Starts it and waits until it ends. Returns its exit code: below 0 a signal."""
        self._port_file.unlink(missing_ok=True)
        self.starts += 1
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            env={**os.environ, **self._variables},
            **_own_group(),
        )
        return await self._process.wait()

    def stop(self) -> None:
        """Requests its end: it saves everything, as after a signal."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        if self._process is not None and self.is_running:
            self._process.kill()

    async def wait(self, seconds: float) -> bool:
        """Whether it has ended within this time."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()
        return not self.is_running


def _own_group() -> dict[str, Any]:
    """The terminal's Ctrl-C reaches the parent alone, which stops the workers."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"process_group": 0}


class Supervisor:
    """Keeps the workers running until a signal."""

    def __init__(self, program: Path, settings: Settings, count: int) -> None:
        self._settings = settings
        own = shared(settings, count)
        command = [sys.executable, str(program), "start"]
        self._ports = tempfile.TemporaryDirectory(prefix="voice-segmenter-")
        self._workers = [
            WorkerProcess(number, command, own, Path(self._ports.name) / str(number))
            for number in range(1, count + 1)
        ]
        self._max_rooms = int(own["MAX_ROOMS"])
        self._stopping = asyncio.Event()
        self._first_is_ready = asyncio.Event()
        """Whether the first worker takes rooms: then the others are started."""
        self._code = 0
        self._rolling: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Returns the exit code: 0 after a signal, otherwise that of a worker that cannot work: 1 or 2."""
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._stop))
        if hasattr(signal, "SIGHUP") and not os.isatty(0):
            loop.add_signal_handler(signal.SIGHUP, self._begin_rolling_restart)
        health = Health(lambda: {worker.number: worker.port for worker in self._workers})
        async with fleet_health(self._settings, health) as port:
            logger.info(
                "Running %d workers for up to %d rooms each, health on http://%s:%d/",
                len(self._workers),
                self._max_rooms,
                self._settings.health_host,
                port,
            )
            watches = [
                supervised(self._wait_for_first, "start of the first worker"),
                *(
                    supervised(partial(self._watch, worker), f"watch over worker {worker.number}")
                    for worker in self._workers
                ),
            ]
            await asyncio.gather(*map(self._keep, self._workers))
            for task in [*watches, *([self._rolling] if self._rolling else [])]:
                task.cancel()
        self._ports.cleanup()
        logger.info("All workers have stopped")
        return self._code

    def _stop(self) -> None:
        """Stops all workers; the second time kills them: their files are valid at every moment."""
        if self._stopping.is_set():
            for worker in self._workers:
                worker.kill()
            return
        self._stopping.set()
        self._first_is_ready.set()  # no other worker is to wait for it
        for worker in self._workers:
            worker.stop()

    async def _keep(self, worker: WorkerProcess) -> None:
        """Starts the worker, and again whenever it ends. The first goes ahead: what is wrong is said once."""
        if worker is not self._workers[0]:
            await self._first_is_ready.wait()
        waits = pauses(RESTART_SECONDS)
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await _run(worker)
            if not self._stopping.is_set() and (code == WRONG_SETTINGS or self._has_never_worked(code)):
                self._code = code
                self._stop()
            if self._stopping.is_set():
                return
            if time.monotonic() - began > WORKING_SECONDS:
                waits = pauses(RESTART_SECONDS)
            wait = 0.0 if code == 0 else next(waits)
            if code:
                logger.error(
                    "Worker %d has ended (%s): starting it again in %g s", worker.number, _said(code), wait
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stopping.wait()

    def _has_never_worked(self, code: int) -> bool:
        """Whether the first worker ended by itself before it took rooms: it has said what the operator must do."""
        return code > 0 and not self._first_is_ready.is_set()

    async def _wait_for_first(self) -> None:
        while not await is_ready(self._workers[0].port):  # noqa: ASYNC110  (another process)
            await asyncio.sleep(READY_LOOK_SECONDS)
        self._first_is_ready.set()

    async def _watch(self, worker: WorkerProcess) -> None:
        """Restarts the worker if it does not answer, or says that only a restart helps. A start may take its time."""
        failures = 0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            is_well = not worker.is_running or not worker.port or await is_live(worker.port)
            failures = 0 if is_well else failures + 1
            if failures >= SILENT_LOOKS:
                failures = 0
                logger.error("Worker %d does not answer, or needs a restart: restarting it", worker.number)
                worker.stop()
                if not await worker.wait(STOP_SECONDS):
                    worker.kill()

    # The rolling restart.

    def _begin_rolling_restart(self) -> None:
        if self._rolling is None or self._rolling.done():
            self._rolling = supervised(self._restart_all, "rolling restart")

    async def _restart_all(self) -> None:
        """Restarts one worker after the other. Meanwhile the others take its rooms."""
        logger.info("SIGHUP: restarting the workers, one after the other")
        for worker in self._workers:
            before = worker.starts
            worker.stop()
            try:
                async with asyncio.timeout(READY_SECONDS + STOP_SECONDS):
                    while worker.starts == before or not await is_ready(worker.port):  # noqa: ASYNC110  (another process)
                        await asyncio.sleep(READY_LOOK_SECONDS)
            except TimeoutError:
                logger.error("Worker %d takes no rooms: the others are not restarted", worker.number)
                return
        logger.info("All workers have been restarted")


async def _run(worker: WorkerProcess) -> int:
    """Runs the worker to its end. A system that has no memory or no files left for it may have some later."""
    try:
        return await worker.run()
    except OSError as error:
        logger.error("Worker %d cannot be started: %s", worker.number, error)
        return 1


_STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]


def _said(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
