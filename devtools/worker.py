"""The worker as a process, started as an operator starts it: ``python agent.py start``."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

from config import Settings
from devtools.livekit_server import NEW_PROCESS_GROUP, LiveKitServer

AGENT = Path(__file__).resolve().parent.parent / "agent.py"

REGISTERED = "Registered with"
START_SECONDS = 60.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.02
TAIL_LINES = 8


class WorkerFailed(Exception):
    """The worker ended, or did not say in time what it should; the message ends with its last lines."""


class WorkerLog:
    """The lines of a running worker's log, and waiting for one of them."""

    server: LiveKitServer
    output_dir: Path
    lines: Sequence[str]

    @property
    def log(self) -> str:
        """All lines so far."""
        return "\n".join(self.lines)

    @property
    def exit_code(self) -> int | None:
        """None while the worker runs."""
        raise NotImplementedError

    @property
    def is_complete(self) -> bool:
        """Whether the worker has ended and all of its log has been read."""
        raise NotImplementedError

    def tail(self) -> str:
        """Its last lines, indented."""
        return "\n".join(f"  {line}" for line in self.lines[-TAIL_LINES:]) or "  (it logged nothing)"

    async def wait_for(self, text: str, timeout: float = 30.0, *, skip_lines: int = 0) -> str:
        """The first log line with this text, among those after ``skip_lines``.

        Raises:
            WorkerFailed: the worker ended, or the line did not come in time.
        """
        deadline = time.monotonic() + timeout
        while True:
            ended = self.is_complete
            for line in self.lines[skip_lines:]:
                if text in line:
                    return line
            if ended:
                raise WorkerFailed(
                    f"The worker ended with {self.exit_code} before it said {text!r}.\n{self.tail()}"
                )
            if time.monotonic() > deadline:
                raise WorkerFailed(f"The worker did not say {text!r} within {timeout:g} s.\n{self.tail()}")
            await asyncio.sleep(POLL_SECONDS)


class Worker(WorkerLog):
    """A worker process and its log, independent of the settings in the user's environment and ``.env``.

    ``within`` is put before its command, for a worker in another network namespace. ``program`` is started instead of
    agent.py: a modified recorder, or another worker.
    """

    ready = REGISTERED
    """The text in its log when it is ready for rooms."""

    def __init__(
        self,
        server: LiveKitServer,
        output_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        log: Path | None = None,
        within: Sequence[str] = (),
        program: Path = AGENT,
    ) -> None:
        self.server = server
        self.output_dir = output_dir
        self.lines: list[str] = []
        self.last_line_at = time.monotonic()
        self._settings = {
            **server.environment(),
            "OUTPUT_DIR": str(output_dir),
            "HEALTH_PORT": "0",
            "WORKERS": "1",
        }
        self._settings.update(settings or {})
        self._log_path = log
        self._command = [*within, sys.executable, str(program), "start"]
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        assert self._process, "the worker is not running"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll() if self._process else None

    @property
    def is_complete(self) -> bool:
        return self.exit_code is not None and not (self._reader and self._reader.is_alive())

    def in_room(self, room: str) -> RoomLog:
        """What it logs about one room, for tests that share a worker."""
        return RoomLog(self, room)

    def number_of(self, room: str) -> str:
        """The number of the worker process that records a room now; empty: there is one process, or none records it."""
        lines = (line for line in self.lines if "Track subscribed" in line and f"room={room} " in f"{line} ")
        numbers = [re.search(r" worker=(\d+)", line) for line in lines]
        return numbers[-1][1] if numbers and numbers[-1] else ""

    def process(self, number: str) -> psutil.Process:
        """The worker process of this number; the only one if the number is empty."""
        parent = psutil.Process(self.pid)
        if not number:
            return parent
        return next(child for child in parent.children() if child.environ().get("WORKER_NUMBER") == number)

    async def start(self) -> None:
        """Returns when it is ready for rooms."""
        self.launch()
        try:
            await self.wait_for(self.ready, START_SECONDS)
        except BaseException:
            self.kill()
            raise

    def launch(self) -> None:
        """Starts the process without waiting until it is ready."""
        self._process = subprocess.Popen(
            self._command,
            cwd=AGENT.parent,
            env=_environment(self._settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            creationflags=NEW_PROCESS_GROUP,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    async def stop(self) -> int:
        """Asks it to end as a host does, kills it after STOP_SECONDS, and returns its exit code."""
        assert self._process, "the worker was never started"
        if self._process.poll() is None:
            self._process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        self.kill()
        return self._process.returncode

    def kill(self) -> None:
        """Kills it and what it started, as a host does after its time limit or without memory."""
        if not self._process:
            return
        if sys.platform == "win32":
            if self._process.poll() is None:
                subprocess.run(["taskkill", "/F", "/T", "/PID", str(self._process.pid)], capture_output=True)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._reader:
            self._reader.join(timeout=2)

    async def __aenter__(self) -> Worker:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        with contextlib.ExitStack() as files:
            files.enter_context(process.stdout)
            copy = (
                files.enter_context(open(self._log_path, "a", encoding="utf-8")) if self._log_path else None
            )
            for line in process.stdout:
                self.lines.append(line.rstrip("\r\n"))
                self.last_line_at = time.monotonic()
                if copy:
                    copy.write(line)
                    copy.flush()


class RoomLog(WorkerLog):
    """The lines of a worker's log that are about one room."""

    def __init__(self, worker: Worker, room: str) -> None:
        self.server, self.output_dir = worker.server, worker.output_dir
        self._worker = worker
        self._is_about = re.compile(rf" room={re.escape(room)}( |$)").search

    @property
    def lines(self) -> Sequence[str]:  # type: ignore[override]
        return [line for line in self._worker.lines if self._is_about(line)]

    @property
    def exit_code(self) -> int | None:
        return self._worker.exit_code

    @property
    def is_complete(self) -> bool:
        return self._worker.is_complete


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's, but every setting of the worker is at its default unless it is given here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIVEKIT_")}
    # An empty setting counts as not set, and overrides the one in a .env file.
    defaults = {field.name.upper(): "" for field in dataclasses.fields(Settings)}
    return {**kept, **defaults, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **settings}
