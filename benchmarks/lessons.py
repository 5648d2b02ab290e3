"""Recorded lessons: `segment`, `search` and `check` on a large archive.

A recording of an hour (MP3, 44.1 kHz, stereo) is segmented; how many times faster than it plays is counted in CPU
time, so that other programs do not matter. The archive has 100,000 segments in 50 rooms, some 190 hours, with texts in
English, Spanish and Arabic of a thousand different words. Queries are rare, frequent and absent words, phrases and
beginnings of words. Memory is the highest of the command's own process.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from archive import jsonl
from archive.wav import wav_header
from benchmarks.figures import Figure, Options, Outcome
from core.records import EndReason, SegmentRecord
from devtools import sound
from lesson_tools.search import find
from search.index import SearchIndex

NAME = "lessons"

ROOT = Path(__file__).resolve().parent.parent
START = datetime(2025, 1, 1, 8, tzinfo=UTC)
SEGMENT_SECONDS = 7.0
WAV_SAMPLES = 1_600
"""Short segments: 100,000 real ones would be 20 GB, and reading those would only measure the disk."""
ROOMS = 50
SOUNDS = 100
"""Number of different sounds; more would only take longer to make."""

SLOWEST_SEARCH_MILLISECONDS = 50.0
MIN_SPEED = 100.0


def measure(options: Options) -> Outcome:
    """Builds the archive once and measures each command on it."""
    segments, seconds = (200, 30.0) if options.quick else (100_000, 3600.0)
    runs = range(1 if options.quick else options.runs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recording = _recording(folder / "lecture.mp3", seconds)
        speeds, segment_memory = zip(
            *(_segmented(recording, seconds, folder / f"run{run}") for run in runs), strict=True
        )
        options.say(f"  making an archive of {segments} segments ...")
        archive = folder / "archive"
        _make_archive(archive, segments)
        first = _run("search", "xylophone", output_dir=archive)
        size = sum(path.stat().st_size for path in archive.glob(".search.sqlite*"))
        again = [_run("search", "xylophone", output_dir=archive) for _ in runs]
        searches = [milliseconds for _ in runs for milliseconds in _searches(archive)]
        checks = [_run("check", "--json", output_dir=archive) for _ in runs]
        lists = [_run("list", "--json", output_dir=archive) for _ in runs]
    figures = [
        Figure("segment: times faster than it plays, by CPU time", "x", speeds, at_least=MIN_SPEED, digits=0),
        Figure("segment: memory", "MB", segment_memory, digits=0),
        Figure("search: first, which builds the index", "s", [first.seconds]),
        Figure("search: memory of the first", "MB", [first.megabytes], digits=0),
        Figure("search: index", "MB", [size / 1e6], digits=0),
        Figure("search: later ones, whole command", "s", [run.seconds for run in again]),
        Figure("search: memory", "MB", [run.megabytes for run in again], digits=0),
        Figure(
            "search: slowest of all questions", "ms", searches,
            at_most=SLOWEST_SEARCH_MILLISECONDS, judged_by_worst=True,
        ),
        Figure("search: median question", "ms", searches),
        Figure("check: all files with SHA-256", "s", [run.seconds for run in checks]),
        Figure("check: memory", "MB", [run.megabytes for run in checks], digits=0),
        Figure("list", "s", [run.seconds for run in lists]),
    ]  # fmt: skip
    return Outcome(NAME, figures)


# --- segment ---


def _recording(path: Path, seconds: float) -> Path:
    """Writes the shipped lecture, repeated, as MP3."""
    pcm = np.concatenate([sound.load("lecture"), np.zeros(160_000, np.int16)])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=44_100)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "stereo"
        resampler = av.AudioResampler(format=stream.format.name, layout="stereo", rate=44_100)
        for start in range(0, int(seconds * 16_000), 16_000):
            piece = np.take(pcm, np.arange(start, start + 16_000), mode="wrap")
            frame = av.AudioFrame.from_ndarray(piece[None], "s16", "mono")
            frame.sample_rate = 16_000
            for one in resampler.resample(frame):
                one.pts = None
                container.mux(stream.encode(one))
        container.mux(stream.encode(None))
    return path


def _segmented(recording: Path, seconds: float, output_dir: Path) -> tuple[float, float]:
    """How many times faster than it plays, and MB."""
    run = _run("segment", str(recording), output_dir=output_dir)
    return seconds / run.cpu_seconds, run.megabytes


class Run(NamedTuple):
    """CPU seconds and peak memory of a command."""

    seconds: float
    cpu_seconds: float
    megabytes: float


PROGRAM = """
import sys, time
sys.argv[0] = "lessons.py"
import lessons
try:
    lessons.main(sys.argv[1:])
finally:
    if sys.platform == "linux":  # getrusage would count what the parent held when it forked
        status = open("/proc/self/status").read()
        most = int(status.split("VmHWM:")[1].split()[0]) * 1024
    elif sys.platform == "win32":
        import psutil
        most = psutil.Process().memory_info().peak_wset
    else:
        import resource
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stderr.write(f"{time.process_time()} {most}\\n")
"""


def _run(*arguments: str, output_dir: Path) -> Run:
    """Runs a command of `lessons.py`."""
    environment = {**os.environ, "OUTPUT_DIR": str(output_dir), "SAVE_TRANSLATIONS": "", "DATABASE_URL": ""}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    seconds = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"lessons.py {arguments[0]} ended with {done.returncode}: {done.stderr[-500:]}")
    cpu_seconds, most = done.stderr.split()[-2:]
    return Run(seconds, float(cpu_seconds), int(most) / 1e6)


# --- the archive ---


def _make_archive(folder: Path, segments: int) -> None:
    """Writes rooms as the recorder does, but in one go, without protection against crashes."""
    chance = random.Random(7)
    vocabularies = {
        "en": _words(chance, "abcdefghiklmnoprstuvwy"),
        "es": _words(chance, "abcdefgilmnoprstuáéíóúñ"),
    }
    vocabularies["ar"] = _words(chance, "ابتثجحخدذرزسشصضطظعغفقكلمنهوي")
    wavs = [_wav(seed) for seed in range(SOUNDS)]
    for room in range(ROOMS):
        _make_room(folder / f"room{room:02d}", room, segments // ROOMS, wavs, vocabularies, chance)


def _wav(seed: int) -> tuple[bytes, str]:
    pcm = np.random.default_rng(seed).integers(-3000, 3000, WAV_SAMPLES, dtype=np.int16)
    data = wav_header(WAV_SAMPLES) + pcm.tobytes()
    return data, hashlib.sha256(data).hexdigest()


def _make_room(
    folder: Path,
    room: int,
    segments: int,
    wavs: Sequence[tuple[bytes, str]],
    vocabularies: dict[str, list[str]],
    chance: random.Random,
) -> None:
    folder.mkdir(parents=True)
    lines, texts = [], []
    for number in range(1, segments + 1):
        data, digest = wavs[number % SOUNDS]
        record = _record(room, number, digest)
        (folder / record.file).write_bytes(data)
        lines.append(jsonl.encoded(record.to_json()))
        said = {tag: _sentence(words, chance) for tag, words in vocabularies.items()}
        if number == segments // 2:
            said["en"] += f" xylophone {room}"
        texts.append(jsonl.encoded(_text(record, said)))
    (folder / "segments.jsonl").write_bytes(b"".join(lines))
    (folder / "texts.jsonl").write_bytes(b"".join(texts))


def _record(room: int, number: int, digest: str) -> SegmentRecord:
    start = START + timedelta(days=room, seconds=SEGMENT_SECONDS * number)
    seconds = WAV_SAMPLES / 16_000
    return SegmentRecord(
        number, f"segment_{number:03d}_{start:%Y%m%d_%H%M%S}.wav", f"room{room:02d}", f"RM_{room}", "anna", "Anna",
        f"TR_{room}", "microphone", start, start + timedelta(seconds=seconds), SEGMENT_SECONDS * number, seconds,
        0.9, 0.5, EndReason.PAUSE, digest,
    )  # fmt: skip


def _text(record: SegmentRecord, said: dict[str, str]) -> dict[str, object]:
    others = {tag: text for tag, text in said.items() if tag != "en"}
    text = {"language": "en", "transcript": said["en"], "translations": others, "files": [], "model": "m"}
    return {"number": record.number, "file": record.file, "at": record.to_json()["end"], **text}


def _words(chance: random.Random, letters: str) -> list[str]:
    """A thousand words."""
    return ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(1000)]


def _sentence(words: Sequence[str], chance: random.Random) -> str:
    """Twenty words: the first of the vocabulary in half of all sentences, the last in one of ten thousand."""
    return " ".join(words[min(999, int(chance.paretovariate(0.6)) - 1)] for _ in range(20))


# --- search ---


def _searches(archive: Path) -> list[float]:
    """Milliseconds of each query, including the check for new texts."""
    chance = random.Random(7)
    words = _words(chance, "abcdefghiklmnoprstuvwy")
    questions = [
        words[0], f"{words[0]} {words[1]}", f"{words[0]} {words[1]} {words[2]} {words[3]}", words[50], words[500],
        f"{words[0]} {words[700]}", "xylophone", "xylo", "nowhere", words[10][:3], f"{words[300]} {words[301]}",
    ]  # fmt: skip
    taken = []
    with SearchIndex(archive) as index:
        for question in questions:
            began = time.perf_counter()
            index.stale()
            find(index, question)
            taken.append((time.perf_counter() - began) * 1000)
    return taken
