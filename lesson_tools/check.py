"""`lessons.py check`: proves that a folder holds what its manifest says, and mends what can be mended.

:func:`inspect` only reads. A room that is being recorded is told apart: what a living recorder has its hand on is no
fault, and what changes while we look is looked at again under the folder's lock. Mending is storage's own recovery, on
the same footing as at the worker's start.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import soundfile
import typer

from archive.delivery_log import DeliveryLog, keys_of, sound_key
from archive.files import FolderLock, write_private
from archive.jsonl import Lines
from archive.manifest import read_gaps, set_broken_lines_aside
from archive.names import MANIFEST, TEXTS, SegmentNames, is_plain_name
from archive.recovery import recover_folder
from archive.rooms import Archive, Room
from archive.texts import Text, Texts
from archive.wav import WAV_HEADER_BYTES, mend_wav, wav_header
from config import Settings
from core.errors import StorageError
from core.records import BYTES_PER_SAMPLE, SAMPLE_RATE, EndReason, SegmentRecord, TextRecord, format_utc
from delivery.targets import names_of_targets
from lesson_tools import console
from lesson_tools.console import Advance, AsJson, SomeRooms, progress, say, say_json, tell

ROUNDING = timedelta(milliseconds=2)
"""The manifest has milliseconds: two neighbours may seem so far apart or into each other."""

ROUNDING_SAMPLES = SAMPLE_RATE // 2000 + 1
LARGEST_WAV_BYTES = 64 * 2**20
"""Far more than the longest segment; a larger file is not read into memory."""

FILES_AT_ONCE = min(4, os.cpu_count() or 1)
FILES_AHEAD = 64
LINES_SHOWN = 10
"""Findings of one kind that a person is shown in a room."""

T = TypeVar("T")
R = TypeVar("R")


class Kind(str, Enum):
    """What can be wrong. The value is what scripts read."""

    BROKEN_LINE = "broken_line"
    BROKEN_TEXT_LINE = "broken_text_line"
    """Costs nothing: the segment it spoke of counts as one without text."""
    DUPLICATE_NUMBER = "duplicate_number"
    MISSING_NUMBER = "missing_number"
    TIMES = "times"
    OVERLAP = "overlap"
    GAP = "gap"
    MISSING_WAV = "missing_wav"
    WAV_HEADER = "wav_header"
    WAV_LENGTH = "wav_length"
    CHECKSUM = "checksum"
    UNLISTED_WAV = "unlisted_wav"
    PART_LEFT = "part_left"
    BEING_RECORDED = "being_recorded"
    SPEECH_MISSED = "speech_missed"
    """The recorder has owned up to it itself: it was not there, or could not save it."""
    UNDELIVERED = "undelivered"
    TEXT_MISSING = "text_missing"
    TEXT_REFUSED = "text_refused"
    TEXT_FILE_MISSING = "text_file_missing"


_NO_FAULT = (Kind.BEING_RECORDED, Kind.SPEECH_MISSED, Kind.TEXT_REFUSED, Kind.BROKEN_TEXT_LINE)
_MENDABLE = (
    Kind.BROKEN_LINE,
    Kind.WAV_HEADER,
    Kind.WAV_LENGTH,
    Kind.UNLISTED_WAV,
    Kind.PART_LEFT,
    Kind.TEXT_FILE_MISSING,
)


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be, or is worth knowing."""

    kind: Kind
    what: str
    """A sentence for people."""
    file: str = ""
    samples: int | None = None
    """How many samples a WAV that can be mended should have."""

    @property
    def is_fault(self) -> bool:
        return self.kind not in _NO_FAULT

    @property
    def can_be_mended(self) -> bool:
        is_wav = self.kind in (Kind.WAV_HEADER, Kind.WAV_LENGTH)
        return self.kind in _MENDABLE and (self.samples is not None or not is_wav)


@dataclass
class Report:
    """What a room came to."""

    room: str
    folder: str
    segments: int = 0
    speech_seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.is_fault]


@dataclass(frozen=True)
class Wanted:
    """What a folder should have besides its sound."""

    texts: bool = False
    """SAVE_TRANSLATIONS, CAPTIONS: every segment has a text. A room that has texts should have all of them anyway."""
    checksums: bool = True
    targets: tuple[str, ...] = ()
    """Where everything should have been delivered, by the targets' names."""
    audio: bool = True
    """SAVE_AUDIO: the sound is delivered, too."""

    @classmethod
    def from_settings(cls, settings: Settings, *, checksums: bool = True) -> Wanted:
        targets = names_of_targets(settings, tell)
        return cls(settings.wants_text, checksums, targets, settings.save_audio)


def check(
    rooms: SomeRooms = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Mend what can be: leftovers of a crash, lost lines, headers, texts."),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out the SHA-256: headers and lengths only.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prove the folders: every file against the manifest and its SHA-256, numbering, times, leftovers, texts.

    The exit code is 0 if all is in order and 1 if anything is not. A room may be recorded meanwhile: what its recorder
    is writing is left alone.
    """  # fmt: skip
    settings = console.settings()
    names = SegmentNames.from_settings(settings)
    wanted = Wanted.from_settings(settings, checksums=not quick)
    chosen = Archive.from_settings(settings).chosen(rooms)
    reports = []
    with progress("Checking", sum(room.line_count() for room in chosen), "segments") as advance:
        for room in chosen:
            report = inspect(room, names, wanted, advance)
            reports.append(mended(room, names, wanted, report) if repair else report)
    for report in [] if as_json else reports:
        _say_report(report)
    if as_json:
        say_json({"rooms": [_as_json(report) for report in reports]})
    elif not chosen:
        tell(f"No lessons in {settings.output_dir} yet")
    if any(report.faults for report in reports):
        raise typer.Exit(console.TROUBLE)


# --- looking ---


def inspect(
    room: Room, names: SegmentNames, wanted: Wanted | None = None, advance: Advance = lambda _: None
) -> Report:
    """Looks at everything in a room's folder. Reads only.

    Raises:
        StorageError: the folder cannot be read.
    """
    wanted = wanted or Wanted()
    report = Report(room.name, room.path.name)
    lines, series, listed = Lines(), _Series(), set[str]()
    with room.texts() as texts, ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="check") as pool:
        segments = _Segments(room, texts, wanted)
        for record, of_wav in _in_order(pool, segments.look_at_wav, room.records(lines=lines)):
            series.add(record)
            listed.add(record.file)
            report.segments += 1
            report.speech_seconds += record.duration_seconds
            report.findings += segments.findings(record, of_wav)
            advance(1)
        report.findings += [_broken(Kind.BROKEN_LINE, MANIFEST, line) for line in lines.broken]
        report.findings += [_broken(Kind.BROKEN_TEXT_LINE, TEXTS, line) for line in texts.lines.broken]
    # After the manifest: whatever was begun before the last line has a file by now.
    files = _names_in(room.path)
    report.findings += series.findings(_numbers_of(files, names))
    report.findings += _leftovers(room, names, files, listed)
    report.findings += _missed(room)
    return report


class _Segments:
    """Looks at one segment after another: its WAV, its text, and where both have been delivered."""

    def __init__(self, room: Room, texts: Texts, wanted: Wanted) -> None:
        self._room = room
        self._texts = texts
        self._wanted = wanted
        self._wants_texts = wanted.texts or len(texts) > 0
        self._delivery_log = DeliveryLog(room.path)

    def look_at_wav(self, record: SegmentRecord) -> list[Finding]:
        """The part that takes long, and may be done in any thread."""
        return _look_at_wav(self._room, record, checksum=self._wanted.checksums)

    def findings(self, record: SegmentRecord, of_wav: list[Finding]) -> Iterator[Finding]:
        text = self._texts.get(record) if self._wants_texts else None
        of_text = list(_look_at_text(self._room, record, text)) if self._wants_texts else []
        if any(finding.kind is Kind.MISSING_WAV for finding in of_wav):
            if self._delivery_log.is_anywhere(
                sound_key(record)
            ):  # it has left, and its text with it (KEEP_LOCAL)
                of_wav, of_text = [], [one for one in of_text if one.kind is not Kind.TEXT_FILE_MISSING]
            elif text is not None and not text.is_audio_kept:
                of_wav = []
        yield from of_wav
        yield from of_text
        if self._wanted.targets:
            yield from _look_at_deliveries(
                record, self._texts.entry(record), self._delivery_log, self._wanted
            )


def _broken(kind: Kind, file: str, number: int) -> Finding:
    return Finding(kind, f"line {number} of {file} is broken", file)


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error.strerror or error}") from None


def _numbers_of(files: Iterable[str], names: SegmentNames) -> set[int]:
    return {number for name in files if (number := names.number_in(name)) is not None}


def _in_order(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Each item with what came of it, in order; only some items ahead, so that memory stays flat."""
    waiting: deque[tuple[T, Future[R]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(work, item)))
        if len(waiting) >= FILES_AHEAD:
            first, future = waiting.popleft()
            yield first, future.result()
    for item, future in waiting:
        yield item, future.result()


# One WAV.


def _look_at_wav(room: Room, record: SegmentRecord, *, checksum: bool) -> list[Finding]:
    path = room.wav(record)
    if path is None:
        return [Finding(Kind.MISSING_WAV, f"{record.file} is missing", record.file)]
    try:
        size = path.stat().st_size
        if size > LARGEST_WAV_BYTES:
            return [Finding(Kind.WAV_LENGTH, f"{record.file} is no segment: {size} bytes", record.file)]
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
    return _look_at_header(path, record, data[:WAV_HEADER_BYTES], size)


def _look_at_header(path: Path, record: SegmentRecord, header: bytes, size: int) -> list[Finding]:
    """Whether a reader gets as much sound as the manifest says."""
    samples = max(0, (size - WAV_HEADER_BYTES) // BYTES_PER_SAMPLE)
    if header != wav_header(samples):  # not as we write it: perhaps from other hands
        readable = _samples_for_readers(path)
        if readable is None:
            return [Finding(Kind.WAV_HEADER, f"{record.file} is no 16 kHz mono 16-bit WAV", record.file)]
        samples = readable
    if abs(samples - record.duration_seconds * SAMPLE_RATE) > ROUNDING_SAMPLES:
        seconds = f"{samples / SAMPLE_RATE:.3f} s, the manifest says {record.duration_seconds:.3f} s"
        return [Finding(Kind.WAV_LENGTH, f"{record.file} has {seconds}", record.file)]
    return []


def _samples_for_readers(path: Path) -> int | None:
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError):
        return None
    is_ours = (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE, 1, "PCM_16")
    return int(info.frames) if is_ours else None


def _changed(record: SegmentRecord, data: bytes) -> Finding:
    """What happened to a file that is not what was written: only its header, something behind it, or its sound."""
    kept = (len(data) - WAV_HEADER_BYTES) // BYTES_PER_SAMPLE
    if _digest(data, kept) == record.sha256:
        return Finding(Kind.WAV_HEADER, f"the header of {record.file} is damaged", record.file, kept)
    about = round(record.duration_seconds * SAMPLE_RATE)
    for samples in range(max(0, about - ROUNDING_SAMPLES), min(kept, about + ROUNDING_SAMPLES + 1)):
        if _digest(data, samples) == record.sha256:
            extra = len(data) - WAV_HEADER_BYTES - samples * BYTES_PER_SAMPLE
            return Finding(
                Kind.WAV_LENGTH, f"{record.file} has {extra} foreign bytes behind it", record.file, samples
            )
    return Finding(Kind.CHECKSUM, f"{record.file} is not what was recorded: its SHA-256 differs", record.file)


def _digest(data: bytes, samples: int) -> str:
    """The checksum of the file if it had this many samples and a proper header."""
    sound = memoryview(data)[WAV_HEADER_BYTES : WAV_HEADER_BYTES + max(0, samples) * BYTES_PER_SAMPLE]
    return hashlib.sha256(wav_header(max(0, samples)) + sound).hexdigest()


# One text.


def _look_at_deliveries(
    record: SegmentRecord, text: TextRecord | None, delivery_log: DeliveryLog, wanted: Wanted
) -> Iterator[Finding]:
    keys = keys_of(record, text, save_audio=wanted.audio)
    for one in delivery_log.undelivered(keys, wanted.targets):
        what = record.file if one.item == record.file else f"the text of {record.file}"
        state = (
            f"was refused by {one.target}: {one.refused}"
            if one.refused
            else f"is not delivered to {one.target} yet"
        )
        yield Finding(Kind.UNDELIVERED, f"{what} {state}", record.file)


def _look_at_text(room: Room, record: SegmentRecord, text: Text | None) -> Iterator[Finding]:
    if text is None:
        yield Finding(Kind.TEXT_MISSING, f"{record.file} has no text yet", record.file)
    elif text.refused is not None:
        yield Finding(Kind.TEXT_REFUSED, f"{record.file} gets no text: {text.refused}", record.file)
    else:
        for file in text.files.values():
            if not (room.path / file).is_file():
                yield Finding(Kind.TEXT_FILE_MISSING, f"{file} is missing", file)


# All of them.


@dataclass(frozen=True)
class _Span:
    start: datetime
    end: datetime
    number: int
    is_cut: bool
    """Ended by the longest allowed length: the next one begins at its end."""


class _Series:
    """The segments one after another: their numbers, and their times by track."""

    def __init__(self) -> None:
        self._numbers: Counter[int] = Counter()
        self._tracks: dict[tuple[str, str], list[_Span]] = {}
        self._odd: list[Finding] = []

    def add(self, record: SegmentRecord) -> None:
        self._numbers[record.number] += 1
        if abs((record.end - record.start).total_seconds() - record.duration_seconds) > 0.002:
            said = f"{format_utc(record.start)} to {format_utc(record.end)}"
            what = f"{record.file} lasts {record.duration_seconds:.3f} s, but from {said}"
            self._odd.append(Finding(Kind.TIMES, what, record.file))
        if record.track_sid:
            span = _Span(record.start, record.end, record.number, record.end_reason is EndReason.MAX_LENGTH)
            self._tracks.setdefault((record.room_sid, record.track_sid), []).append(span)

    def findings(self, known: set[int]) -> Iterator[Finding]:
        """What is odd about the series. ``known`` are numbers that have a file, listed or not."""
        yield from self._odd
        for number, count in self._numbers.items():
            if count > 1:
                yield Finding(Kind.DUPLICATE_NUMBER, f"number {number} stands {count} times in the manifest")
        for first, last in self._missing(known):
            which = f"number {first} is" if first == last else f"numbers {first} to {last} are"
            yield Finding(Kind.MISSING_NUMBER, f"{which} missing: never finished, lost or deleted")
        for spans in self._tracks.values():
            spans.sort(key=lambda span: (span.start, span.end))
            for before, after in zip(spans, spans[1:], strict=False):
                yield from _between(before, after)

    def _missing(self, known: set[int]) -> Iterator[tuple[int, int]]:
        """Runs of numbers that nothing has, as (first, last). A line that is broken may have any number."""
        last = max(self._numbers, default=0)
        there = sorted({0, *self._numbers, *(number for number in known if number < last)})
        for before, after in itertools.pairwise(number for number in there if number >= 0):
            if after - before > 1:
                yield before + 1, after - 1


def _between(before: _Span, after: _Span) -> Iterator[Finding]:
    apart = (after.start - before.end).total_seconds()
    pair = f"{before.number} and {after.number}"
    if after.start < before.end - ROUNDING:
        yield Finding(Kind.OVERLAP, f"segments {pair} overlap by {-apart:.3f} s on one track")
    elif before.is_cut and after.start > before.end + ROUNDING:
        yield Finding(Kind.GAP, f"between segments {pair} {apart:.3f} s of speech are missing")


# What else lies in the folder.


def _leftovers(room: Room, names: SegmentNames, files: Sequence[str], listed: set[str]) -> Iterator[Finding]:
    parts = [path.name for path in room.parts()]
    living = room.parts_being_written()
    if room.is_being_recorded():
        yield Finding(Kind.BEING_RECORDED, f"is being recorded, people who speak just now: {len(living)}")
    for name in parts:
        if name not in living and (room.path / name).exists():
            yield Finding(Kind.PART_LEFT, f"{name} was left by a crash", name)
    unlisted = [name for name in files if name.endswith(".wav") and name not in listed]
    for name in _still_unlisted(room, [name for name in unlisted if _is_sound(room.path / name)]):
        yield Finding(Kind.UNLISTED_WAV, f"{name} is not in the manifest", name)


def _missed(room: Room) -> Iterator[Finding]:
    """Times from which the recorder itself says that speech may be missing."""
    try:
        for gap in read_gaps(room.path):
            times = f"from {format_utc(gap.start)} to {format_utc(gap.end)}"
            who = gap.participant_identity or "somebody"
            yield Finding(Kind.SPEECH_MISSED, f"speech of {who} may be missing {times} ({gap.reason.value})")
    except OSError as error:
        raise StorageError(f"{room.path} cannot be read: {error.strerror or error}") from None


def _is_sound(path: Path) -> bool:
    """Whether recovery would take it for a segment of ours."""
    return is_plain_name(path.name) and not path.is_symlink() and bool(_samples_for_readers(path))


def _still_unlisted(room: Room, names: list[str]) -> list[str]:
    """Those that were not just about to be listed when we looked: that happens under the lock."""
    if not names:
        return []
    try:
        with FolderLock(room.path):
            listed = {record.file for record in room.records()}
    except OSError:  # a disk that cannot be written, and so no recorder either
        return names
    return [name for name in names if name not in listed]


# --- mending ---


def mended(room: Room, names: SegmentNames, wanted: Wanted, report: Report) -> Report:
    """Mends what can be, and looks again.

    Raises:
        StorageError: the disk does not let it.
    """
    if not any(finding.can_be_mended for finding in report.findings):
        return report
    try:
        done = list(_mend(room, names, report.findings))
    except OSError as error:
        raise StorageError(f"{room.path} cannot be mended: {error.strerror or error}") from None
    return replace(inspect(room, names, wanted), mended=done)


def _mend(room: Room, names: SegmentNames, findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        if finding.kind in (Kind.WAV_HEADER, Kind.WAV_LENGTH) and finding.samples is not None:
            mend_wav(room.path / finding.file, finding.samples)
            yield f"{finding.file}: header and length restored"
    if count := set_broken_lines_aside(room.path):
        yield f"{count} broken lines moved to {MANIFEST}.broken"
    for record in recover_folder(room.path, names):
        yield f"{record.file}: recovered, {record.duration_seconds:.1f} s"
    yield from _write_texts_again(room, {finding.file for finding in findings})


def _write_texts_again(room: Room, missing: set[str]) -> Iterator[str]:
    """Text files that are gone, from what texts.jsonl quotes."""
    with room.texts() as texts:
        for record in room.records():
            text = texts.get(record) if record in texts else None
            if text is None:
                continue
            for language, file in text.files.items():
                if file in missing and language in text.by_language:
                    write_private(room.path / file, (text.by_language[language] + "\n").encode())
                    yield f"{file}: written again"


# --- saying ---


def _say_report(report: Report) -> None:
    state = console.counted(len(report.faults), "fault") if report.faults else "in order"
    seconds = console.duration(report.speech_seconds)
    say(f"{report.room}: {console.counted(report.segments, 'segment')}, {seconds} of speech, {state}")
    for line in report.mended:
        say(f"  mended: {line}")
    shown: Counter[Kind] = Counter()
    for finding in report.findings:
        shown[finding.kind] += 1
        if shown[finding.kind] <= LINES_SHOWN:
            hint = " (--repair mends it)" if finding.can_be_mended else ""
            say(f"  {finding.what}{hint}")
    for kind, count in shown.items():
        if count > LINES_SHOWN:
            say(f"  ... and {count - LINES_SHOWN} more of {kind.value} (--json shows all)")


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "room": report.room,
        "folder": report.folder,
        "segments": report.segments,
        "speech_seconds": round(report.speech_seconds, 3),
        "is_in_order": not report.faults,
        "mended": report.mended,
        "findings": [
            {
                "kind": finding.kind.value,
                "what": finding.what,
                "file": finding.file or None,
                "is_fault": finding.is_fault,
                "can_be_mended": finding.can_be_mended,
            }
            for finding in report.findings
        ],
    }
