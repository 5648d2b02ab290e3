"""Reads the folders that the worker writes, for tests and benchmarks.

It parses the files itself and does not use archive/: an independent reader proves the format.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

TEACHER = json.dumps({"role": "teacher"})
STUDENT = json.dumps({"role": "student"})

POLL_SECONDS = 0.05

Record = dict[str, Any]
"""One line of a manifest."""


def manifest(room_dir: Path) -> list[Record]:
    """The manifest lines of a room, by number; none if there is no manifest yet."""
    path = room_dir / "segments.jsonl"
    if not path.exists():
        return []
    complete, _, _ = path.read_text(encoding="utf-8").rpartition("\n")  # the last line may be incomplete
    records = [json.loads(line) for line in complete.splitlines()]
    return sorted(records, key=lambda record: int(record["number"]))


def recorded(room_dir: Path, identity: str | None = None, **wanted: object) -> npt.NDArray[np.int16]:
    """All WAVs of a room one after another, by number; of one participant, and with these values in the manifest."""
    conditions = {**({"participant_identity": identity} if identity is not None else {}), **wanted}
    parts = [
        samples(room_dir / record["file"])
        for record in manifest(room_dir)
        if all(record[key] == value for key, value in conditions.items())
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int16)


def samples(path: Path) -> npt.NDArray[np.int16]:
    """A segment's samples: PCM s16le mono, shape (n,), 16 kHz. Fails if the file has another format."""
    pcm, rate = soundfile.read(path, dtype="int16")
    assert (rate, pcm.ndim) == (16_000, 1), f"{path.name} is {rate} Hz with {pcm.ndim} dimensions"
    return np.asarray(pcm, dtype=np.int16)


async def until(condition: Callable[[], object], what: str, timeout: float = 20.0) -> None:
    """Waits until a condition holds; fails the test with ``what`` if that takes too long."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        await asyncio.sleep(POLL_SECONDS)


async def segments_of(room_dir: Path, count: int) -> list[Record]:
    """The manifest of a room as soon as it holds this many segments."""
    await until(lambda: len(manifest(room_dir)) >= count, f"{count} segments in {room_dir.name}")
    return manifest(room_dir)


async def session_of(room_dir: Path, timeout: float = 20.0) -> Record:
    """The record of the room's only session as soon as it is there."""
    await until(lambda: sessions(room_dir), f"the session of {room_dir.name}", timeout)
    (record,) = sessions(room_dir)
    return record


def sessions(room_dir: Path) -> list[Record]:
    """The records of a room's sessions that are over, by the names of their files."""
    return [json.loads(path.read_bytes()) for path in sorted(room_dir.glob("session_*.json"))]


def gaps(room_dir: Path) -> list[Record]:
    """The lines of gaps.jsonl: the times from which speech may be missing."""
    path = room_dir / "gaps.jsonl"
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )
