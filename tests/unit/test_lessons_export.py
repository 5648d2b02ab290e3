"""`lessons.py export`: the files that it writes from a real folder, and its errors."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import soundfile

from archive import jsonl
from devtools.page import served
from devtools.sample_lesson import ANNA, ROOM, STUDENT, Recorded, record, school_lesson, sentences
from devtools.videos import between, draw, music, write_video
from support.commands import Result, run

pytestmark = pytest.mark.slow

HOSTILE = '</script><script>alert(1)</script>"><img src=x onerror=alert(2)>\u202e\u0000&amp;'


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return school_lesson(tmp_path_factory.mktemp("lesson"))


def export(lesson: Recorded, *options: str) -> Result:
    return run("export", "math101", *options, output_dir=lesson.output_dir)


def answer(result: Result) -> dict[str, Any]:
    assert result.code == 0, result.err
    (one,) = json.loads(result.out)["lessons"]
    assert isinstance(one, dict)
    return one


def document(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "lesson.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


# --- the files ---


def test_everything_is_written_beside_the_wavs(lesson: Recorded) -> None:
    result = export(lesson)
    assert result.code == 0, result.err
    for name in ("html", "json", "en.vtt", "ar.srt", "es.txt"):
        path = lesson.folder / f"lesson.{name}"
        assert path.is_file(), f"no {path.name}: {result.out}"
        if sys.platform != "win32":
            assert path.stat().st_mode & 0o777 == 0o600
    assert "Wrote lesson.html" in result.out


def test_the_json_says_who_said_what_when(lesson: Recorded) -> None:
    export(lesson, "--format", "json")
    found = document(lesson.folder)
    assert (found["room"], found["session"], found["speakers"]) == ("math101", "RM_1", ["Anna Ünal", "Sam"])
    assert found["languages"][0] == "en" and set(found["languages"]) == {"en", "es", "ar"}
    for line, said, kept in zip(found["lines"], lesson.said, lesson.records, strict=True):
        assert line["start_seconds"] == pytest.approx(said.at, abs=0.001)
        assert (line["texts"]["en"], line["file"]) == (said.text, kept.file)


def test_text_and_subtitles_have_their_own_language(lesson: Recorded) -> None:
    export(lesson, "--format", "txt,vtt")
    assert "[1:15] Sam: Disculpe, ¿puedo preguntar algo?" in (lesson.folder / "lesson.es.txt").read_text(
        "utf-8"
    )
    assert "<v Sam>عفوًا، هل لي بسؤال؟" in (lesson.folder / "lesson.ar.vtt").read_text("utf-8")


def test_another_folder_has_only_what_was_asked_for(lesson: Recorded, tmp_path: Path) -> None:
    target = tmp_path / "new" / "für die Schule"
    assert answer(export(lesson, "--to", str(target), "--format", "html,srt", "--json"))["languages"]
    assert sorted(path.suffix for path in target.iterdir()) == [".html", ".srt", ".srt", ".srt"]


def test_embedded_sound_makes_one_file_of_it(lesson: Recorded, tmp_path: Path) -> None:
    export(lesson, "--to", str(tmp_path), "--format", "html", "--embed")
    page = (tmp_path / "lesson.html").read_text(encoding="utf-8")
    assert page.count("data:audio/mpeg;base64,") == len(lesson.records)
    assert ".wav" not in page
    seconds = sum(one.duration_seconds for one in lesson.records)
    assert len(page) < 200_000 + 5_000 * seconds, "an hour must fit into a mail"


def test_a_lesson_without_text_is_still_one(tmp_path: Path) -> None:
    silent = record(tmp_path, sentences("lecture", 1.0)[:3], texts=False)
    one = answer(export(silent, "--json"))
    assert (one["lines"], one["without_text"], one["files"]) == (3, 3, ["lesson.html", "lesson.json"])


def test_languages_that_come_later_or_change_are_exported_in_the_order_of_their_use(tmp_path: Path) -> None:
    """What is spoken changes in the lesson, a translation starts late, a text lacks its language or is empty."""
    lesson = record(tmp_path, sentences("lecture", 1.0)[:6], texts=False)
    texts = [
        ("en", "One.", {"ar": "واحد."}),
        ("uk", "Два.", {"ar": "اثنان.", "en": ""}),
        ("uk", "Три.", {"ar": "ثلاثة.", "zh-Hant": "三。"}),
        (None, "?", {"zh-Hant": "四。", "en-GB": "Four."}),
        ("pt-BR", "", {"zh-Hant": "五。"}),
        ("und", "Hm.", {}),
    ]
    for kept, (language, transcript, translations) in zip(lesson.records, texts, strict=True):
        entry = {"number": kept.number, "file": kept.file, "language": language, "transcript": transcript}
        jsonl.append(lesson.folder / "texts.jsonl", {**entry, "translations": translations}, sync=False)
    one = answer(export(lesson, "--json"))
    assert one["languages"] == ["uk", "en", "und", "ar", "zh-Hant", "en-GB"]
    assert {f"lesson.{tag}.{kind}" for tag in one["languages"] for kind in ("vtt", "srt", "txt")} <= set(
        one["files"]
    )
    assert "三。" in (lesson.folder / "lesson.zh-Hant.txt").read_text("utf-8")
    assert [list(line["texts"]) for line in document(lesson.folder)["lines"]][3] == ["zh-Hant", "en-GB"]


def test_a_missing_wav_and_a_broken_line_cost_only_themselves(tmp_path: Path) -> None:
    lesson = record(tmp_path, sentences("lecture", 1.0)[:4])
    (lesson.folder / lesson.records[1].file).unlink()
    with open(lesson.folder / "segments.jsonl", "a", encoding="utf-8") as manifest:
        manifest.write("{broken\n")
    result = export(lesson)
    assert result.code == 0 and "1 of 4 lines no longer have a WAV" in result.out
    assert "1 broken line of the lists" in result.err
    assert [line["file"] is None for line in document(lesson.folder)["lines"]] == [False, True, False, False]


def test_hostile_names_and_words_stay_words(tmp_path: Path) -> None:
    room = replace(ROOM, name=HOSTILE)
    said = [
        replace(one, text=HOSTILE, track=replace(ANNA, participant_name=HOSTILE))
        for one in sentences("lecture", 1)[:2]
    ]
    lesson = record(tmp_path, said, room)
    assert run("export", lesson.folder.name, output_dir=tmp_path).code == 0
    page = (lesson.folder / "lesson.html").read_text(encoding="utf-8")
    assert page.count("<script") == 2 and page.count("</script>") == 2, (
        "the page's own: its data and its code"
    )
    assert "<img" not in page and "\u202e" not in page and "\0" not in page


# --- sessions ---


@pytest.fixture
def two_days(tmp_path: Path) -> Recorded:
    record(tmp_path, sentences("lecture", 1.0)[:3])
    tomorrow = replace(ROOM, sid="RM_2", started_at=ROOM.started_at + timedelta(days=1))
    return record(tmp_path, sentences("lecture", 1.0)[3:5], tomorrow)


def test_the_last_session_is_exported_and_others_are_named(two_days: Recorded) -> None:
    result = export(two_days)
    assert "lesson_20251009_140000.html" in result.out and "1 other session" in result.err


@pytest.mark.parametrize(
    ("wanted", "lines"), [("1", 3), ("2", 2), ("RM_1", 3), ("2025-10-09", 2), ("2025-10-08 14:00", 3)]
)
def test_a_session_is_named_by_number_sid_or_date(two_days: Recorded, wanted: str, lines: int) -> None:
    assert answer(export(two_days, "--session", wanted, "--json"))["lines"] == lines


def test_all_sessions(two_days: Recorded) -> None:
    found = json.loads(export(two_days, "--session", "all", "--json").out)["lessons"]
    assert [one["lines"] for one in found] == [3, 2]


# --- the video ---


@pytest.fixture(scope="module")
def film(lesson: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of the lesson that began 42 s before it."""
    path = tmp_path_factory.mktemp("film") / "the film #1 100%.webm"
    return write_video(path, between(42.0, lesson.track()), picture="libvpx")


def video_times(folder: Path) -> list[float | None]:
    return [line["video_seconds"] for line in document(folder)["lines"]]


def test_the_lesson_is_found_in_its_video(lesson: Recorded, film: Path, tmp_path: Path) -> None:
    one = answer(export(lesson, "--to", str(tmp_path), "--video", str(film), "--json"))
    assert one["video"]["aligned_by"] == "sound" and one["video"]["segments_agreeing"] >= 10
    for time, said in zip(video_times(tmp_path), lesson.said, strict=True):
        assert time == pytest.approx(said.at + 42, abs=0.05)
    assert "00:00:47.8" in (tmp_path / "lesson.en.vtt").read_text(encoding="utf-8")
    page = (tmp_path / "lesson.html").read_text(encoding="utf-8")
    assert "the%20film%20%231%20100%25.webm" in page


def test_what_was_found_is_said(lesson: Recorded, film: Path, tmp_path: Path) -> None:
    said = export(lesson, "--to", str(tmp_path), "--video", str(film)).out
    assert "The lesson begins 42.00 s into the video; " in said and "segments agree" in said


def test_the_video_of_another_lesson_is_refused_and_nothing_is_written(
    lesson: Recorded, tmp_path: Path
) -> None:
    other = write_video(tmp_path / "other.webm", music(100))
    result = export(lesson, "--to", str(tmp_path / "out"), "--video", str(other))
    assert result.code == 1
    assert "clearly heard" in result.err and "--offset" in result.err
    assert list((tmp_path / "out").iterdir()) == []


def test_an_offset_needs_no_likeness(lesson: Recorded, tmp_path: Path) -> None:
    other = write_video(tmp_path / "other.webm", music(60))
    one = answer(export(lesson, "--to", str(tmp_path), "--video", str(other), "--offset", "-10.5", "--json"))
    times = video_times(tmp_path)
    assert times[0] is None, "the lesson had begun before the video"
    assert times[2] is None or times[2] == pytest.approx(lesson.said[2].at - 10.5, abs=0.001)
    assert one["not_in_video"] == sum(not 10.5 <= said.at <= 70.5 for said in lesson.said)


def test_egress_tells_where_the_video_begins(lesson: Recorded, film: Path, tmp_path: Path) -> None:
    began = (ROOM.started_at - timedelta(seconds=42)).timestamp()
    info = tmp_path / "egress.json"
    info.write_text(json.dumps({"fileResults": [{"startedAt": str(round(began * 1e9))}]}), encoding="utf-8")
    answer(export(lesson, "--to", str(tmp_path), "--video", str(film), "--egress", str(info), "--json"))
    assert video_times(tmp_path)[0] == pytest.approx(lesson.said[0].at + 42, abs=0.001)


def test_a_list_of_egresses_is_taken_and_the_one_that_fits_is_named(
    lesson: Recorded, film: Path, tmp_path: Path
) -> None:
    began = round((ROOM.started_at - timedelta(seconds=42)).timestamp() * 1e9)
    items = [
        {
            "egress_id": f"EG_{hours}",
            "room_name": room,
            "Result": {"File": {"started_at": began + hours * 3600 * 10**9}},
        }
        for hours, room in ((-24, "math101"), (0, "math101"), (0, "art"), (24, "math101"))
    ]
    listed = tmp_path / "list.json"
    options = ("--to", str(tmp_path), "--video", str(film), "--egress", str(listed))
    for text in (json.dumps(items), json.dumps({"items": items})):
        listed.write_text(text, encoding="utf-8")
        result = export(lesson, *options, "--json")
        answer(result)
        assert "The video is that of EG_0 of room math101, from 2025-10-08T13:59:18" in result.err
        assert video_times(tmp_path)[0] == pytest.approx(lesson.said[0].at + 42, abs=0.001)
    listed.write_text(json.dumps(items[2:]), encoding="utf-8")
    result = export(lesson, *options)
    assert result.code == 2 and "list.json: none of its 2 files was recorded in room math101" in result.err


def test_a_playlist_with_dates_needs_nothing_else(lesson: Recorded, tmp_path: Path) -> None:
    playlist = tmp_path / "lesson.m3u8"
    date = (ROOM.started_at - timedelta(seconds=4)).isoformat()
    playlist.write_text(f"#EXTM3U\n#EXT-X-PROGRAM-DATE-TIME:{date}\n#EXTINF:60,\na.ts\n", encoding="utf-8")
    one = answer(export(lesson, "--to", str(tmp_path), "--video", str(playlist), "--json"))
    assert one["video"]["aligned_by"] == "egress"
    assert video_times(tmp_path)[0] == pytest.approx(lesson.said[0].at + 4, abs=0.001)
    assert video_times(tmp_path)[-1] is None


def test_egress_of_another_day_is_refused(lesson: Recorded, film: Path, tmp_path: Path) -> None:
    info = tmp_path / "egress.json"
    info.write_text('{"startedAt": 1600000000000000000}', encoding="utf-8")
    result = export(lesson, "--to", str(tmp_path), "--video", str(film), "--egress", str(info))
    assert result.code == 2 and "another time" in result.err


def test_an_address_is_played_but_where_it_begins_must_be_said(lesson: Recorded, tmp_path: Path) -> None:
    address = "http://127.0.0.1:9/v.mp4?a=1&b=<2>"
    assert export(lesson, "--to", str(tmp_path), "--video", address).code == 2
    assert export(lesson, "--to", str(tmp_path), "--video", address, "--offset", "3").code == 0
    page = (tmp_path / "lesson.html").read_text(encoding="utf-8")
    assert 'src="http://127.0.0.1:9/v.mp4?a=1&amp;b=&lt;2&gt;"' in page
    assert "media-src &#x27;self&#x27; file: data: http://127.0.0.1:9;" in page


def test_a_video_on_a_server_is_listened_to(lesson: Recorded, film: Path, tmp_path: Path) -> None:
    with served(film.parent) as address:
        result = export(lesson, "--to", str(tmp_path), "--video", address + quote(film.name), "--json")
    assert answer(result)["video"]["aligned_by"] == "sound"
    assert video_times(tmp_path)[3] == pytest.approx(lesson.said[3].at + 42, abs=0.05)


def test_a_video_without_sound(lesson: Recorded, tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "silent.webm"), "w") as container:
        draw(container, "libvpx", 2)
    result = export(lesson, "--to", str(tmp_path), "--video", str(tmp_path / "silent.webm"))
    assert result.code == 2 and "has no sound" in result.err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--video", "nowhere.mp4"], "--video=nowhere.mp4 does not exist"),
        (["--video", "."], "--video=. is not a file"),
        (["--video", __file__], "cannot be read as a recording"),
        (["--video", __file__, "--egress", "nowhere.json"], "nowhere.json cannot be read"),
        (["--offset", "3"], "name it with --video"),
        (["--video", __file__, "--offset", "nan"], "--offset must be a number"),
        (["--format", "html,exe"], "--format=html,exe is wrong"),
        (["--session", "7"], "names 0 of 1 sessions"),
        (["--session", ""], "names"),
    ],
)
def test_wrong_options_are_one_line(lesson: Recorded, options: list[str], complaint: str) -> None:
    result = export(lesson, *options)
    assert (result.code, complaint in result.err) == (2, True), result.err
    assert len(result.err.splitlines()) <= 2


def test_a_room_that_is_not_there(lesson: Recorded) -> None:
    result = run("export", "physics", output_dir=lesson.output_dir)
    assert result.code == 2 and "There is no room 'physics'" in result.err


def test_a_room_that_is_being_recorded_is_exported_as_far_as_it_is(tmp_path: Path) -> None:
    from devtools.sample_room import CLOCK, open_room

    lesson = record(tmp_path, sentences("lecture", 1.0)[:3])
    part = open_room(tmp_path).begin(STUDENT, CLOCK, 0, 0)
    before = sorted(os.listdir(lesson.folder))
    result = export(lesson, "--to", str(tmp_path / "out"))
    assert result.code == 0 and "is being recorded right now" in result.err
    noted = ".exports.jsonl"  # so that the files elsewhere go when the lesson is erased
    assert sorted(os.listdir(lesson.folder)) == sorted([*before, noted])
    part.abandon()


def test_embedded_sound_is_the_segment(lesson: Recorded) -> None:
    import base64
    import io

    from lesson_tools.export.sound import as_data

    wav = lesson.folder / lesson.records[2].file
    data = as_data(wav)
    assert data is not None
    pcm, rate = soundfile.read(io.BytesIO(base64.b64decode(data.partition(",")[2])))
    assert (rate, len(pcm) / rate) == (16_000, pytest.approx(lesson.records[2].duration_seconds, abs=0.2))
