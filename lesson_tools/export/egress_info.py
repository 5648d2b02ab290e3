"""Reads which files LiveKit egresses wrote and when each began, and picks the one that is a lesson's video.

Takes the JSON of one ``EgressInfo`` or ``FileInfo`` (from the API, a webhook, or the manifest that egress puts beside
the file) and lists of them: ``lk egress list --json``, the API's ``ListEgressResponse`` with ``items``, several
documents one after the other, with lines of text around them as ``lk`` prints them. Names may be in camel case, snake
case, or as Go prints a oneof (``Result.File``); nanoseconds may be numbers or text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from core.errors import InputError
from core.records import format_utc

MAX_FILES = 100_000
MAX_DEPTH = 8
"""Lists and responses in each other beyond this are not read."""
_DOCUMENT = re.compile(r"""(?:^|(?<=[}\]]))[ \t\r,]*([{\[])(?=\s*["{}\[\]])""", re.MULTILINE)
"""Where a document may begin: with a line, or after another document. ``[x]`` begins none."""
MAX_DIFFERENCE_SECONDS = 1.0
"""A video and a file of egress may be the same if their lengths differ by no more than this."""


@dataclass(frozen=True)
class EgressFile:
    """A file, or a series of media segments, that an egress wrote. What is not known is empty."""

    egress_id: str
    room_name: str
    room_sid: str
    name: str
    started_at: datetime
    seconds: float
    """Infinite if that is not known."""
    is_alone: bool = False
    """The JSON is one EgressInfo or FileInfo and no list: the user has chosen it."""

    def overlap_seconds(self, started_at: datetime, seconds: float) -> float:
        """Returns how much of a time span it contains; negative if it was recorded at another time."""
        begin = (self.started_at - started_at).total_seconds()
        return min(begin + self.seconds, seconds) - max(begin, 0.0)

    def __str__(self) -> str:
        what = self.egress_id or "an egress"
        room = f" of room {self.room_name}" if self.room_name else ""
        return f"{what}{room}{f', {self.name}' if self.name else ''}, from {format_utc(self.started_at)}"


@dataclass(frozen=True)
class Wanted:
    """A lesson and its video."""

    room_name: str
    room_sid: str
    started_at: datetime
    seconds: float
    video_name: str = ""
    """Path or address of the video."""
    video_seconds: float = 0.0
    """0 if that is not known."""


def egress_files(text: str) -> list[EgressFile]:
    """Reads all files that the JSON tells of.

    Raises:
        InputError: it is not JSON, or says of no file when it began.
    """
    documents = _documents(text)
    infos = [info for document in documents for info in _infos(document)]
    files = [file for info in infos for file in list(_files(info)) or [_file(info, info)]]
    known = list(dict.fromkeys(file for file in files if file is not None))
    if not known:
        raise InputError("the JSON has no started_at of an egress file")
    is_alone = len(documents) == 1 and not _is_list(documents[0])
    return [replace(file, is_alone=is_alone) for file in known[:MAX_FILES]]


def chosen_file(files: Sequence[EgressFile], wanted: Wanted) -> EgressFile:
    """Picks the file that was recorded in the lesson's room at the lesson's time.

    An only file is picked whatever its time, and also that of another room if the JSON is no list. Of several, one that
    is named like the video comes first, then one that has a name, then one of the video's length, then the one that
    contains most of the lesson.

    Raises:
        InputError: none fits.
    """
    if len(files) == 1 and (files[0].is_alone or _is_of_room(files[0], wanted)):
        return files[0]
    fitting = [
        file
        for file in files
        if _is_of_room(file, wanted) and file.overlap_seconds(wanted.started_at, wanted.seconds) > 0
    ]
    if not fitting:
        raise InputError(
            f"none of its {len(files)} files was recorded in room {wanted.room_name} between "
            f"{format_utc(wanted.started_at)} and {format_utc(wanted.started_at + timedelta(seconds=wanted.seconds))}"
        )
    return max(fitting, key=lambda file: _likeness(file, wanted))


def _is_of_room(file: EgressFile, wanted: Wanted) -> bool:
    if wanted.room_sid and file.room_sid == wanted.room_sid:
        return True
    return file.room_name == wanted.room_name or not (file.room_name or file.room_sid)


def _likeness(file: EgressFile, wanted: Wanted) -> tuple[bool, bool, bool, bool, bool, float]:
    is_finite = math.isfinite(file.seconds)
    begin = (file.started_at - wanted.started_at).total_seconds()
    return (
        bool(file.name) and _base(file.name) == _base(wanted.video_name.partition("?")[0]),
        bool(file.name),  # an egress without results may have written no file
        abs(file.seconds - wanted.video_seconds) <= MAX_DIFFERENCE_SECONDS,
        bool(file.room_sid) and file.room_sid == wanted.room_sid,
        is_finite,
        file.overlap_seconds(wanted.started_at, wanted.seconds) if is_finite else -abs(begin),
    )


def _base(path: str) -> str:
    return PureWindowsPath(PurePosixPath(path).name).name


# --- the JSON ---


def _documents(text: str) -> list[Any]:
    """Parses the documents in a text. Lines that are no JSON are skipped: ``lk`` says which project it uses.

    Raises:
        InputError: there is none, or one is not complete.
    """
    found, decoder, position = [], json.JSONDecoder(), 0
    text = text.removeprefix("\ufeff")
    try:
        while begin := _DOCUMENT.search(text, position):
            document, position = decoder.raw_decode(text, begin.start(1))
            found.append(document)
    except (ValueError, RecursionError):
        found = []
    if not found:
        raise InputError("it is neither JSON nor an HLS playlist")
    return found


def _is_list(document: Any) -> bool:
    return isinstance(document, list) or (
        isinstance(document, dict) and isinstance(_plain_names(document).get("items"), list)
    )


def _infos(document: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Yields each EgressInfo or FileInfo in a list, a response or a webhook, with lower-case names without ``_``."""
    if depth > MAX_DEPTH:
        return
    if isinstance(document, list):
        for one in document:
            yield from _infos(one, depth + 1)
    elif isinstance(document, dict):
        info = _plain_names(document)
        inner = info.get("items", info.get("egressinfo"))
        if isinstance(inner, (list, dict)):
            yield from _infos(inner, depth + 1)
        else:
            yield info


def _plain_names(fields: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "").lower(): value for name, value in fields.items()}


def _files(info: dict[str, Any]) -> Iterator[EgressFile | None]:
    """Yields the files of an EgressInfo. They begin some seconds later than the egress itself.

    A FileInfo and a manifest have none: they tell of one file themselves."""
    result = info.get("result")
    places = {**info, **(_plain_names(result) if isinstance(result, dict) else {})}
    for name in ("fileresults", "segmentresults", "file", "segments"):
        found = places.get(name)
        for one in found if isinstance(found, list) else [found]:
            if isinstance(one, dict):
                yield _file(info, _plain_names(one))


def _file(info: dict[str, Any], file: dict[str, Any]) -> EgressFile | None:
    started, ended, lasted = (_nanoseconds(file, name) for name in ("startedat", "endedat", "duration"))
    if started is None or started < 10**17:
        return None
    if lasted is None and ended is not None and ended > started:
        lasted = ended - started
    try:
        moment = datetime.fromtimestamp(started / 1e9, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    names = ("egressid", "roomname", "roomid")
    egress_id, room_name, room_sid = (_text(info.get(name)) for name in names)
    name = _text(file.get("filename")) or _text(file.get("playlistname"))
    seconds = lasted / 1e9 if lasted else math.inf
    return EgressFile(egress_id, room_name, room_sid, name, moment, seconds)


def _nanoseconds(file: dict[str, Any], name: str) -> int | None:
    value = file.get(name)
    if isinstance(value, float) and math.isfinite(value):  # jq 1.6 writes 1.75993200325e+18
        value = int(value)
    if isinstance(value, (int, str)) and re.fullmatch(r"[1-9]\d{0,18}", str(value), re.ASCII):
        return int(value)
    return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
