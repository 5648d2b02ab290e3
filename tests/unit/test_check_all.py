"""What `dev.py test` prints at its end, and which files its quick form checks."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from devtools import check_all
from devtools.check_all import Case, Part, changed_files, closing_line, read_report, repeat_stalled, summary
from support import ROOT, stages
from support.compiling import first_alone

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="1" skipped="1" tests="4" time="9.1">
<testcase classname="tests.test_a" file="tests/test_a.py" name="test_well[x-1]" time="2.5" />
<testcase classname="tests.test_a" file="tests/test_a.py" name="test_ill" time="0.5"><properties>
<property name="seen" value="much" /><property name="stall_seconds" value="0.31" /></properties>
<failure message="no">why</failure></testcase>
<testcase classname="tests.test_a" file="tests/test_a.py" name="test_broken" time="0.1">
<error message="no">why</error></testcase>
<testcase classname="tests.test_a" file="tests/test_a.py" name="test_elsewhere" time="0">
<skipped message="no">why</skipped></testcase>
</testsuite></testsuites>
"""


@pytest.fixture
def run(tmp_path: Path) -> list[Case]:
    path = tmp_path / "report.xml"
    path.write_text(REPORT, encoding="utf-8")
    return list(read_report(path))


def test_a_report_is_read(run: list[Case]) -> None:
    assert run == [
        Case("tests/test_a.py::test_well[x-1]", 2.5, "passed"),
        Case("tests/test_a.py::test_ill", 0.5, "failed", 0.31),
        Case("tests/test_a.py::test_broken", 0.1, "error"),
        Case("tests/test_a.py::test_elsewhere", 0.0, "skipped"),
    ]


def test_the_end_says_how_long_each_part_took_and_which_tests_were_slowest(run: list[Case]) -> None:
    many = [Case(f"tests/test_b.py::test_{number}", number, "passed") for number in range(20)]
    parts = [
        Part("lint", 1.4),
        Part("types", 60.2),
        Part("tests", 100.0, False, run),
        Part(
            "alone",
            50.0,
            tests=[*many, Case("tests/test_a.py::test_again", 7, "passed", 0.31, is_repeated=True)],
        ),
    ]
    lines = list(summary(parts, prepared_seconds=12))
    assert lines[1:6] == [
        "     12 s  preparing",
        "      1 s  lint",
        "     60 s  types",
        "    100 s  tests: FAILED",
        "     50 s  alone",
    ]
    assert lines[6] == "The 10 slowest tests:"
    assert lines[7:17] == [f"{number:9.1f} s  tests/test_b.py::test_{number}" for number in range(19, 9, -1)]
    assert lines[17:] == [
        "REPEATED tests/test_a.py::test_again: its speaker had stalled for 0.31 s, now passed",
        "FAILED tests/test_a.py::test_ill",
        "ERROR tests/test_a.py::test_broken",
    ]
    assert closing_line(parts, 150).strip("= ") == "1 failed, 22 passed, 1 skipped, 1 error in 150.00s"


CASES = """
import pathlib
from devtools import stalls

def runs(name):
    path = pathlib.Path(__file__).with_name(name)
    path.write_text(path.read_text() + "." if path.exists() else ".")
    return len(path.read_text())

def test_fails():
    runs("fails")
    assert False

def test_stalls_once():
    if runs("stalls-once") == 1:
        stalls.seconds += [0.31, 0.1]
        assert False

def test_stalls_always():
    runs("stalls-always")
    stalls.seconds.append(0.25)
    assert False

def test_stalls_a_little():
    runs("stalls-a-little")
    stalls.seconds.append(0.01)
    assert False

def test_stalls_and_passes():
    runs("stalls-and-passes")
    stalls.seconds.append(0.31)
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [[], ["-n", "1"]], ids=["in one process", "under xdist"])
def test_a_failed_test_is_repeated_if_its_speaker_stalled_and_only_then(
    processes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_cases.py").write_text(CASES, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\njunit_family = xunit1\n", encoding="utf-8")
    monkeypatch.setattr(check_all, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    part, other = check_all.tests("first", "-p", "support.stalls", *processes), Part("other", passed=False)
    (again,) = repeat_stalled(part, other)
    assert {test.node.partition("::")[2]: (test.outcome, test.is_repeated) for test in part.tests} == {
        "test_fails": ("failed", False),
        "test_stalls_once": ("passed", True),
        "test_stalls_always": ("failed", True),
        "test_stalls_a_little": ("failed", False),
        "test_stalls_and_passes": ("passed", False),
    }
    assert {
        path.name: len(path.read_text())
        for path in tmp_path.iterdir()
        if "-" in path.name or path.name == "fails"
    } == {
        "fails": 1,
        "stalls-once": 2,
        "stalls-always": 2,
        "stalls-a-little": 1,
        "stalls-and-passes": 1,
    }
    assert not part.passed and not other.passed, "it failed, and not by a test"
    assert not again.tests, "they are counted once"
    assert any("0.31 s, now passed" in line for line in summary([part]))


def test_a_part_passes_whose_failed_tests_pass_when_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part("tests", 9, False, [Case("test_a.py::test", 1, "failed", 0.2)])
    monkeypatch.setattr(
        check_all, "tests", lambda *_: Part("again", 2, True, [Case("test_a.py::test", 1, "passed")])
    )
    assert list(repeat_stalled(part)) == [Part("again", 2)]
    assert part == Part("tests", 9, True, [Case("test_a.py::test", 1, "passed", 0.2, is_repeated=True)])
    assert list(repeat_stalled(part)) == []
    crashed = Part("tests", 9, False, [Case("test_a.py::test", 1, "failed", 0.2)], has_crashed=True)
    assert list(repeat_stalled(crashed)) and not crashed.passed, "not only by that test"


def test_any_part_that_fails_fails_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_all, "everything", lambda: [Part("lint"), Part("types", passed=False)])
    assert check_all.main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAILED: types (")
    monkeypatch.setattr(check_all, "quick", lambda: [Part("lint")])
    assert check_all.main(["--quick"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("All checks passed (")


def test_changed_files_are_those_that_git_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_all, "ROOT", tmp_path)
    assert changed_files() == [], "no clone"

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.com")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    for name in ("old.py", "gone.py", "page.md"):
        (tmp_path / name).touch()
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "old.py").write_text("x = 1\n")
    git("commit", "-am", "second")
    assert changed_files() == ["old.py"], "the last commit's, where nothing has changed since"
    (tmp_path / "new.py").touch()
    (tmp_path / "gone.py").unlink()
    (tmp_path / "page.md").write_text("changed\n")
    assert changed_files() == ["new.py"]


class Item:
    """A test that asks for these fixtures and has these marks."""

    def __init__(self, *fixtures: str, marks: tuple[str, ...] = ()) -> None:
        self.fixturenames = fixtures
        self.marks = set(marks)

    def get_closest_marker(self, name: str) -> bool:
        return name in self.marks

    def add_marker(self, name: str) -> None:
        self.marks.add(name)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (Item("tmp_path"), {"unit"}),
        (Item("livekit_server", "livekit_server_binary", "worker"), {"room"}),
        (Item(marks=("e2e",)), {"e2e", "room"}),
        (Item("s3", "s3_server"), {"services"}),
        (Item("database", "postgres_server", "livekit_server_binary"), {"services", "room"}),
        (Item("browser", marks=("browser",)), {"browser"}),
    ],
)
def test_a_test_is_of_the_stage_whose_servers_it_needs(item: Item, expected: set[str]) -> None:
    stages.mark(item)  # type: ignore[arg-type]
    assert item.marks == expected


def test_every_process_begins_with_the_slowest_tests() -> None:
    kinds = {"long": 3, "room": 9, "services": 5, "browser": 2, "unit": 41}
    items = [
        Item(marks=(kind,))
        for kind in ("unit", "browser", "room", "services", "long")
        for _ in range(kinds[kind])
    ]
    ordered: list[Any] = stages.in_order(items, 4)  # type: ignore[arg-type]
    assert len(ordered) == len(items) and set(ordered) == set(items)
    blocks = [ordered[at : at + 15] for at in range(0, 60, 15)]
    told = [[next(iter(item.marks)) for item in block] for block in blocks]
    assert [block[0] for block in told] == ["long", "long", "long", "room"]
    for block in told:
        assert block == sorted(block, key=stages.ORDER.index)
        assert 2 <= block.count("room") <= 3
        assert 1 <= block.count("services") <= 2


def test_the_first_process_compiles_the_tests_alone_and_then_the_others_go_on_together(
    tmp_path: Path,
) -> None:
    have_entered, together = list[int](), threading.Barrier(3)

    def follow(number: int) -> None:
        with first_alone(tmp_path / "lock"):
            have_entered.append(number)
            together.wait(10)

    others = [threading.Thread(target=follow, args=(number,)) for number in range(3)]
    with pytest.raises(KeyError), first_alone(tmp_path / "lock"):
        for other in others:
            other.start()
        time.sleep(0.2)
        assert have_entered == []
        raise KeyError("however the first one ends")
    for other in others:
        other.join(10)
    assert sorted(have_entered) == [0, 1, 2]
    assert not together.broken
