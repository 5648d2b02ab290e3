"""Labelled speech: samples, and for each of them whether it is speech.

It is made from the shipped speech, whose sentences begin and end with sound at known samples, or from other recordings,
whose loud parts count as speech. The same seed gives the same recording.

Everywhere: PCM s16le mono, shape (n,), 16 kHz.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from devtools import sound
from devtools.speakers import resampled

Pcm = npt.NDArray[np.int16]
Labels = npt.NDArray[np.bool_]
Random = np.random.Generator

RATE = sound.SAMPLE_RATE
NOISE = 8.0
"""Root mean square of the noise under everything: a quiet room at about -72 dBFS."""
LEVEL = 3000.0
"""Root mean square of every sentence, so that all are equally loud."""
LEAD_SECONDS = 1.0

FRAME = RATE // 100
LOUD = 30.0
"""In other recordings, 10 ms count as speech if they are within this many dB of the loud ones."""
MIN_PAUSE_FRAMES = 10
"""Shorter gaps between them count as speech, too."""
UTTERANCE_PAUSE_FRAMES = 20


@dataclass(frozen=True)
class Utterance:
    """Speech without a longer pause; starts and ends with sound."""

    pcm: Pcm
    labels: Labels


@dataclass(frozen=True)
class Labelled:
    """A recording, and which of its samples are speech."""

    pcm: Pcm
    labels: Labels

    @property
    def speech_seconds(self) -> float:
        return int(self.labels.sum()) / RATE


Pause = Callable[[Random], float]
"""How long the next pause is, in seconds."""


def shipped() -> list[Utterance]:
    """The markers, and the sentences of lecture and student."""
    spoken = [marker.pcm for marker in sound.markers()]
    for name in ("lecture", "student"):
        pcm = sound.load(name)
        listed = json.loads((sound.SPEECH / f"{name}.json").read_text(encoding="utf-8"))["sentences"]
        spoken += [pcm[round(one["start"] * RATE) : round(one["end"] * RATE)] for one in listed]
    return [_utterance(pcm, np.ones(pcm.size, np.bool_)) for pcm in spoken]


def from_folder(folder: Path) -> list[Utterance]:
    """The utterances of all WAV and FLAC files below a folder, labelled by their energy."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".wav", ".flac"))
    return [utterance for path in paths for utterance in _utterances(_read(path))]


def recording(
    spoken: list[Utterance], seed: int, seconds: float, pause: Pause, noise: float = NOISE
) -> Labelled:
    """Random utterances with pauses between them, until the recording has this length."""
    random = np.random.default_rng(seed)
    parts = [_silence(LEAD_SECONDS)]
    while sum(part.pcm.size for part in parts) < (LEAD_SECONDS + seconds) * RATE:
        parts += [spoken[random.integers(len(spoken))], _silence(pause(random))]
    pcm = np.concatenate([part.pcm for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return Labelled(clipped(pcm + random.normal(0, noise, pcm.size)), labels)


def cut_off(spoken: list[Utterance], seed: int, count: int) -> list[Labelled]:
    """Short recordings that end in the middle of a sentence, as when a teacher closes the laptop."""
    random = np.random.default_rng(seed)
    clips = []
    for _ in range(count):
        seconds = random.uniform(2, 10)
        whole = recording(spoken, int(random.integers(2**31)), seconds, lambda r: r.uniform(0.3, 1.0))
        last = _last_run(whole.labels)
        end = int(last.start + random.uniform(0.2, 0.95) * (last.stop - last.start))
        clips.append(Labelled(whole.pcm[:end], whole.labels[:end]))
    return clips


def _last_run(labels: Labels) -> slice:
    edges = np.flatnonzero(np.diff(labels.astype(np.int8), prepend=0, append=0))
    return slice(int(edges[-2]), int(edges[-1]))


def _silence(seconds: float) -> Utterance:
    samples = round(seconds * RATE)
    return Utterance(np.zeros(samples, np.int16), np.zeros(samples, np.bool_))


def _utterance(pcm: Pcm, labels: Labels) -> Utterance:
    loudness = float(np.sqrt(np.mean(np.square(pcm, dtype=np.float64))))
    return Utterance(clipped(pcm * (LEVEL / loudness)), labels)


def clipped(sound_: npt.NDArray[np.floating[Any]]) -> Pcm:
    return np.clip(np.round(sound_), -32768, 32767).astype(np.int16)


def _read(path: Path) -> Pcm:
    pcm, rate = soundfile.read(path, dtype="int16", always_2d=True)
    return resampled(np.ascontiguousarray(pcm[:, 0]), rate, RATE)


def _utterances(pcm: Pcm) -> list[Utterance]:
    frames = pcm[: pcm.size // FRAME * FRAME].reshape(-1, FRAME)
    if not len(frames):
        return []
    level = 10 * np.log10(np.square(frames, dtype=np.float64).mean(axis=1) + 1)
    loud = _closed(level > np.percentile(level, 95) - LOUD, MIN_PAUSE_FRAMES)
    together = _closed(loud, UTTERANCE_PAUSE_FRAMES)
    edges = np.flatnonzero(np.diff(together.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    labels = np.repeat(loud, FRAME)
    return [
        _utterance(pcm[start * FRAME : end * FRAME], labels[start * FRAME : end * FRAME])
        for start, end in edges
        if end - start > UTTERANCE_PAUSE_FRAMES
    ]


def _closed(loud: Labels, shorter_than: int) -> Labels:
    """Marks short gaps between loud frames as loud."""
    filled = loud.copy()
    where = np.flatnonzero(loud)
    for before, after in zip(where, where[1:], strict=False):
        if after - before <= shorter_than:
            filled[before:after] = True
    return filled
