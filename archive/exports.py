"""The list of what was exported from a room's folder, so that it can be removed with the lesson. Everything blocks.

Exported files have the words of a lesson, and may have its sound. Each export adds a line to ``.exports.jsonl``: when
the lesson ended, and where the files are, with their SHA-256. A file is removed only if its content is still the
exported one, or if it lies in the room's folder under a name that only exports have.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from archive import jsonl
from archive.files import FolderLock
from archive.names import is_plain_name
from core.records import format_utc, parse_utc

EXPORTS = ".exports.jsonl"
EXPORTED_NAME = re.compile(
    r"lesson(_\d{8}_\d{6})?\.(html|json|[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*\.(vtt|srt|txt))"
)


@dataclass(frozen=True)
class Export:
    """The files of one exported lesson."""

    folder: Path
    ended_at: datetime
    """When the lesson's last segment ended."""
    files: Mapping[str, str]
    """SHA-256 by name."""

    def existing(self) -> Iterator[Path]:
        """The files that still have the exported content."""
        for name, digest in self.files.items():
            with contextlib.suppress(OSError):
                path = self.folder / name
                if path.is_symlink() or not path.is_file() or not is_plain_name(name):
                    continue
                if hashlib.sha256(path.read_bytes()).hexdigest() == digest:
                    yield path


def note_export(room: Path, target: Path, ended_at: datetime, files: Mapping[str, bytes]) -> None:
    """Adds an export to the room's list, in place of earlier ones of the same files, before these are written.

    The caller holds the folder's lock.

    Raises:
        OSError: the disk refuses.
    """
    line: dict[str, Any] = {
        "folder": "" if target == room.resolve() else str(target),
        "ended_at": format_utc(ended_at),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }

    def is_kept(other: bytes) -> bool:
        entry = jsonl.entry_in(other) or {}
        return (entry.get("folder"), [*entry.get("files", ())]) != (line["folder"], [*files])

    jsonl.rewrite(room / EXPORTS, is_kept)
    jsonl.append(room / EXPORTS, line)


def exports_of(room: Path) -> Iterator[Export]:
    """The listed exports, and files in the room's folder that an older version has exported.

    Raises:
        OSError: the folder cannot be read.
    """
    listed: set[str] = set()
    for _, line in jsonl.lines_of(room / EXPORTS):
        export = jsonl.parsed(line, lambda found: _export_in(room, found))
        if export is not None:
            listed.update(export.files if export.folder == room else ())
            yield export
    for name in sorted(os.listdir(room)):
        path = room / name
        if EXPORTED_NAME.fullmatch(name) and name not in listed and path.is_file() and not path.is_symlink():
            changed_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            yield Export(room, changed_at, {name: hashlib.sha256(path.read_bytes()).hexdigest()})


def remove_exports(room: Path, is_chosen: Callable[[Export], bool]) -> list[Path]:
    """Removes the chosen exports' files and lines, and returns the files.

    Raises:
        OSError: the disk refuses.
    """
    removed = []
    with FolderLock(room):
        for export in exports_of(room):
            for path in export.existing() if is_chosen(export) else ():
                path.unlink(missing_ok=True)
                removed.append(path)

        def is_kept(line: bytes) -> bool:
            export = jsonl.parsed(line, lambda found: _export_in(room, found))
            return export is not None and not is_chosen(export)

        jsonl.rewrite(room / EXPORTS, is_kept)
        if (room / EXPORTS).is_file() and not (room / EXPORTS).stat().st_size:
            (room / EXPORTS).unlink()
    return removed


def _export_in(room: Path, found: Mapping[str, Any]) -> Export:
    folder = Path(str(found["folder"])) if found["folder"] else room
    return Export(
        folder, parse_utc(found["ended_at"]), {str(name): str(sha) for name, sha in found["files"].items()}
    )
