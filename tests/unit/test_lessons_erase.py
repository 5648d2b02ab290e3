"""`lessons.py erase` on this disk: what it refuses, what it removes, and that nothing brings it back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config import Settings
from delivery.items import Selection
from support.commands import run
from support.lessons_on_disk import BEN, spoken


def settings_for(folder: Path, **more: str) -> Settings:
    return Settings.from_env({"OUTPUT_DIR": str(folder), **more}, for_worker=False)


def sounds(folder: Path) -> list[str]:
    return sorted(f"{path.parent.name}/{path.name}" for path in folder.glob("*/*.wav"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Anna in two rooms, Ben in one of them."""
    settings = settings_for(tmp_path)
    spoken(settings, "math", 2)
    spoken(settings, "math", 1, track=BEN)
    spoken(settings, "art", 1)
    return tmp_path


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Name a room"),
        ([""], "name of the room is empty"),
        ([" \t"], "name of the room is empty"),
        (["math", ""], "name of the room is empty"),
        (["math", "--participant", ""], "name of the participant is empty"),
        (["math", "--participant", "  "], "name of the participant is empty"),
        (["--participant", ""], "name of the participant is empty"),
        (["*"], "no wild cards"),
        (["m?th"], "no wild cards"),
        (["math", "--participant", "*"], "no wild cards"),
        (["mathematics"], "Nothing is known of 'mathematics'"),
        (["math", "--participant", "carl"], "Nothing is known of 'math', 'carl'"),
        (["math", "art"], "needs --all"),
        (["--participant", "anna"], "needs --all"),
        (["--participant", "anna", "--all", "--count", "4"], "There are 3 segments, not 4"),
    ],
)
def test_a_name_that_could_mean_more_is_refused(archive: Path, arguments: list[str], said: str) -> None:
    before = sounds(archive)
    done = run("erase", *arguments, "--yes", output_dir=archive)
    assert (done.code, said in done.err) == (2, True), done.err
    assert sounds(archive) == before


def test_a_selection_of_everything_cannot_be_made() -> None:
    for names in ({}, {"room": ""}, {"room": " "}, {"room": "math", "participant": "\n"}):
        with pytest.raises(ValueError, match="everything"):
            Selection(**names)


def test_more_than_one_room_needs_the_number_typed_back(archive: Path) -> None:
    before = sounds(archive)
    done = run("erase", "--participant", "anna", "--all", "--yes", output_dir=archive)
    assert (done.code, "Nothing was done" in done.err) == (1, True), "nobody has typed it"
    assert sounds(archive) == before
    done = run("erase", "--participant", "anna", "--all", "--dry-run", "--json", output_dir=archive)
    assert (done.code, sounds(archive)) == (0, before)
    found = json.loads(done.out)
    assert {one["folder"]: one["segments"] for one in found["local"]} == {"art": 1, "math": 2}
    done = run("erase", "--participant", "anna", "--all", "--count", "3", output_dir=archive)
    assert done.code == 0, done.err
    assert [name.partition("/")[0] for name in sounds(archive)] == ["math"]
