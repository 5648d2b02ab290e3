"""Files in a room's folder that cannot be opened: of another owner, or held open by another program on Windows."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archive.names import GAPS, MANIFEST
from config import Settings
from core.records import GapReason, GapRecord, Pcm
from devtools.sample_room import ANNA, BOB, CLOCK, noise, open_room, segment_of
from storage import MAX_LISTING_REFUSALS, PartFile, RoomFolder, SegmentErased
from support.commands import run
from support.disk import assert_sound, manifest
from support.lessons_on_disk import spoken, with_texts

DENIED = os.strerror(errno.EACCES)
STRIDE = 16_000
GAP = GapRecord("math101", "RM_1", "anna", "TR_A", CLOCK.anchor, CLOCK.anchor, GapReason.UNSAVED)


class Deny:
    """``deny(PATH)``: the file at this path cannot be opened. The system would let root open any file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._denied: dict[str, int] = {}
        """The inode by name: another file that gets the name may be opened."""
        for module in (builtins, io):
            monkeypatch.setattr(module, "open", self._checked(builtins.open))
        monkeypatch.setattr(os, "open", self._checked(os.open))

    def __call__(self, path: Path) -> None:
        self._denied[path.name] = path.stat().st_ino

    def no_more(self) -> None:
        self._denied.clear()

    def _checked(self, opened: Callable[..., Any]) -> Callable[..., Any]:
        def checked(path: Any, *rest: Any, **options: Any) -> Any:
            if isinstance(path, (str, os.PathLike)) and self._is_denied(Path(path)):
                raise PermissionError(errno.EACCES, DENIED, str(path))
            return opened(path, *rest, **options)

        return checked

    def _is_denied(self, path: Path) -> bool:
        inode = self._denied.get(path.name)
        return inode is not None and path.exists() and path.stat().st_ino == inode


@pytest.fixture
def deny(monkeypatch: pytest.MonkeyPatch) -> Deny:
    return Deny(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> RoomFolder:
    return open_room(tmp_path)


def begin(folder: RoomFolder, index: int) -> PartFile:
    return folder.begin(ANNA, CLOCK, index * STRIDE, index * STRIDE)


def save(folder: RoomFolder, index: int) -> int:
    part, pcm = begin(folder, index), sound(index)
    part.append(pcm)
    return part.commit(segment_of(pcm, index * STRIDE)).number


def left_by_a_crash(folder: RoomFolder, count: int) -> list[Path]:
    paths = []
    for index in range(count):
        part = begin(folder, index)
        part.append(sound(index))
        part.abandon()
        paths.append(folder.path / f"{part.name}.part")
    return paths


def sound(index: int) -> Pcm:
    return noise(100 + index, index)


@pytest.mark.parametrize("is_part", [True, False], ids=["part", "wav"])
def test_recovery_names_the_file_and_leaves_it_and_recovers_the_others(
    tmp_path: Path, folder: RoomFolder, deny: Deny, caplog: pytest.LogCaptureFixture, is_part: bool
) -> None:
    paths = left_by_a_crash(folder, 3)
    if not is_part:
        for path in paths:
            os.replace(path, path.with_suffix(""))
    denied = paths[1] if is_part else paths[1].with_suffix("")
    deny(denied)
    assert [record.number for record in open_room(tmp_path).recover()] == [1, 3]
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == f"{denied} cannot be recovered and is left as it is: {DENIED}"
    assert save(folder, 3) == 4
    result = run("check", "--repair", output_dir=tmp_path)
    assert result.code == 1
    assert (
        f"{denied.name} {'was left by a crash' if is_part else 'is not in the manifest'}, and" in result.out
    )
    assert f"cannot be recovered: {DENIED}" in result.out
    deny.no_more()
    assert run("check", "--repair", output_dir=tmp_path).code == 0
    lines = assert_sound(folder.path)
    assert {line["participant_identity"] for line in lines} == {"anna"}, "the note is still there"


def pipe(path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("it has no pipes with a name in a folder")
    os.mkfifo(path)


def link(path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("creating one needs a privilege")
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [Path.mkdir, pipe, link])
@pytest.mark.parametrize(
    "name", [".lock", MANIFEST, GAPS, ".heard", ".whole lesson.json", "whole lesson.wav"]
)
def test_what_is_no_regular_file_stops_no_recorder(
    tmp_path: Path, folder: RoomFolder, name: str, make: Callable[[Path], None]
) -> None:
    left_by_a_crash(folder, 1)
    (folder.path / ".lock").unlink()
    make(folder.path / name)
    if name.endswith(".json"):
        (folder.path / "whole lesson.wav").write_bytes(bytes(1_000))
    again = open_room(tmp_path)
    again.recover()
    again.handover.note_before()
    part = begin(again, 1)
    for _ in range(MAX_LISTING_REFUSALS - 1):
        with contextlib.suppress(PermissionError):
            part.commit(segment_of(sound(1), STRIDE))
    assert part.commit(segment_of(sound(1), STRIDE)).number == 2
    again.note_gap(GAP)
    assert len(list(folder.path.glob("segment_*.wav"))) == 2


@pytest.mark.parametrize(
    "change", [{"number": 1e400}, {"number": 0}, {"start_sample": 10**15}, {"anchor": "9999-12-31T23:59:59Z"}]
)
def test_a_note_with_impossible_figures_hides_neither_its_part_nor_others(
    tmp_path: Path, folder: RoomFolder, change: dict[str, Any]
) -> None:
    left_by_a_crash(folder, 2)
    note = next(folder.path.glob(".segment_001*.json"))
    note.write_text(json.dumps({**json.loads(note.read_text()), **change}))
    assert len(open_room(tmp_path).recover()) == 2


@pytest.mark.parametrize("is_part", [True, False], ids=["part", "wav"])
@pytest.mark.parametrize("who", [(), ("--participant", "anna")], ids=["room", "person"])
def test_what_recovery_has_left_is_erased_with_the_rest(
    tmp_path: Path, folder: RoomFolder, deny: Deny, is_part: bool, who: tuple[str, ...]
) -> None:
    """Nothing of it is in a list when the command begins."""
    paths = left_by_a_crash(folder, 3)
    if not is_part:
        for path in paths:
            os.replace(path, path.with_suffix(""))
    deny(paths[1] if is_part else paths[1].with_suffix(""))
    live = folder.begin(BOB, CLOCK, 9 * STRIDE, 9 * STRIDE)
    live.append(sound(9))
    done = run("erase", "math101", *who, "--yes", output_dir=tmp_path)
    assert (done.code, "Erased: 2 segments here" in done.out) == (0, True), done
    assert {path.name.partition("_2025")[0] for path in folder.path.glob("*segment_*")} <= {
        "segment_004",
        ".segment_004",
    }
    if who:
        assert live.commit(segment_of(sound(9), 9 * STRIDE)).participant_identity == "bob"
    else:
        with pytest.raises(SegmentErased):
            live.commit(segment_of(sound(9), 9 * STRIDE))


def test_a_lock_file_is_replaced(tmp_path: Path, folder: RoomFolder, deny: Deny) -> None:
    save(folder, 0)
    deny(folder.path / ".lock")
    assert save(open_room(tmp_path), 1) == 2
    assert_sound(folder.path)


def test_segments_are_saved_without_a_manifest_and_listed_later(
    tmp_path: Path, folder: RoomFolder, deny: Deny
) -> None:
    save(folder, 0)
    deny(folder.path / MANIFEST)
    again = open_room(tmp_path)
    for index in (1, 2):
        part = begin(again, index)
        for _ in range(MAX_LISTING_REFUSALS - 1):
            with pytest.raises(PermissionError):
                part.commit(segment_of(sound(index), index * STRIDE))
        assert part.commit(segment_of(sound(index), index * STRIDE)).number == index + 1
        assert not part.is_listed
    again.recover()
    assert again.handover.received_before("TR_A", CLOCK.anchor) is None
    deny.no_more()
    assert len(manifest(folder.path)) == 1
    assert [record.number for record in again.recover()] == [2, 3]
    assert {line["participant_identity"] for line in assert_sound(folder.path)} == {"anna"}


def test_a_gap_that_cannot_be_listed_is_in_the_log(
    folder: RoomFolder, deny: Deny, caplog: pytest.LogCaptureFixture
) -> None:
    folder.note_gap(GAP)
    deny(folder.path / GAPS)
    folder.note_gap(GAP)
    assert (
        f"This gap is only in the log: [Errno {errno.EACCES}] {DENIED}: '{folder.path / GAPS}'" in caplog.text
    )


def test_a_folder_that_cannot_be_read_hides_no_other(tmp_path: Path, deny: Deny) -> None:
    out, nas = tmp_path / "out", tmp_path / "nas"
    nas.mkdir()
    for room in ("math", "other"):
        with_texts(out / room, spoken(Settings(output_dir=str(out)), room, 1))
    (out / "other").rename(out / "lost+found")  # as at the top of a disk
    with_texts(out / "other", spoken(Settings(output_dir=str(out)), "other", 1))
    deny(out / "other" / MANIFEST)
    target = {"STORE_URL": nas.as_uri()}
    found = run("search", "number", output_dir=out)
    assert found.out.count(".wav") == 1 and "math" in found.out and "other cannot be read" in found.err
    listed = run("list", output_dir=out)
    assert listed.code == 1 and "math" in listed.out and "other/segments.jsonl cannot be read" in listed.err
    checked = run("check", output_dir=out)
    assert checked.code == 1 and "math: 1 segment" in checked.out and "cannot be read" in checked.out
    assert "lost+found" not in listed.out + checked.out
    assert "Folder other cannot be read" in run("deliver", "--set-up", output_dir=out, **target).err
    assert [path.name for path in nas.iterdir() if path.is_dir()] == ["math"]
    pruned = run("prune", output_dir=out, RETENTION_DAYS="1")
    assert pruned.code == 1 and "other cannot be read" in pruned.err
    assert not list((out / "math").glob("*.wav"))
    assert list((out / "other").glob("*.wav")) and list((out / "lost+found").glob("*.wav"))
