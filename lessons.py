#!/usr/bin/env python3
"""The command line for recorded lessons: look, search, hear, prove, and add text to what the recorder has left.

    python lessons.py --help
    python lessons.py COMMAND --help

Settings come from the environment, `.env.local` and `.env`, as for the worker; a command needs only those it uses.
Exit codes: 0 all well, 1 something is not in order or could not be done, 2 asked for wrongly, 3 come back later,
130 interrupted.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import checking
import delivery_commands
import exporting
import listing
import playing
import searching
import segmenting
import transcribing
from console import TROUBLE, WRONG_INPUT, tell
from segments import ConfigError, InputError, RecorderError

COMMANDS: dict[str, dict[str, Callable[..., Any]]] = {
    "Look": {
        "list": listing.list_lessons,
        "search": searching.search,
        "play": playing.play,
    },
    "Make": {
        "segment": segmenting.segment,
        "transcribe": transcribing.transcribe,
        "export": exporting.export,
    },
    "Keep": {
        "check": checking.check,
        "migrate": delivery_commands.migrate,
        "deliver": delivery_commands.deliver,
        "prune": delivery_commands.prune,
        "link": delivery_commands.link,
        "erase": delivery_commands.erase,
    },
}
"""Every command by heading and name: a function whose annotations are its options and whose docstring is its help."""


class Program(TyperGroup):
    """Runs a command; whatever is wrong is one clear line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ConfigError, InputError) as error:
            tell(str(error)) if isinstance(error, InputError) else _tell_lines(error)
            raise typer.Exit(WRONG_INPUT) from None
        except RecorderError as error:
            tell(str(error))
            raise typer.Exit(TROUBLE) from None
        except BrokenPipeError:
            raise  # whoever read our answer has seen enough
        except OSError as error:
            tell(f"{error.filename or 'The disk'}: {error.strerror or error}")
            raise typer.Exit(TROUBLE) from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] == "typer":
                raise  # a wrong option, or the end of a command
            # Ours to mend; where it came from is for --verbose.
            logging.getLogger("recorder").debug("Something unforeseen", exc_info=error)
            tell(f"Something unforeseen, please report it: {type(error).__name__}: {error}")
            raise typer.Exit(TROUBLE) from None


def _tell_lines(error: Exception) -> None:
    for line in str(error).splitlines():
        tell(line)


app = typer.Typer(
    cls=Program,
    help="What recorded lessons leave behind: list it, search it, prove it, add text to it, play it.",
    epilog="Exit codes: 0 all well, 1 not in order or not done, 2 asked for wrongly, 3 come back later.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for heading, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=heading)(command)


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
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.ERROR,
        format="%(levelname)s %(message)s",
    )


def main(arguments: list[str]) -> None:
    """Runs one command.

    Raises:
        SystemExit: always, with the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a console that cannot show a name loses no line
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(arguments or ["--help"], prog_name="lessons.py", standalone_mode=False)
    except typer.Abort:
        tell("Nothing was done")
        raise SystemExit(TROUBLE) from None
    except typer.TyperException as error:  # a wrong option: one line, as with everything else that is wrong
        tell(f"{error.format_message()} (lessons.py --help)")
        raise SystemExit(WRONG_INPUT) from None
    raise SystemExit(code if arguments else WRONG_INPUT)


def _end_at_once(ending: SystemExit) -> None:
    """A thread of the object store's that still lets go of its last answer would abort an ending interpreter."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ending.code if isinstance(ending.code, int) else 0)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SystemExit as ending:
        if "obstore" in sys.modules:
            _end_at_once(ending)
        raise
