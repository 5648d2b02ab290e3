"""Several worker processes: they are started, restarted and stopped, and one answer is given for all of them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from config import Settings
from devtools.room_folders import until
from support import ROOT
from worker.fleet_health import Answer, merged, verdict
from worker.supervisor import shared

pytestmark = pytest.mark.slow

WORKER = """
import http.server, os, pathlib, sys, threading

number, folder = os.environ["WORKER_NUMBER"], pathlib.Path(os.environ["FOLDER"])
os.write(1, f"worker {number} starts\\n".encode())  # in one piece, as the workers share the log
if (folder / f"wrong-{number}").exists():
    sys.exit(2)

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        is_sick = (folder / f"sick-{number}").exists()
        self.send_response(503 if is_sick else 200)
        self.end_headers()
        if self.path == "/metrics":
            self.wfile.write(b"# HELP recorder_rooms Rooms\\n# TYPE recorder_rooms gauge\\n")
            self.wfile.write(f"recorder_rooms {number}\\n".encode())
        else:
            self.wfile.write(b"the disk refuses\\n" if is_sick else b"OK\\n")

    def log_message(self, *_): pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health)
pathlib.Path(os.environ["WORKER_PORT_FILE"]).write_text(str(server.server_port))
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
os.write(1, f"worker {number} stops\\n".encode())
os._exit(0)
"""

PARENT = """
import os, pathlib, sys
from worker import supervisor

if "LOOK_SECONDS" in os.environ:
    supervisor.LOOK_SECONDS = float(os.environ["LOOK_SECONDS"])
supervisor.RESTART_SECONDS = (0.0, 0.1)
supervisor.run_if_several(pathlib.Path(sys.argv[1]))
print("not several")
"""


class Parent:
    """A parent of simple workers, and what all of them have printed."""

    def __init__(self, folder: Path, workers: int, variables: Mapping[str, str]) -> None:
        program = folder / "worker.py"
        program.write_text(WORKER, encoding="utf-8")
        self.folder = folder
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PARENT, str(program)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "LIVEKIT_URL": "ws://127.0.0.1:1",
                    "LIVEKIT_API_KEY": "k",
                    "LIVEKIT_API_SECRET": "s" * 32,
                    "WORKERS": str(workers),
                    "METRICS": "true",
                    "HEALTH_PORT": "0",
                    "FOLDER": str(folder),
                    **variables,
                },
            )

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        told = re.search(r"health on (http://\S+)/", self.log)
        if told is None:
            return 0, ""
        try:
            with urllib.request.urlopen(told[1] + path, timeout=5) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    async def until_log(self, text: str, times: int = 1) -> None:
        await until(lambda: self.log.count(text) >= times, f"{text} is logged {times} times", timeout=30)

    async def until_healthy(self) -> None:
        await until(lambda: self.get("/") == (200, "OK\n"), "all are well", timeout=30)

    def end(self) -> int:
        if sys.platform == "win32":
            self.process.kill()
        else:
            self.process.terminate()
        return self.process.wait(30)


@contextmanager
def parent(folder: Path, workers: int = 2, **variables: str) -> Iterator[Parent]:
    running = Parent(folder, workers, variables)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def pid_of(running: Parent, number: int) -> int:
    import psutil

    return next(
        child.pid
        for child in psutil.Process(running.process.pid).children()
        if child.environ().get("WORKER_NUMBER") == str(number)
    )


async def test_all_workers_run_and_stop_with_their_parent(tmp_path: Path) -> None:
    with parent(tmp_path, 3) as running:
        await running.until_healthy()
        assert running.get("/live")[0] == 200
        _, metrics = running.get("/metrics")
        assert [f'recorder_rooms{{worker="{number}"}} {number}.0' in metrics for number in (1, 2, 3)] == [
            True
        ] * 3
        assert metrics.count("# TYPE recorder_rooms") == 1
        if sys.platform != "win32":
            assert running.end() == 0
            assert running.log.count(" stops") == 3


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be asked to end there")
async def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    with parent(tmp_path) as running:
        await running.until_healthy()
        for times in (2, 3):
            os.kill(pid_of(running, 2), signal.SIGKILL)
            await running.until_log("worker 2 starts", times)
        await running.until_healthy()
        assert running.log.count("worker 1 starts") == 1
        assert "Worker 2 has ended (SIGKILL): starting it again in 0 s" in running.log


async def test_a_worker_that_needs_a_restart_is_restarted(tmp_path: Path) -> None:
    with parent(tmp_path, LOOK_SECONDS="0.1") as running:
        await running.until_healthy()
        (tmp_path / "sick-1").touch()
        await running.until_log("Worker 1 does not answer, or needs a restart")
        assert running.get("/") in (
            (503, "worker 1: the disk refuses\n"),
            (503, "worker 1: does not answer\n"),
        )
        assert running.get("/live")[0] == 200, "the other worker is well"
        (tmp_path / "sick-1").unlink()
        await running.until_log("worker 1 starts", 2)
        await running.until_healthy()


async def test_wrong_settings_end_all_workers(tmp_path: Path) -> None:
    (tmp_path / "wrong-2").touch()
    with parent(tmp_path) as running:
        assert await asyncio.to_thread(running.process.wait, 30) == 2
        assert "starting it again" not in running.log


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
async def test_sighup_restarts_one_worker_after_the_other(tmp_path: Path) -> None:
    with parent(tmp_path) as running:
        await running.until_healthy()
        running.process.send_signal(signal.SIGHUP)
        await running.until_log("All workers have been restarted")
        told = [line for line in running.log.splitlines() if line.startswith("worker ")]
        assert told[2:] == ["worker 1 stops", "worker 1 starts", "worker 2 stops", "worker 2 starts"]


async def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    with parent(tmp_path) as running:
        await running.until_healthy()
        running.process.kill()
        running.process.wait()
        await running.until_log(" stops", 2)


@pytest.mark.parametrize("workers", ["1", "many"])
def test_one_worker_needs_no_parent(tmp_path: Path, workers: str) -> None:
    """Wrong settings are told by the worker itself."""
    environ = {**os.environ, "WORKERS": workers}
    environ |= {"LIVEKIT_URL": "ws://127.0.0.1:1", "LIVEKIT_API_KEY": "k", "LIVEKIT_API_SECRET": "s" * 32}
    done = subprocess.run(
        [sys.executable, "-c", PARENT, str(tmp_path / "worker.py")],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.stdout == "not several\n", done.stderr


def test_limits_for_all_workers_are_divided() -> None:
    settings = Settings(max_rooms=5, gemini_max_at_once=8)
    own = shared(settings, 4)
    assert own["MAX_ROOMS"] == "5", "it is a limit of each process"
    assert (own["GEMINI_MAX_AT_ONCE"], own["WORKERS"]) == ("2", "1")
    assert shared(settings, 20)["GEMINI_MAX_AT_ONCE"] == "1"


def test_each_worker_that_is_not_well_is_named_and_notes_are_said_once() -> None:
    answers = {1: Answer(200, "OK\nlistening\n"), 2: Answer(503, "the disk refuses\nlistening\n")}
    assert verdict(answers) == (503, "worker 2: the disk refuses\nlistening\n")
    assert verdict({1: answers[1]}) == (200, "OK\nlistening\n")


def test_metrics_keep_their_kinds_and_labels() -> None:
    text = (
        "# HELP recorder_gaps_total Gaps\n# TYPE recorder_gaps_total counter\n"
        'recorder_gaps_total{reason="network"} 2.0\n'
    )
    both = merged({1: text, 2: text.replace("2.0", "5.0")}).decode()
    assert both.count("# TYPE recorder_gaps_total counter") == 1
    assert 'recorder_gaps_total{reason="network",worker="1"} 2.0' in both
    assert 'recorder_gaps_total{reason="network",worker="2"} 5.0' in both


async def test_a_worker_that_cannot_work_is_started_once(tmp_path: Path) -> None:
    """What is wrong, such as the key, is said once and ends the start, as with one worker."""
    (tmp_path / "wrong-1").touch()
    with parent(tmp_path, 3) as running:
        assert await asyncio.to_thread(running.process.wait, 30) == 2
        assert running.log.count(" starts") == 1
