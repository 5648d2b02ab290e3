#!/usr/bin/env python3
"""The command line for recorded lessons: list, search, play, check, transcribe, export, deliver.

    python lessons.py --help
    python lessons.py COMMAND --help

Settings come from the environment, `.env.local` and `.env`, as for the worker; a command needs only those it uses.
Exit codes: 0 all well, 1 something is not in order or could not be done, 2 wrong arguments or settings, 3 run it
again later, 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from core.logs import end_at_once
from lesson_tools.console import TROUBLE, WRONG_INPUT, tell

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Look": {
        "list": (
            "lesson_tools.listing.list_lessons",
            "List rooms and sessions: when, how long, how much speech, which languages, and what is not done yet.",
        ),
        "search": (
            "lesson_tools.search.search",
            "Search all lessons in all languages; the best matches first, the newest among equals.",
        ),
        "play": (
            "lesson_tools.play.play",
            "Open a segment in the system's player; without N the room's last lesson: the exported page, else a"
            " playlist.",
        ),
    },
    "Make": {
        "segment": (
            "lesson_tools.segment.segment",
            "Cut recordings into segments of speech, by the same rules and into the same folders as the live"
            " recorder.",
        ),
        "transcribe": (
            "lesson_tools.transcribe.transcribe",
            "Get transcripts and translations for segments that have none. An interrupted run can be started again.",
        ),
        "export": (
            "lesson_tools.export.command.export",
            "Write a lesson as lesson.html, WebVTT and SRT for each language, plain text and JSON.",
        ),
    },
    "Keep": {
        "check": (
            "lesson_tools.check.check",
            "Check the folders: compare every file with the manifest and its SHA-256; check numbers, times, texts,"
            " leftovers.",
        ),
        "migrate": (
            "lesson_tools.delivery.migrate",
            "Creates the tables in DATABASE_URL, or brings them up to date. Run it as their owner.",
        ),
        "deliver": (
            "lesson_tools.delivery.deliver",
            "Delivers everything that is not there yet, also from the disk of another worker (--output-dir).",
        ),
        "prune": (
            "lesson_tools.delivery.prune",
            "Removes what RETENTION_DAYS, KEEP_LOCAL and REMOTE_RETENTION_DAYS let go: here, and where it was"
            " delivered.",
        ),
        "link": (
            "lesson_tools.delivery.link",
            "Makes a link to one delivered file that works for a few minutes, for anyone who has it.",
        ),
        "export-person": (
            "lesson_tools.export_person.export_person",
            "Put everything that is kept of a participant into a ZIP: sound, texts, and the lines of all lists.",
        ),
        "erase": (
            "lesson_tools.erase.erase",
            "Erases rooms, or a participant in one room or all: on this disk and in every target. This cannot be"
            " undone.",
        ),
    },
}
"""Every command by heading and name: its function, and the first sentences of that function's docstring.

The function's annotations are its options, and its docstring is its help. Its module is imported when it is called:
importing all of them takes longer than most commands.
"""


CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}


class Program(TyperGroup):
    """Loads a command when it is called, and runs it. An error is printed as one line."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, _loaded(name) if name else command, rest

    def invoke(self, ctx: Any) -> Any:
        from core.errors import ConfigError, InputError, RecorderError

        try:
            return super().invoke(ctx)
        except (ConfigError, InputError) as error:
            tell(str(error)) if isinstance(error, InputError) else _tell_lines(error)
            raise typer.Exit(WRONG_INPUT) from None
        except RecorderError as error:
            tell(str(error))
            raise typer.Exit(TROUBLE) from None
        except BrokenPipeError:
            raise  # the reader of the output has closed it
        except OSError as error:
            tell(f"{error.filename or 'The disk'}: {error.strerror or error}")
            raise typer.Exit(TROUBLE) from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] == "typer":
                raise  # a wrong option, or the end of a command
            # A bug. --verbose shows the traceback.
            logging.getLogger("recorder").debug("Unexpected error", exc_info=error)
            tell(f"Unexpected error, please report it: {type(error).__name__}: {error}")
            raise typer.Exit(TROUBLE) from None


def _loaded(name: str) -> Any:
    (target,) = (commands[name][0] for commands in COMMANDS.values() if name in commands)
    module, _, function = target.rpartition(".")
    alone = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, context_settings=dict(CONTEXT_SETTINGS)
    )
    alone.command(name)(getattr(importlib.import_module(module), function))
    return typer.main.get_command(alone)


def _tell_lines(error: Exception) -> None:
    for line in str(error).splitlines():
        tell(line)


app = typer.Typer(
    cls=Program,
    help="Commands for recorded lessons: list, search, play, check, add text, export and deliver them.",
    epilog="Exit codes: 0 all well, 1 not in order or not done, 2 wrong arguments or settings, 3 run it again later.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=dict(CONTEXT_SETTINGS),
)
for heading, commands in COMMANDS.items():
    for name, (_, summary) in commands.items():
        app.command(name, help=summary, rich_help_panel=heading)(lambda: None)


@app.callback()
def options(
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", metavar="DIR", help="Instead of OUTPUT_DIR in the settings."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show the log, and where errors come from.")
    ] = False,
) -> None:
    if output_dir is not None:
        os.environ["OUTPUT_DIR"] = str(output_dir)
    from core.audit import LOGGER_NAME
    from core.logs import TextFormatter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter())
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if verbose else logging.ERROR)
    logging.getLogger(LOGGER_NAME).setLevel(logging.INFO)


def main(arguments: list[str]) -> None:
    """Runs one command.

    Raises:
        SystemExit: always, with the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a console that cannot show a name still shows the line
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(arguments or ["--help"], prog_name="lessons.py", standalone_mode=False)
    except typer.Abort:
        tell("Nothing was done")
        raise SystemExit(TROUBLE) from None
    except typer.TyperException as error:  # a wrong option: one line, like every other error
        tell(f"{error.format_message()} (lessons.py --help)")
        raise SystemExit(WRONG_INPUT) from None
    raise SystemExit(code if arguments else WRONG_INPUT)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SystemExit as ending:
        if "obstore" in sys.modules:  # its threads may still run
            end_at_once(ending.code if isinstance(ending.code, int) else 0)
        raise
