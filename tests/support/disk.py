"""Helpers for the tests of storage: checks of a folder, and a disk that fails.

The manifest is parsed here without archive/: an independent reader proves the format.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archive.names import SegmentNames, session_file
from archive.recovery import recover_folder
from config import Settings
from core.records import (
    SAMPLE_RATE,
    Pcm,
    SegmentRecord,
    StreamClock,
    parse_utc,
)
from devtools.room_folders import samples
from devtools.sample_room import CLOCK

NAMES = SegmentNames.from_settings(Settings())


def manifest(folder: Path) -> list[dict[str, Any]]:
    path = folder / "segments.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def wavs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".wav")


def leftovers(folder: Path) -> list[str]:
    """Files that are neither WAVs nor the lists and session files, nor files of a running recorder."""
    expected = {"segments.jsonl", "gaps.jsonl", ".heard", ".highest_number", ".lock", *wavs(folder)}
    expected |= {session_file(line["room_sid"]) for line in manifest(folder)}
    return sorted(path.name for path in folder.iterdir() if path.name not in expected)


def assert_sound(folder: Path, wanted: dict[str, Pcm] | None = None) -> list[dict[str, Any]]:
    """Checks that manifest and WAVs agree, numbers are unique, no other file is there, and the sound is ``wanted``."""
    lines = manifest(folder)
    listed, left = sorted(line["file"] for line in lines), leftovers(folder)
    assert listed == wavs(folder), f"listed are {listed}, there are {wavs(folder)}"
    assert not left, f"left over: {left}"
    numbers = [line["number"] for line in lines]
    assert len(set(numbers)) == len(numbers), f"a number is twice among {numbers}"
    for line in lines:
        pcm = samples(folder / line["file"])
        seconds, digest = len(pcm) / SAMPLE_RATE, hashlib.sha256((folder / line["file"]).read_bytes())
        assert line["duration_seconds"] == pytest.approx(seconds, abs=0.001), f"{line['file']}: duration"
        assert line["sha256"] == digest.hexdigest(), f"{line['file']}: sha256"
        if wanted is not None:
            np.testing.assert_array_equal(pcm, wanted[line["file"]])
    return lines


def place(line: dict[str, Any], clock: StreamClock = CLOCK) -> int:
    """The sample at which a segment of the manifest begins in its stream."""
    return round((parse_utc(line["start"]) - clock.anchor).total_seconds() * SAMPLE_RATE)


# --- a crash ---


@dataclass(frozen=True)
class Wreck:
    """A folder as a crash would have left it at some moment, and how much was known to be safe then."""

    files: tuple[tuple[str, bytes], ...]
    safe_samples: int

    @classmethod
    def of(cls, folder: Path, safe_samples: int) -> Wreck:
        files = tuple((path.name, path.read_bytes()) for path in sorted(folder.iterdir()))
        return cls(files, safe_samples)

    def recover(self, folder: Path) -> list[SegmentRecord]:
        folder.mkdir(parents=True)
        for name, content in self.files:
            (folder / name).write_bytes(content)
        return recover_folder(folder, NAMES)

    def assert_recovered(self, folder: Path, stream: Pcm, *, at_most: int) -> None:
        """After recovery the sound of the stream is there, nowhere twice, without a gap as far as it was safe."""
        self.recover(folder)
        lines = sorted(assert_sound(folder), key=place)
        assert len(lines) <= at_most, f"{len(lines)} segments"
        end, gapless_end = 0, 0
        for line in lines:
            pcm, start = samples(folder / line["file"]), place(line)
            assert start >= end, f"{line['file']} begins at {start}, before {end}"
            end = start + len(pcm)
            np.testing.assert_array_equal(pcm, stream[start:end])
            gapless_end = end if start == gapless_end else gapless_end
        assert gapless_end >= self.safe_samples, f"{self.safe_samples} samples were safe, not {gapless_end}"
        assert recover_folder(folder, NAMES) == [], "a second recovery found something"


# --- a disk that fails ---


class RefusingDisk:
    """Counts the calls to the file system and makes some of them fail. ``before_step`` is called before each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused: list[str] = []
        """The calls that failed."""
        self.before_step: Callable[[], None] | None = None
        self._steps = 0
        self._to_refuse = range(0)
        self._error = 0
        self._is_watching = False
        for name in ("open", "replace", "unlink", "mkdir", "fsync"):
            monkeypatch.setattr(os, name, self._watched(getattr(os, name)))
        monkeypatch.setattr(os, "fdopen", self._open_file)

    def refuse(self, error: int, first: int, times: int = 1) -> None:
        """From now on, steps ``first`` to ``first + times - 1`` fail with ``error``."""
        self._error, self._to_refuse = error, range(first, first + times)
        self._steps, self.refused, self._is_watching = 0, [], True

    def relent(self) -> None:
        """From now on nothing is refused."""
        self._is_watching = False

    def refuses(self, step: str) -> bool:
        """Whether the disk refuses the next call."""
        if not self._is_watching:
            return False
        if self.before_step is not None:
            self._is_watching = False
            self.before_step()
            self._is_watching = True
        self._steps += 1
        if self._steps - 1 not in self._to_refuse:
            return False
        self.refused.append(f"{step} (step {self._steps - 1})")
        return True

    def error(self) -> OSError:
        return OSError(self._error, os.strerror(self._error))

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            if self.refuses(function.__name__):
                raise self.error()
            return function(*arguments, **options)

        return watched

    def _open_file(self, descriptor: int, mode: str, buffering: int = 0) -> _RefusingFile:
        assert (mode, buffering) == ("r+b", 0)
        return _RefusingFile(descriptor, self)


class _RefusingFile(io.FileIO):
    def __init__(self, descriptor: int, disk: RefusingDisk) -> None:
        super().__init__(descriptor, "r+b")
        self._disk = disk

    def write(self, data: Any) -> int:
        """A disk that is full writes a part before it refuses."""
        if self._disk.refuses("write"):
            super().write(memoryview(data)[: len(data) // 2])
            raise self._disk.error()
        return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        if self._disk.refuses("truncate"):
            raise self._disk.error()
        return super().truncate(size)


needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such thing")
