"""How the commands for recorded lessons speak: lines and tables for people, JSON for scripts, progress for both.

What a script may read goes to stdout; what only people care for (progress, warnings, errors) goes to stderr. Everything
that came from outside is shown with its control characters escaped.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from core.logs import printable

if TYPE_CHECKING:
    from config import Settings

ROOT = Path(__file__).resolve().parent.parent

ALL_WELL, TROUBLE, WRONG_INPUT, NOT_YET = 0, 1, 2, 3
"""Exit codes: all is in order or done; something is not; it was asked for wrongly; come back later."""

LINE_SECONDS = 10.0
"""How often progress is told where there is no terminal."""

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]
"""The option of every command whose answer a script may read."""

SomeRooms = Annotated[
    list[str] | None, typer.Argument(metavar="[ROOM]...", help="These rooms only; all if none is named.")
]
"""The argument of commands that work through rooms."""

Advance = Callable[[float], None]
"""Says that so much more is done."""


def settings() -> Settings:
    """The settings, as far as they are set: no command needs a LiveKit server.

    Raises:
        ConfigError: a setting is wrong.
    """
    from config import Settings, environment  # not for a page of help

    return Settings.from_env(environment(ROOT), for_worker=False)


def say(line: str = "", *, is_safe: bool = False) -> None:
    """A line of the command's answer; one that ``is_safe`` has been made printable and may have colours."""
    sys.stdout.write((line if is_safe else printable(line)) + "\n")


def is_terminal() -> bool:
    """Whether the answer goes to a person's screen."""
    return sys.stdout.isatty()


def tell(line: str) -> None:
    """A line for the person who waits, or looks for what went wrong."""
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


def say_json(value: Any) -> None:
    """The answer as one JSON document."""
    sys.stdout.write(json.dumps(value, ensure_ascii=not _is_unicode(), indent=2) + "\n")


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "").casefold().replace("-", "") == "utf8"


def say_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns side by side, each as wide as its widest cell; a heading in capitals is one of numbers, set right."""
    from rich.cells import cell_len  # letters of two columns, and marks of none

    lines = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = []
        for cell, width, heading in zip(line, widths, head, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if heading.isupper() else cell + space)
        say("  ".join(padded).rstrip())


def counted(number: int, what: str) -> str:
    """Such as ``1 fault`` or ``2 faults``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def duration(seconds: float) -> str:
    """Such as ``1:02:03`` or ``2:03``."""
    whole = round(seconds)
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's asynchronous part. Ctrl-C and SIGTERM cancel it, so that it ends in its own order.

    asyncio's own way raises in the middle of the loop before Python 3.11, and everywhere for SIGTERM.

    Raises:
        KeyboardInterrupt: it was cancelled so.
    """
    import asyncio  # most commands do without

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
    """A bar on a terminal, now and then a line elsewhere. Yields what is to be called with every bit of work done.

    Answer only when it is over: the bar has the terminal to itself.

    rich draws the bar: typer brings it along, and it knows the terminals of all three systems.
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
        TextColumn(f"{{task.completed:,.0f}} of {{task.total:,.0f}} {unit}"),
        TimeRemainingColumn(),
    )
    whole = Console(stderr=True)
    with Progress(
        *columns, console=whole, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task(escape(printable(what)), total=total)
        yield lambda amount: bar.advance(task, amount)


def _lines(what: str, total: float, unit: str) -> Advance:
    done, last_told = 0.0, time.monotonic()

    def advance(amount: float) -> None:
        nonlocal done, last_told
        done += amount
        if time.monotonic() - last_told >= LINE_SECONDS:
            last_told = time.monotonic()
            share = f" ({done / total:.0%})" if total else ""
            now = datetime.now(timezone.utc)
            tell(f"{now:%H:%M:%S} {what}: {done:,.0f} of {total:,.0f} {unit}{share}")

    return advance
