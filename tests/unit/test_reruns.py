"""A failed test is run again if its own speaker stalled, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

pytestmark = pytest.mark.slow


CASES = """
import pathlib
from devtools import speakers

def runs(name):
    path = pathlib.Path(__file__).with_name(name)
    path.write_text(path.read_text() + "." if path.exists() else ".")
    return len(path.read_text())

def test_fails():
    runs("fails")
    assert False

def test_stalls_once():
    if runs("stalls-once") == 1:
        speakers.stalls.append(0.31)
        assert False

def test_stalls_always():
    runs("stalls-always")
    speakers.stalls.append(0.31)
    assert False

def test_stalls_a_little():
    runs("stalls-a-little")
    speakers.stalls.append(0.01)
    assert False

def test_stalls_and_passes():
    runs("stalls-and-passes")
    speakers.stalls.append(0.31)
"""


@pytest.mark.parametrize("processes", [[], ["-n", "1"]], ids=["in one process", "under xdist"])
def test_only_a_stalled_speaker_causes_a_second_run(tmp_path: Path, processes: list[str]) -> None:
    (tmp_path / "test_cases.py").write_text(CASES, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "support.reruns", "-p", "no:cacheprovider", *processes],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        encoding="utf-8",
        timeout=100,
    )
    *_, closing = done.stdout.splitlines()
    assert all(part in closing for part in ("3 failed", "2 passed", "2 rerun")), done.stdout
    named = [line for line in done.stdout.splitlines() if line.startswith("RERUN ")]
    assert sorted(named) == [
        f"RERUN test_cases.py::{name}: its speaker stalled for 0.31 s"
        for name in ("test_stalls_always", "test_stalls_once")
    ]
    assert {path.name: len(path.read_text()) for path in tmp_path.iterdir() if "." not in path.name} == {
        "fails": 1,
        "stalls-once": 2,
        "stalls-always": 2,
        "stalls-a-little": 1,
        "stalls-and-passes": 1,
    }
