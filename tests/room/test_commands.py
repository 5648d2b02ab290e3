"""The output of ``python agent.py``: one clear line for each mistake, and the right exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from conftest import StartWorker
from devtools import sound
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import TEACHER, recorded, until
from devtools.speakers import Speaker
from devtools.worker import AGENT, Worker, WorkerFailed
from support.program import copy_program

pytestmark = pytest.mark.e2e

USAGE = "usage: python agent.py start | dev | check\n"
POSIX_ONLY = pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")


def run(
    *arguments: str, settings: Mapping[str, str] | None = None, cwd: Path = AGENT.parent
) -> subprocess.CompletedProcess[str]:
    """Runs ``python agent.py`` to its end, with these settings and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIVEKIT_")}
    return subprocess.run(
        [sys.executable, "agent.py", *arguments],
        cwd=cwd,
        env={**kept, **(settings or {})},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the program without any .env of the developer's."""
    folder = tmp_path / "project"
    folder.mkdir()
    copy_program(folder)
    return folder


def test_without_settings_it_names_those_that_are_required(project: Path) -> None:
    result = run("start", cwd=project)
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    for line, name in zip(lines, ["LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"], strict=False):
        assert line.startswith(f"{name} is not set: ")
    assert ".env" in lines[3]
    assert len(lines) == 4


def test_a_wrong_value_is_one_line(project: Path) -> None:
    (project / ".env").write_text("LIVEKIT_URL=ws://127.0.0.1:1\nLIVEKIT_API_KEY=k\nLIVEKIT_API_SECRET=s\n")
    result = run("start", cwd=project, settings={"SAVE_AUDIO": "maybe"})
    assert result.returncode == 2
    assert result.stderr == "SAVE_AUDIO=maybe is wrong: it must be true or false\n"


def test_a_wrong_command_shows_the_right_ones(project: Path) -> None:
    result = run("record", cwd=project)
    assert (result.returncode, result.stderr) == (2, USAGE)


def test_no_command_and_one_too_many_show_the_right_ones(project: Path) -> None:
    script = "import agent; print(agent.main([]), agent.main(['start', 'now']))"
    ended = subprocess.run([sys.executable, "-c", script], cwd=project, capture_output=True, encoding="utf-8")
    assert (ended.stdout.split(), ended.stderr) == (["2", "2"], 2 * USAGE)


def test_an_output_dir_that_cannot_be_used_is_one_line(livekit_server: LiveKitServer, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    result = run("start", settings={**livekit_server.environment(), "OUTPUT_DIR": str(file)})
    assert result.returncode == 1
    assert result.stderr.startswith(f"OUTPUT_DIR={file} cannot be used: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can mount a read-only folder"
)
def test_a_read_only_output_dir_is_one_line(livekit_server: LiveKitServer) -> None:
    result = run("start", settings={**livekit_server.environment(), "OUTPUT_DIR": "/proc/segments"})
    assert result.returncode == 1
    assert result.stderr.startswith("OUTPUT_DIR=/proc/segments cannot be used: ")


@pytest.mark.parametrize("wrong", ["LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"])
def test_a_wrong_key_ends_it_with_one_line(livekit_server: LiveKitServer, tmp_path: Path, wrong: str) -> None:
    settings = {**livekit_server.environment(), wrong: "x" * 40, "OUTPUT_DIR": str(tmp_path / "segments")}
    result = run("start", settings=settings)
    assert result.returncode == 2
    assert result.stderr == (
        f"LIVEKIT_API_KEY or LIVEKIT_API_SECRET is wrong: {livekit_server.url} refuses them\n"
    )


async def test_a_server_that_cannot_be_reached_is_tried_again(
    livekit_server: LiveKitServer, tmp_path: Path
) -> None:
    worker = Worker(livekit_server, tmp_path / "segments", settings={"LIVEKIT_URL": "ws://127.0.0.1:9"})
    worker.launch()
    line = await worker.wait_for("LIVEKIT_URL=ws://127.0.0.1:9 cannot be reached")
    assert "Next try in" in line
    await worker.wait_for("cannot be reached", skip_lines=len(worker.lines))
    assert worker.exit_code is None
    assert await worker.stop() == 0
    assert "Traceback" not in worker.log


async def test_a_taken_health_port_is_a_warning(worker: StartWorker) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        recorder = await worker(HEALTH_PORT=str(port))
    assert f"HEALTH_PORT={port} cannot be used" in recorder.log
    assert "Registered with" in recorder.log


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for this signal, on Linux; elsewhere one second is left for it."""
    if sys.platform != "linux":
        return time.time() - psutil.Process(pid).create_time() > 1
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@POSIX_ONLY
async def test_a_signal_while_it_starts_ends_it_at_once(
    livekit_server: LiveKitServer, tmp_path: Path
) -> None:
    worker = Worker(livekit_server, tmp_path / "segments")
    worker.launch()
    await until(lambda: catches(worker.pid, signal.SIGTERM), "it has a handler", timeout=10)
    started = time.monotonic()
    assert await worker.stop() == 0
    assert time.monotonic() - started < 5
    assert "Traceback" not in worker.log


@POSIX_ONLY
async def test_a_second_signal_ends_it_at_once(livekit_server: LiveKitServer, worker: StartWorker) -> None:
    recorder = await worker()
    os.kill(recorder.pid, signal.SIGTERM)
    os.kill(recorder.pid, signal.SIGTERM)
    await until(lambda: recorder.exit_code is not None, "the worker ended")


async def test_dev_restarts_on_a_saved_file_and_records_on(
    livekit_server: LiveKitServer, project: Path, tmp_path: Path
) -> None:
    output_dir = tmp_path / "segments"
    environment = {**os.environ, **livekit_server.environment(), "OUTPUT_DIR": str(output_dir)}
    environment |= {"HEALTH_PORT": "0", "RECONCILE_SECONDS": "1", "PYTHONUNBUFFERED": "1"}
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "agent.py", "dev"], cwd=project, env=environment, stdout=file, stderr=file
        )
    try:
        await until(lambda: "Registered with" in log.read_text(), "ready", 60)
        async with await Speaker.join(livekit_server, "dev", "anna", metadata=TEACHER) as teacher:
            await teacher.publish()
            await until(lambda: "Track subscribed" in log.read_text(), "subscribed")
            await teacher.silence(0.5)
            await teacher.say(sound.sequence(sound.markers()[:2], 0.3, tail_seconds=0.5)[0])
            (project / ".env").write_text("AGENT_DISPLAY_NAME=changed\n")
            await until(lambda: ".env changed: restarting" in log.read_text(), "noticed")
            await until(lambda: log.read_text().count("Track subscribed") == 2, "picked up again", 60)
            await teacher.silence(0.5)
            await teacher.say(sound.sequence(sound.markers()[2:4], 0.3, tail_seconds=0.5)[0])
        await until(lambda: log.read_text().count("Room over") == 2, "over")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert sound.heard(recorded(output_dir / "dev"), sound.markers()) == [0, 1, 2, 3]
    assert "Traceback" not in log.read_text()


@POSIX_ONLY
async def test_ctrl_c_in_dev_saves_what_is_being_spoken(
    livekit_server: LiveKitServer, project: Path, tmp_path: Path
) -> None:
    """The terminal sends SIGINT to every process of its group, and dev passes the stop on to the worker."""
    output_dir, rooms = tmp_path / "segments", ("ctrl-c-1", "ctrl-c-2")
    environment = {**os.environ, **livekit_server.environment(), "OUTPUT_DIR": str(output_dir)}
    environment |= {"HEALTH_PORT": "0", "RECONCILE_SECONDS": "1", "PYTHONUNBUFFERED": "1"}
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "agent.py", "dev"],
            cwd=project,
            env=environment,
            stdout=file,
            stderr=file,
            process_group=0,
        )
    try:
        await until(lambda: "Registered with" in log.read_text(), "ready", 60)
        async with contextlib.AsyncExitStack() as lessons:
            teachers = [
                await lessons.enter_async_context(
                    await Speaker.join(livekit_server, room, "anna", metadata=TEACHER)
                )
                for room in rooms
            ]
            for teacher in teachers:
                await teacher.publish()
            await until(lambda: log.read_text().count("Track subscribed") == 2, "subscribed")
            spoken = sound.sequence(sound.markers()[:6], 0.1)[0]
            talks = [asyncio.create_task(teacher.say(spoken)) for teacher in teachers]
            await until(lambda: len(list(output_dir.glob("*/*.wav.part"))) == 2, "both are being spoken")
            os.killpg(process.pid, signal.SIGINT)
            await until(lambda: process.poll() is not None, "dev has ended", 30)
            for talk in talks:
                talk.cancel()
            await asyncio.gather(*talks, return_exceptions=True)
    finally:
        process.kill()
    assert not list(output_dir.glob("*/*.wav.part"))
    for room in rooms:
        assert sound.heard(recorded(output_dir / room), sound.markers())
    assert "Stopped" in log.read_text()
    assert "Traceback" not in log.read_text()


async def test_the_worker_fixture_reports_a_worker_that_fails(worker: StartWorker) -> None:
    with pytest.raises(WorkerFailed, match="SAVE_AUDIO=maybe is wrong"):
        await worker(SAVE_AUDIO="maybe")


PANIC = """
import agent, ctypes
from livekit.rtc import _ffi_client
from livekit.rtc._proto.ffi_pb2 import FfiEvent

event = FfiEvent()
event.panic.message = "something impossible"
data = event.SerializeToString()
_ffi_client.ffi_event_callback((ctypes.c_uint8 * len(data)).from_buffer_copy(data), len(data))
"""


@POSIX_ONLY
def test_a_panic_of_the_native_client_ends_the_process_of_a_room() -> None:
    """Without special care such a process would ignore SIGTERM and record nothing (fact 23)."""
    ended = subprocess.run([sys.executable, "-c", PANIC], cwd=AGENT.parent, capture_output=True, timeout=60)
    assert ended.returncode == -signal.SIGABRT
    assert b"something impossible" in ended.stderr
