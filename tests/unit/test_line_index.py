"""Lines are found by a name, each list is read once, and the index can be lost at any time."""

from __future__ import annotations

import errno
import gc
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from archive import jsonl, line_index
from archive.files import open_private
from archive.line_index import INDEX, Entry, LineIndex
from support.counting import lines_read

pytestmark = pytest.mark.slow


def entry_in(line: bytes) -> Entry | None:
    entry = jsonl.entry_in(line)
    return Entry(str(entry["name"]), str(entry.get("tag", ""))) if entry and "name" in entry else None


class Lines:
    """A list and its index, which is opened anew as by another process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path = folder / "list.jsonl"

    def add(self, name: str, value: int, tag: str = "") -> None:
        jsonl.append(self.path, {"name": name, "value": value, "tag": tag}, sync=False)

    def index(self) -> LineIndex:
        gc.collect()
        return LineIndex(self.path, entry_in)

    def value(self, name: str) -> int | None:
        line = self.index().find(name)
        entry = jsonl.entry_in(line) if line is not None else None
        return int(entry["value"]) if entry else None


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    return Lines(tmp_path / "room")


def test_the_last_line_of_a_name_is_found(lines: Lines) -> None:
    assert lines.value("a") is None
    for value, name in enumerate("aba"):
        lines.add(name, value)
    assert [lines.value(name) for name in "abc"] == [2, 1, None]


def test_each_line_is_read_once_whoever_asks(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in range(50):
        lines.add(f"name {value}", value)
    assert lines.value("name 7") == 7
    with lines_read(monkeypatch) as read:
        assert [lines.value(f"name {value}") for value in (0, 49, 50)] == [0, 49, None]
    assert read() == 0
    lines.add("name 50", 50)
    with lines_read(monkeypatch) as read:
        assert lines.value("name 50") == 50
    assert read() == 1


def test_positions_behind_an_endless_line_are_right(lines: Lines) -> None:
    lines.add("a", 1)
    with lines.path.open("ab") as file:
        file.write(b"x" * (jsonl.MAX_LINE_BYTES + 10) + b"\n")
    lines.add("b", 2)
    assert (lines.value("a"), lines.value("b")) == (1, 2)


def test_tags_are_told_in_the_order_of_their_first_lines(lines: Lines) -> None:
    for value, tag in enumerate(("de", "ar", "", "de", "es")):
        lines.add("a", value, tag)
    assert list(lines.index().tags()) == ["de", "ar", "es"]


def drop_last_line(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def damage(path: Path) -> None:
    gc.collect()
    path.parent.parent.joinpath(INDEX).write_bytes(b"no database" * 1000)


def lose(path: Path) -> None:
    gc.collect()
    for name in (INDEX, f"{INDEX}-wal", f"{INDEX}-shm"):
        path.parent.parent.joinpath(name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (drop_last_line, [0, 1, None]),
        (Path.unlink, [None, None, None]),
        (lambda path: path.write_bytes(b'{"name": "c", "value": 9}\n'), [None, None, 9]),
        (damage, [0, 1, 2]),
        (lose, [0, 1, 2]),
        (lambda path: line_index.forget([path]), [0, 1, 2]),
    ],
    ids=["shorter", "gone", "another", "damaged index", "lost index", "forgotten"],
)
def test_what_is_found_is_what_the_list_has(
    lines: Lines, change: Callable[[Path], object], expected: list[int | None]
) -> None:
    for value, name in enumerate("abc"):
        lines.add(name, value)
    assert lines.value("c") == 2
    change(lines.path)
    assert [lines.value(name) for name in "abc"] == expected


def test_two_names_with_one_digest_are_told_apart(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_index, "_digest", lambda name: 1)
    lines.add("a", 1)
    lines.add("b", 2)
    assert [lines.value(name) for name in "abc"] == [1, 2, None]


def test_the_index_contains_no_name(lines: Lines) -> None:
    lines.add("anna", 1)
    assert lines.value("anna") == 1
    gc.collect()
    files = list(lines.path.parent.parent.glob(f"{INDEX}*"))
    assert files and not any(b"anna" in file.read_bytes() for file in files)


def test_an_index_that_is_replaced_while_it_is_in_use_is_filled_again(lines: Lines) -> None:
    lines.add("a", 1)
    index = lines.index()
    assert index.find("a") is not None
    index._database._remove()
    assert index.find("a") is not None


def test_a_list_that_has_not_changed_is_not_opened(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    lines.add("a", 1)
    index = lines.index()
    assert index.find("b") is None
    monkeypatch.setattr(line_index, "placed_lines_behind", lambda *_: pytest.fail("the list is read"))
    assert index.find("b") is None


def test_many_lines_are_found_with_one_look_into_the_list(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in range(50):
        lines.add(f"name {value % 40}", value)
    index, count = lines.index(), 0

    def counted(path: Path) -> IO[bytes] | None:
        nonlocal count
        count += 1
        return jsonl.open_regular(path)

    assert index.known(["name 7", "nobody"]) == {"name 7"}
    monkeypatch.setattr(line_index, "open_regular", counted)
    found = index.find_all([f"name {value}" for value in range(30, 60)])
    assert {name: (jsonl.entry_in(line) or {})["value"] for name, line in found.items()} == {
        f"name {value}": value for value in range(30, 40)
    }
    assert count == 1


def test_other_lists_are_asked_while_a_long_one_is_read(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that is saved asks while it keeps the recorder from its folder."""
    other = Lines(lines.path.parent.parent / "other")
    other.add("b", 2)
    lines.add("a", 1)
    kept = line_index.keep_open(lines.path.parent.parent)
    assert other.value("b") == 2
    parsed = []

    def entry_of_a_long_list(line: bytes) -> Entry | None:
        asked = threading.Thread(target=lambda: parsed.append(other.value("b")))
        asked.start()
        asked.join(5)
        assert not asked.is_alive(), "it has to wait"
        return entry_in(line)

    assert LineIndex(lines.path, entry_of_a_long_list).find("a") is not None
    assert set(parsed) == {2}
    del kept


def test_an_index_that_is_kept_open_is_opened_once(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = line_index.keep_open(lines.path.parent.parent)
    lines.add("a", 1)
    assert lines.value("a") == 1
    monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: pytest.fail("it is opened again"))
    assert lines.value("a") == 1
    del kept


def test_an_index_of_another_owner_is_replaced(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    lines.add("a", 1)
    assert lines.value("a") == 1
    gc.collect()
    path = lines.path.parent.parent / INDEX
    owned = os.stat(path).st_ino

    def denied(path: Path, flags: int) -> IO[bytes]:
        if path.exists() and os.stat(path).st_ino == owned:
            raise PermissionError(errno.EACCES, "denied", str(path))
        return open_private(path, flags)

    monkeypatch.setattr(line_index, "open_private", denied)
    os.link(path, path.with_name("still there"))  # so that the new file gets another number
    assert lines.value("a") == 1
