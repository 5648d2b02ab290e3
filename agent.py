"""The worker: joins every room that LiveKit dispatches to it and records the teachers there.

python agent.py start      in production
python agent.py dev        restarts whenever a .py file or .env is saved
python agent.py check      tests settings, disk, server and keys before a lesson needs them
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from core.memory import limit_arenas

if __name__ == "__main__":
    limit_arenas()  # before the imports below start threads
    # The first process of a container ignores signals without a handler, and the imports below take seconds.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if sys.argv[1:] == ["start"]:
        from worker.supervisor import run_if_several

        # Before the framework is loaded: the parent of several workers does not need it.
        run_if_several(Path(__file__).resolve())

# By default the framework loads an end-of-turn model of 244 MB, which a recorder never uses (fact 18).
os.environ.setdefault("LIVEKIT_AGENTS_PRELOAD_LOCAL_INFERENCE", "0")
# Nor does it need the framework's watchdog of each event loop, which wakes two threads fifty times a second.
os.environ.setdefault("LIVEKIT_AGENTS_LOOP_BLOCK_WARN_MS", "0")

import livekit_compat  # before the framework

# isort: split
from livekit import rtc
from livekit.agents import AutoSubscribe, JobContext, JobProcess, JobRequest
from livekit.rtc._ffi_client import FfiClient

from config import Settings, environment
from core.errors import ConfigError, RecorderError
from core.logs import end_at_once, set_up_logging
from core.records import RoomInfo
from core.threads import ImpatientPool
from core.worker_state import worker_state
from delivery.targets import open_targets
from recording.encryption import encryption_options
from recording.event_routing import route_events
from recording.native_logs import drop_native_logs
from recording.room_recorder import RoomRecorder
from recording.speech_detector import load_detector
from worker.reconciler import is_wanted
from worker.recorder_server import RecorderServer
from worker.stop import SERVICES_STOP_SECONDS, STOP_TIMEOUT_SECONDS, StopRequest, stop_on_signals
from worker.supervisor import NUMBER, stop_at_end_of_input

logger = logging.getLogger("recorder")

livekit_compat.disable_log_upload()

HERE = Path(__file__).resolve().parent

SWITCH_SECONDS = 0.0005
"""After so long a thread of Python passes the interpreter on to another that waits for it. The native client waits for
it on its own threads whenever it has an event, and passes on nothing else meanwhile: with Python's default of 5 ms,
rooms that open together wait for each other."""
_prewarming = threading.Lock()


# --- jobs ---


def prewarm(process: JobProcess) -> None:
    """Loads Silero VAD and the native runtime once per process, before the first room."""
    with _prewarming:
        # Creating the client is not thread-safe: if rooms join at once, some get a client of their own, and wait for
        # events that only the last one receives (fact 18b).
        drop_native_logs()
        route_events(FfiClient.instance)
        process.userdata["new_detector"] = load_detector(server.settings.vad_runtime)
        _freeze_garbage_collector()


def _freeze_garbage_collector() -> None:
    """Excludes all objects that are loaded by now from garbage collection, as they are never freed.

    A full collection then takes 1 ms instead of 50, so that one for each room is affordable.
    """
    if gc.get_freeze_count() == 0:
        gc.collect()
        gc.freeze()


async def request(request: JobRequest) -> None:
    """Takes a room, unless it is filtered out, already recorded, or one too many. The identity is fixed (fact 13)."""
    if not is_wanted(request.room.name, server.settings.room_filter):
        logger.info("Not recorded: no pattern of ROOM_FILTER matches", extra={"room": request.room.name})
        await request.reject(terminate=True)
    elif server.is_recording(request.room.sid):
        logger.info("Already recording: second request refused", extra={"room": request.room.name})
        await request.reject(terminate=True)
    elif not server.has_capacity():
        worker_state.counters.refused_rooms.inc()
        logger.error(server.why_full(), extra={"room": request.room.name})
        await request.reject(terminate=False)
    else:
        with server.taking(request.id, request.room.sid):
            await server.report_load()
            await request.accept(
                identity=server.settings.agent_identity, name=server.settings.agent_display_name
            )


async def entrypoint(ctx: JobContext) -> None:
    """Joins the room and starts recording, then returns. From then on the room's events drive the recorder."""
    gc.collect()  # rooms leave reference cycles, which automatic collection finds only after dozens of rooms
    recorder = RoomRecorder(
        ctx.room,
        _room_info(ctx),
        server.settings,
        ctx.proc.userdata["new_detector"],
        server.session_over,
    )
    ctx.proc.userdata["recorder"] = recorder
    server.recorders[ctx.job.id] = asyncio.get_running_loop(), recorder
    recorder.attach()
    await recorder.prepare()
    try:
        async with server.joins.turn(may_have_speech=ctx.job.room.num_publishers > 0):
            # This must not be cancelled: a connect that is cancelled ends the whole process 15 s later.
            await ctx.connect(
                encryption=encryption_options(server.settings.e2ee_passphrase),
                auto_subscribe=AutoSubscribe.SUBSCRIBE_NONE,
            )
    except rtc.ConnectError as error:  # the reconciler asks again
        logger.error("The room cannot be joined: %s", error, extra={"room": ctx.job.room.name})
        ctx.shutdown("not connected")
        return
    recorder.begin()


async def session_end(ctx: JobContext) -> None:
    """Saves everything. The framework calls this at every ordinary end of a job, before the room is left (fact 15)."""
    server.recorders.pop(ctx.job.id, None)
    recorder = ctx.proc.userdata.pop("recorder", None)
    if recorder is not None:
        await recorder.aclose()


def _room_info(ctx: JobContext) -> RoomInfo:
    room = ctx.job.room
    created = room.creation_time_ms / 1000 or room.creation_time or time.time()
    return RoomInfo(room.name, room.sid, datetime.fromtimestamp(created, UTC))


def _settings_or_problem() -> tuple[Settings, ConfigError | None]:
    """The settings, or defaults and the error: a wrong setting must fail when the server runs, not at import."""
    try:
        return Settings.from_env(environment(HERE)), None
    except ConfigError as problem:
        return Settings(), problem


server = RecorderServer(*_settings_or_problem(), prewarm)
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
    sys.setswitchinterval(SWITCH_SECONDS)
    settings = server.settings
    number = os.environ.get(NUMBER, "")
    set_up_logging(settings.log_level, settings.log_format, colours=_wants_colours(), worker=number)
    try:
        return asyncio.run(_serve_until_signal())
    except ConfigError as error:
        sys.stderr.write(_explained(error))
        return 2
    except RecorderError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Exception as error:  # in one line; the traceback is for LOG_LEVEL=DEBUG
        logger.critical("The worker ended", exc_info=error)
        return 1


def check_all() -> int:
    """Tests everything that a lesson will need, and prints a line about each."""
    from worker.preflight import check, probes_of_targets

    async def check_with_targets() -> int:
        targets = probes_of_targets(*open_targets(server.settings)) if server.problem is None else []
        return await check(server.settings, server.problem, targets)

    set_up_logging("ERROR", "text")
    warnings.simplefilter("ignore")  # warnings of libraries would take two lines each
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(check_with_targets())
    return 130


async def _serve_until_signal() -> int:
    stop = StopRequest()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ImpatientPool(thread_name_prefix="worker"))
    stop_on_signals(loop, stop)
    stop_at_end_of_input(loop, stop.requested.set)
    serving = asyncio.create_task(server.run(), name="server")
    waiting = asyncio.create_task(stop.requested.wait(), name="signal")
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        waiting.cancel()
        serving.result()  # raises what ended it
        return 1
    if stop.has_panicked:
        logger.critical(
            "The native client has failed: saving what was received, then exiting so that the host restarts the worker"
        )
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
    await asyncio.wait({serving}, timeout=SERVICES_STOP_SECONDS)
    logger.info("Stopped")


def dev() -> int:
    """Runs ``start`` in a child process, and restarts it whenever a source file or the settings are saved."""
    from worker.dev_reload import run_and_reload

    set_up_logging("INFO", "text", colours=_wants_colours())
    return run_and_reload(HERE / "agent.py")


def _wants_colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _explained(error: ConfigError) -> str:
    """The problems, one per line, and a hint where to put the settings if there are none at all."""
    if os.environ.get("LIVEKIT_URL") or (HERE / ".env").exists() or (HERE / ".env.local").exists():
        return f"{error}\n"
    hint = "Put the settings into a file named .env beside agent.py (start from .env.example) or the environment."
    return f"{error}\n{hint}\n"


if __name__ == "__main__":
    end_at_once(main(sys.argv[1:]))  # by now everything is saved and closed
