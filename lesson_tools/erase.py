"""`lessons.py erase`: erases rooms or participants on this disk and in every target."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from archive.names import SegmentNames
from archive.recovery import recover_folder
from archive.tombstones import open_erasures
from core.audit import AuditEvent, audit
from core.errors import InputError
from delivery.erasure import Chosen, all_folders, chosen_in
from delivery.items import Selection
from lesson_tools import console
from lesson_tools.console import TROUBLE, AsJson, say, say_json, tell
from lesson_tools.delivery import targets_of
from lesson_tools.erasing import ErasureRun, remove_from_targets

WILD_CARDS = frozenset("*?")


def erase(
    rooms: Annotated[
        list[str] | None, typer.Argument(metavar="[ROOM]...", help="Names of rooms, or of their folders.")
    ] = None,
    participant: Annotated[
        str | None, typer.Option(metavar="IDENTITY", help="Only what this participant said.")
    ] = None,
    is_all: Annotated[
        bool, typer.Option("--all", help="More than one room; with --participant alone: every room.")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option(metavar="N", help="With --all: the number that it asks for (see --dry-run)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be erased.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; one room only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erases rooms, or a participant in one room or all: on this disk and in every target. This cannot be undone.

    Everything until now is erased; a lesson may be recorded meanwhile. Names are taken literally. More than one room
    needs --all, and the number of segments typed back. OUTPUT_DIR/erased.json records it, without names. If it could
    not be completed (exit code 1), run it again.
    """
    selections = _selections(rooms or [], participant)
    settings = console.settings()
    output_dir = Path(settings.output_dir)
    if not output_dir.is_dir():
        raise InputError(f"OUTPUT_DIR={output_dir} is not there: nothing has been recorded yet")
    targets = targets_of(settings, may_be_none=True)
    names, folders = SegmentNames.from_settings(settings), all_folders(output_dir)
    for folder in folders:  # what a crash has left is erased, too
        with contextlib.suppress(OSError):
            recover_folder(folder, names)
    here = [chosen_in(folders, selection, names) for selection in selections]
    in_targets, problems = console.run(remove_from_targets(targets, selections, here, only_count=True))
    for problem in problems:
        tell(problem)
    _check_names(output_dir, selections, here, in_targets)
    segments = sum(len(one.records) for found in here for one in found)
    number = segments + sum(in_targets.values())
    if dry_run:
        _say_found(here, in_targets, number, as_json)
        return
    in_rooms = {record.room_name for found in here for one in found for record in one.records}
    if len(selections) > 1 or len(in_rooms) > 1 or not selections[0].room:
        _expect_number(number, len(in_rooms), is_all=is_all, count=count)
    elif not yes:
        _ask(selections[0], segments, len(targets))
    run = ErasureRun(settings, targets_of(settings, may_be_none=True), selections)
    receipt = console.run(run.run(here))
    for selection, found in zip(selections, here, strict=True):
        event = AuditEvent.PERSON_ERASED if selection.participant else AuditEvent.ROOM_ERASED
        count_here = sum(len(one.records) for one in found)
        state = "complete" if receipt["is_complete"] else "incomplete"
        audit(event, selection.room or "every room", selection.participant, segments=count_here, state=state)
    for problem in run.problems:
        tell(problem)
    _say_result(receipt, as_json)


def _say_result(receipt: Mapping[str, Any], as_json: bool) -> None:
    """Says what was erased; raises typer.Exit if something could not be."""
    if as_json:
        say_json(receipt)
    else:
        counts = "".join(f", {found} in {name}" for name, found in receipt["segments_in_targets"].items())
        say(f"Erased: {receipt['segments_here']} segments here{counts}")
    if not receipt["is_complete"]:
        tell("Not everything is erased: run it again when all targets can be reached")
        raise typer.Exit(TROUBLE)


def _selections(rooms: Sequence[str], participant: str | None) -> list[Selection]:
    """What is to be erased, one selection a room.

    Raises:
        InputError: nothing is named, or a name is empty or blank.
    """
    if not rooms and participant is None:
        raise InputError("Name a room, or a participant (--participant IDENTITY)")
    for what, name in [*(("room", room) for room in rooms), ("participant", participant)]:
        if name is not None and not name.strip():
            raise InputError(f"The name of the {what} is empty: nothing is erased")
    return [Selection(room, participant or "") for room in dict.fromkeys(rooms)] or [
        Selection(participant=participant or "")
    ]


def _check_names(
    output_dir: Path,
    selections: Sequence[Selection],
    here: Sequence[Sequence[Chosen]],
    in_targets: Mapping[str, int],
) -> None:
    """Raises InputError for a pattern, which is never expanded, and if nothing is found by the names."""
    is_known_there = len(selections) == 1 and any(in_targets.values())
    for selection, found in zip(selections, here, strict=True):
        for name in (selection.room, selection.participant):
            if not found and not is_known_there and set(name) & WILD_CARDS:
                raise InputError(f"{name!r} is taken literally, and nothing has this name: no wild cards")
    is_repeated = any(
        one.names_room(selection.room) and one.concerns(selection.participant)
        for one in open_erasures(output_dir)
        for selection in selections
    )
    if not any(here) and not any(in_targets.values()) and not is_repeated:
        names = ", ".join(repr(name) for one in selections for name in (one.room, one.participant) if name)
        raise InputError(f"Nothing is known of {names}, neither here nor in the targets")


def _ask(selection: Selection, segments: int, targets: int) -> None:
    """Asks for confirmation; raises typer.Abort unless the answer is yes."""
    what = f"{selection.participant} in" if selection.participant else "the whole room"
    question = (
        f"Erase {what} {selection.room} ({segments} segments here, and all of it in {targets} targets)?"
    )
    typer.confirm(question, abort=True, err=True)


def _expect_number(number: int, rooms: int, *, is_all: bool, count: int | None) -> None:
    """Goes on only with --all and the number of segments, typed back or given by --count.

    Raises:
        InputError: --all is missing, or the number is another.
        typer.Abort: nobody answers.
    """
    if not is_all:
        raise InputError(f"This concerns {number} segments in {rooms} rooms here: it needs --all")
    if count is None:
        question = f"{number} segments in {rooms} rooms are erased. Type that number of segments to go on"
        count = typer.prompt(question, type=int, err=True)
    if count != number:
        raise InputError(f"There are {number} segments, not {count}: nothing is erased")


def _say_found(
    here: Sequence[Sequence[Chosen]], in_targets: Mapping[str, int], number: int, as_json: bool
) -> None:
    folders = [one for found in here for one in found]
    if as_json:
        local = [{"folder": one.folder.name, "segments": len(one.records)} for one in folders]
        say_json({"dry_run": True, "local": local, "remote": dict(in_targets), "segments": number})
        return
    for one in folders:
        say(f"{one.folder.name}: {len(one.records)} segments would be erased")
    for target, found in in_targets.items():
        say(f"{target}: {found} segments would be erased")
    say(f"In all {number} segments")
