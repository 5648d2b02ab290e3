"""The soak test with a real server and real workers: two minutes of it, and its end by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.soak import report, run
from benchmarks.soak.plan import plan
from support import ROOT

pytestmark = pytest.mark.e2e


@pytest.mark.skipif(sys.platform == "win32", reason="presses Ctrl-C with a signal that Windows lacks")
def test_ctrl_c_ends_everything_and_still_checks_the_words(
    livekit_server_binary: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "benchmarks.soak.run", "--output", str(tmp_path)]
    environ = {**os.environ, "LIVEKIT_SERVER": str(livekit_server_binary)}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        assert process.stderr
        next(line for line in process.stderr if "Lecture: " in line)
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 2, "a server and a worker"
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line.split()[0] for line in told.splitlines()[:4]] == ["spoken", "saved", "lost", "doubled"]
    assert "WRONG" not in told
    assert "stopped before its time" in (tmp_path / "soak.md").read_text(encoding="utf-8")
    assert not psutil.wait_procs(started, timeout=5)[1]


@pytest.mark.long
@pytest.mark.timeout(420)
def test_two_minutes_lose_nothing_outside_the_recorded_gaps(
    livekit_server_binary: Path, tmp_path: Path
) -> None:
    """A mute, a rolling restart, a rejoin and a SIGKILL in mid-word."""
    two_minutes = run.soak(2, tmp_path)
    assert [done.fault for done in two_minutes.faults] == [planned.fault for planned in plan(2)]
    assert two_minutes.words.spoken_seconds > 60
    assert two_minutes.words.saved_seconds > 0.7 * two_minutes.words.spoken_seconds
    assert two_minutes.is_well, "\n".join(report.wrongs(two_minutes))
