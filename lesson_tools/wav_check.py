"""Checks one WAV against its line in the manifest: header, length and SHA-256. Reads only."""

from __future__ import annotations

import hashlib
from pathlib import Path

import soundfile

from archive.rooms import Room
from archive.wav import WAV_HEADER_BYTES, wav_header
from core.records import BYTES_PER_SAMPLE, SAMPLE_RATE, SegmentRecord
from lesson_tools.findings import Finding, Kind

ROUNDING_SAMPLES = SAMPLE_RATE // 2000 + 1
MAX_WAV_BYTES = 64 * 2**20
"""Far more than the longest segment; a larger file is not read into memory."""


def check_wav(room: Room, record: SegmentRecord, *, checksum: bool) -> list[Finding]:
    """Returns what is wrong with a segment's WAV. Without ``checksum`` only header and length are checked."""
    path = room.wav(record)
    if path is None:
        return [Finding(Kind.MISSING_WAV, f"{record.file} is missing", record.file)]
    try:
        size = path.stat().st_size
        if size > MAX_WAV_BYTES:
            return [
                Finding(
                    Kind.WAV_LENGTH, f"{record.file} is too large for a segment: {size} bytes", record.file
                )
            ]
        with open(path, "rb") as file:
            data = file.read() if checksum else file.read(WAV_HEADER_BYTES)
    except FileNotFoundError:
        return [Finding(Kind.MISSING_WAV, f"{record.file} is missing", record.file)]
    except OSError as error:
        return [
            Finding(Kind.MISSING_WAV, f"{record.file} cannot be read: {error.strerror or error}", record.file)
        ]
    if checksum and hashlib.sha256(data).hexdigest() != record.sha256:
        return [_changed(record, data)]
    return _check_header(path, record, data[:WAV_HEADER_BYTES], size)


def _check_header(path: Path, record: SegmentRecord, header: bytes, size: int) -> list[Finding]:
    """Checks that other programs read as much sound as the manifest says."""
    samples = max(0, (size - WAV_HEADER_BYTES) // BYTES_PER_SAMPLE)
    if header != wav_header(samples):  # not as the recorder writes it: perhaps changed by another program
        readable = readable_samples(path)
        if readable is None:
            return [Finding(Kind.WAV_HEADER, f"{record.file} is not a 16 kHz mono 16-bit WAV", record.file)]
        samples = readable
    if abs(samples - record.duration_seconds * SAMPLE_RATE) > ROUNDING_SAMPLES:
        seconds = f"{samples / SAMPLE_RATE:.3f} s, the manifest says {record.duration_seconds:.3f} s"
        return [Finding(Kind.WAV_LENGTH, f"{record.file} has {seconds}", record.file)]
    return []


def readable_samples(path: Path) -> int | None:
    """Returns how many samples other programs read from a WAV; None if it is not 16 kHz mono 16-bit."""
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError):
        return None
    is_ours = (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE, 1, "PCM_16")
    return int(info.frames) if is_ours else None


def _changed(record: SegmentRecord, data: bytes) -> Finding:
    """Finds out what is different in a changed file: only its header, extra bytes at its end, or its sound."""
    kept = (len(data) - WAV_HEADER_BYTES) // BYTES_PER_SAMPLE
    if _digest(data, kept) == record.sha256:
        return Finding(Kind.WAV_HEADER, f"the header of {record.file} is damaged", record.file, kept)
    about = round(record.duration_seconds * SAMPLE_RATE)
    for samples in range(max(0, about - ROUNDING_SAMPLES), min(kept, about + ROUNDING_SAMPLES + 1)):
        if _digest(data, samples) == record.sha256:
            extra = len(data) - WAV_HEADER_BYTES - samples * BYTES_PER_SAMPLE
            return Finding(
                Kind.WAV_LENGTH, f"{record.file} has {extra} foreign bytes at its end", record.file, samples
            )
    return Finding(Kind.CHECKSUM, f"{record.file} is not what was recorded: its SHA-256 differs", record.file)


def _digest(data: bytes, samples: int) -> str:
    """Computes the checksum that the file would have with this many samples and a correct header."""
    sound = memoryview(data)[WAV_HEADER_BYTES : WAV_HEADER_BYTES + max(0, samples) * BYTES_PER_SAMPLE]
    return hashlib.sha256(wav_header(max(0, samples)) + sound).hexdigest()
