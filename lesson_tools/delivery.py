"""`lessons.py migrate`, `deliver`, `prune` and `link`: commands for delivered lessons."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archive.delivery_log import DeliveryLog, forget
from archive.outbox import Outbox
from archive.session_counts import Expected
from config import Settings
from core.audit import AuditEvent, audit
from core.errors import ConfigError, InputError, RecorderError
from core.records import SegmentRecord
from delivery.erasure import forget_work, room_folders
from delivery.folder_store import SCHEME, folder_in
from delivery.folder_store import set_up as mark_folder
from delivery.items import Selection, Target
from delivery.retention import Leaving, Rules, remove_leaving
from delivery.service import DeliveryService, kind_of
from delivery.targets import close_all, open_targets
from lesson_tools import console
from lesson_tools.console import TROUBLE, AsJson, progress, say, say_json, tell
from lesson_tools.session_progress import count_again

if TYPE_CHECKING:
    from delivery.postgres import PostgresTarget

PROGRESS_SECONDS = 0.2
MAX_LINK_MINUTES = 7 * 24 * 60
"""S3 signs no longer ones."""


# --- migrate ---


def migrate(
    grant: Annotated[
        str,
        typer.Option(metavar="ROLE", help="Give this database user the least rights that the worker needs."),
    ] = "",
    may_remove: Annotated[
        bool,
        typer.Option("--may-remove", help="With --grant: also what REMOTE_RETENTION_DAYS and erase need."),
    ] = False,
) -> None:
    """Creates the tables in DATABASE_URL, or brings them up to date. Run it as their owner.

    The worker never does this by itself. It can be repeated.
    """
    from delivery.postgres import PostgresTarget

    settings = console.settings()
    if not settings.database_url:
        raise ConfigError(
            "DATABASE_URL is not set: it must be a URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        )
    if may_remove and not grant:
        raise InputError("--may-remove needs --grant ROLE")
    applied, renewed = console.run(_migrate(PostgresTarget(settings.database_url), grant, may_remove))
    say(f"Migrations applied: {', '.join(map(str, applied))}" if applied else "The tables are up to date")
    if renewed:
        say(f"The search words of {console.counted(renewed, 'text')} are renewed")
    if grant:
        say(f"{grant} has the rights that the worker needs")


async def _migrate(target: PostgresTarget, grant: str, may_remove: bool) -> tuple[list[int], int]:
    """Returns the migrations that were applied, and how many texts have new search words."""
    try:
        return await target.migrate(grant, may_remove=may_remove), await target.renew_words()
    finally:
        await target.aclose()


# --- deliver ---


def deliver(
    again: Annotated[
        bool, typer.Option("--again", help="As if nothing had been delivered yet: proves that it is there.")
    ] = False,
    retry_refused: Annotated[
        bool, typer.Option("--retry-refused", help="Try the dead letters once more.")
    ] = False,
    set_up: Annotated[
        bool,
        typer.Option("--set-up", help="First mark the folder of STORE_URL=file:///... as a target, once."),
    ] = False,
    retry_seconds: Annotated[
        float, typer.Option("--retry-seconds", min=0, help="How long to retry a target that fails.")
    ] = 120.0,
    patience: Annotated[float | None, typer.Option("--patience", min=0, hidden=True)] = None,
    as_json: AsJson = False,
) -> None:
    """Delivers everything that is not there yet, also from the disk of another worker (--output-dir).

    It may run beside a worker on the same disk: they share the work.
    """
    settings = console.settings()
    targets = targets_of(settings)
    if set_up:
        _set_up(settings)
    seconds = retry_seconds if patience is None else patience  # --patience is the option's former name
    results = console.run(_deliver(settings, targets, again, retry_refused, seconds))
    is_well = all(not one.waiting and not one.refused and not one.trouble for one in results)
    if as_json:
        say_json({"targets": [vars(one) for one in results]})
    else:
        for one in results:
            say(f"{one.target}: {one.delivered} delivered, {one.waiting} waiting, {one.refused} dead letters")
            if one.trouble:
                tell(f"{one.target}: {one.trouble}")
        _tell_refused(settings)
    if not is_well:
        raise typer.Exit(TROUBLE)


def _set_up(settings: Settings) -> None:
    """Marks the folder of STORE_URL as a target.

    Raises:
        InputError: STORE_URL names no folder.
        ConfigError: the folder is not there.
    """
    if not settings.store_url.startswith(SCHEME):
        raise InputError("--set-up is for a folder: STORE_URL=file:///FOLDER")
    folder = Path(folder_in(settings.store_url))
    mark_folder(folder)
    say(f"{folder} is a target now")


async def _deliver(
    settings: Settings, targets: Sequence[Target], again: bool, retry_refused: bool, retry_seconds: float
) -> list[Any]:
    outbox, settled = Outbox(Path(settings.output_dir)), set[tuple[str, str]]()
    service = DeliveryService(
        settings, targets, outbox, on_settled=lambda folder, sid: settled.add((folder, sid))
    )
    expected = Expected.from_settings(settings, [target.name for target in targets])
    try:
        if again or retry_refused:
            for folder in await asyncio.to_thread(room_folders, Path(settings.output_dir)):
                await asyncio.to_thread(forget, folder, only_refused=not again)
            for target in targets:
                await outbox.reset(kind_of(target))
        await service.look()
        with progress("Delivering", sum(one.waiting for one in service.status()), "items") as advance:
            draining = asyncio.create_task(service.drain(retry_seconds))
            done = 0
            while not draining.done():
                await asyncio.wait({draining}, timeout=PROGRESS_SECONDS)
                now = sum(one.delivered for one in service.status())
                advance(now - done)
                done = now
            await draining
        if await asyncio.to_thread(count_again, settings, expected, settled):
            await service.drain(retry_seconds)
        return service.status()
    finally:
        await service.aclose()
        await outbox.aclose()


def _tell_refused(settings: Settings) -> None:
    for folder in room_folders(Path(settings.output_dir)):
        for (target, key), reason in DeliveryLog(folder).refused().items():
            tell(f"dead letter: {folder.name}/{key.item} ({target}): {reason}")


# --- prune ---


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Removes what RETENTION_DAYS, KEEP_LOCAL and REMOTE_RETENTION_DAYS let go: here, and where it was delivered.

    Nothing goes that is not delivered to every target. The worker does the same every hour.
    """
    settings = console.settings()
    targets, problems = open_targets(settings)
    for problem in problems:
        tell(f"{problem}. Nothing is removed from this disk")
    rules = Rules(settings, [target.name for target in targets], is_complete=not problems)
    now = datetime.now(UTC)
    leaving, unread = _leaving(rules, folders_of(settings), now)
    removed = [_removed(one) for one in leaving if not dry_run]
    gone = [one.folder for one in leaving if one.is_gone]
    if gone:
        console.run(forget_work(Path(settings.output_dir), gone))
    remote, is_well = console.run(_prune_remote(settings, targets, now, dry_run))
    if as_json:
        local = [
            {"folder": one.folder.name, "files": [*one.files, *one.exports], "bytes": one.bytes}
            for one in leaving
        ]
        say_json({"dry_run": dry_run, "local": local, "remote": remote})
    else:
        _say_leaving(leaving, remote, dry_run)
    if problems or unread or not (is_well and all(removed)):
        raise typer.Exit(TROUBLE)


def _leaving(rules: Rules, folders: Iterable[Path], now: datetime) -> tuple[list[Leaving], list[str]]:
    """What may go, and one line for each folder that cannot be read."""
    leaving, unread = [], []
    for folder in folders:
        try:
            leaving.append(rules.leaving(folder, now))
        except OSError as error:
            unread.append(f"{folder} cannot be read: {error.strerror or error}")
            tell(unread[-1])
    return [one for one in leaving if not one.is_nothing], unread


def _removed(leaving: Leaving) -> bool:
    """Removes what may go from one folder; False, with a line, if something refuses."""
    try:
        remove_leaving(leaving)
    except OSError as error:
        tell(f"{error.filename or leaving.folder}: {error.strerror or error}")
        return False
    return True


async def _prune_remote(
    settings: Settings, targets: Sequence[Target], now: datetime, dry_run: bool
) -> tuple[dict[str, int], bool]:
    if settings.remote_retention_days:
        old = Selection(before=now - timedelta(days=settings.remote_retention_days))
        return await remove_from(targets, old, {}, only_count=dry_run)
    await close_all(targets)
    return {}, True


def _say_leaving(leaving: Sequence[Leaving], remote: dict[str, int], dry_run: bool) -> None:
    verb = "would go" if dry_run else "gone"
    for one in leaving:
        say(f"{one.folder.name}: {len(one.files) + len(one.exports)} files, {one.bytes / 1e6:.1f} MB {verb}")
    for target, count in remote.items():
        say(f"{target}: {count} segments {verb}")
    if not leaving and not any(remote.values()):
        say("Nothing to remove")


# --- link ---


def link(
    file: Annotated[
        str, typer.Argument(metavar="ROOM/FILE", help="Such as math101/segment_001_20251008_140523.wav.")
    ],
    minutes: Annotated[
        float, typer.Option(min=1, max=MAX_LINK_MINUTES, help="How long the link works.")
    ] = 10.0,
) -> None:
    """Makes a link to one delivered file that works for a few minutes, for anyone who has it.

    Objects stay private; there is no other way to them without a key.
    """
    from delivery.object_store import ObjectTarget

    settings = console.settings()
    stores = [target for target in targets_of(settings) if isinstance(target, ObjectTarget)]
    if not stores:
        raise InputError("Links need an object store: set S3_BUCKET, S3_KEY_ID and S3_KEY_SECRET")
    room, _, name = file.replace("\\", "/").partition("/")
    if not room or not name or "/" in name or room.startswith(".") or name.startswith("."):
        raise InputError(f"{file!r} is no ROOM/FILE, such as math101/segment_001_20251008_140523.wav")
    made = console.run(stores[0].link(f"{room}/{name}", minutes * 60))
    audit(AuditEvent.LINK_MADE, room, file=name, minutes=minutes)
    say(made)


# --- what they share ---


def targets_of(settings: Settings, *, may_be_none: bool = False) -> list[Target]:
    """Opens all targets of the settings.

    Raises:
        ConfigError: one of them is wrong, or there is none.
    """
    targets, problems = open_targets(settings)
    if problems:
        raise ConfigError("\n".join(problems))
    if not targets and not may_be_none:
        raise ConfigError(
            "There is nowhere to deliver to: set S3_BUCKET (and its keys), STORE_URL or DATABASE_URL"
        )
    return targets


async def remove_from(
    targets: Sequence[Target],
    selection: Selection,
    known: Mapping[str, Sequence[SegmentRecord]],
    *,
    only_count: bool = False,
) -> tuple[dict[str, int], bool]:
    """Removes segments in all targets and closes these. Returns the count of each, and whether all succeeded."""
    counts: dict[str, int] = {}
    is_well = True
    for target in targets:
        try:
            counts[target.name] = await target.remove(selection, known, only_count=only_count)
        except RecorderError as error:
            tell(f"{target.name}: {error}")
            is_well = False
        finally:
            await target.aclose()
    return counts, is_well


def folders_of(settings: Settings) -> list[Path]:
    output_dir = Path(settings.output_dir)
    if not output_dir.is_dir():
        raise InputError(f"OUTPUT_DIR={output_dir} is not there: nothing has been recorded yet")
    return room_folders(output_dir)
