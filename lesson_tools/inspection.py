"""Compares a room's folder with its manifest. Reads only.

A room may be recorded at the same time: the files that a recorder is writing are no fault, and what changes during the
inspection is read again under the folder's lock.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from archive.delivery_log import DeliveryLog, Undelivered, audio_key
from archive.files import FolderLock, is_abandoned
from archive.jsonl import Lines
from archive.manifest import read_gaps, read_manifest
from archive.names import MANIFEST, TEXTS, SegmentNames
from archive.recovery import is_from_recorder
from archive.rooms import Room
from archive.session_counts import Expected, SessionCount
from archive.session_list import add_gaps
from archive.texts import Text, Texts
from archive.tombstones import is_being_erased
from archive.wav import whole_samples_in
from core.errors import StorageError
from core.records import SegmentRecord, format_utc
from lesson_tools import console
from lesson_tools.console import Advance
from lesson_tools.findings import Finding, Kind, Report
from lesson_tools.series_check import Series
from lesson_tools.session_check import check_sessions
from lesson_tools.wav_check import check_wav

FILES_AT_ONCE = min(4, os.cpu_count() or 1)
FILES_AHEAD = 64
T = TypeVar("T")
R = TypeVar("R")


def inspect(
    room: Room,
    names: SegmentNames,
    expected: Expected | None = None,
    advance: Advance = lambda _: None,
    *,
    checksums: bool = True,
) -> Report:
    """Compares everything in a room's folder with its manifest. Reads only. Without ``checksums``, of a WAV only header
    and length are compared.

    Raises:
        StorageError: the folder cannot be read.
    """
    expected = expected or Expected()
    report = Report(room.name, room.path.name)
    lines, series, listed = Lines(), Series(), set[str]()
    with room.texts() as texts, ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="check") as pool:
        segments = _Segments(room, texts, expected, checksums)
        for record, of_wav in _in_order(pool, segments.check_wav, room.records(lines=lines)):
            series.add(record)
            listed.add(record.file)
            report.segments += 1
            report.speech_seconds += record.duration_seconds
            report.findings += segments.findings(record, of_wav)
            advance(1)
        counts = segments.counts
        report.findings += [_broken(Kind.BROKEN_LINE, MANIFEST, line) for line in lines.broken]
        report.findings += [_broken(Kind.BROKEN_TEXT_LINE, TEXTS, line) for line in texts.lines.broken]
    if going := [record.file for record in read_manifest(room.path) if is_being_erased(room.path, record)]:
        count = console.counted(len(going), "segment")
        report.findings.append(
            Finding(Kind.BEING_ERASED, f"the erasure of {count} is not complete: repeat it")
        )
        listed.update(going)
    # Listed after the manifest was read: every segment that began before the manifest's last line has a file by now.
    files = _names_in(room.path)
    report.findings += series.findings(_numbers_of(files, names))
    report.findings += _leftovers(room, names, files, listed)
    report.findings += _recorded_gaps(room)
    add_gaps(room, counts)
    report.findings += check_sessions(room.path, counts)
    return report


class _Segments:
    """Checks segments one by one: the WAV, its text, and where both have been delivered."""

    def __init__(self, room: Room, texts: Texts, expected: Expected, checksums: bool) -> None:
        self._room = room
        self._checksums = checksums
        self._texts = texts
        self._expected = expected
        self._wants_texts = expected.texts or len(texts) > 0
        self._delivery_log = DeliveryLog(room.path)
        self.counts: dict[str, SessionCount] = {}
        """What was checked, by the sid of the session."""

    def check_wav(self, record: SegmentRecord) -> list[Finding]:
        """Checks the WAV. Slow; may run on any thread."""
        return check_wav(self._room, record, checksum=self._checksums)

    def findings(self, record: SegmentRecord, of_wav: list[Finding]) -> Iterator[Finding]:
        text = self._texts.get(record) if self._wants_texts else None
        of_text = list(_check_text(self._room, record, text)) if self._wants_texts else []
        if any(finding.kind is Kind.MISSING_WAV for finding in of_wav):
            # Delivered, and removed from this disk together with its text (KEEP_LOCAL).
            if self._delivery_log.is_anywhere(audio_key(record)):
                of_wav, of_text = [], [one for one in of_text if one.kind is not Kind.TEXT_FILE_MISSING]
            elif text is not None and not text.is_audio_kept:
                of_wav = []
        yield from of_wav
        yield from of_text
        keys = self._expected.keys_of(record, self._texts.entry)
        undelivered = list(self._delivery_log.undelivered(keys, self._expected.targets))
        yield from _check_deliveries(record, undelivered)
        count = self.counts.setdefault(record.room_sid, SessionCount(self._expected))
        count.add(record, text, undelivered)


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
    """Yields each item with its result, in order. At most ``FILES_AHEAD`` items are in memory."""
    waiting: deque[tuple[T, Future[R]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(work, item)))
        if len(waiting) >= FILES_AHEAD:
            first, future = waiting.popleft()
            yield first, future.result()
    for item, future in waiting:
        yield item, future.result()


def _check_deliveries(record: SegmentRecord, undelivered: Iterable[Undelivered]) -> Iterator[Finding]:
    for one in undelivered:
        what = record.file if one.item == record.file else f"the text of {record.file}"
        state = (
            f"was refused by {one.target}: {one.refused}"
            if one.refused
            else f"is not delivered to {one.target} yet"
        )
        yield Finding(Kind.UNDELIVERED, f"{what} {state}", record.file)


def _check_text(room: Room, record: SegmentRecord, text: Text | None) -> Iterator[Finding]:
    if text is None:
        yield Finding(Kind.TEXT_MISSING, f"{record.file} has no text yet", record.file)
    elif text.refused is not None:
        again = "transcribe --refused asks again"
        yield Finding(Kind.TEXT_REFUSED, f"{record.file} has no text: {text.refused} ({again})", record.file)
    else:
        yield from _check_content(record, text)
        for file in text.files.values():
            if not (room.path / file).is_file():
                yield Finding(Kind.TEXT_FILE_MISSING, f"{file} is missing", file)


def _check_content(record: SegmentRecord, text: Text) -> Iterator[Finding]:
    if text.missing:
        lacks = f"the text of {record.file} lacks {', '.join(text.missing)}"
        yield Finding(Kind.TEXT_INCOMPLETE, f"{lacks} (transcribe --refused asks again)", record.file)
    if text.doubt:
        yield Finding(Kind.TEXT_DOUBTFUL, f"the text of {record.file} is doubtful: {text.doubt}", record.file)


def _leftovers(room: Room, names: SegmentNames, files: Sequence[str], listed: set[str]) -> Iterator[Finding]:
    parts = [path.name for path in room.parts()]
    being_written = room.parts_being_written()
    if room.is_being_recorded():
        yield Finding(Kind.BEING_RECORDED, f"is being recorded; people speaking now: {len(being_written)}")
    for name in parts:
        if name not in being_written and (room.path / name).exists():
            problem = (
                _why_not_recoverable(room.path / name) if is_from_recorder(room.path, name, names) else ""
            )
            yield _left(Kind.PART_LEFT, f"{name} was left by a crash", name, problem)
    unlisted = [name for name in files if name.endswith(".wav") and name not in listed]
    for name in _still_unlisted(room, [name for name in unlisted if _is_segment(room.path, name, names)]):
        problem = _why_not_recoverable(room.path / name)
        yield _left(Kind.UNLISTED_WAV, f"{name} is not in the manifest", name, problem)


def _left(kind: Kind, what: str, file: str, problem: str) -> Finding:
    """A file that recovery has not made a segment of. ``problem``: why it cannot; empty if it can."""
    if problem:
        return Finding(Kind.NOT_RECOVERABLE, f"{what}, and cannot be recovered: {problem}", file)
    return Finding(kind, what, file)


def _is_segment(folder: Path, name: str, names: SegmentNames) -> bool:
    """Whether a WAV that no manifest lists is from the recorder; recovery leaves others alone."""
    path = folder / name
    return is_from_recorder(folder, name, names) and path.is_file() and not path.is_symlink()


def _why_not_recoverable(path: Path) -> str:
    """Why recovery leaves a file as it is; empty if it does not."""
    try:
        is_abandoned(path)  # it is opened for writing, as recovery does
        if path.suffix == ".wav" and not whole_samples_in(path):
            return "it is no whole WAV as the recorder writes it"
    except FileNotFoundError:  # it has just become a segment
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _recorded_gaps(room: Room) -> Iterator[Finding]:
    """Yields the gaps that the recorder has recorded."""
    try:
        for gap in read_gaps(room.path):
            times = f"from {format_utc(gap.start)} to {format_utc(gap.end)}"
            who = gap.participant_identity or "someone"
            yield Finding(Kind.SPEECH_MISSED, f"speech of {who} may be missing {times} ({gap.reason.value})")
    except OSError as error:
        raise StorageError(f"{room.path} cannot be read: {error.strerror or error}") from None


def _still_unlisted(room: Room, names: list[str]) -> list[str]:
    """Reads the manifest again under the lock, and returns the names that are still not listed."""
    if not names:
        return []
    try:
        with FolderLock(room.path):
            listed = {record.file for record in read_manifest(room.path)}
    except OSError:  # a disk that cannot be written has no recorder either
        return names
    return [name for name in names if name not in listed]
