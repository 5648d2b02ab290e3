"""`lessons.py export-person`: puts everything that is kept of one participant into a ZIP."""

from __future__ import annotations

import asyncio
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from archive import jsonl
from archive.files import open_private
from archive.manifest import gap_in, record_in
from archive.names import GAPS, MANIFEST, TEXTS, is_like_session_file, is_plain_name, safe_name, session_file
from archive.session_files import all_session_files, session_of
from archive.session_removal import is_session_being_erased
from archive.texts import LANGUAGE_TAG, text_in
from archive.tombstones import is_being_erased
from config import Settings
from core.errors import InputError, RecorderError, StorageError
from core.records import GapRecord, SegmentRecord, format_utc, utc_now
from core.session_records import SessionRecord
from core.text_records import TextRecord
from delivery.erasure import all_folders
from delivery.object_store import ObjectTarget
from delivery.targets import close_all
from lesson_tools import console
from lesson_tools.console import TROUBLE, AsJson, say, say_json, tell
from lesson_tools.delivery import targets_of

ABOUT = "about.json"


@dataclass
class PersonalData:
    """What has been put into the ZIP."""

    rooms: set[str] = field(default_factory=set)
    segments: int = 0
    texts: int = 0
    gaps: int = 0
    sessions: int = 0
    """Sessions in whose totals the participant is."""
    missing: list[str] = field(default_factory=list)
    """WAVs that are neither here nor in an object store."""
    problems: list[str] = field(default_factory=list)
    """Targets that could not be read."""
    not_read: list[str] = field(default_factory=list)
    """Targets that this command does not read: databases."""


def export_person(
    participant: Annotated[str, typer.Argument(metavar="IDENTITY", help="The participant's identity.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="The ZIP; default: IDENTITY.zip here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put everything that is kept of a participant into a ZIP: sound, texts, and the lines of all lists.

    It comes from every room on this disk and in the object stores of the settings. An existing file is not replaced.
    """
    if not participant.strip():
        raise InputError("The name of the participant is empty")
    settings = console.settings()
    path = (to or Path(f"{safe_name(participant)}.zip")).expanduser().resolve()
    try:
        file = open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        raise InputError(f"{path} exists already") from None
    found = PersonalData()
    try:
        with file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            console.run(_collect(settings, participant, archive, found))
            if not (found.segments or found.texts or found.gaps or found.sessions):
                raise InputError(f"Nothing is kept of {participant!r}, neither here nor in the object stores")
            about = {"participant": participant, "at": format_utc(utc_now()), **_as_json(found)}
            archive.writestr(ABOUT, json.dumps(about, ensure_ascii=False, indent=1))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if as_json:
        say_json({"file": str(path), **_as_json(found)})
    else:
        say(f"Wrote {found.segments} segments of {len(found.rooms)} rooms, {found.texts} texts to {path}")
    for problem in found.problems:
        tell(problem)
    if found.not_read:
        tell(f"Not in it: what only {', '.join(found.not_read)} has")
    if found.missing:
        tell(f"{len(found.missing)} WAVs are no longer kept, or only in a database")
    if found.problems:
        raise typer.Exit(TROUBLE)


def _as_json(found: PersonalData) -> dict[str, Any]:
    return {**vars(found), "rooms": sorted(found.rooms)}


async def _collect(
    settings: Settings, participant: str, archive: zipfile.ZipFile, found: PersonalData
) -> None:
    targets = targets_of(settings, may_be_none=True)
    stores = [target for target in targets if isinstance(target, ObjectTarget)]
    found.not_read = [target.name for target in targets if target not in stores]
    try:
        known: set[tuple[str, str]] = set()
        output_dir = Path(settings.output_dir)
        for folder in await asyncio.to_thread(_folders, output_dir):
            records, names = await asyncio.to_thread(_add_folder, folder, participant, archive, found)
            for record in records:
                known.add((folder.name, record.file))
                if record.file not in names and not await _add_wav(stores, folder.name, record, archive):
                    found.missing.append(f"{folder.name}/{record.file}")
        for number, store in enumerate(stores, start=1):
            try:
                into = f"store{number}"
                await _add_from_store(store, into, participant, archive, found, known, output_dir)
            except RecorderError as error:
                found.problems.append(f"{store.name}: {error}")
    finally:
        await close_all(targets)


def _folders(output_dir: Path) -> list[Path]:
    return all_folders(output_dir) if output_dir.is_dir() else []


def _add_folder(
    folder: Path, participant: str, archive: zipfile.ZipFile, found: PersonalData
) -> tuple[list[SegmentRecord], set[str]]:
    """Adds what a room's folder has. Returns the segments in its lists, and the names of all its files."""
    try:
        lists = {
            name: [line for _, line in jsonl.lines_of(folder / name)] for name in (MANIFEST, TEXTS, GAPS)
        }
        names = {path.name: path for path in folder.iterdir() if path.is_file() and not path.is_symlink()}
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error.strerror or error}") from None
    records = _add_lists(folder.name, _without_erased(lists, folder), participant, archive, found)
    for _, session in all_session_files(folder):
        if not is_session_being_erased(folder, session):
            _add_session(folder.name, session, participant, archive, found)
    for record in records:
        for name in _files_of(record, names):
            archive.write(names[name], f"{folder.name}/{name}")
    return records, set(names)


def _add_session(
    folder: str, session: SessionRecord, participant: str, archive: zipfile.ZipFile, found: PersonalData
) -> None:
    """Adds what a session's file tells of the participant; nothing of the others."""
    document = session.to_json()
    theirs = [one for one in document["participants"] if one["identity"] == participant]
    if theirs:
        kept = ("room_name", "room_sid", "started_at", "ended_at")
        content = {**{name: document[name] for name in kept}, "participants": theirs}
        archive.writestr(
            f"{folder}/{session_file(session.room_sid)}",
            json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace"),
        )
        found.rooms.add(folder)
        found.sessions += 1


def _without_erased(lists: dict[str, list[bytes]], folder: Path) -> dict[str, list[bytes]]:
    """The lists without the lines that are being erased."""
    parse: dict[str, Callable[[bytes], SegmentRecord | TextRecord | GapRecord | None]] = {
        MANIFEST: record_in,
        TEXTS: text_in,
        GAPS: gap_in,
    }

    def is_kept(name: str, line: bytes) -> bool:
        found = parse[name](line)
        return found is None or not is_being_erased(folder, found)

    return {name: [line for line in lines if is_kept(name, line)] for name, lines in lists.items()}


def _add_lists(
    folder: str,
    lists: dict[str, list[bytes]],
    participant: str,
    archive: zipfile.ZipFile,
    found: PersonalData,
) -> list[SegmentRecord]:
    """Adds the participant's lines, and returns the segments."""
    segments = [
        (line, record)
        for line in lists[MANIFEST]
        if (record := record_in(line)) is not None
        and record.participant_identity == participant
        and is_plain_name(record.file)
    ]
    files = {record.file for _, record in segments}
    texts = [
        line
        for line in lists[TEXTS]
        if (text := text_in(line)) is not None
        and (text.participant_identity == participant or text.file in files)
    ]
    gaps = [
        line
        for line in lists[GAPS]
        if (gap := gap_in(line)) is not None and gap.participant_identity == participant
    ]
    lines = {MANIFEST: [line for line, _ in segments], TEXTS: texts, GAPS: gaps}
    for name, some in lines.items():
        if some:
            archive.writestr(f"{folder}/{name}", b"".join(line.rstrip(b"\n") + b"\n" for line in some))
            found.rooms.add(folder)
    found.segments += len(segments)
    found.texts += len(texts)
    found.gaps += len(gaps)
    return [record for _, record in segments]


def _files_of(record: SegmentRecord, names: Iterable[str]) -> list[str]:
    """The names of a segment's WAV and text files among these."""
    stem = f"{Path(record.file).stem}_"
    return [
        name
        for name in names
        if name == record.file
        or (
            name.startswith(stem)
            and name.endswith(".txt")
            and LANGUAGE_TAG.fullmatch(name.removeprefix(stem).removesuffix(".txt"))
        )
    ]


async def _add_wav(
    stores: Sequence[ObjectTarget], folder: str, record: SegmentRecord, archive: zipfile.ZipFile
) -> bool:
    """Adds a WAV that is no longer here from an object store; False if none has it."""
    for store in stores:
        try:
            data, _ = await store.objects.read(f"{folder}/{record.file}")
        except RecorderError:
            continue  # said when the store's rooms are read
        if data is not None:
            archive.writestr(f"{folder}/{record.file}", data)
            return True
    return False


async def _add_from_store(
    store: ObjectTarget,
    into: str,
    participant: str,
    archive: zipfile.ZipFile,
    found: PersonalData,
    known: set[tuple[str, str]],
    output_dir: Path,
) -> None:
    """Adds the segments that this disk does not list, such as those of other workers, below ``into``."""
    for folder in await store.objects.folders():
        if folder.startswith("."):
            continue
        lists = {}
        for name in (MANIFEST, TEXTS, GAPS):
            lines = [line async for line in store.list_of(folder, name).lines()]
            lists[name] = list(dict.fromkeys(lines))
        lists = _without_erased(lists, output_dir / folder)
        lists[MANIFEST] = [
            line
            for line in lists[MANIFEST]
            if (record := record_in(line)) is not None and (folder, record.file) not in known
        ]
        new = {record.file for line in lists[MANIFEST] if (record := record_in(line)) is not None}
        lists[TEXTS] = [
            line for line in lists[TEXTS] if (text := text_in(line)) is not None and text.file in new
        ]
        if any(room == folder for room, _ in known):
            lists[GAPS] = []  # the lists here have them
        there = await store.objects.names_in(folder) if new else {}
        for session in await _sessions_in_store(store, folder, there, output_dir):
            _add_session(f"{into}/{folder}", session, participant, archive, found)
        for record in _add_lists(f"{into}/{folder}", lists, participant, archive, found):
            known.add((folder, record.file))
            for name in _files_of(record, there):
                data, _ = await store.objects.read(f"{folder}/{name}")
                if data is not None:
                    archive.writestr(f"{into}/{folder}/{name}", data)


async def _sessions_in_store(
    store: ObjectTarget, folder: str, there: Iterable[str], output_dir: Path
) -> list[SessionRecord]:
    """The sessions of which only the store has a file, without those in which something is being erased."""
    found = []
    for name in filter(is_like_session_file, there):
        if not (output_dir / folder / name).exists():
            data, _ = await store.objects.read(f"{folder}/{name}")
            session = session_of(name, data or b"")
            if session is not None and not is_session_being_erased(output_dir / folder, session):
                found.append(session)
    return found
