"""Runs what `python dev.py test` checks: format, lint, types and tests, and prints how long each took.

    python -m devtools.check_all                      everything, in parallel where possible
    python -m devtools.check_all --quick              in a minute: lint, types of changed files, unit tests
    python -m devtools.check_all ARGUMENTS            the tests that pytest selects by these, in sequence

Most tests wait most of the time: for a lecture in real time, a server, a disk. Therefore several processes run tests in
parallel, each with its own servers, ports and folders, while mypy checks the types. Tests that measure the machine
(marked ``alone``) run last, one at a time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent

PROCESSES = 4
"""Test processes: even on two cores few of them compute at the same time."""
QUICK_PROCESSES = 2
SLOWEST_COUNT = 10
"""How many of the slowest tests are listed."""
STOP_SECONDS = 15.0
"""How long an interrupted program may take to end what it started."""

STALL = "stall_seconds"
"""The JUnit property of a test that was run again."""

FORMAT = ("ruff", "format", "--check")
LINT = ("ruff", "check")
TYPES = ("mypy", "--strict")


@dataclass
class Part:
    """One part of the check, how long it took, and whether it passed."""

    name: str
    seconds: float = 0.0
    passed: bool = True
    tests: list[Case] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """One test as pytest's JUnit report has it."""

    name: str
    seconds: float
    """Including its fixtures."""
    outcome: str
    """``passed``, ``failed``, ``error`` or ``skipped``."""
    stall_seconds: float = 0.0
    """How long its speaker stalled in a first run that failed; 0: it was run once (tests/support/reruns.py)."""


class TypeCheck:
    """Runs mypy in parallel with the tests; its output is printed after theirs."""

    def __init__(self, files: Sequence[str] = ()) -> None:
        self._command = (*TYPES, *files)
        self._part = Part("types")
        self._output = ""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def result(self) -> Part:
        self._thread.join()
        _head(self._command)
        print(self._output, end="", flush=True)
        return self._part

    def _run(self) -> None:
        began = time.monotonic()
        done = subprocess.run(
            # At a low priority: the tests that run meanwhile speak and record in real time.
            [*(("nice", "-n", "10") if shutil.which("nice") else ()), *_module(self._command)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        self._part.seconds = time.monotonic() - began
        self._part.passed, self._output = not done.returncode, done.stdout


def everything() -> list[Part]:
    parts = [lint()]
    types = TypeCheck()
    try:
        parts.append(
            tests(
                f"tests, {PROCESSES} at a time",
                "-n",
                str(PROCESSES),
                "--dist",
                "worksteal",
                "-m",
                "not alone",
            )
        )
    finally:
        parts.append(types.result())
    parts.append(tests("tests alone", "-m", "alone"))
    return parts


def quick() -> list[Part]:
    parts = [lint()]
    changed = changed_files()
    types = TypeCheck(changed) if changed else None
    parts.append(
        tests("unit tests", "-n", str(QUICK_PROCESSES), "--dist", "worksteal", "-m", "unit and not slow")
    )
    if types:
        parts.append(types.result())
    return parts


def selected(arguments: Sequence[str]) -> list[Part]:
    parts = [lint()]
    types = TypeCheck()
    try:
        parts.append(tests("tests", *arguments))
    finally:
        parts.append(types.result())
    return parts


def lint() -> Part:
    part = Part("lint")
    began = time.monotonic()
    for command in (FORMAT, LINT):
        _head(command)
        part.passed &= not _run(command)
    part.seconds = time.monotonic() - began
    return part


def tests(name: str, *arguments: str) -> Part:
    """Runs pytest, which prints its usual output."""
    _head(("pytest", *arguments))
    part = Part(name)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = _run(("pytest", *arguments, f"--junitxml={report}"))
        part.tests = list(read_report(report)) if report.exists() else []
    part.seconds = time.monotonic() - began
    part.passed = code == 0
    return part


def read_report(path: Path) -> Iterator[Case]:
    """The tests in a JUnit report. A test that failed and whose teardown failed counts once."""
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        outcome = next(
            (child.tag for child in case if child.tag in ("error", "failure", "skipped")), "passed"
        )
        yield Case(
            f"{case.get('classname')}::{case.get('name')}",
            float(case.get("time", 0)),
            {"failure": "failed"}.get(outcome, outcome),
            max(
                (float(one.get("value", 0)) for one in case.iter("property") if one.get("name") == STALL),
                default=0.0,
            ),
        )


def changed_files() -> list[str]:
    """Python files that differ from the last commit; if none does, the files that the last commit changed."""
    changed = _git("diff", "--name-only", "--diff-filter=d", "HEAD") + _git(
        "ls-files", "--others", "--exclude-standard"
    )
    changed = changed or _git("diff", "--name-only", "--diff-filter=d", "HEAD~1", "HEAD")
    return sorted({name for name in changed if name.endswith(".py")})


def _git(*arguments: str) -> list[str]:
    """The lines that git prints; none without git, or outside a clone."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8")
    except OSError:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def summary(parts: Sequence[Part], prepared_seconds: float = 0.0) -> Iterator[str]:
    """How long each part took, the slowest tests, and the tests that were run again or failed."""
    yield "\n=== how long it took ==="
    if prepared_seconds >= 1:
        yield f"{prepared_seconds:7.0f} s  preparing"
    for part in parts:
        parallel = " (parallel to the tests)" if part.name == "types" else ""
        yield f"{part.seconds:7.0f} s  {part.name}{parallel}{'' if part.passed else ': FAILED'}"
    run = [test for part in parts for test in part.tests]
    yield f"The {SLOWEST_COUNT} slowest tests:"
    for test in sorted(run, key=lambda test: -test.seconds)[:SLOWEST_COUNT]:
        yield f"{test.seconds:9.1f} s  {test.name}"
    for test in run:
        if test.stall_seconds:
            yield f"RERUN {test.name}: its speaker stalled for {test.stall_seconds:.2f} s"
    for test in run:
        if test.outcome in ("failed", "error"):
            yield f"{test.outcome.upper()} {test.name}"


def closing_line(parts: Sequence[Part]) -> str:
    """The last line of pytest, for the tests of all parts together."""
    run = [test for part in parts for test in part.tests]
    counts = {
        outcome: sum(test.outcome == outcome for test in run)
        for outcome in ("failed", "passed", "skipped", "error")
    }
    seconds = sum(part.seconds for part in parts if part.tests)
    listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "no tests ran"
    return f" {listed} in {seconds:.2f}s ".center(80, "=")


def _run(command: Sequence[str]) -> int:
    """Runs a module until it ends. A Ctrl-C reaches the module as well, which then gets STOP_SECONDS to end."""
    with subprocess.Popen(_module(command), cwd=ROOT) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()
            raise


def _head(command: Sequence[str]) -> None:
    print(f"\n=== {' '.join(command)} ===", flush=True)


def _module(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", *command]


def main(arguments: Sequence[str]) -> int:
    began = time.monotonic()
    prepared_seconds = float(os.environ.get("PREPARED_SECONDS", "0"))
    if "--quick" in arguments:
        parts = quick()
    elif arguments:
        parts = selected(arguments)
    else:
        parts = everything()
    for line in summary(parts, prepared_seconds):
        print(line)
    print(closing_line(parts))
    failed = [part.name for part in parts if not part.passed]
    outcome = f"FAILED: {', '.join(failed)}" if failed else "All checks passed"
    print(f"{outcome} ({prepared_seconds + time.monotonic() - began:.0f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
