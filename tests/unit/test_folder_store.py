"""Delivery to a folder: only to one that was set up, and is there."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from config import Settings
from core.errors import ConfigError
from core.records import utc_now
from delivery.folder_store import MARKER, PROBE, folder_in, prove_set_up
from delivery.targets import problems_of
from support.commands import run
from support.lessons_on_disk import spoken


def test_the_path_in_a_url() -> None:
    for url, path in (
        ("file:///mnt/nas/lessons", "/mnt/nas/lessons"),
        ("file://localhost/mnt/nas", "/mnt/nas"),
        ("file:///mnt/all%20lessons/100%25%23", "/mnt/all lessons/100%#"),
        ("file:///mnt/%D8%AF%D8%B1%D8%B3", "/mnt/درس"),
    ):
        assert folder_in(url, is_windows=False) == path
    for url, path in (
        ("file:///C:/lessons", "C:/lessons"),
        ("file:///d:/all%20lessons", "d:/all lessons"),
        ("file://localhost/C:/lessons", "C:/lessons"),
        ("file://server/share/lessons", "//server/share/lessons"),
    ):
        assert folder_in(url, is_windows=True) == path


@pytest.mark.parametrize("is_windows", [False, True])
@pytest.mark.parametrize(
    "url",
    ["file://", "file:///", "file://C:/a", "file:///C:/a#b", "file:///C:/a?b", "file:///C:/a%00"],
)
def test_a_url_that_names_no_folder_is_refused(url: str, is_windows: bool) -> None:
    with pytest.raises(ValueError):
        folder_in(url, is_windows=is_windows)


def test_what_names_a_folder_on_one_system_only() -> None:
    with pytest.raises(ValueError):
        folder_in("file://mnt/nas", is_windows=False)
    with pytest.raises(ValueError):
        folder_in("file:///mnt/nas", is_windows=True)


def test_a_wrong_url_is_one_line_of_problems() -> None:
    (problem,) = problems_of(Settings(store_url="file:///mnt/nas#1"))
    assert "STORE_URL is wrong" in problem


def test_a_path_and_its_url_are_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "lessons of 2026 #1 100%"
    assert Path(folder_in(folder.as_uri())) == folder


@pytest.mark.slow
def test_a_disk_that_is_not_mounted_is_not_filled_and_nothing_is_removed_here(tmp_path: Path) -> None:
    mount, disk = tmp_path / "mnt", tmp_path / "disk"
    out, url = tmp_path / "out", (mount / "nas").as_uri()
    settings = Settings(output_dir=str(out), store_url=url)
    records = spoken(settings, "math", 2, at=utc_now() - timedelta(days=1))

    def lessons(*arguments: str) -> tuple[int, str]:
        done = run(*arguments, output_dir=out, STORE_URL=url, KEEP_LOCAL="until_delivered")
        return done.code, done.err

    def are_here() -> bool:
        return all((tmp_path / "out" / "math" / record.file).exists() for record in records)

    code, said = lessons("deliver", "--retry-seconds", "0")
    assert (code, "is not there: mount it" in said) == (1, True), said
    assert lessons("deliver", "--set-up")[0] == 2, "it cannot be set up, either"
    assert not mount.exists()
    (mount / "nas").mkdir(parents=True)
    code, said = lessons("deliver", "--retry-seconds", "0")
    assert (code, "is not mounted, or not set up yet" in said) == (1, True), said
    assert not list((mount / "nas").iterdir())
    lessons("prune")
    assert are_here()
    assert lessons("deliver", "--set-up") == (0, "")
    assert len(list((mount / "nas" / "math").glob("*.wav"))) == 2
    records += spoken(settings, "math", 1, at=utc_now())
    (mount / "nas").rename(disk)  # unmounted
    (mount / "nas").mkdir()
    assert lessons("deliver", "--retry-seconds", "0")[0] == 1
    lessons("prune")
    assert not list((mount / "nas").iterdir())
    assert (tmp_path / "out" / "math" / records[-1].file).exists(), "it is delivered nowhere"
    shutil.rmtree(mount / "nas")
    disk.rename(mount / "nas")
    assert lessons("deliver") == (0, ""), "mounted again, it goes on by itself"
    lessons("prune")
    assert not are_here()


def test_a_folder_that_an_older_version_has_filled_is_not_set_up_by_itself(tmp_path: Path) -> None:
    """It may be the place below a mount point, filled while the disk was not mounted."""
    out, below = tmp_path / "out", tmp_path / "nas"
    spoken(Settings(output_dir=str(below)), "math", 1)
    (below / PROBE).touch()
    (record,) = spoken(Settings(output_dir=str(out)), "art", 1)

    def lessons(*arguments: str) -> tuple[int, str]:
        more = {"STORE_URL": below.as_uri(), "KEEP_LOCAL": "until_delivered"}
        done = run(*arguments, output_dir=out, **more)
        return done.code, done.err

    code, said = lessons("deliver", "--retry-seconds", "0")
    assert (code, "run `python lessons.py deliver --set-up` once" in said) == (1, True), said
    lessons("prune")
    assert (out / "art" / record.file).exists()
    assert sorted(path.name for path in below.iterdir() if not path.name.startswith(".")) == ["math"]
    with pytest.raises(ConfigError, match="not set up yet"):
        prove_set_up(below)
    assert lessons("deliver", "--set-up") == (0, "")
    assert (below / "art" / record.file).exists()


def test_a_room_that_is_erased_leaves_no_empty_folder(tmp_path: Path) -> None:
    nas = tmp_path / "nas"
    nas.mkdir()
    out, url = tmp_path / "out", nas.as_uri()
    spoken(Settings(output_dir=str(out)), "math", 2)
    assert run("deliver", "--set-up", output_dir=out, STORE_URL=url).code == 0
    assert (nas / "math" / "segments.jsonl").exists()
    assert run("erase", "math", "--yes", output_dir=out, STORE_URL=url).code == 0
    assert [path.name for path in nas.iterdir()] == [MARKER]
