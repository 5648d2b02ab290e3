"""Writes and reads the recorder's WAV files: a header of 44 bytes, then PCM s16le, mono, 16 kHz."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import soundfile

from archive.files import open_private, write_all
from archive.names import PART_SUFFIX
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


def samples_in(path: Path) -> int:
    """Counts the samples in a recorded WAV; 0 for any other file.

    In a ``.part`` the size counts, not the header: more samples may have been written just before a crash.
    """
    if path.name.endswith(PART_SUFFIX):
        return max(0, path.stat().st_size - WAV_HEADER_BYTES) // BYTES_PER_SAMPLE
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError):
        return 0
    is_ours = (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE, 1, "PCM_16")
    return int(info.frames) if is_ours else 0
