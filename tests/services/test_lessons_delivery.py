"""`lessons.py migrate`, `deliver`, `prune`, `link` and `erase`, as a person runs them."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from archive.rooms import Room
from archive.tombstones import erasures_in
from config import Settings
from core.records import utc_now
from devtools.s3_server import S3Server
from support.commands import Result, run_here, run_there
from support.lessons_on_disk import BEN, NOW, closed, sha256, spoken, with_gap, with_texts

pytestmark = pytest.mark.timeout(300)  # many programs are started, one after the other


def lessons(*arguments: str, **settings: str) -> Result:
    """Runs a command with these settings and no others."""
    return run_here(list(arguments), environment(settings))


def environment(settings: dict[str, str]) -> dict[str, str]:
    none = {field.name.upper(): "" for field in dataclasses.fields(Settings)}
    return {**os.environ, **none, "PYTHONIOENCODING": "utf-8", **settings}


def settings_of(environ: dict[str, str]) -> Settings:
    return Settings.from_env(environ, for_worker=False)


def objects(s3: S3Server, room: str) -> set[str]:
    return {Path(key).name for key in s3.keys() if key.startswith(f"{room}/")}


def test_deliver_brings_everything_from_any_disk(s3: S3Server, tmp_path: Path) -> None:
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path / "here")}
    elsewhere = {**environ, "OUTPUT_DIR": str(tmp_path / "of another worker")}
    records = spoken(settings_of(environ), "math", 3) + spoken(settings_of(elsewhere), "art", 2)
    done = lessons("deliver", "--json", **environ)
    assert done.code == 0, done.err
    assert json.loads(done.out)["targets"][0]["delivered"] == 4
    done = lessons("--output-dir", elsewhere["OUTPUT_DIR"], "deliver", **environ)
    assert done.code == 0, done.err
    assert "3 delivered, 0 waiting, 0 dead letters" in done.out
    there = sorted(sha256(s3.get(key)) for key in s3.keys() if key.endswith(".wav"))
    assert there == sorted(record.sha256 for record in records)
    requests = len(s3.gate.requests)
    assert lessons("deliver", **environ).code == 0
    assert len(s3.gate.requests) == requests, "nothing was left to do"
    assert run_there(["deliver", "--again"], environment(environ)).code == 0
    assert len(s3.gate.requests) > requests


def test_deliver_lists_dead_letters_and_retries_them(s3: S3Server, tmp_path: Path) -> None:
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path)}
    records = spoken(settings_of(environ), "math", 2)
    s3.gate.fault = lambda request: "EntityTooLarge" if records[0].file in request.path else None
    done = lessons("deliver", **environ)
    assert done.code == 1
    assert f"dead letter: math/{records[0].file}" in done.err
    assert "too large" in done.err
    s3.gate.heal()
    assert lessons("deliver", **environ).code == 1, "it is still a dead letter"
    done = lessons("deliver", "--retry-refused", **environ)
    assert done.code == 0, done.err + done.out
    assert records[0].file in objects(s3, "math")


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"S3_KEY_SECRET": ""}, 2, "S3_KEY_SECRET not set"),
        ({"S3_BUCKET": "", "S3_KEY_ID": "", "S3_KEY_SECRET": "", "S3_ENDPOINT": ""}, 2, "nowhere to deliver"),
        ({"S3_KEY_SECRET": "wrong"}, 1, "S3_KEY_SECRET is wrong"),
        ({"S3_ENDPOINT": "http://127.0.0.1:1"}, 1, "cannot be reached"),
        ({"OUTPUT_DIR": "nowhere-at-all"}, 1, "nowhere-at-all"),
    ],
)
def test_whatever_is_wrong_is_one_line(
    s3: S3Server, tmp_path: Path, changes: dict[str, str], code: int, said: str
) -> None:
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path), **changes}
    spoken(settings_of({**environ, "OUTPUT_DIR": str(tmp_path)}), "math", 1)
    done = lessons("deliver", "--retry-seconds", "0", **environ)
    assert done.code == code, done.err
    assert said in done.err
    assert "Traceback" not in done.err


def test_prune_shows_what_would_be_deleted_and_deletes_it(s3: S3Server, tmp_path: Path) -> None:
    environ = {
        **s3.environment(),
        "OUTPUT_DIR": str(tmp_path),
        "RETENTION_DAYS": "3",
        "REMOTE_RETENTION_DAYS": "30",
    }
    recent = datetime.now(UTC) - timedelta(days=5)
    spoken(settings_of(environ), "math", 2, at=NOW)
    kept = spoken(settings_of(environ), "math", 1, at=recent)
    before = {**environ, "REMOTE_RETENTION_DAYS": ""}  # otherwise what is that old is not delivered at all
    done = lessons("prune", **before)
    assert "Nothing to remove" in done.out, "nothing is delivered yet"
    assert lessons("deliver", **before).code == 0
    done = lessons("prune", "--dry-run", **environ)
    assert done.code == 0, done.err
    assert "math: 3 files" in done.out
    assert "2 segments would go" in done.out
    assert len(list((tmp_path / "math").glob("*.wav"))) == 3
    assert len(objects(s3, "math")) == 4
    done = lessons("prune", "--json", **environ)
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["local"][0]["files"]) == 3
    assert not list((tmp_path / "math").glob("*.wav"))
    assert objects(s3, "math") == {kept[0].file, "segments.jsonl"}
    manifest = s3.get("math/segments.jsonl").splitlines()
    assert [json.loads(line)["file"] for line in manifest] == [kept[0].file]


def test_a_prune_that_breaks_off_is_finished_by_the_next_and_nothing_returns(
    s3: S3Server, tmp_path: Path
) -> None:
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path)}
    pruning = {**environ, "REMOTE_RETENTION_DAYS": "30"}
    with_texts(tmp_path / "math", spoken(settings_of(environ), "math", 2))
    assert lessons("deliver", **environ).code == 0
    s3.gate.fault = lambda request: "InternalError" if request.method in ("POST", "DELETE") else None
    assert lessons("prune", **pruning).code == 1
    assert "segments.jsonl" in objects(s3, "math"), "it says what is still to go"
    s3.gate.heal()
    assert lessons("prune", **pruning).code == 0
    assert objects(s3, "math") == set()
    kept = spoken(settings_of(environ), "math", 1, at=utc_now() - timedelta(days=1))
    assert lessons("deliver", "--again", **pruning).code == 0
    assert objects(s3, "math") == {kept[0].file, "segments.jsonl"}
    assert len(s3.get("math/segments.jsonl").splitlines()) == 1


def test_check_does_not_report_files_that_were_delivered_and_deleted(s3: S3Server, tmp_path: Path) -> None:
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path), "KEEP_LOCAL": "until_delivered"}
    with_texts(tmp_path / "math", spoken(settings_of(environ), "math", 2))
    assert lessons("deliver", **environ).code == 0
    assert lessons("prune", **environ).code == 0
    assert not list((tmp_path / "math").glob("*.wav")) + list((tmp_path / "math").glob("*.txt"))
    done = lessons("check", **environ)
    assert done.code == 0, done.out + done.err
    assert lessons("deliver", **environ).code == 0
    assert len(objects(s3, "math")) == 8
    lost = spoken(settings_of(environ), "math", 1)[0]
    (tmp_path / "math" / lost.file).unlink()
    assert lessons("check", **environ).code == 1, "this one is nowhere"


def test_a_link_is_short_lived_and_the_only_way_in(s3: S3Server, tmp_path: Path) -> None:
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path)}
    record = spoken(settings_of(environ), "math", 1)[0]
    assert lessons("deliver", **environ).code == 0
    done = lessons("link", f"math/{record.file}", "--minutes", "5", **environ)
    assert done.code == 0, done.err
    url = urlsplit(done.out.strip())
    assert "X-Amz-Expires=300" in url.query
    assert environ["S3_KEY_SECRET"] not in done.out
    assert f"AUDIT link made event=link_made room=math file={record.file} minutes=5.0" in done.err
    assert "X-Amz" not in done.err, "the link itself is for stdout only"
    connection = http.client.HTTPConnection(url.netloc, timeout=20)
    connection.request("GET", f"{url.path}?{url.query}")
    assert sha256(connection.getresponse().read()) == record.sha256
    connection.close()
    done = lessons("link", "math/nothing.wav", **environ)
    assert (done.code, "is not in" in done.err) == (1, True)
    assert lessons("link", "../x", **environ).code == 2


def test_a_participant_is_erased_everywhere_and_it_is_recorded(s3: S3Server, tmp_path: Path) -> None:
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path)}
    settings = settings_of(environ)
    annas = spoken(settings, "math", 2)
    bens = spoken(settings, "math", 2, track=BEN)
    with_texts(tmp_path / "math", annas + bens)
    with_gap(tmp_path / "math", annas[0])
    with_gap(tmp_path / "math", bens[0])
    session = closed(settings, "math")
    other = spoken(settings, "art", 1)
    assert lessons("deliver", **environ).code == 0
    assert lessons("search", "number", **environ).code == 0
    assert (tmp_path / ".search.sqlite").exists()
    assert s3.objects()[f"math/{session.name}"] == session.read_bytes()
    assert json.loads(session.read_bytes())["is_complete"], "deliver has counted again"
    done = lessons("erase", "math", "--participant", "anna", **environ)
    assert done.code != 0, "it asks first, and nobody has answered"
    done = lessons("erase", "math", "--participant", "anna", "--yes", **environ)
    assert done.code == 0, done.err
    stems = {Path(record.file).stem for record in bens}
    left = {f"{stem}{ending}" for stem in stems for ending in (".wav", "_en.txt", "_es.txt")}
    lists = {"segments.jsonl", "texts.jsonl", "gaps.jsonl"}
    assert objects(s3, "math") == left | lists
    on_disk = {path.name for path in (tmp_path / "math").iterdir()}
    assert {name for name in on_disk if name.endswith((".wav", ".txt"))} == left
    everything = [s3.get(key) for key in s3.keys() if key.startswith("math/")]
    everything += [path.read_bytes() for path in (tmp_path / "math").iterdir()]
    assert not [data for data in everything if b"anna" in data or annas[0].file.encode() in data]
    assert not list(tmp_path.glob(".search.sqlite*")), "the index is made anew when it is needed"
    assert other[0].file in objects(s3, "art")
    (receipt,) = json.loads((tmp_path / "erased.json").read_text())["erasures"]
    assert receipt["segments_here"] == 2
    assert list(receipt["segments_in_targets"].values()) == [2]
    assert receipt["is_complete"] is True
    assert lessons("deliver", **environ).code == 0
    assert objects(s3, "math") == left | lists | {session.name}, "it does not come back"
    assert s3.objects()[f"math/{session.name}"] == session.read_bytes()
    assert json.loads(session.read_bytes())["segments"] == 2


def test_a_room_is_erased_everywhere_also_when_a_target_is_down_at_first(
    s3: S3Server, tmp_path: Path
) -> None:
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path)}
    records = spoken(settings_of(environ), "math", 2)
    with_texts(tmp_path / "math", records)
    with_gap(tmp_path / "math", records[0])
    closed(settings_of(environ), "math")
    spoken(settings_of(environ), "art", 1)
    assert lessons("deliver", **environ).code == 0
    s3.close()
    done = lessons("erase", "math", "--yes", **environ)
    assert done.code == 1
    assert "run it again" in done.err
    assert not list((tmp_path / "math").glob("*.wav"))
    s3.open()
    done = lessons("erase", "math", "--yes", **environ)
    assert done.code == 0, done.err
    assert not (tmp_path / "math").exists()
    assert objects(s3, "math") == set()
    assert objects(s3, "art")
    assert all(one.is_complete for one in erasures_in(tmp_path)), (
        "also the first, which the second has repeated"
    )


def test_erasing_a_room_also_removes_objects_that_no_list_names(s3: S3Server, tmp_path: Path) -> None:
    """A container that dies has delivered sound whose lists never came."""
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path)}
    s3.put("math/segment_001_20260105_090000.wav", b"sound")
    s3.put("math/segment_001_20260105_090000_en.txt", b"text")
    s3.put("mathematics/segment_001_20260105_090000.wav", b"another room")
    done = lessons("erase", "math", "--yes", "--json", **environ)
    assert done.code == 0, done.err
    assert list(json.loads(done.out)["segments_in_targets"].values()) == [1]
    assert s3.keys() == ["mathematics/segment_001_20260105_090000.wav"]


def test_what_a_lesson_gains_while_its_past_is_erased_stays(s3: S3Server, tmp_path: Path) -> None:
    """A recorder that joined after the erasure was written delivers while the targets are being emptied."""
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path)}
    spoken(settings_of(environ), "math", 2)
    assert lessons("deliver", **environ).code == 0
    s3.gate.fail_always("InternalError")
    assert lessons("erase", "math", "--yes", **environ).code == 1
    s3.gate.heal()
    later = spoken(settings_of(environ), "math", 1, at=utc_now() + timedelta(seconds=1))
    assert lessons("deliver", **environ).code == 0
    assert objects(s3, "math") > {later[0].file}
    assert later[0].file in s3.get("math/segments.jsonl").decode()
    assert [record.file for record in Room(tmp_path / "math").records()] == [later[0].file]
    done = lessons("erase", "math", "--participant", "anna", "--yes", **environ)
    assert done.code == 0, done.err
    assert not (tmp_path / "math").exists()
    assert objects(s3, "math") == set()


def test_an_erased_segment_is_in_no_note_on_batches_in_the_bucket(s3: S3Server, tmp_path: Path) -> None:
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path)}
    anna = spoken(settings_of(environ), "math", 1)[0]
    ben = spoken(settings_of(environ), "math", 1, track=BEN)[0]
    assert lessons("deliver", **environ).code == 0
    note = {"id": "a", "model": "m", "is_forced": False, "languages": [], "name": "batches/1"}
    items = [("math", anna.to_json()), ("math", ben.to_json())]
    content = {"a": {**note, "items": items}, "b": {**note, "items": items[:1]}}
    s3.put(".transcribe/math/batches.json", json.dumps(content).encode())
    assert lessons("erase", "math", "--participant", "anna", "--yes", **environ).code == 0
    left = json.loads(s3.get(".transcribe/math/batches.json"))
    assert left == {"a": {**note, "items": [["", {"file": ""}], ["math", ben.to_json()]]}}
    assert lessons("erase", "math", "--yes", **environ).code == 0
    assert s3.keys() == []


def test_objects_go_many_at_once_and_the_lists_at_last(s3: S3Server, tmp_path: Path) -> None:
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path)}
    with_texts(tmp_path / "math", spoken(settings_of(environ), "math", 3))
    assert lessons("deliver", **environ).code == 0
    s3.gate.requests.clear()
    assert lessons("erase", "math", "--yes", **environ).code == 0
    removing = [one for one in s3.gate.requests if one.method in ("POST", "DELETE")]
    assert len(removing) == 3, "the WAVs and texts, the list of texts, the manifest"
    assert s3.keys() == []


def test_migrate_needs_a_database() -> None:
    done = lessons("migrate")
    assert (done.code, "DATABASE_URL is not set" in done.err) == (2, True)
    done = lessons("migrate", DATABASE_URL="postgresql://u:s3cret@127.0.0.1:1/d")
    assert (done.code, "cannot be reached" in done.err) == (1, True)
    assert "s3cret" not in done.err
    assert "Traceback" not in done.err
