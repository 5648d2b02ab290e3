"""Text on disk: each segment once, despite torn lines and several workers."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from archive.folder_texts import FolderTexts, write_text
from archive.names import TEXTS
from core.text_records import TextRecord
from support.disk import RefusingDisk, needs_posix
from support.segment_records import NOW, segment


def text(number: int, who: str = "anna", is_audio_kept: bool = True) -> TextRecord:
    found = segment(number, who)
    return TextRecord(
        number, found.file, NOW, found.start, who, "en", f"Sentence {number}.", is_audio_kept=is_audio_kept
    )


def lines(folder: Path) -> list[int]:
    return [json.loads(line)["number"] for line in (folder / TEXTS).read_bytes().splitlines()]


def test_a_text_is_saved_once(tmp_path: Path) -> None:
    one, other = FolderTexts(tmp_path), FolderTexts(tmp_path)
    assert not one.has(segment(1))
    assert one.save(text(1))
    assert other.has(segment(1))
    assert not other.save(text(1))
    assert other.save(text(2))
    assert not one.save(text(2))
    assert lines(tmp_path) == [1, 2]


def test_many_at_once_save_each_text_once(tmp_path: Path) -> None:
    saved: list[int] = []

    def save_all() -> None:
        texts = FolderTexts(tmp_path)
        saved.extend(number for number in range(30) if texts.save(text(number)))

    threads = [threading.Thread(target=save_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(saved) == sorted(lines(tmp_path)) == list(range(30))


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    FolderTexts(tmp_path).save(text(1))
    with (tmp_path / TEXTS).open("ab") as file:
        file.write(b'{"number": 2, "fi')
    texts = FolderTexts(tmp_path)
    assert not texts.has(segment(2))
    assert texts.save(text(2))
    assert FolderTexts(tmp_path).has(segment(1)) and FolderTexts(tmp_path).has(segment(2))


def test_foreign_lines_are_skipped(tmp_path: Path) -> None:
    endless = json.dumps({**text(1).to_json(), "input_tokens": float("inf")})
    lines_of_others = ["", "{", "null", '"x"', '{"number": 1}', "[" * 100_000, endless]
    (tmp_path / TEXTS).write_text("\n".join(lines_of_others) + "\n", encoding="utf-8")
    texts = FolderTexts(tmp_path)
    assert not texts.has(segment(1))
    assert texts.save(text(1))
    assert texts.has(segment(1))


@needs_posix
def test_a_disk_that_refuses_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FolderTexts(tmp_path).save(text(1))
    disk = RefusingDisk(monkeypatch)
    for step in range(12):
        texts = FolderTexts(tmp_path)
        disk.refuse(28, step)
        try:
            texts.save(text(2 + step))
        except OSError:
            assert disk.refused
        disk.relent()
        assert texts.save(text(2 + step)) or texts.has(segment(2 + step))
    assert sorted(lines(tmp_path)) == sorted(set(lines(tmp_path))) == list(range(1, 14))


def test_a_replaced_list_of_texts_is_read_from_its_beginning(tmp_path: Path) -> None:
    texts = FolderTexts(tmp_path)
    texts.save(text(1))
    texts.save(text(2))
    (tmp_path / TEXTS).unlink()
    assert not texts.has(segment(1))
    assert texts.save(text(1))


def test_what_was_said_before_is_of_the_same_person_and_recent(tmp_path: Path) -> None:
    texts = FolderTexts(tmp_path)
    for number, who in ((3, "anna"), (1, "anna"), (2, "bob"), (5, "anna")):
        texts.save(text(number, who))
    assert texts.before(segment(4), 3) == ("Sentence 1.", "Sentence 3.")
    assert texts.before(segment(4), 1) == ("Sentence 3.",)
    assert texts.before(segment(4), 0) == ()
    assert texts.before(segment(4, "carol"), 3) == ()
    assert texts.before(segment(100), 3) == (), "long ago"


def test_audio_may_go_only_where_its_text_is_safe_and_it_is_there(tmp_path: Path) -> None:
    texts = FolderTexts(tmp_path)
    texts.save(text(1, is_audio_kept=False))
    texts.save(text(2))
    for number in (1, 2, 3):
        (tmp_path / segment(number).file).write_bytes(b"")
    assert [texts.may_remove_audio(segment(number)) for number in (1, 2, 3)] == [True, False, False]
    (tmp_path / segment(1).file).unlink()
    assert not texts.may_remove_audio(segment(1))


def test_a_text_file_is_there_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "a_ar.txt"
    (tmp_path / "a_ar.txt.part").write_text("left by a crash, and longer than what comes")
    write_text(path, "سلام\n")
    assert path.read_bytes() == "سلام\n".encode()
    assert [one.name for one in tmp_path.iterdir()] == ["a_ar.txt"]


@needs_posix
def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("untouched")
    (tmp_path / "a_es.txt.part").symlink_to(target)
    with pytest.raises(OSError):
        write_text(tmp_path / "a_es.txt", "Hola\n")
    assert target.read_text() == "untouched"
