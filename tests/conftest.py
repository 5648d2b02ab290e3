"""Fixtures: a real livekit-server for the whole run, workers and browsers that end with their test."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol, TypeVar

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings
from livekit import api

from delivery.postgres import PostgresTarget
from devtools.browser import find_or_install, launched
from devtools.livekit_server import LiveKitServer, find_or_build
from devtools.machine import ProgramUnavailable, found_or_installed, is_build_machine, on_path
from devtools.postgres_server import PostgresServer
from devtools.s3_server import S3Server
from devtools.speakers import administration
from devtools.wire import NoWire, Wire
from devtools.worker import AGENT, Worker
from support.compiling import pytest_collection  # noqa: F401  (pytest finds these by name)
from support.fault_table import pytest_addoption, seen, set_up_table  # noqa: F401
from support.stages import pytest_collection_modifyitems  # noqa: F401
from support.stalls import record_stalls  # noqa: F401

if TYPE_CHECKING:
    from playwright.async_api import Browser

T = TypeVar("T")


def pytest_configure(config: pytest.Config) -> None:
    """Makes SIGTERM clean up like a Ctrl-C: no server or worker is left running."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    # How fast a machine makes examples is no property of the code.
    settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("unhurried")
    set_up_table(config)


@pytest.fixture(autouse=True)
def no_flushing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit tests do not wait for the disk: none cuts the power, and other programs keep a disk busy for seconds."""

    def fsync(descriptor: int) -> None:
        os.fstat(descriptor)

    if request.node.get_closest_marker("unit"):
        monkeypatch.setattr(os, "fsync", fsync)


@pytest.fixture(scope="session", autouse=True)
def certificates_read_once() -> Iterator[None]:
    """A client of Gemini reads the root certificates three times, which takes longer than most tests of it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="session")
def livekit_server_binary() -> Path:
    return find_or_build(print)


@pytest.fixture(scope="session")
def livekit_server(
    livekit_server_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveKitServer]:
    """One for all tests: use room names of your own. A test that stops or restarts a server makes its own."""
    log = tmp_path_factory.mktemp("livekit") / "livekit-server.log"
    with LiveKitServer(livekit_server_binary, log=log) as server:
        yield server


class StartWorker(Protocol):
    """``await worker(...)``: a running worker, its output in the test's own folder."""

    async def __call__(
        self,
        *,
        server: LiveKitServer | None = None,
        output_dir: Path | None = None,
        within: Sequence[str] = (),
        program: Path = AGENT,
        **settings: str,
    ) -> Worker: ...


async def delete_rooms(server: LiveKitServer) -> None:
    """A worker would also record the rooms in which an earlier test has left somebody."""
    async with administration(server) as livekit:
        for room in (await livekit.room.list_rooms(api.ListRoomsRequest())).rooms:
            await livekit.room.delete_room(api.DeleteRoomRequest(room=room.name))


@pytest_asyncio.fixture
async def worker(livekit_server: LiveKitServer, tmp_path: Path) -> AsyncIterator[StartWorker]:
    """Starts workers: ``recorder = await worker(RECORD="everyone")``. They are stopped when the test is over."""
    started: list[Worker] = []
    await delete_rooms(livekit_server)

    async def start(
        *,
        server: LiveKitServer | None = None,
        output_dir: Path | None = None,
        within: Sequence[str] = (),
        program: Path = AGENT,
        **settings: str,
    ) -> Worker:
        folder = output_dir or tmp_path / "segments"
        made = Worker(server or livekit_server, folder, settings=settings, within=within, program=program)
        started.append(made)
        await made.start()
        return made

    yield start
    for one in started:
        await one.stop()
        sys.stdout.write(f"{one.log}\n")  # pytest shows it if the test has failed


@pytest.fixture(scope="session")
def shared_worker(livekit_server_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker with default settings and a server of its own, for tests that need no more than a room.

    Use room names of your own: ``recorder = shared_worker.in_room("lesson")``.
    """
    with LiveKitServer(livekit_server_binary) as server:
        made = Worker(server, tmp_path_factory.mktemp("shared") / "segments")
        asyncio.run(made.start())
        yield made
        asyncio.run(made.stop())


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A simulated link to another network namespace; its tests are skipped, with the reason, where none can be made."""
    try:
        with contextlib.ExitStack() as stack:
            yield _or_skipped(lambda: stack.enter_context(Wire()))
    except NoWire as refused:
        pytest.skip(str(refused))


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server) -> S3Server:
    """A fresh S3: one empty bucket, and no faults."""
    s3_server.reset()
    return s3_server


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    with contextlib.ExitStack() as stack:
        yield _or_skipped(lambda: stack.enter_context(PostgresServer()))


@pytest.fixture(scope="module")
def pooler_port(postgres_server: PostgresServer) -> int:
    """Where a pooler in transaction mode stands before the database."""
    return _or_skipped(postgres_server.start_pooler)


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> PostgresServer:
    """The server without any tables."""
    postgres_server.reset()
    return postgres_server


@pytest_asyncio.fixture
async def database(empty_database: PostgresServer) -> PostgresServer:
    """The server with empty tables."""
    target = PostgresTarget(empty_database.url())
    await target.migrate()
    await target.aclose()
    return empty_database


@pytest.fixture(scope="session")
def chromium() -> Path:
    return _or_skipped(find_or_install)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_browser(chromium: Path) -> AsyncIterator[Browser]:
    async with launched(chromium) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def browser(running_browser: Browser) -> AsyncIterator[Browser]:
    """A Chromium without a window, driven by Playwright, one for each module; every context ends with its test.

    Mark its tests with ``browser``, and with ``asyncio(loop_scope="module")``.
    """
    yield running_browser
    for context in running_browser.contexts:
        await context.close()


class Tool(Protocol):
    """``tool(arguments...)``: what a program writes to stdout. Any error or warning fails the test."""

    def __call__(self, *arguments: str | Path) -> bytes: ...


def _tool(program: str, package: str) -> Tool:
    path = _or_skipped(lambda: found_or_installed(lambda: on_path(program), program, package))

    def run(*arguments: str | Path) -> bytes:
        done = subprocess.run([path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode(errors="replace")
        return done.stdout

    return run


@pytest.fixture(scope="session")
def ffmpeg() -> Tool:
    return functools.partial(_tool("ffmpeg", "ffmpeg"), "-nostdin", "-v", "warning")


@pytest.fixture(scope="session")
def ffprobe() -> Tool:
    return functools.partial(_tool("ffprobe", "ffmpeg"), "-v", "warning", "-of", "json")


@pytest.fixture(scope="session")
def sox() -> Tool:
    return _tool("sox", "sox")


def _or_skipped(find: Callable[[], T]) -> T:
    """A person's machine may lack a program; where every change is checked, nothing is skipped."""
    try:
        return find()
    except ProgramUnavailable as unavailable:
        if is_build_machine():
            raise
        pytest.skip(str(unavailable))
