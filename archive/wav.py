"""Writes and reads the recorder's WAV files: a header of 44 bytes, then PCM s16le, mono, 16 kHz."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from archive.files import open_private, write_all
from core.records import BYTES_PER_SAMPLE, SAMPLE_RATE, Pcm

WAV_HEADER_BYTES = 44


def wav_header(samples: int) -> bytes:
    """The 44 bytes before ``samples`` samples of PCM s16le, mono, 16 kHz (RIFF/WAVE, format tag 1)."""
    size = samples * BYTES_PER_SAMPLE
    riff = struct.pack("<4sI4s", b"RIFF", WAV_HEADER_BYTES - 8 + size, b"WAVE")
    layout = struct.pack(
        "<4sIHHIIHH",
        b"fmt ",
        16,
        1,
        1,
        SAMPLE_RATE,
        SAMPLE_RATE * BYTES_PER_SAMPLE,
        BYTES_PER_SAMPLE,
        8 * BYTES_PER_SAMPLE,
    )
    return riff + layout + struct.pack("<4sI", b"data", size)


def pcm_bytes(pcm: Pcm) -> bytes:
    """The bytes of PCM (int16, shape (n,)) as they are in a WAV."""
    return pcm.astype("<i2", copy=False).tobytes()


def mend_wav(path: Path, samples: int) -> None:
    """Repairs a recorded WAV: writes the header for ``samples`` samples, and truncates the file after them."""
    with open_private(path, os.O_RDWR) as file:
        file.truncate(WAV_HEADER_BYTES + samples * BYTES_PER_SAMPLE)
        write_all(file, wav_header(samples))
        os.fsync(file.fileno())


def samples_in_part(path: Path) -> int:
    """Counts the samples in a ``.part`` by its size: its header may count fewer after a crash."""
    return max(0, path.stat().st_size - WAV_HEADER_BYTES) // BYTES_PER_SAMPLE


def whole_samples_in(path: Path) -> int:
    """Counts the samples in a WAV as the recorder leaves it; 0 for any other, also for one that is half copied.

    Raises:
        OSError: the file cannot be read.
    """
    samples = max(0, path.stat().st_size - WAV_HEADER_BYTES) // BYTES_PER_SAMPLE
    with open_private(path, os.O_RDONLY) as file:
        header = file.read(WAV_HEADER_BYTES)
    is_whole = path.stat().st_size == WAV_HEADER_BYTES + samples * BYTES_PER_SAMPLE
    return samples if is_whole and header == wav_header(samples) else 0
