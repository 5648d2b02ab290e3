"""`lessons.py segment`: cuts recordings into segments, as the live recorder does."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from archive.files import prepare_output_dir
from config import Settings
from core.errors import InputError, RecorderError
from core.records import GapReason, format_utc
from lesson_tools import console
from lesson_tools.console import AsJson, duration, say, say_json, tell

if TYPE_CHECKING:
    from lesson_tools.importing import Outcome

STARTS_IN_YEARS = range(1900, 2200)
"""Years that --start may have."""

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="WAV, MP3, M4A, Opus, MP4, WebM, ...")]
RoomName = Annotated[str | None, typer.Option("--room", help="Name of the room; default: the file's name.")]
Start = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="TIME",
        help="When it began, such as 2025-10-08T14:00 (in TIMEZONE) or 2025-10-08T12:00Z; default: the time in the "
        "file's metadata, else the file's date minus its length.",
    ),
]
Speaker = Annotated[str, typer.Option("--speaker", help="Who speaks.")]
Track = Annotated[
    int | None,
    typer.Option(
        "--track", min=1, help="Take this track of sound only, from 1 on; default: those with speech."
    ),
]
Channel = Annotated[
    int | None,
    typer.Option("--channel", min=1, help="Take this channel only, from 1 on; default: those with speech."),
]


def segment(
    files: Files,
    room: RoomName = None,
    start: Start = None,
    speaker: Speaker = "",
    track: Track = None,
    channel: Channel = None,
    as_json: AsJson = False,
) -> None:
    """Cut recordings into segments of speech, by the same rules and into the same folders as the live recorder.

    Each file becomes a session of its room. An interrupted run can be started again: what is saved already is not
    saved twice. Of several tracks and channels those with speech are taken.
    """
    settings = console.settings()
    _check_files(files)
    moment = _given_start(start, ZoneInfo(settings.timezone)) if start else None
    if moment is not None and len(files) > 1:
        raise InputError("--start is for one file: run the command once per file")
    prepare_output_dir(Path(settings.output_dir))
    outcomes = list(_segmented(settings, files, room, moment, speaker, track, channel))
    if as_json:
        say_json({"recordings": [_as_json(outcome) for outcome in outcomes]})
    else:
        for outcome in outcomes:
            _say_outcome(outcome)
    if len(outcomes) < len(files):
        raise typer.Exit(console.TROUBLE)


def _segmented(
    settings: Settings,
    files: Iterable[Path],
    room: str | None,
    start: datetime | None,
    speaker: str,
    track: int | None,
    channel: int | None,
) -> Iterator[Outcome]:
    """Segments the recordings one by one; for a file with which that is not possible, prints why."""
    from lesson_tools.importing import segment_file  # with the decoder and the speech model

    for path in files:
        try:
            yield segment_file(settings, path, room, start, speaker, track=track, channel=channel)
        except InputError as error:
            tell(str(error))
        except RecorderError:
            raise
        except Exception as error:  # of a library: the other files are still done
            tell(f"{path}: unexpected error, please report it: {type(error).__name__}: {error}")


def _check_files(files: Sequence[Path]) -> None:
    """Reports wrong names before the work begins, which may take hours."""
    for path in files:
        try:
            is_file = stat.S_ISREG(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{path} does not exist") from None
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}"
            ) from None
        if not is_file:
            raise InputError(f"{path} is not a file")


def _given_start(text: str, zone: ZoneInfo) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00").replace("z", "+00:00"))
        start = (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError(f"--start {text}: a time looks like 2025-10-08T14:00 or 2025-10-08T12:00Z") from None
    if start.year not in STARTS_IN_YEARS:
        raise InputError(f"--start {text}: from {STARTS_IN_YEARS[0]} to {STARTS_IN_YEARS[-1]}")
    return start


# --- output ---


def _say_outcome(outcome: Outcome) -> None:
    speech, length = duration(outcome.speech_seconds), duration(outcome.duration_seconds)
    known = "" if outcome.new_segments == outcome.segments else f" ({outcome.new_segments} of them new)"
    say(
        f"{outcome.file}: {outcome.segments} segments{known}, {speech} of speech in {length}, "
        f"from {format_utc(outcome.start)} on, in {outcome.folder}"
    )
    for line in _remarks(outcome):
        tell(f"{outcome.file}: {line}")


def _remarks(outcome: Outcome) -> Iterator[str]:
    """Yields what is worth knowing about the file, in one line each: what was taken of it, and what it lacks."""
    if outcome.taken:
        yield f"taken: {outcome.taken}"
    found = list(_lacks(outcome))
    if outcome.excess_seconds and not outcome.restarts:
        promised = duration(outcome.duration_seconds - outcome.excess_seconds)
        found.append(f"its header promises {promised}, {duration(outcome.duration_seconds)} were read")
    if outcome.restarts:
        times = console.counted(outcome.restarts, "time")
        found.append(f"its timestamps restart {times}: the parts follow each other")
    if found:
        yield "; ".join(found)


def _lacks(outcome: Outcome) -> Iterator[str]:
    holes = [loss for loss in outcome.losses if loss.reason is GapReason.DAMAGED]
    if holes:
        seconds = sum(loss.seconds for loss in holes)
        places = console.counted(len(holes), "place")
        yield f"{seconds:.1f} s are missing in {places}, the first at {duration(holes[0].start)}"
    elif outcome.damaged_packets:
        yield f"{console.counted(outcome.damaged_packets, 'packet')} could not be decoded"
    for loss in outcome.losses:
        if loss.reason is GapReason.TRUNCATED:
            ends = duration(loss.start)
            yield (
                f"incomplete: it ends at {ends} of {duration(loss.end)}"
                if loss.seconds
                else (f"incomplete: it breaks off at {ends}, and does not say how much is missing")
            )


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        **vars(outcome),
        "start": format_utc(outcome.start),
        "speech_seconds": round(outcome.speech_seconds, 3),
        "duration_seconds": round(outcome.duration_seconds, 3),
        "losses": [
            {"start": round(loss.start, 3), "end": round(loss.end, 3), "reason": loss.reason.value}
            for loss in outcome.losses
        ],
    }
