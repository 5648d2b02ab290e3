"""The worker: joins every room that LiveKit gives it and records the teacher. Wiring only.

python agent.py start      in production
python agent.py dev        restarts whenever a .py file or .env is saved
python agent.py check      tries settings, disk, server and key before a lesson does
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    # As a container's first process we get no signal without a handler, and the imports below take seconds.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

# The framework would load a 244 MB end-of-turn model that a recorder never uses (fact 18).
os.environ.setdefault("LIVEKIT_AGENTS_PRELOAD_LOCAL_INFERENCE", "0")
# Nor does it need a watch over each room's event loop, which wakes two threads some fifty times a second.
os.environ.setdefault("LIVEKIT_AGENTS_LOOP_BLOCK_WARN_MS", "0")

import livekit_compat  # noqa: F401  (before the framework)

# isort: split
import aiohttp
from livekit import api
from livekit.agents import (
    AgentServer,
    AutoSubscribe,
    JobContext,
    JobExecutorType,
    JobProcess,
    JobRequest,
    WorkerPermissions,
)
from livekit.protocol import agent
from livekit.rtc import _ffi_client
from livekit.rtc._ffi_client import FfiClient

from archive.files import prepare_output_dir
from archive.outbox import Outbox
from archive.recovery import recover_all
from audio_processor import load_detector
from config import Settings, environment
from core.errors import ConfigError, RecorderError
from core.logs import set_up_logging
from core.records import RoomInfo
from core.supervised import pauses, supervised
from core.worker_state import worker_state
from delivery.retention import Housekeeping
from delivery.service import DeliveryService
from delivery.targets import open_targets
from recording.encryption import encryption_options
from recording.room_recorder import RoomRecorder
from worker.capacity import default_max_rooms
from worker.health import health_answer
from worker.reconciler import Reconciler, ask_for_recorder, is_wanted

if TYPE_CHECKING:
    from text.service import TextService

logger = logging.getLogger("recorder")

PANIC_SIGNAL = signal.SIGABRT
"""What a panic of the native client sends to its own process. At SIGTERM, as the library has it, it would look like an
ordinary stop (fact 23).
"""
_ffi_client.__dict__["signal"] = SimpleNamespace(SIGTERM=PANIC_SIGNAL)

HERE = Path(__file__).resolve().parent
PACKAGES = ("archive", "core", "delivery", "recording", "search", "text", "worker")
"""The folders beside this file that the worker is made of."""
STOP_TIMEOUT_SECONDS = 15.0
HANDOVER_SECONDS = 3.0
"""How long a stopping worker records on until another has its room; hosts kill 10 s after their signal."""
SUCCESSOR_SECONDS = 1.0
"""A successor is asked for again when none has come within this: the server may have asked us, who had just stopped."""
DRAIN_POLL_SECONDS = 1.0
SERVER_RETRY_SECONDS = (1, 2, 5, 10)
JOIN_POLL_SECONDS = 0.02
FULL_LOAD = 1.0
BUSIEST_LOAD = 0.65
"""What we report just before we are full: the server gives no rooms to a worker at 0.7 or above (fact 12)."""

# All rooms share one FFI client. Rooms that join together are fast, a crowd of them starves
# the client until its 15 s patience ends and takes the process along (fact 18b).
_joining = threading.BoundedSemaphore(4)
_prewarming = threading.Lock()


# --- the server ---


class RecorderServer(AgentServer):
    """An ``AgentServer`` that checks its surroundings before it takes rooms, and looks for rooms it has missed."""

    def __init__(self, settings: Settings, problem: ConfigError | None) -> None:
        self.settings = settings
        self.max_rooms = settings.max_rooms or default_max_rooms()
        self.is_serving = False
        self._livekit: api.LiveKitAPI | None = None
        self.recorders: dict[str, tuple[asyncio.AbstractEventLoop, RoomRecorder]] = {}
        """By job, with the event loop to be called on."""
        self.texts: TextService | None = None
        self.delivery: DeliveryService | None = None
        """Its status() has the backlog of each target."""
        self._being_taken: dict[str, str] = {}
        self.problem = problem
        super().__init__(
            ws_url=settings.livekit_url,
            api_key=settings.livekit_api_key,
            api_secret=settings.livekit_api_secret,
            host="127.0.0.1",  # the framework's own answers tell names to anyone: ours replace them, see run()
            port=0,
            permissions=least_permissions(settings),
            job_executor_type=JobExecutorType.THREAD,
            num_idle_processes=1,
            load_fnc=_load,
            load_threshold=float("inf"),  # admission is ours, see request(): fact 12b
            max_retry=sys.maxsize,
            setup_fnc=prewarm,
            log_level=settings.log_level,
        )

    async def run(self, *, devmode: bool = False, unregistered: bool = False) -> None:
        """Checks settings, disk and server, then serves until closed.

        Raises:
            RecorderError: something that only the operator can mend.
        """
        if self.problem is not None:
            raise self.problem
        prepare_output_dir(Path(self.settings.output_dir))
        outbox = Outbox(Path(self.settings.output_dir))
        self.texts = self._text_service(outbox)
        async with (
            health_answer(self.settings, self.max_rooms, self.is_connected) as health_port,
            api.LiveKitAPI(
                self.settings.livekit_url, self.settings.livekit_api_key, self.settings.livekit_api_secret
            ) as livekit,
        ):
            self._livekit = livekit
            await _reach(livekit, self.settings)
            helpers = self._start_helpers(outbox)
            # Not before: a recorder that is asked for while nobody can take it would be lost.
            self.once("worker_registered", lambda *_: helpers.extend(self._take_part(livekit, health_port)))
            try:
                self.is_serving = True
                await super().run(devmode=devmode, unregistered=unregistered)
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)
                await outbox.aclose()

    def _start_helpers(self, outbox: Outbox) -> list[asyncio.Task[None]]:
        """What goes on beside the rooms for as long as the worker serves."""
        helpers = [
            supervised(lambda: _recover(self.settings), "recovery"),
            *self._delivery_service(outbox),
        ]
        if self.texts is not None:
            from search.index import FreshIndex

            index = FreshIndex(Path(self.settings.output_dir))
            worker_state.add_source(self.texts.metrics)
            helpers.append(supervised(self.texts.run, "texts"))
            helpers.append(supervised(index.run, "search index"))
        return helpers

    def _take_part(self, livekit: api.LiveKitAPI, health_port: int) -> list[asyncio.Task[None]]:
        """The server knows us: from now on we look for rooms without a recorder, and are asked through our own port."""
        self._say_ready(health_port)
        assert self._http_server is not None
        reconciler = Reconciler(
            livekit, self.settings, self.is_recording, self.rooms_taken, self.has_capacity
        )
        return [
            asyncio.create_task(self._http_server.aclose(), name="framework's health"),
            supervised(reconciler.run, "reconciler"),
        ]

    def _text_service(self, outbox: Outbox) -> TextService | None:
        """Gets the text of what is recorded, if that is wanted. Gemini's library is imported only then.

        Raises:
            ConfigError: a file that the settings name cannot be used.
        """
        if not self.settings.wants_text:
            logger.info(
                "Audio only. For transcripts and translations set GEMINI_API_KEY (or GOOGLE_CLOUD_PROJECT) and "
                "SAVE_TRANSLATIONS=true, for live captions CAPTIONS=true"
            )
            return None
        from text.service import TextService
        from translator import GeminiTranslator

        return TextService(self.settings, GeminiTranslator(self.settings), outbox)

    def _delivery_service(self, outbox: Outbox) -> list[asyncio.Task[None]]:
        """Brings the recordings to where they last, if that is wanted, and watches over the disk."""
        targets, problems = open_targets(self.settings)
        for problem in problems:
            logger.error("%s. Recording goes on locally", problem)
        housekeeping = Housekeeping(self.settings, targets, is_complete=not problems)
        tasks = [supervised(housekeeping.run, "housekeeping")]
        if targets:
            self.delivery = DeliveryService(self.settings, targets, outbox)
            worker_state.add_source(self.delivery.metrics)
            tasks.append(supervised(self.delivery.run, "delivery"))
        return tasks

    def is_connected(self) -> bool:
        """Whether the server can reach this worker now."""
        return self.is_serving and not self._connecting

    def is_recording(self, room_sid: str) -> bool:
        """Whether a recorder of this worker is in the room, or on its way into it."""
        return room_sid in self._rooms_by_job().values()

    def rooms_taken(self) -> int:
        return len(self._rooms_by_job())

    def has_capacity(self) -> bool:
        return not self.draining and self.rooms_taken() < self.max_rooms

    @contextlib.contextmanager
    def taking(self, job_id: str, room_sid: str) -> Iterator[None]:
        """Counts a room from the moment we say yes: ten may be offered before the first of them has begun."""
        self._being_taken[job_id] = room_sid
        try:
            yield
        finally:
            del self._being_taken[job_id]

    async def stop_taking_rooms(self) -> None:
        """No new rooms from now on, and the server knows; every open segment is closed and goes to the disk."""
        for loop, recorder in list(self.recorders.values()):
            with contextlib.suppress(RuntimeError):  # that room has just ended
                loop.call_soon_threadsafe(recorder.cut)
        self._draining = True
        with contextlib.suppress(Exception):  # a server that is gone need not know
            await self._update_worker_status()

    async def hand_over(self) -> None:
        """Has other workers take the rooms: a recorder goes when its successor of the same identity comes (fact 13)."""
        deadline = time.monotonic() + HANDOVER_SECONDS
        while self.active_jobs and time.monotonic() < deadline:
            names = [job.job.room.name for job in self.active_jobs]
            await asyncio.gather(*(self._ask_for_successor(name) for name in names))
            await self._rooms_go(min(deadline, time.monotonic() + SUCCESSOR_SECONDS))

    async def _rooms_go(self, deadline: float) -> None:
        while self.active_jobs and time.monotonic() < deadline:  # noqa: ASYNC110  (the framework has no event for it)
            await asyncio.sleep(JOIN_POLL_SECONDS)

    async def _handle_termination(self, termination: agent.JobTermination) -> None:
        """Nothing: a recorder goes when it is out of its room, which it notices by itself.

        When one recorder replaces another of the same identity, the server means the old one's job and names the new
        one's (1.13.3 keeps jobs by identity): obeying would leave the room without any.
        """

    async def _ask_for_successor(self, room: str) -> None:
        assert self._livekit is not None
        try:
            async with asyncio.timeout(HANDOVER_SECONDS):
                await ask_for_recorder(self._livekit, self.settings, room)
        except Exception as error:  # the next worker that starts, or looks around, finds the room
            logger.warning("No successor could be asked for: %s", error, extra={"room": room})

    async def rooms_over(self) -> None:
        """Returns when the last room has ended by itself."""
        while self._rooms_by_job():  # noqa: ASYNC110  (as above)
            await asyncio.sleep(DRAIN_POLL_SECONDS)

    def _rooms_by_job(self) -> dict[str, str]:
        return {**self._being_taken, **{job.job.id: job.job.room.sid for job in self.active_jobs}}

    def _say_ready(self, health_port: int) -> None:
        logger.info(
            "Registered with %s, ready for up to %d rooms, health on http://%s:%d/",
            self.settings.livekit_url,
            self.max_rooms,
            self.settings.health_host,
            health_port,
        )


async def _recover(settings: Settings) -> None:
    """Turns what a crash left into segments while rooms are already being recorded: each part has a lock."""
    try:
        recovered = await asyncio.to_thread(recover_all, settings)
    except OSError as error:
        logger.error("What a crash may have left cannot be looked for: %s", error.strerror or error)
        return
    if recovered:
        seconds = sum(record.duration_seconds for record in recovered)
        logger.warning("Recovered %d segments (%.1f s) that a crash had left", len(recovered), seconds)


def least_permissions(settings: Settings) -> WorkerPermissions:
    """What the recorder may do in a room: listen, answer whether it is alive (and send captions), and, unless hidden,
    say in its attributes whom it records.
    """
    return WorkerPermissions(
        can_publish=False,
        can_subscribe=True,
        can_publish_data=True,
        can_update_metadata=not settings.hidden,
        hidden=settings.hidden,
    )


def _load(worker: AgentServer) -> float:
    """The load that the server and other workers see: rooms, not the host's CPU (fact 12)."""
    assert isinstance(worker, RecorderServer)
    rooms = worker.rooms_taken()
    return FULL_LOAD if not worker.has_capacity() else BUSIEST_LOAD * rooms / worker.max_rooms


async def _reach(livekit: api.LiveKitAPI, settings: Settings) -> None:
    """Returns when the server has taken our key. Tries for as long as the trouble may heal.

    Raises:
        ConfigError: the server refuses the key or the secret.
    """
    waits = pauses(SERVER_RETRY_SECONDS)
    while True:
        try:
            await livekit.room.list_rooms(api.ListRoomsRequest(names=["-"]))
            return
        except api.TwirpError as error:
            if error.status in (401, 403):
                raise ConfigError(
                    f"LIVEKIT_API_KEY or LIVEKIT_API_SECRET is wrong: {settings.livekit_url} refuses them"
                ) from None
            reason = f"it answers {error.status} {error.code}"
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
        pause = next(waits)
        logger.error(
            "LIVEKIT_URL=%s cannot be reached: %s. Next try in %d s", settings.livekit_url, reason, pause
        )
        await asyncio.sleep(pause)


# --- jobs ---


def prewarm(process: JobProcess) -> None:
    """Loads Silero VAD and the native runtime once per process, before the first room."""
    with _prewarming:
        # Creating the client is not thread-safe: of ten first rooms, those that got a client of their own would
        # wait for events that only the last one receives. That is what fact 18b saw.
        _ = FfiClient.instance
        process.userdata["new_detector"] = load_detector(server.settings.vad_runtime)
        _spare_the_collector()


def _spare_the_collector() -> None:
    """What is loaded by now stays for good: the garbage collector need not look at it any more.

    A full collection then takes a millisecond instead of fifty, which is what makes one for each room affordable.
    """
    if gc.get_freeze_count() == 0:
        gc.collect()
        gc.freeze()


async def request(request: JobRequest) -> None:
    """Takes a room unless this worker is full or already records it. Always under the same identity (fact 13)."""
    if not is_wanted(request.room.name, server.settings.room_filter):
        logger.info("Not recorded: no pattern of ROOM_FILTER fits", extra={"room": request.room.name})
        await request.reject(terminate=True)
    elif server.is_recording(request.room.sid):
        logger.info("Already recording: second request refused", extra={"room": request.room.name})
        await request.reject(terminate=True)
    elif server.rooms_taken() >= server.max_rooms:
        worker_state.counters.refused_rooms.inc()
        logger.error("Full with %d rooms (MAX_ROOMS)", server.max_rooms, extra={"room": request.room.name})
        await request.reject(terminate=False)
    else:
        with server.taking(request.id, request.room.sid):
            await request.accept(
                identity=server.settings.agent_identity, name=server.settings.agent_display_name
            )


async def entrypoint(ctx: JobContext) -> None:
    """Joins the room and starts recording. Returns at once; the room's events do the rest until it is over."""
    gc.collect()  # rooms leave cycles behind, which by itself the collector finds only after dozens of rooms
    recorder = RoomRecorder(ctx.room, _room_info(ctx), server.settings, ctx.proc.userdata["new_detector"])
    ctx.proc.userdata["recorder"] = recorder
    server.recorders[ctx.job.id] = asyncio.get_running_loop(), recorder
    recorder.attach()
    # Never cancelled in the middle: a connect that is broken off ends the whole process 15 s later.
    while not _joining.acquire(blocking=False):  # noqa: ASYNC110  (shared by threads; a cancelled wait takes no place)
        await asyncio.sleep(JOIN_POLL_SECONDS)
    try:
        await ctx.connect(
            encryption=encryption_options(server.settings.e2ee_passphrase),
            auto_subscribe=AutoSubscribe.SUBSCRIBE_NONE,
        )
    finally:
        _joining.release()
    recorder.begin()


async def session_end(ctx: JobContext) -> None:
    """Saves everything. The framework calls this at every ordinary end, before it leaves the room (fact 15)."""
    server.recorders.pop(ctx.job.id, None)
    recorder = ctx.proc.userdata.pop("recorder", None)
    if recorder is not None:
        await recorder.aclose()


def _room_info(ctx: JobContext) -> RoomInfo:
    room = ctx.job.room
    created = room.creation_time_ms / 1000 or room.creation_time or time.time()
    return RoomInfo(room.name, room.sid, datetime.fromtimestamp(created, timezone.utc))


def _settings_or_problem() -> tuple[Settings, ConfigError | None]:
    """Importing this module never fails over a wrong setting; running the server does."""
    try:
        return Settings.from_env(environment(HERE)), None
    except ConfigError as problem:
        return Settings(), problem


server = RecorderServer(*_settings_or_problem())
server.rtc_session(
    entrypoint,
    agent_name=server.settings.agent_name,
    on_request=request,
    on_session_end=session_end,
)


# --- the command line ---

USAGE = "usage: python agent.py start | dev | check"


def main(arguments: list[str]) -> int:
    """Runs a command and returns the exit code: 0 after a signal, 1 for trouble at run time, 2 for wrong input."""
    commands: dict[str, Callable[[], int]] = {"start": start, "dev": dev, "check": check_all}
    if len(arguments) != 1 or arguments[0] not in commands:
        sys.stderr.write(USAGE + "\n")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    return commands[arguments[0]]()


def start() -> int:
    """Serves until SIGTERM or Ctrl-C."""
    set_up_logging(server.settings.log_level, server.settings.log_format, colours=_wants_colours())
    try:
        return asyncio.run(_serve_until_signal())
    except ConfigError as error:
        sys.stderr.write(_explained(error))
        return 2
    except RecorderError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Exception as error:  # one line for people; where it came from is for LOG_LEVEL=DEBUG
        logger.critical("The worker ended", exc_info=error)
        return 1


def check_all() -> int:
    """Tries everything that a lesson will need, one line each."""
    from worker.preflight import check, probes_of_targets

    async def check_with_targets() -> int:
        targets = probes_of_targets(*open_targets(server.settings)) if server.problem is None else []
        return await check(server.settings, server.problem, targets)

    set_up_logging("ERROR", "text")
    warnings.simplefilter("ignore")  # of libraries, in two lines each
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(check_with_targets())
    return 130


@dataclass
class _Stop:
    """Why and whether the worker has to stop."""

    requested: asyncio.Event = field(default_factory=asyncio.Event)
    has_panicked: bool = False


async def _serve_until_signal() -> int:
    stop = _Stop()
    _on_stop_signals(asyncio.get_running_loop(), stop)
    serving = asyncio.create_task(server.run(), name="server")
    waiting = asyncio.create_task(stop.requested.wait(), name="signal")
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        waiting.cancel()
        serving.result()  # raises what ended it
        return 1
    if stop.has_panicked:
        logger.critical("The native client has failed: saving what has been heard, to be started again")
    else:
        logger.info("Stopping: closing every open segment")
    await _stop(serving, leaves_at_once=stop.has_panicked)
    return 1 if stop.has_panicked else 0


async def _stop(serving: asyncio.Task[None], *, leaves_at_once: bool) -> None:
    if server.is_serving:
        await server.stop_taking_rooms()
        if not leaves_at_once:
            await (server.rooms_over() if server.settings.on_stop == "drain" else server.hand_over())
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                await server.aclose()
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await serving
    logger.info("Stopped")


def _on_stop_signals(loop: asyncio.AbstractEventLoop, stop: _Stop) -> None:
    """The first signal stops in order, the second at once: what is on disk is valid at every moment."""

    def on_signal(number: int, _: Any) -> None:
        if stop.requested.is_set():
            os._exit(1)
        stop.has_panicked = number == PANIC_SIGNAL
        loop.call_soon_threadsafe(stop.requested.set)

    names = ("SIGINT", "SIGTERM", "SIGBREAK", PANIC_SIGNAL.name)
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        signal.signal(number, on_signal)


def dev() -> int:
    """Runs ``start`` in a child, and again whenever a source file or the settings are saved."""
    import watchfiles

    set_up_logging("INFO", "text", colours=_wants_colours())
    with contextlib.suppress(KeyboardInterrupt):
        child = _start_child()
        try:
            for changes in watchfiles.watch(*_sources(), watch_filter=_is_source, recursive=False):
                names = ", ".join(sorted({Path(path).name for _, path in changes}))
                logger.info("%s changed: restarting", names)
                _stop_child(child)
                child = _start_child()
        finally:
            _stop_child(child)
    return 0


def _sources() -> list[Path]:
    """The folders with our modules; neither the environment nor what is recorded."""
    return [HERE, *(HERE / name for name in PACKAGES)]


def _is_source(_: object, path: str) -> bool:
    name = Path(path).name
    return name.endswith(".py") or name in (".env", ".env.local")


def _start_child() -> subprocess.Popen[bytes]:
    flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    return subprocess.Popen([sys.executable, str(HERE / "agent.py"), "start"], creationflags=flags)


def _stop_child(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
    try:
        child.wait(STOP_TIMEOUT_SECONDS + 5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _wants_colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _explained(error: ConfigError) -> str:
    """The problems, and for a first start where settings go."""
    if os.environ.get("LIVEKIT_URL") or (HERE / ".env").exists() or (HERE / ".env.local").exists():
        return f"{error}\n"
    hint = "Put the settings into a file named .env beside agent.py (start from .env.example) or the environment."
    return f"{error}\n{hint}\n"


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # Everything is saved and closed. The native client may abort while the interpreter goes down, so it does not.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
