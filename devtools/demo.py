"""The demo: a teacher lectures for a minute in a room, a student talks at the same time, and the worker records.

Everything runs on this machine: a livekit-server, the worker as ``python agent.py start`` runs it, and the two
participants. Only the text comes from Gemini, if GEMINI_API_KEY is set (in the environment or in ``.env``). Without a
key a local stand-in produces the text: it recognises the lecture by its sound and does not translate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

from config import environment
from core.logs import end_at_once
from devtools.demo_lesson import POLL_SECONDS, ROOM, SPEECH, STUDENT, TEACHER, DemoFailed, Lesson
from devtools.demo_page import PageFailed, show_page
from devtools.demo_result import show_table, show_verdict
from devtools.demo_screen import say
from devtools.gemini_server import KEY, GeminiServer
from devtools.known_speech import KnownSpeech
from devtools.livekit_server import LiveKitServer, ServerUnavailable, find_or_build
from devtools.speakers import token
from devtools.worker import Worker, WorkerFailed

ROOT = Path(__file__).resolve().parent.parent

MAX_SILENCE_SECONDS = 30.0
"""A worker that writes nothing to its log for so long has failed."""
LANGUAGES = ("es", "ar")
USER_SETTINGS = ("GEMINI_API_KEY", "GEMINI_MODEL", "GEMINI_THINKING", "GOOGLE_GEMINI_BASE_URL")
"""Settings that the demo takes from the user's environment."""


def main() -> int:
    options = _options()
    for number in _STOP_SIGNALS:
        signal.signal(number, _interrupt)
    try:
        binary = find_or_build(say)
        return asyncio.run(_until_signal(_demo(binary, options)))
    except KeyboardInterrupt:
        say("Stopped.")
        return 130
    except (ServerUnavailable, WorkerFailed, DemoFailed, PageFailed, OSError) as error:
        say(f"The demo failed: {error}")
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python dev.py demo", description="Records a lecture on this machine."
    )
    parser.add_argument(
        "--keep", action="store_true", help="afterwards keep server and worker running, for a browser"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "demo-output",
        help="folder for the demo's folders (./demo-output)",
    )
    return parser.parse_args()


async def _demo(binary: Path, options: argparse.Namespace) -> int:
    folder = _fresh_folder(options.output)
    lesson = Lesson(folder / ROOM)
    with LiveKitServer(binary, log=folder / "livekit-server.log") as server:
        say(f"livekit-server runs on {server.url}")
        async with _gemini() as settings:
            worker = Worker(server, folder, settings=settings, log=folder / "worker.log")
            say(f"Starting the worker, log in {folder / 'worker.log'} ...")
            async with worker:
                await _record(worker, server, lesson, options)
    show_table(lesson)
    code = show_verdict(lesson, LANGUAGES)
    show_page(folder, ROOM, say)
    return code


async def _record(worker: Worker, server: LiveKitServer, lesson: Lesson, options: argparse.Namespace) -> None:
    await _unless_worker_fails(worker, lesson.run(server, worker))
    if options.keep:
        show_table(lesson)
        _show_tokens(server)
        await _unless_worker_fails(worker, lesson.show_segments(), may_be_silent=True)


@contextlib.asynccontextmanager
async def _gemini() -> AsyncIterator[dict[str, str]]:
    """The worker's settings for text: the real Gemini if the user has a key, else a local stand-in.

    The stand-in runs as long as this context.
    """
    text = {"SAVE_TRANSLATIONS": "true", "TARGET_LANGUAGES": ",".join(LANGUAGES)}
    users = environment(ROOT)
    if users.get("GEMINI_API_KEY", "").strip():
        say("Text: the real Gemini, with your GEMINI_API_KEY (the lecture costs less than a cent).")
        yield {**text, **{name: users[name] for name in USER_SETTINGS if users.get(name)}}
        return
    say(
        "Text: a local stand-in for Gemini, because GEMINI_API_KEY is not set. It recognises the lecture by its"
    )
    say("sound, and marks what Gemini would translate.")
    lecture = KnownSpeech.load(SPEECH, "lecture")
    async with GeminiServer(hear=lecture.words_in) as server:
        yield {**text, "GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": server.url}


# --- failures and signals ------------------------------------------------------------------------------------------


async def _unless_worker_fails(
    worker: Worker, work: Coroutine[Any, Any, None], *, may_be_silent: bool = False
) -> None:
    """Runs the work; stops as soon as the worker has ended, or has written nothing to its log for too long.

    Raises:
        WorkerFailed: the worker failed before the work was done.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_watch(worker, may_be_silent))
    try:
        done, _ = await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.wait({working, watching})


async def _watch(worker: Worker, may_be_silent: bool) -> None:
    while True:
        if worker.exit_code is not None:
            raise WorkerFailed(f"the worker ended with {worker.exit_code}. Its last lines:\n{worker.tail()}")
        silence = time.monotonic() - worker.last_line_at
        if silence > MAX_SILENCE_SECONDS and not may_be_silent:
            raise WorkerFailed(
                f"the worker has logged nothing for {silence:.0f} s. Its last lines:\n{worker.tail()}"
            )
        await asyncio.sleep(POLL_SECONDS)


async def _until_signal(work: Coroutine[Any, Any, int]) -> int:
    """Runs the work. The first stop signal cancels it; later ones are ignored while it ends what it started.

    Raises:
        KeyboardInterrupt: a signal cancelled the work.
    """
    loop, working = asyncio.get_running_loop(), asyncio.create_task(work)

    def stop(number: int, frame: FrameType | None) -> None:
        for name in _STOP_SIGNALS:
            signal.signal(name, signal.SIG_IGN)
        loop.call_soon_threadsafe(working.cancel)

    for name in _STOP_SIGNALS:
        signal.signal(name, stop)
    try:
        return await working
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


_STOP_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _show_tokens(server: LiveKitServer) -> None:
    say("")
    say(f"Server and worker keep running. URL {server.url}, room {ROOM}. Ctrl-C ends both.")
    for role in (TEACHER, STUDENT):
        access = token(server, role, ROOM, name=role.title(), metadata=json.dumps({"role": role}))
        say(f"\n{role} token: {access}")
        say(
            f"{role} in a browser on this machine: https://meet.livekit.io/custom?liveKitUrl={quote(server.url)}&token={access}"
        )
    say("")


def _fresh_folder(parent: Path) -> Path:
    name = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    folder = (parent / name).resolve()
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    end_at_once(main())
