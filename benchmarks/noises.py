"""Noise of a room in which somebody teaches, built from a seed: fans, keyboards, and people far away.

Everywhere: shape (n,), 16 kHz, in the units of 16-bit samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from benchmarks.corpus import RATE, Random, Utterance

Noise = npt.NDArray[np.float64]

QUIET = 8.0
"""Root mean square of a quiet room: -72 dBFS."""
FAN = 180.0
"""-45 dBFS."""
FAR_AWAY = 100.0
"""-50 dBFS."""
TALKERS = 8
ROOM_SECONDS = 0.08
"""Time in which an echo falls to a third."""


def quiet(random: Random, samples: int, _: list[Utterance]) -> Noise:
    return _coloured(random, samples, 1) * QUIET


def fan(random: Random, samples: int, spoken: list[Utterance]) -> Noise:
    """Low rushing, with the hum of its motor."""
    time = np.arange(samples) / RATE
    hum = 0.3 * np.sin(2 * np.pi * 120 * time) + 0.2 * np.sin(2 * np.pi * 240 * time)
    return (_coloured(random, samples, 2) + hum) * FAN + quiet(random, samples, spoken)


def keyboard(random: Random, samples: int, spoken: list[Utterance]) -> Noise:
    """Clicks of 6 to 40 ms, several a second, up to -27 dBFS."""
    noise = quiet(random, samples, spoken)
    place = 0
    while (place := place + int(random.uniform(0.08, 0.5) * RATE)) < samples:
        length = min(int(random.uniform(0.006, 0.04) * RATE), samples - place)
        decay = np.exp(-np.arange(length) / (length / 4))
        noise[place : place + length] += (
            np.diff(random.normal(size=length + 1)) * decay * random.uniform(200, 1500)
        )
    return noise


def people_far_away(random: Random, samples: int, spoken: list[Utterance]) -> Noise:
    """Eight who talk at the same time, heard through a room."""
    noise = np.zeros(samples)
    for _ in range(TALKERS):
        place = 0
        while place < samples:
            pcm = spoken[random.integers(len(spoken))].pcm[: samples - place]
            noise[place : place + pcm.size] += pcm
            place += pcm.size + int(random.uniform(0.3, 2) * RATE)
    time = np.arange(RATE // 2)
    echoes = random.normal(size=time.size) * np.exp(-time / (ROOM_SECONDS * RATE))
    size = 1 << (samples + echoes.size).bit_length()
    heard = np.fft.irfft(np.fft.rfft(noise, size) * np.fft.rfft(echoes, size), size)[:samples]
    return heard / _loudness(heard) * FAR_AWAY + quiet(random, samples, spoken)


NOISES: dict[str, Callable[[Random, int, list[Utterance]], Noise]] = {
    "a quiet room": quiet,
    "a fan": fan,
    "a keyboard": keyboard,
    "people far away": people_far_away,
}


def _coloured(random: Random, samples: int, power: float) -> Noise:
    """Noise whose energy falls with this power of the frequency, above 30 Hz; root mean square 1."""
    size = 1 << max(samples - 1, 1).bit_length()
    spectrum = np.fft.rfft(random.normal(size=size))
    spectrum /= np.maximum(np.fft.rfftfreq(size, 1 / RATE), 30) ** (power / 2)
    noise = np.fft.irfft(spectrum, size)[:samples]
    coloured: Noise = noise / _loudness(noise)
    return coloured


def _loudness(noise: Noise) -> float:
    return float(np.sqrt(np.mean(np.square(noise))))
