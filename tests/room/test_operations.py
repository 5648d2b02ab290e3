"""What an operator sees of a running worker: health, metrics, and ``python agent.py check``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import StartWorker
from devtools import sound
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import TEACHER, segments_of, until
from devtools.speakers import Speaker
from devtools.worker import Worker
from support.program import copy_program

pytestmark = pytest.mark.e2e

MARKERS = sound.markers()


def health_url(recorder: Worker) -> str:
    """From its log."""
    found = re.search(r"health on (http://[\d.]+:\d+/)", recorder.log)
    assert found, recorder.log
    return found[1]


def ask(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.read().decode()


def metrics(recorder: Worker) -> dict[str, float]:
    """Those without labels, by name."""
    status, text = ask(f"{health_url(recorder)}metrics")
    assert status == 200
    families = text_string_to_metric_families(text)
    return {
        sample.name: sample.value for family in families for sample in family.samples if not sample.labels
    }


async def test_health_and_metrics_of_a_lesson(livekit_server: LiveKitServer, worker: StartWorker) -> None:
    room = "measured"
    recorder = await worker(METRICS="true", ROOM_FILTER=room)
    assert ask(health_url(recorder)) == (200, "OK\n")
    assert ask(f"{health_url(recorder)}worker")[0] == 404, "the framework's answer tells names to anyone"
    async with await Speaker.join(livekit_server, room, "anna", metadata=TEACHER) as teacher:
        await teacher.publish()
        await recorder.wait_for("Track subscribed")
        await teacher.say(sound.sequence(MARKERS[:3], 0.3, lead_seconds=0.5, tail_seconds=0.5)[0])
        await teacher.silence(3)
        (record, *_) = await segments_of(recorder.output_dir / room, 1)
        await until(lambda: metrics(recorder)["recorder_segments_total"] >= 1, "the segment in the metrics")
        seen = metrics(recorder)
        assert (seen["recorder_rooms"], seen["recorder_teachers"]) == (1, 1)
        assert seen["recorder_speech_seconds_total"] >= record["duration_seconds"] - 0.01
        assert seen["recorder_disk_write_seconds_count"] > 1
        assert seen["recorder_lost_seconds_total"] == 0
        assert ask(health_url(recorder)) == (200, "OK\n")
    await recorder.wait_for("Room over: ")
    await until(lambda: metrics(recorder)["recorder_rooms"] == 0, "no room any more")
    assert metrics(recorder)["recorder_segments_total"] >= 1
    assert metrics(recorder)["recorder_healthy"] == 1


@pytest.mark.skipif(
    sys.platform == "win32", reason="a folder cannot be replaced under a running worker there"
)
async def test_a_worker_whose_disk_refuses_is_unhealthy_until_it_works(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker(METRICS="true")
    folder, aside = recorder.output_dir, recorder.output_dir.with_name("aside")
    async with await Speaker.join(livekit_server, "unhealthy", "anna", metadata=TEACHER) as teacher:
        await teacher.publish()
        await recorder.wait_for("Track subscribed")
        folder.rename(aside)
        folder.touch()  # a file in place of the folder: nothing can be written, not even by root
        await teacher.say(sound.sequence(MARKERS[:3], 0.3, lead_seconds=0.5, tail_seconds=0.5)[0])
        await teacher.silence(3)
        await until(lambda: ask(health_url(recorder))[0] == 503, "the health answer is 503")
        assert "the disk refuses: " in ask(health_url(recorder))[1]
        await until(lambda: metrics(recorder)["recorder_unsaved_seconds"] > 1, "speech waits")
        folder.unlink()
        aside.rename(folder)
        await segments_of(folder / "unhealthy", 1)
        await until(lambda: ask(health_url(recorder)) == (200, "OK\n"), "well again", timeout=40)
    assert metrics(recorder)["recorder_unsaved_seconds"] == 0
    assert metrics(recorder)["recorder_lost_seconds_total"] == 0


def test_check_against_a_real_server(livekit_server: LiveKitServer, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    copy_program(project)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LIVEKIT_")}
    environ |= {**livekit_server.environment(), "OUTPUT_DIR": str(tmp_path / "segments")}

    def check(**changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "agent.py", "check"],
            cwd=project,
            env={**environ, **changes},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )

    well = check()
    assert (well.returncode, well.stderr) == (0, "")
    assert [line.split()[:2] for line in well.stdout.splitlines()] == [
        ["ok", name] for name in ("settings", "disk", "VAD", "server", "clock", "key")
    ]
    for changes in (
        {"LIVEKIT_API_SECRET": "a-wrong-secret-that-is-long-enough"},
        {"LIVEKIT_API_KEY": "no-such-key"},
    ):
        refused = check(**changes)
        assert (refused.returncode, refused.stderr) == (1, "")
        (line,) = [line for line in refused.stdout.splitlines() if not line.startswith("ok ")]
        assert line.startswith("WRONG  key ")
    unset = check(LIVEKIT_URL="")
    assert unset.returncode == 2
    assert unset.stdout.startswith("WRONG  settings  LIVEKIT_URL is not set")
