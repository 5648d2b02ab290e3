"""Files of JSON lines: torn, replaced, endless, and while they grow."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from archive import jsonl
from archive.jsonl import (
    Bookmark,
    append,
    bookmark_before_end,
    end_of,
    lines_behind,
    lines_of,
    new_lines,
    rewrite,
)
from support.disk import RefusingDisk, needs_posix


def content(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


# --- adding a line ---


@pytest.mark.parametrize("torn", [b'{"a": 1, "b', b"{", b"[1]", b"\x00" * 9_000, b"\xff", b"x" * (3 << 20)])
def test_a_torn_line_is_taken_back(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "x.jsonl"
    append(path, {"number": 1})
    with path.open("ab") as file:
        file.write(torn)
    append(path, {"number": 2})
    assert content(path) == [{"number": 1}, {"number": 2}]


def test_a_line_that_only_lacks_its_line_feed_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"number": 1}')
    append(path, {"number": 2})
    assert path.read_bytes() == b'{"number": 1}\n{"number": 2}\n'


def test_every_text_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    entry = {"text": "\u2028 \n \0 \udc80 \ud800 \U0001f600 مرحبا"}
    append(path, entry)
    append(path, entry)
    assert [jsonl.entry_in(line) for _, line in lines_of(path)] == [entry, entry]


@needs_posix
def test_a_disk_that_refuses_leaves_complete_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    append(path, {"number": 0})
    with path.open("ab") as file:
        file.write(b"torn")
    disk = RefusingDisk(monkeypatch)
    for step in range(8):
        disk.refuse(28, step)
        try:
            append(path, {"number": step})
        except OSError:
            assert disk.refused
        disk.relent()
        assert path.read_bytes().endswith((b"}\n", b"torn"))
    append(path, {"number": 9})
    assert content(path)[-1] == {"number": 9}


# --- reading and rewriting ---


def test_of_a_line_that_is_far_too_long_only_the_beginning_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"number": 1}\n' + b"x" * (3 << 20) + b'\n{"number": 2}\n' + b"y" * (2 << 20))
    found = list(lines_of(path))
    assert [jsonl.entry_in(line) for _, line in found] == [{"number": 1}, None, {"number": 2}, None]
    assert all(len(line) <= jsonl.MAX_LINE_BYTES for _, line in found)
    assert [start for start, _ in found] == [0, 14, 15 + (3 << 20), 29 + (3 << 20)]
    lines, behind = new_lines(path, Bookmark())
    assert (len(lines), behind.bytes) == (3, 29 + (3 << 20))


@pytest.mark.parametrize("line", [b"", b"{", b"null", b"[1]", b"9" * 5000, b"[" * 100_000, b"\xff", b"\0"])
def test_what_is_no_object_is_no_entry(line: bytes) -> None:
    assert jsonl.entry_in(line) is None


def test_removed_lines_are_kept_elsewhere_if_asked_for(tmp_path: Path) -> None:
    path, other = tmp_path / "x.jsonl", tmp_path / "x.broken"
    path.write_bytes(b"one\ntwo\r\nthree")
    assert rewrite(path, lambda line: line.startswith(b"one"), removed_to=other) == 2
    assert path.read_bytes() == b"one\n"
    assert other.read_bytes() == b"two\nthree\n"
    before = path.stat().st_ino
    assert rewrite(path, lambda line: True) == 0
    assert path.stat().st_ino == before
    assert rewrite(tmp_path / "not there", lambda line: False) == 0


# --- following a file that grows ---


def test_a_manifest_is_read_on_from_the_bookmark(tmp_path: Path) -> None:
    path = tmp_path / "segments.jsonl"
    assert new_lines(path, Bookmark()) == ([], Bookmark())
    path.write_bytes(b"one\ntwo\nhalf a li")
    lines, bookmark = new_lines(path, Bookmark())
    assert lines == [b"one\n", b"two\n"]
    with path.open("ab") as file:
        file.write(b"ne\nfour\n")
    lines, later = new_lines(path, bookmark)
    assert lines == [b"half a line\n", b"four\n"]
    assert new_lines(path, later) == ([], later)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")
def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        assert new_lines(tmp_path / name, Bookmark()) == ([], Bookmark())


@pytest.mark.parametrize("content", [b"ONE\ntwo\n", b"one\n", b"zero\none\ntwo\nthree\n", b""])
def test_a_file_that_was_rewritten_is_read_from_its_beginning(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "segments.jsonl"
    path.write_bytes(b"one\ntwo\n")
    _, bookmark = new_lines(path, Bookmark())
    path.write_bytes(content)
    assert b"".join(new_lines(path, bookmark)[0]) == content


def test_a_long_file_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "segments.jsonl"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(10)))
    bookmark, pieces = Bookmark(), []
    while lines := (found := new_lines(path, bookmark, most=4))[0]:
        bookmark = found[1]
        pieces.append(lines)
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    assert b"".join(sum(pieces, [])) == path.read_bytes()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")
def test_nothing_waits_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    assert list(lines_of(tmp_path / "pipe")) == []
    assert rewrite(tmp_path / "pipe", lambda line: False) == 0
    assert end_of(tmp_path / "pipe") == Bookmark()
    assert jsonl.line_count(tmp_path / "pipe") == 0
    with pytest.raises(OSError):
        append(tmp_path / "pipe", {})
    assert time.monotonic() - began < 10


def test_a_reader_is_told_that_the_file_is_another(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"one\n")
    is_another, _, bookmark = lines_behind(path, Bookmark())
    assert not is_another
    path.write_bytes(b"other\none\n")
    assert lines_behind(path, bookmark)[:2] == (True, [b"other\n", b"one\n"])
    path.unlink()
    assert lines_behind(path, bookmark) == (True, [], Bookmark())
    assert not lines_behind(path, Bookmark())[0]


def test_the_end_is_behind_the_last_complete_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert end_of(path) == Bookmark()
    for text in (b"torn", b"one\n", b"one\ntwo\ntor", b"o\n" * 5_000 + b"x" * 9_000):
        path.write_bytes(text)
        read = Bookmark()
        while (found := new_lines(path, read))[0]:
            read = found[1]
        assert end_of(path) == read
        assert end_of(path).bytes == text.rfind(b"\n") + 1


def test_a_follower_may_begin_near_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert bookmark_before_end(path, 8) == Bookmark()
    path.write_bytes(b"one\ntwo\nthree\n")
    lines, behind = new_lines(path, bookmark_before_end(path, 8))
    assert lines == [b"o\n", b"three\n"]
    assert new_lines(path, behind) == ([], behind)
    assert bookmark_before_end(path, 1000) == Bookmark()
