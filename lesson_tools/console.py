"""Output of the commands for recorded lessons: lines and tables for people, JSON for scripts, progress for both.

A command's answer goes to stdout; progress, warnings and errors go to stderr. Control characters in the output are
escaped.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from core.logs import printable

if TYPE_CHECKING:
    from config import Settings

ROOT = Path(__file__).resolve().parent.parent

ALL_WELL, TROUBLE, WRONG_INPUT, NOT_YET = 0, 1, 2, 3
"""Exit codes: all is in order or done; something is not; wrong arguments or settings; run it again later."""

LINE_SECONDS = 10.0
"""How often progress is printed where there is no terminal."""

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]
"""The option of every command whose answer a script may read."""

SomeRooms = Annotated[
    list[str] | None, typer.Argument(metavar="[ROOM]...", help="These rooms only; all if none is named.")
]
"""The argument of commands that work through rooms."""

Advance = Callable[[float], None]
"""Call it with the amount of work that has just been done."""


def settings() -> Settings:
    """Reads the settings. None is required: no command needs a LiveKit server. What was copied to OUTPUT_DIR from an
    object store is made ready: its lists are joined.

    Raises:
        ConfigError: a setting is wrong.
    """
    from archive.list_parts import join_parts  # imported late: --help does not need it
    from config import Settings, environment

    found = Settings.from_env(environment(ROOT), for_worker=False)
    join_parts(Path(found.output_dir))
    return found


def say(line: str = "", *, is_safe: bool = False) -> None:
    """Prints a line of the answer. ``is_safe``: it is printable already, and may have colours."""
    sys.stdout.write((line if is_safe else printable(line)) + "\n")


def is_terminal() -> bool:
    """Returns whether stdout is a terminal."""
    return sys.stdout.isatty()


def tell(line: str) -> None:
    """Prints a line to stderr: progress, a warning or an error."""
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


def say_json(value: Any) -> None:
    """Prints the answer as one JSON document."""
    text = json.dumps(value, ensure_ascii=not _is_unicode(), indent=2)
    # Half a surrogate pair, as in a file name that is not UTF-8, becomes JSON's own escape.
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode() + "\n")


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "").casefold().replace("-", "") == "utf8"


def say_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table; a column whose heading is in capitals is aligned right, for numbers."""
    from rich.cells import cell_len  # some letters are two columns wide, some marks have no width

    lines = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = []
        for cell, width, heading in zip(line, widths, head, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if heading.isupper() else cell + space)
        say("  ".join(padded).rstrip())


def counted(number: int, what: str) -> str:
    """Formats a number of things, such as ``1 fault`` or ``2 faults``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def duration(seconds: float) -> str:
    """Formats a duration, such as ``1:02:03`` or ``2:03``."""
    whole = round(seconds)
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's asynchronous part. Ctrl-C and SIGTERM cancel it, so that its cleanup runs.

    asyncio itself does this only for Ctrl-C.

    Raises:
        KeyboardInterrupt: it was cancelled by one of them.
    """
    import asyncio  # imported late: most commands do not need it

    async def cancelled_by_signals() -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        numbers = (
            (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        )
        before = {
            number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(task.cancel))
            for number in numbers
        }
        try:
            return await work
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    try:
        return asyncio.run(cancelled_by_signals())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextmanager
def progress(what: str, total: float, unit: str = "") -> Iterator[Advance]:
    """Shows progress: a bar on a terminal, else a line every LINE_SECONDS. Yields the function that advances it.

    ``total``: 0 if it is not known.
    Nothing may be printed inside the context: the bar redraws the terminal. rich draws it, which typer depends on.
    """
    if sys.stderr.isatty():
        with _bar(what, total, unit) as advance:
            yield advance
    else:
        yield _lines(what, total, unit)


@contextmanager
def _bar(what: str, total: float, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn(f"{{task.completed:,.0f}}{_of(total)} {unit}"),
        TimeRemainingColumn(),
    )
    whole = Console(stderr=True)
    with Progress(
        *columns, console=whole, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task(escape(printable(what)), total=total or None)
        yield lambda amount: bar.advance(task, amount)


def _lines(what: str, total: float, unit: str) -> Advance:
    done, last_reported = 0.0, time.monotonic()

    def advance(amount: float) -> None:
        nonlocal done, last_reported
        done += amount
        if time.monotonic() - last_reported >= LINE_SECONDS:
            last_reported = time.monotonic()
            share = f" ({done / total:.0%})" if total else ""
            now = datetime.now(UTC)
            tell(f"{now:%H:%M:%S} {what}: {done:,.0f}{_of(total)} {unit}{share}")

    return advance


def _of(total: float) -> str:
    return f" of {total:,.0f}" if total else ""
