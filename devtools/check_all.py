"""Runs what `python dev.py test` checks: format, lint, types and tests, and prints how long each took.

    python -m devtools.check_all                      everything, in parallel where possible
    python -m devtools.check_all --quick              in about a minute: lint, types of changed files, unit tests
    python -m devtools.check_all ARGUMENTS            lint, types, and the tests that pytest selects by these

Tests with a LiveKit server or a browser hear speech in real time and mostly wait, so several processes run them in
parallel, each with its own servers, ports and folders. The other tests, most of which compute, run beside them at a
lower priority. Tests that need most of the machine (marked ``alone``) run last, one at a time, beside mypy.

Speech is sent in real time. If the speaker's process stalled while it spoke, listeners heard a gap that the test did
not intend, and a failure says nothing about the recorder. Such a test, and no other, is repeated once, alone; the
summary names it with the length of the stall.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent

MIN_STALL_SECONDS = 0.05
"""A marker with a shorter gap is still recognised (devtools/sound.py, STRETCH)."""
SLOWEST_COUNT = 10
"""How many of the slowest tests are listed."""
STOP_SECONDS = 15.0
"""How long an interrupted program may take to end what it started."""

STALL = "stall_seconds"
"""The JUnit property with the longest stall of a test's speakers (tests/support/stalls.py)."""

# Each of these names the folders of its tests, as every process collects all tests of the folders that are named.
REAL_TIME_TESTS = (
    *("tests/room", "tests/faults", "tests/browser"),
    *("-m", "not alone"),
    *("-n", "5", "--dist", "worksteal"),  # each of these processes uses about a third of a core
)
OTHER_TESTS = (
    *("tests/unit", "tests/services"),
    "--timeout=300",  # they have the lower priority
    *("-n", "3", "--dist", "worksteal"),  # half of their time they wait
)
ALONE = ("tests/room", "tests/faults", "-m", "alone")
QUICK_TESTS = ("tests/unit", "-m", "unit and not slow", "-n", "3", "--dist", "worksteal")

FORMAT = ("ruff", "format", "--check")
LINT = ("ruff", "check")
TYPES = ("mypy", "--strict")

Run = Callable[[Sequence[str]], int]
"""Runs a Python module with arguments and returns its exit code."""


@dataclass
class Part:
    """One part of the check, how long it took, and whether it passed."""

    name: str
    seconds: float = 0.0
    passed: bool = True
    tests: list[Case] = field(default_factory=list)
    has_crashed: bool = False
    """Whether pytest itself ended with an error, besides tests that failed."""


@dataclass(frozen=True)
class Case:
    """One test as pytest's JUnit report has it."""

    node: str
    """As pytest selects it: ``tests/room/test_pause.py::test_a_pause[x]``."""
    seconds: float
    """Including its fixtures."""
    outcome: str
    """``passed``, ``failed``, ``error`` or ``skipped``."""
    stall_seconds: float = 0.0
    """The longest stall of its speakers; 0: none."""
    is_repeated: bool = False
    """Whether this is the outcome of a second run; the stall is that of the first."""

    @property
    def has_failed(self) -> bool:
        return self.outcome in ("failed", "error")


class Background:
    """Runs a part at a low priority, in parallel to others. Its output is printed when its result is asked for."""

    def __init__(self, work: Callable[[Run], Part]) -> None:
        self._work = work
        self._output: list[str] = []
        self._part = Part("")
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def result(self) -> Part:
        self._thread.join()
        print("".join(self._output), end="", flush=True)
        return self._part

    def _call(self) -> None:
        self._part = self._work(self._run)

    def _run(self, command: Sequence[str]) -> int:
        done = subprocess.run(
            [*(("nice", "-n", "5") if shutil.which("nice") else ()), *_module(command)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        self._output += [_head(command), done.stdout]
        return done.returncode


def everything() -> list[Part]:
    parts = [lint()]
    others = Background(lambda run: tests("other tests", *OTHER_TESTS, run=run))
    try:
        real_time = tests("tests in real time", *REAL_TIME_TESTS)
    finally:
        parts.append(others.result())
    checked = Background(types)
    try:
        alone = tests("tests alone", *ALONE)
    finally:
        parts.append(checked.result())
    return [*parts, real_time, alone, *repeat_stalled(real_time, alone)]


def quick() -> list[Part]:
    parts = [lint()]
    changed = changed_files()
    checked = Background(lambda run: types(run, changed)) if changed else None
    parts.append(tests("unit tests", *QUICK_TESTS))
    if checked:
        parts.append(checked.result())
    return parts


def selected(arguments: Sequence[str]) -> list[Part]:
    parts = [lint()]
    checked = Background(types)
    try:
        chosen = tests("tests", *arguments)
    finally:
        parts.append(checked.result())
    return [*parts, chosen, *repeat_stalled(chosen)]


def lint() -> Part:
    part = Part("lint")
    began = time.monotonic()
    for command in (FORMAT, LINT):
        part.passed &= not _run(command)
    part.seconds = time.monotonic() - began
    return part


def types(run: Run, files: Sequence[str] = ()) -> Part:
    part = Part("types")
    began = time.monotonic()
    part.passed = not run((*TYPES, *files))
    part.seconds = time.monotonic() - began
    return part


def tests(name: str, *arguments: str, run: Run | None = None) -> Part:
    """Runs pytest, which prints its usual output."""
    run = run or _run
    part = Part(name)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = run(("pytest", *arguments, f"--junitxml={report}"))
        part.passed, part.has_crashed = code == 0, code > 1
        part.tests = list(read_report(report)) if report.exists() else []
    part.seconds = time.monotonic() - began
    return part


def repeat_stalled(*parts: Part) -> Iterator[Part]:
    """Runs the tests again that failed and whose speaker stalled, one at a time, and sets their outcome."""
    stalled = {
        test.node: test
        for part in parts
        for test in part.tests
        if test.has_failed and test.stall_seconds >= MIN_STALL_SECONDS
    }
    if not stalled:
        return
    again = tests("again, as the speaker had stalled", *stalled)
    second = {
        test.node: replace(test, stall_seconds=stalled[test.node].stall_seconds, is_repeated=True)
        for test in again.tests
    }
    for part in parts:
        if any(test.has_failed for test in part.tests):
            part.tests = [second.get(test.node, test) for test in part.tests]
            part.passed = not part.has_crashed and not any(test.has_failed for test in part.tests)
    yield replace(again, tests=[])


def read_report(path: Path) -> Iterator[Case]:
    """The tests in a JUnit report. A test that failed and whose teardown failed counts once."""
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        outcome = next(
            (child.tag for child in case if child.tag in ("error", "failure", "skipped")), "passed"
        )
        yield Case(
            f"{case.get('file')}::{case.get('name')}",
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
    """How long each part took, the slowest tests, and the tests that were repeated or failed."""
    yield "\n=== how long it took ==="
    if prepared_seconds >= 1:
        yield f"{prepared_seconds:7.0f} s  preparing"
    for part in parts:
        yield f"{part.seconds:7.0f} s  {part.name}{'' if part.passed else ': FAILED'}"
    run = [test for part in parts for test in part.tests]
    yield f"The {SLOWEST_COUNT} slowest tests:"
    for test in sorted(run, key=lambda test: -test.seconds)[:SLOWEST_COUNT]:
        yield f"{test.seconds:9.1f} s  {test.node}"
    for test in run:
        if test.is_repeated:
            yield f"REPEATED {test.node}: its speaker had stalled for {test.stall_seconds:.2f} s, now {test.outcome}"
    for test in run:
        if test.has_failed:
            yield f"{test.outcome.upper()} {test.node}"


def closing_line(parts: Sequence[Part], seconds: float) -> str:
    """The last line of pytest, for the tests of all parts together."""
    run = [test for part in parts for test in part.tests]
    counts = {
        outcome: sum(test.outcome == outcome for test in run)
        for outcome in ("failed", "passed", "skipped", "error")
    }
    listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "no tests ran"
    return f" {listed} in {seconds:.2f}s ".center(80, "=")


def _run(command: Sequence[str]) -> int:
    """Runs a module until it ends. A Ctrl-C reaches the module as well, which then gets STOP_SECONDS to end."""
    print(_head(command), end="", flush=True)
    with subprocess.Popen(_module(command), cwd=ROOT) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()
            raise


def _head(command: Sequence[str]) -> str:
    return f"\n=== {' '.join(command)} ===\n"


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
    seconds = prepared_seconds + time.monotonic() - began
    print(closing_line(parts, seconds))
    failed = [part.name for part in parts if not part.passed]
    outcome = f"FAILED: {', '.join(failed)}" if failed else "All checks passed"
    print(f"{outcome} ({seconds:.0f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
