#!/usr/bin/env python3
"""One command for everything a developer does; it makes the environment in .venv first, or brings it up to date.

    python dev.py demo [--keep] [--output DIR]     records a lecture on this machine
    python dev.py test [arguments for pytest]      format, lint, types and tests
    python dev.py bench [arguments]                measures against the stock recipe (benchmarks/run.py)
    python dev.py faults                           does every fault to the worker and writes docs/faults.md
    python dev.py soak [--minutes N] [--report DIR] [--output DIR]
                                                   a long lecture with faults, and the ledger of every word
    python dev.py page [ROOM]                      serves examples/captions for the server in .env
    python dev.py lock [--upgrade]                 for maintainers: pins requirements*.txt anew

Needs Python 3.10 to 3.13 and nothing else: the standard library only, until the environment exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

OLDEST, NEWEST = (3, 10), (3, 13)

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = ENVIRONMENT / "installed.json"
"""What is installed: Python's version, and the SHA-256 of each requirements file. Empty while that is under way."""

RUNTIME, DEVELOPMENT = "requirements.txt", "requirements-dev.txt"
UV = "uv==0.13.9"
PATIENCE_SECONDS = 20.0
"""What a program that was told to end gets for ending what it started."""
LEDGER_SECONDS = 120.0
"""What the soak gets, which also listens to everything it has recorded."""


class Failed(Exception):
    """Something only the person at the keyboard can mend; the message says what, in one line."""


def main(arguments: list[str]) -> int:
    commands = {
        "demo": demo,
        "test": test,
        "bench": bench,
        "faults": faults,
        "soak": soak,
        "page": page,
        "lock": lock,
    }
    if not arguments or arguments[0] not in commands:
        print(__doc__, end="")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # SIGINT, too: a script's background job is born deaf to it
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    try:
        _check_python()
        return commands[arguments[0]](arguments[1:])
    except Failed as error:
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
    environ = {**os.environ, "LIVEKIT_SERVER": _livekit_server(), **_browser()}
    run([str(PYTHON), "-m", "devtools.postgres_server"])
    checks = [
        ["ruff", "format", "--check"],
        ["ruff", "check"],
        ["mypy", "--strict"],
        ["pytest", *arguments],
    ]
    failed = []
    for check in checks:
        name = " ".join(check[:2]) if check[0] == "ruff" else check[0]
        print(f"\n=== {' '.join(check)} ===", flush=True)
        if run([str(PYTHON), "-m", *check], environ):
            failed.append(name)
    outcome = f"FAILED: {', '.join(failed)}" if failed else "All checks passed"
    print(f"\n{outcome} ({time.monotonic() - began:.0f} s)")
    return 1 if failed else 0


def faults(arguments: list[str]) -> int:
    prepare_environment(DEVELOPMENT)
    environ = {**os.environ, "LIVEKIT_SERVER": _livekit_server()}
    # In one word: as a second one pytest would take the page for a test file, and not look for its options.
    table = f"--fault-table={ROOT / 'docs' / 'faults.md'}"
    code = run([str(PYTHON), "-m", "pytest", "-q", table, *arguments], environ)
    if code <= 1:  # else it broke off, and the page is an older run's
        print((ROOT / "docs" / "faults.md").read_text(encoding="utf-8"))
    return code


def soak(arguments: list[str]) -> int:
    prepare_environment(DEVELOPMENT)
    environ = {**os.environ, "LIVEKIT_SERVER": _livekit_server()}
    return run([str(PYTHON), "-m", "soak.run", *arguments], environ, LEDGER_SECONDS)


def bench(arguments: list[str]) -> int:
    prepare_environment(DEVELOPMENT)
    return run([str(PYTHON), "-m", "benchmarks.run", *arguments])


def page(arguments: list[str]) -> int:
    prepare_environment(DEVELOPMENT)
    return run([str(PYTHON), "-m", "devtools.page", *arguments])


def lock(arguments: list[str]) -> int:
    prepare_environment(DEVELOPMENT)
    _checked_run([str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV])
    # For every system and Python at once; the header names this command, not the one with this machine's paths.
    compile_ = [
        str(PYTHON),
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--no-strip-extras",  # an older pip takes the newest release of what is asked for with an extra, unless the pin has it
        "--python-version",
        "3.11",
    ]
    environ = {**os.environ, "UV_CUSTOM_COMPILE_COMMAND": "python dev.py lock"}
    for name in ("requirements", "requirements-dev", "devtools/livekit-server/requirements-go"):
        print(f"Locking {name}.in ...", flush=True)
        _checked_run([*compile_, "--generate-hashes", *arguments, f"{name}.in", "-o", f"{name}.txt"], environ)
    return 0


# --- the environment -----------------------------------------------------------------------------------------------


def prepare_environment(requirements: str) -> None:
    """Makes .venv hold exactly what this requirements file pins; at once if it does already."""
    version = "{}.{}".format(*sys.version_info[:2])
    installed = _installed()
    if installed.get(requirements) == _hash(requirements) and installed.get("python") == version:
        if PYTHON.exists():
            return
    if not PYTHON.exists() or (STAMP.exists() and installed.get("python") != version):
        _create(version)
    STAMP.write_text(json.dumps({"python": version}), encoding="utf-8")
    with _Timed(f"Installing {requirements} (about 1 minute)"):
        _checked_run(
            [
                str(PYTHON),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
                requirements,
            ]
        )
    files = (RUNTIME,) if requirements == RUNTIME else (RUNTIME, DEVELOPMENT)
    STAMP.write_text(
        json.dumps({"python": version, **{name: _hash(name) for name in files}}), encoding="utf-8"
    )


def _create(version: str) -> None:
    if ENVIRONMENT.exists() and not STAMP.exists():
        raise Failed(f"{ENVIRONMENT} is no environment of ours, or a broken one: move it away and try again.")
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise Failed(
            f"This Python lacks venv: install it first (Debian, Ubuntu: apt install python{version}-venv)."
        )
    with _Timed(f"Creating the environment in {ENVIRONMENT.name} with Python {version} (some seconds)"):
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        ENVIRONMENT.mkdir(exist_ok=True)
        STAMP.write_text("{}", encoding="utf-8")  # an interrupted creation is recognised, and begun anew
        _checked_run([sys.executable, "-m", "venv", str(ENVIRONMENT)])


def _installed() -> dict[str, str]:
    try:
        return dict(json.loads(STAMP.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _hash(name: str) -> str:
    return hashlib.sha256((ROOT / name).read_bytes()).hexdigest()


def _check_python() -> None:
    have = sys.version_info[:2]
    if have < OLDEST:
        raise Failed(f"Python {have[0]}.{have[1]} is too old: run this with Python 3.10, 3.11, 3.12 or 3.13.")
    if have > NEWEST:
        print(
            f"Python {have[0]}.{have[1]} is newer than what this is tested with (3.10 to 3.13).", flush=True
        )


def _livekit_server() -> str:
    """The path of a livekit-server, built if need be."""
    path = _path_from("devtools.livekit_server")
    if path is None:
        raise Failed("The tests need a livekit-server, see above.")
    return path


def _browser() -> dict[str, str]:
    """Where the browser is, in the setting that the tests read; without one, its tests say why they are skipped."""
    path = _path_from("devtools.browser")
    return {"CHROMIUM": path} if path else {}


def _path_from(module: str) -> str | None:
    """What a module finds or makes; how that goes is shown while it happens. None: it has said why not."""
    with _running([str(PYTHON), "-m", module], stdout=subprocess.PIPE) as process:
        path, _ = process.communicate()
    return None if process.returncode else path.strip()


# --- running programs ----------------------------------------------------------------------------------------------


def run(
    command: list[str], environ: dict[str, str] | None = None, patience_seconds: float = PATIENCE_SECONDS
) -> int:
    """Runs a program in the project's folder until it ends by itself, or is interrupted as we are."""
    with _running(command, environ, patience_seconds=patience_seconds) as process:
        return process.wait()


@contextlib.contextmanager
def _running(
    command: list[str],
    environ: dict[str, str] | None = None,
    stdout: int | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Iterator[subprocess.Popen[str]]:
    # In a session of its own, so that every signal comes from us, once, whether it was a Ctrl-C or meant for us alone.
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=stdout, encoding="utf-8", start_new_session=True
    )
    try:
        yield process
    except KeyboardInterrupt:
        _end(process, patience_seconds)
        raise


def _end(process: subprocess.Popen[str], patience_seconds: float) -> None:
    """Passes the interruption on, and gives the program time to end what it has started."""
    if sys.platform != "win32":  # there, a Ctrl-C has reached it already
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(patience_seconds)
    except subprocess.TimeoutExpired:
        process.kill()


def _checked_run(command: list[str], environ: dict[str, str] | None = None) -> None:
    code = run(command, environ)
    if code:
        raise Failed(f"{Path(command[0]).name} {' '.join(command[1:4])} ... failed, see above.")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Timed:
    """Says what is being done, and afterwards how long it took."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        print(f"{self._what} ...", flush=True)
        self._began = time.monotonic()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            print(f"  done in {time.monotonic() - self._began:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
