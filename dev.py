#!/usr/bin/env python3
"""The commands of a developer. Each first creates the environment in .venv, or brings it up to date.

    python dev.py demo [--keep] [--output DIR]     records a lecture on this machine
    python dev.py test [arguments for pytest]      format, lint, types and tests
    python dev.py test --quick                     lint, types of changed files, unit tests (about a minute)
    python dev.py bench [arguments]                compares the recorder with the stock recipe (benchmarks/run.py)
    python dev.py faults                           produces every fault and writes docs/faults.md
    python dev.py soak [--minutes N] [--report DIR] [--output DIR]
                                                   a long lecture with faults, and a check of every word
    python dev.py page [ROOM]                      serves examples/captions for the server in .env
    python dev.py lock [--upgrade]                 for maintainers: pins requirements*.txt again
    python dev.py get-python                       downloads a Python if this machine's is too old or too new

Needs Python 3.11 to 3.14 and nothing else: it uses only the standard library until the environment exists. Under any
other Python it runs a suitable one of this machine, or says how to get one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from devtools import pythons
from devtools.programs import ROOT, Failed, run, running

PYTHON = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

RUNTIME, DEVELOPMENT = "requirements.txt", "requirements-dev.txt"
LOCKS = (
    "requirements",
    "requirements-dev",
    "devtools/requirements-uv",
    "devtools/requirements-pip",
    "devtools/livekit-server/requirements-go",
)
SOAK_STOP_SECONDS = 120.0
"""How long an interrupted soak may take to end: it also checks everything that it has recorded."""


def main(arguments: list[str]) -> int:
    commands = {
        "demo": demo,
        "test": test,
        "bench": bench,
        "faults": faults,
        "soak": soak,
        "page": page,
        "lock": lock,
        "get-python": get_python,
    }
    if not arguments or arguments[0] not in commands:
        print(__doc__, end="")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    # These commands start Python hundreds of times; without compiled files each start takes half a second longer.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # SIGINT, too: a background job of a script ignores it by default.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    try:
        if not pythons.is_suitable() and arguments[0] != "get-python":
            return _with_another_python(arguments)
        return commands[arguments[0]](arguments[1:])
    except (Failed, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def demo(arguments: list[str]) -> int:
    prepare_environment(RUNTIME)
    return run([str(PYTHON), "-m", "devtools.demo", *arguments])


def test(arguments: list[str]) -> int:
    began = time.monotonic()
    prepare_environment(DEVELOPMENT)
    environ = dict(os.environ)
    if "--quick" not in arguments:
        environ.update(LIVEKIT_SERVER=_livekit_server(), **_browser())
        run([str(PYTHON), "-m", "devtools.postgres_server"])
    environ["PREPARED_SECONDS"] = f"{time.monotonic() - began:.0f}"
    return run([str(PYTHON), "-m", "devtools.check_all", *arguments], environ)


def faults(arguments: list[str]) -> int:
    prepare_environment(DEVELOPMENT)
    environ = {**os.environ, "LIVEKIT_SERVER": _livekit_server()}
    # As one argument: pytest would take a second argument for a test file.
    table = f"--fault-table={ROOT / 'docs' / 'faults.md'}"
    code = run([str(PYTHON), "-m", "pytest", "-q", table, *arguments], environ)
    if code <= 1:  # otherwise the run was interrupted, and the page is from an older run
        print((ROOT / "docs" / "faults.md").read_text(encoding="utf-8"))
    return code


def soak(arguments: list[str]) -> int:
    prepare_environment(DEVELOPMENT)
    environ = {**os.environ, "LIVEKIT_SERVER": _livekit_server()}
    return run([str(PYTHON), "-m", "benchmarks.soak.run", *arguments], environ, SOAK_STOP_SECONDS)


def bench(arguments: list[str]) -> int:
    prepare_environment(DEVELOPMENT)
    return run([str(PYTHON), "-m", "benchmarks.run", *arguments])


def page(arguments: list[str]) -> int:
    prepare_environment(DEVELOPMENT)
    return run([str(PYTHON), "-m", "devtools.page", *arguments])


def lock(arguments: list[str]) -> int:
    prepare_environment(DEVELOPMENT)
    # For every system and Python at once. With extras: an older pip would install the newest release of a package that
    # is required with an extra. The header names this command, not one with this machine's paths.
    options = ["--quiet", "--universal", "--no-strip-extras", "--generate-hashes", "--python-version", "3.11"]
    environ = {**os.environ, "UV_CUSTOM_COMPILE_COMMAND": "python dev.py lock"}
    for name in LOCKS:
        print(f"Locking {name}.in ...", flush=True)
        files = [f"{name}.in", "-o", f"{name}.txt"]
        if run([str(PYTHON), "-m", "uv", "pip", "compile", *options, *arguments, *files], environ):
            raise Failed(f"{name}.in could not be locked, see above.")
    return 0


def get_python(arguments: list[str]) -> int:
    """Downloads the newest suitable Python with uv, which is installed into a temporary folder for that."""
    from devtools import installer  # not at the top: a Python that is too old cannot read it

    with tempfile.TemporaryDirectory() as folder:
        print(f"Fetching Python {pythons.VERSIONS[0]} into {pythons.fetched_folder()} (about 1 minute) ...")
        if not installer.fetch_uv(Path(sys.executable), "--target", folder):
            raise Failed("pip finds no uv for this machine, so no Python can be downloaded.")
        installer.fetch_python(Path(folder), pythons.VERSIONS[0], pythons.fetched_folder())
    print("It is installed. Now run the command that you wanted: it will use this Python.")
    return 0


# --- what the commands need ----------------------------------------------------------------------------------------


def prepare_environment(requirements: str) -> None:
    """Installs what this requirements file pins into .venv, if it is not installed already."""
    from devtools.environment import Environment  # not at the top: a Python that is too old cannot read it

    Environment(ROOT).prepare(requirements, *([RUNTIME] if requirements == DEVELOPMENT else []))


def _with_another_python(arguments: list[str]) -> int:
    command = pythons.another()
    if command is None:
        raise Failed(pythons.advice())
    version = "{}.{}".format(*sys.version_info[:2])
    print(f"Python {version} cannot run this, using {' '.join(command)}", file=sys.stderr, flush=True)
    command = [*command, str(Path(__file__).resolve()), *arguments]
    if os.name == "posix":
        os.execv(command[0], command)
    return run(command)


def _livekit_server() -> str:
    """Returns the path of a livekit-server, which is built if there is none."""
    path = _path_from("devtools.livekit_server")
    if path is None:
        raise Failed("The tests need a livekit-server, see above.")
    return path


def _browser() -> dict[str, str]:
    """Returns the browser's path in the variable that the tests read; without a browser its tests are skipped."""
    path = _path_from("devtools.browser")
    return {"CHROMIUM": path} if path else {}


def _path_from(module: str) -> str | None:
    """Runs a module and returns the path that it prints. None: it failed, and has printed why."""
    with running([str(PYTHON), "-m", module], stdout=subprocess.PIPE) as process:
        path, _ = process.communicate()
    return None if process.returncode else path.strip()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
