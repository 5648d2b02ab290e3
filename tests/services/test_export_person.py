"""`lessons.py export-person`: all that is kept of a person, and nothing of others."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from pathlib import Path

import pytest

from config import Settings
from devtools.s3_server import S3Server
from support.commands import Result, run_here
from support.lessons_on_disk import BEN, closed, sha256, spoken, with_gap, with_texts

pytestmark = pytest.mark.timeout(120)


def lessons(*arguments: str, **settings: str) -> Result:
    none = {field.name.upper(): "" for field in dataclasses.fields(Settings)}
    return run_here(list(arguments), {**os.environ, **none, "PYTHONIOENCODING": "utf-8", **settings})


def test_everything_of_one_person_is_in_it(s3: S3Server, tmp_path: Path) -> None:
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path / "here")}
    settings = Settings.from_env(environ, for_worker=False)
    elsewhere = dataclasses.replace(settings, output_dir=str(tmp_path / "elsewhere"))
    annas, bens = spoken(settings, "math", 2), spoken(settings, "math", 1, track=BEN)
    with_texts(tmp_path / "here" / "math", annas + bens)
    with_gap(tmp_path / "here" / "math", annas[0])
    with_gap(tmp_path / "here" / "art", spoken(settings, "art", 1, track=BEN)[0])
    others = spoken(elsewhere, "physics", 1) + spoken(elsewhere, "physics", 1, track=BEN)
    with_texts(tmp_path / "elsewhere" / "physics", others)
    for one, room in ((settings, "math"), (settings, "art"), (elsewhere, "physics")):
        closed(one, room)
    assert lessons("deliver", **environ).code == 0
    assert lessons("--output-dir", str(tmp_path / "elsewhere"), "deliver", **environ).code == 0
    (tmp_path / "here" / "math" / annas[0].file).unlink()  # as after KEEP_LOCAL=until_delivered
    path = tmp_path / "anna.zip"
    done = lessons("export-person", "anna", "--to", str(path), "--json", **environ)
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert (answer["segments"], answer["texts"], answer["gaps"], answer["missing"]) == (3, 3, 1, [])
    assert answer["sessions"] == 2
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    sounds = sorted(sha256(data) for name, data in content.items() if name.endswith(".wav"))
    assert sounds == sorted(record.sha256 for record in [*annas, others[0]])
    assert len([name for name in content if name.endswith(".txt")]) == 6
    for room, count in (("math/session_RM_math", 2), ("store1/physics/session_RM_physics", 1)):
        (part,) = json.loads(content[f"{room}.json"])["participants"]
        assert (part["identity"], part["segments"]) == ("anna", count)
    assert not [name for name, data in content.items() if b"ben" in data and name != "about.json"]
    assert json.loads(content["about.json"])["rooms"] == ["math", "store1/physics"]
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
    assert lessons("export-person", "anna", "--to", str(path), **environ).code == 2, "it is not replaced"


@pytest.mark.parametrize("name", ["", " ", "carl"])
def test_nobody_leaves_no_file(tmp_path: Path, name: str) -> None:
    spoken(Settings(output_dir=str(tmp_path / "out")), "math", 1)
    done = lessons("export-person", name, "--to", str(tmp_path / "x.zip"), OUTPUT_DIR=str(tmp_path / "out"))
    assert done.code == 2
    assert not (tmp_path / "x.zip").exists()
