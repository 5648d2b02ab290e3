"""`lessons.py transcribe`: makes missing texts, or replaces them with another model or more languages."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archive.rooms import Archive, Room
from config import Settings
from core.errors import ConfigError, InputError
from core.language_tags import language_tags
from lesson_tools import console
from lesson_tools.console import AsJson, counted, duration, progress, say, say_json, tell
from lesson_tools.expected import expected_of

if TYPE_CHECKING:
    from lesson_tools.transcription import Estimate, Task, TranscriptionOptions
    from text.costs import TextCosts


ROOMS_AT_ONCE = 64
"""Rooms that are reserved for this process at the same time."""

Force = Annotated[
    bool,
    typer.Option("--force", help="Also replace texts of another model, or without one of the languages."),
]
Refused = Annotated[
    bool,
    typer.Option("--refused", help="Also ask again for texts that were refused, or that lack a translation."),
]
Model = Annotated[str, typer.Option("--model", help="Instead of GEMINI_MODEL.")]
Languages = Annotated[
    str, typer.Option("--languages", metavar="TAGS", help="Instead of TARGET_LANGUAGES, such as es,ar.")
]
ByBatch = Annotated[
    bool,
    typer.Option(
        "--batch", help="Half the price, within a day: the first run submits, a later run collects."
    ),
]
Shard = Annotated[
    str, typer.Option("--shard", metavar="K/N", help="Only the K-th of N parts, for N processes at once.")
]
OnlyEstimate = Annotated[bool, typer.Option("--estimate", help="Only print what it would cost.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


Where = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[s3://BUCKET/PREFIX] [ROOM]...",
        help="An archive in a bucket instead of OUTPUT_DIR; these rooms only, all if none is named.",
    ),
]


def transcribe(
    where: Where = None,
    force: Force = False,
    refused: Refused = False,
    model: Model = "",
    languages: Languages = "",
    batch: ByBatch = False,
    shard: Shard = "",
    estimate: OnlyEstimate = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Get transcripts and translations for segments that have none. An interrupted run can be started again.

    Before it begins, it prints the cost and asks. Segments that have a text are not sent. Those that were refused are
    sent again only with --refused. A segment that fails again and again is skipped; then the exit code is 1.
    Settings and budgets are the worker's (GEMINI_API_KEY, TARGET_LANGUAGES, GEMINI_MAX_PER_DAY, ...). With --batch,
    the exit code is 3 while texts are still to come. It is 3 as well if Gemini does not answer for about an hour.

    Endpoint and key of a bucket are those of delivery (S3_ENDPOINT, S3_REGION, S3_KEY_ID, S3_KEY_SECRET). Several
    processes share an archive with --shard: each room belongs to exactly one part.
    """
    from lesson_tools.transcription import ServiceDown, TranscriptionOptions, is_in_shard

    settings = _with(console.settings(), model, languages)
    request = Request(
        settings,
        TranscriptionOptions(settings.gemini_model, settings.target_languages, force, refused),
        estimate,
        yes,
        as_json,
    )
    number, count = _shard(shard)
    logging.getLogger("recorder").setLevel(logging.WARNING)
    is_mine = functools.partial(is_in_shard, number=number, count=count)
    try:
        if where and where[0].startswith("s3://"):
            _in_bucket(request, where[0], where[1:], is_mine, batch)
            return
        chosen = [room for room in Archive.from_settings(settings).chosen(where) if is_mine(room.path.name)]
        (_by_batch if batch else _at_once)(request, chosen)
    except ServiceDown as error:
        tell(f"{error}: run the same command later. What is done is saved")
        raise typer.Exit(console.NOT_YET) from None


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    settings: Settings
    options: TranscriptionOptions
    only_estimate: bool
    yes: bool
    as_json: bool


def _with(settings: Settings, model: str, languages: str) -> Settings:
    """Returns the settings with the options of the command line. Text files are always written."""
    if languages:
        try:
            tags = language_tags(word for word in languages.split(",") if word.strip())
        except ValueError as error:
            raise InputError(f"--languages {languages}: {error}") from None
        settings = replace(settings, target_languages=tags)
    return replace(settings, gemini_model=model or settings.gemini_model, save_translations=True)


def _shard(text: str) -> tuple[int, int]:
    if not text:
        return 1, 1
    try:
        number, count = map(int, text.split("/"))
    except ValueError:
        number, count = 0, 0
    if not 1 <= number <= count <= 10_000:
        raise InputError(f"--shard {text}: it must be K/N with 1 <= K <= N, such as 2/8")
    return number, count


def _tasks(rooms: Sequence[Room], options: TranscriptionOptions) -> Iterator[Task]:
    from lesson_tools.transcription import tasks_of

    return itertools.chain.from_iterable(tasks_of(room, options) for room in rooms)


def _confirm(cost: Estimate, request: Request) -> None:
    """Asks before money is spent.

    Raises:
        ConfigError: there is no key.
        InputError: it was not confirmed, or there is no terminal to ask on.
    """
    if not request.settings.has_gemini:
        raise ConfigError("GEMINI_API_KEY is not set: text needs it, or GOOGLE_CLOUD_PROJECT")
    tell(_sentence(cost, request.settings))
    if request.yes:
        return
    if not sys.stdin.isatty():
        raise InputError("There is no terminal to ask on: use --yes, or --estimate")
    if not typer.confirm("Continue?", err=True):
        raise typer.Exit(console.TROUBLE)


def _at_once(request: Request, rooms: Sequence[Room]) -> None:
    from lesson_tools.session_progress import Sessions, count_again, noted
    from lesson_tools.transcription import count_refused, estimate, transcribe
    from text.costs import TextCosts
    from translator import GeminiTranslator

    settings, options = request.settings, request.options
    refused = sum(count_refused(room, options) for room in rooms)
    cost = estimate(_tasks(rooms, options), options, refused=refused)
    if request.only_estimate or not cost.segments:
        _say_estimate(cost, request)
        return
    _confirm(cost, request)
    costs, free_rooms, expected = TextCosts(), 0, expected_of(settings)
    with progress("Transcribing", cost.segments, "segments") as advance:
        for some in _groups(rooms):
            with contextlib.ExitStack() as stack:
                free = _reserved(stack, some)
                free_rooms += len(free)
                touched: Sessions = set()
                translator, tasks = GeminiTranslator(settings), noted(_tasks(free, options), touched)
                try:
                    service = console.run(
                        transcribe(settings, translator, tasks, advance, is_forced=options.may_replace)
                    )
                finally:
                    count_again(settings, expected, touched)
            costs.add(**vars(service.costs))
    _say_costs(costs, request)
    if costs.refused or costs.skipped or free_rooms < len(rooms):
        raise typer.Exit(console.TROUBLE)


def _groups(rooms: Sequence[Room]) -> Iterator[Sequence[Room]]:
    """Yields the rooms in groups: each room that is reserved holds a file open, and a process may have 256."""
    for start in range(0, len(rooms), ROOMS_AT_ONCE):
        yield rooms[start : start + ROOMS_AT_ONCE]


def _reserved(stack: contextlib.ExitStack, rooms: Sequence[Room]) -> list[Room]:
    """Reserves the rooms, and returns those that no other process is transcribing."""
    from archive.files import Reservation

    free = []
    for room in rooms:
        try:
            stack.enter_context(Reservation(room.path, "transcribe"))
            free.append(room)
        except InputError as error:
            tell(str(error))
    return free


# --- the Batch API ---


def _by_batch(request: Request, rooms: Sequence[Room]) -> None:
    from archive.files import Reservation
    from lesson_tools.session_progress import count_again

    _check_batch_key(request.settings)
    expected, touched = expected_of(request.settings), set[tuple[str, str]]()
    with Reservation(Path(request.settings.output_dir), "batch"):
        try:
            answer = console.run(_batch_run(request, rooms, touched))
        finally:
            count_again(request.settings, expected, touched)
    _say_batches(answer, request)


def _check_batch_key(settings: Settings) -> None:
    if not settings.gemini_api_key:
        raise ConfigError("GEMINI_API_KEY is not set: the Batch API needs it")


async def _batch_run(
    request: Request, rooms: Sequence[Room], touched: set[tuple[str, str]]
) -> dict[str, Any]:
    """Collects the answers that have come, then submits what is not done. Adds the sessions that have got texts to
    ``touched``, by folder and sid."""
    from lesson_tools.batches import Batches
    from lesson_tools.transcription import count_refused, estimate

    options, batches = request.options, Batches(request.settings)
    touched |= batches.sessions()
    try:
        collected, failed = await batches.collect()
        refused = sum(count_refused(room, options) for room in rooms)
        cost = estimate(batches.not_submitted(_tasks(rooms, options)), options, batch=True, refused=refused)
        submitted = 0
        if cost.segments and request.only_estimate:
            tell(_sentence(cost, request.settings))
        elif cost.segments:
            _confirm(cost, request)
            with progress("Submitting", cost.segments, "segments") as advance:
                submitted = await batches.submit(
                    batches.not_submitted(_tasks(rooms, options)), options, advance
                )
        _tell_refused(cost)
        waiting = batches.waiting()
    finally:
        await batches.aclose()
    return {"collected": collected, "failed": failed, "submitted": submitted, "waiting": waiting}


# --- an archive in a bucket ---


def _in_bucket(
    request: Request, url: str, rooms: Sequence[str], is_mine: Callable[[str], bool], batch: bool
) -> None:
    from archive.names import safe_name
    from lesson_tools.bucket import Bucket
    from lesson_tools.bucket_transcription import Run, plan

    if batch:
        _check_batch_key(request.settings)
    bucket = Bucket.at(url, request.settings)
    names = {name for room in rooms for name in (room, safe_name(room))}
    found = console.run(plan(bucket, request.options, names, is_mine, batch=batch))
    if not found.rooms:
        raise InputError(f"There is no lesson in {url}" + (f" of {', '.join(rooms)}" if rooms else ""))
    if found.cost.segments and not request.only_estimate:
        _confirm(found.cost, request)
    elif request.only_estimate or not found.folders:
        _say_estimate(found.cost, request)
        if found.folders and not found.cost.segments:
            tell("except for batches that have not ended: --batch collects them")
        return
    with progress("Submitting" if batch else "Transcribing", found.cost.segments, "segments") as advance:
        run = Run(request.settings, bucket, request.options, advance)
        console.run((run.by_batch if batch else run.at_once)(found.folders))
    if batch:
        _say_batches(vars(run.batches), request)
        return
    _say_costs(run.costs, request)
    if run.batches.waiting:
        tell(f"{run.batches.waiting} segments are in batches that have not ended: --batch collects them")
        raise typer.Exit(console.NOT_YET)
    if run.costs.refused or run.costs.skipped:
        raise typer.Exit(console.TROUBLE)


# --- output ---


def _say_costs(costs: TextCosts, request: Request) -> None:
    if request.as_json:
        say_json(vars(costs))
    else:
        say(str(costs))


def _say_batches(answer: Mapping[str, int], request: Request) -> None:
    """Prints the state of the batches, and exits with the code for it."""
    if request.as_json:
        say_json(dict(answer))
    else:
        say(
            f"{answer['collected']} texts collected, {answer['submitted']} segments submitted, "
            f"{answer['waiting']} still to come"
        )
    if answer["waiting"]:
        tell("Run the same command later to collect them (results are kept for two days)")
        raise typer.Exit(console.NOT_YET)
    if answer["failed"]:
        raise typer.Exit(console.TROUBLE)


def _sentence(cost: Estimate, settings: Settings) -> str:
    price = f"about ${cost.dollars:,.2f}" if cost.dollars is not None else "the price is unknown"
    tokens = f"{cost.input_tokens:,} tokens in, {cost.output_tokens:,} out"
    into = f" and {', '.join(settings.target_languages)}" if settings.target_languages else ""
    return (
        f"{cost.segments} segments, {duration(cost.audio_seconds)} of speech, transcript{into} with "
        f"{settings.gemini_model}: {price} ({tokens})"
    )


def _say_estimate(cost: Estimate, request: Request) -> None:
    if request.as_json:
        say_json(vars(cost))
    else:
        say(
            _sentence(cost, request.settings)
            if cost.segments
            else "Nothing to do: every segment has its text"
            if not cost.refused
            else "Nothing to do"
        )
    _tell_refused(cost)


def _tell_refused(cost: Estimate) -> None:
    if cost.refused:
        tell(f"The text of {counted(cost.refused, 'segment')} was refused: --refused asks for it again")
