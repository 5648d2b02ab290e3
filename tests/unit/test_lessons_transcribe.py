"""`lessons.py transcribe`: the real SDK against a local server; killed, repeated, forced, in batches, in shards."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from archive import files
from archive.rooms import Archive, Room
from archive.session_counts import Expected
from archive.session_files import SessionFiles, read_session
from config import Settings
from core.backoff import Backoff
from core.errors import RetryLater
from core.plausibility import ECHO
from core.records import RoomInfo
from core.session_records import ClosedBy
from core.text_request import INSTRUCTION
from devtools import sound
from devtools.gemini_server import KEY, Call, GeminiServer
from devtools.room_folders import until
from devtools.sample_room import ANNA, CLOCK, noise, open_room, segment_of, settings_for
from lesson_tools import batches
from lesson_tools import transcribe as transcribe_command
from lesson_tools.batches import Batches
from lesson_tools.transcription import TranscriptionOptions, estimate, is_in_shard, tasks_of, transcribe
from support import ROOT
from support.commands import Result, environment, run_in_thread, run_process
from text import gate
from translator import GeminiTranslator

pytestmark = pytest.mark.slow


@pytest.fixture
async def gemini() -> AsyncIterator[GeminiServer]:
    async with GeminiServer() as server:
        yield server


def settings_of(folder: Path, gemini: GeminiServer, **changes: str) -> Settings:
    environ = {
        "GEMINI_API_KEY": KEY,
        "GOOGLE_GEMINI_BASE_URL": gemini.url,
        "OUTPUT_DIR": str(folder),
        "SAVE_TRANSLATIONS": "true",
        "TARGET_LANGUAGES": "es,ar",
    }
    return Settings.from_env({**environ, **changes}, for_worker=False)


def record_room(folder: Path, name: str = "math101", count: int = 3) -> Room:
    """A room in which markers were spoken, each of another length."""
    opened = open_room(folder, RoomInfo(name, f"RM_{name}", CLOCK.anchor))
    for marker in sound.markers()[:count]:
        start = 160_000 * marker.index
        opened.begin(ANNA, CLOCK, start, start).commit(segment_of(marker.pcm, start))
    return Room(opened.path)


def environ_of(folder: Path, gemini: GeminiServer) -> dict[str, str]:
    return {
        "GEMINI_API_KEY": KEY,
        "GOOGLE_GEMINI_BASE_URL": gemini.url,
        "TARGET_LANGUAGES": "es,ar",
        "OUTPUT_DIR": str(folder),
    }


async def command(*arguments: str, folder: Path, gemini: GeminiServer, **settings: str) -> Result:
    given = {**environ_of(folder, gemini), **settings}
    return await run_in_thread("transcribe", *arguments, output_dir=folder, **given)


def texts(room: Room) -> dict[int, dict[str, str]]:
    """By number what each segment's text is now."""
    with room.texts() as texts:
        found = {record.number: texts.get(record) for record in room.records()}
    return {number: dict(text.by_language) for number, text in found.items() if text is not None}


def settled_in(room: Room) -> int:
    """How many segments have their text by the file of the room's session."""
    session = read_session(room.path, "RM_math101")
    assert session is not None
    return session.texts.settled


def lines(room: Room) -> list[dict[str, object]]:
    path = room.path / "texts.jsonl"
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


async def do(settings: Settings, room: Room, options: TranscriptionOptions) -> None:
    await transcribe(
        settings,
        GeminiTranslator(settings),
        tasks_of(room, options),
        lambda _: None,
        is_forced=options.is_forced,
    )


# --- what there is to do ---


def test_what_is_done_is_left_out_and_what_is_forced_is_what_differs(tmp_path: Path) -> None:
    room = record_room(tmp_path, count=5)
    files = [record.file for record in room.records()]
    base = {"language": "en", "transcript": "Hi", "translations": {"es": "Hola"}, "model": "old"}
    entries = [
        {"number": 1, "file": files[0], **base},
        {"number": 2, "file": files[1], **base, "model": "new"},
        {"number": 3, "file": files[2], "refused": "blocked"},
        {"number": 4, "file": files[3], **base, "model": "new", "transcript": "", "translations": {}},
    ]
    (room.path / "texts.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    def numbers(options: TranscriptionOptions) -> list[int]:
        return [task.record.number for task in tasks_of(room, options)]

    assert numbers(TranscriptionOptions("new", ("es",))) == [5]
    assert numbers(TranscriptionOptions("new", ("es",), is_forced=True)) == [1, 3, 5]
    assert numbers(TranscriptionOptions("new", ("es", "ar"), is_forced=True)) == [1, 2, 3, 5]
    assert next(
        tasks_of(room, TranscriptionOptions("new", ("ar",), is_forced=True))
    ).record.caption_languages == ("en", "es")
    (room.path / files[4]).unlink()
    assert numbers(TranscriptionOptions("new", ("es",))) == []


def test_a_text_of_another_recorders_segment_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    """Two recorders that delivered to one bucket: both have a segment 1, and one of them has its text."""
    room = record_room(tmp_path, count=2)
    ours, theirs = (record.to_json() for record in room.records())
    lists = "".join(json.dumps({**one, "number": 1}) + "\n" for one in (ours, theirs))
    (room.path / "segments.jsonl").write_text(lists)
    entry = {"number": 1, "file": ours["file"], "language": "en", "transcript": "Hi", "translations": {}}
    (room.path / "texts.jsonl").write_text(json.dumps(entry) + "\n")
    assert [task.record.file for task in tasks_of(room, TranscriptionOptions("new", ()))] == [theirs["file"]]


def test_the_estimate_counts_and_prices(tmp_path: Path) -> None:
    room = record_room(tmp_path)
    options = TranscriptionOptions("gemini-3.8-flash", ("es", "ar"))
    cost = estimate(tasks_of(room, options), options)
    assert cost.segments == 3
    assert cost.audio_seconds == pytest.approx(
        sum(record.duration_seconds for record in room.records()), abs=0.01
    )
    assert cost.dollars is not None
    half = estimate(tasks_of(room, options), options, batch=True).dollars
    assert half == pytest.approx(cost.dollars / 2)
    assert estimate(tasks_of(room, options), TranscriptionOptions("another", ())).dollars is None


def test_every_room_is_in_one_shard() -> None:
    rooms = [f"room{number}" for number in range(200)]
    shards = [[room for room in rooms if is_in_shard(room, shard, 4)] for shard in range(1, 5)]
    assert sorted(sum(shards, [])) == sorted(rooms)
    assert all(20 < len(shard) < 80 for shard in shards)


# --- now ---


async def test_all_segments_get_their_texts_once(tmp_path: Path, gemini: GeminiServer) -> None:
    room = record_room(tmp_path)
    assert SessionFiles(room.path, Expected()).close("RM_math101", ClosedBy.RECORDER)
    environ = environ_of(tmp_path, gemini)
    result = await asyncio.to_thread(
        lambda: run_process("transcribe", "--yes", output_dir=tmp_path, timeout=110, **environ)
    )
    assert result.code == 0, result.err
    assert "3 segments" in result.err and "about $0.00" in result.err
    assert [sorted(one) for one in texts(room).values()] == [["ar", "en", "es"]] * 3
    assert len(list(room.path.glob("*_es.txt"))) == 3
    assert settled_in(room) == 3
    again = await command("--yes", folder=tmp_path, gemini=gemini)
    assert (again.code, again.out) == (0, "Nothing to do: every segment has its text\n")
    assert len(gemini.calls) == 3


async def test_more_languages_are_added_to_those_there(tmp_path: Path, gemini: GeminiServer) -> None:
    room = record_room(tmp_path)
    settings = settings_of(tmp_path, gemini, TARGET_LANGUAGES="es")
    options = TranscriptionOptions(settings.gemini_model, ("es",))
    await do(settings, room, options)
    more = settings_of(tmp_path, gemini, TARGET_LANGUAGES="fr")
    forced = TranscriptionOptions(settings.gemini_model, ("fr",), is_forced=True)
    await do(more, room, forced)
    assert [sorted(one) for one in texts(room).values()] == [["en", "es", "fr"]] * 3
    assert list(tasks_of(room, forced)) == [], "a forced run is done, too"
    assert len(lines(room)) == 6


async def test_a_run_that_was_stopped_continues(tmp_path: Path, gemini: GeminiServer) -> None:
    room = record_room(tmp_path, count=8)
    settings = settings_of(tmp_path, gemini, GEMINI_MAX_AT_ONCE="1")
    options = TranscriptionOptions(settings.gemini_model, settings.target_languages)
    gemini.latency_seconds = 0.1
    task = asyncio.create_task(do(settings, room, options))
    await until(lambda: lines(room), "a first text")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert 0 < len(lines(room)) < 8
    await do(settings, room, options)
    assert sorted(int(str(line["number"])) for line in lines(room)) == list(range(1, 9))


async def test_trouble_is_waited_for_and_a_refusal_is_final(tmp_path: Path, gemini: GeminiServer) -> None:
    room = record_room(tmp_path)
    gemini.mishaps.extend(["429", "cut", "blocked"])
    result = await command("--yes", folder=tmp_path, gemini=gemini)
    assert result.code == 1, "one was refused"
    assert len(lines(room)) == 3
    assert sum("refused" in line for line in lines(room)) == 1


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["--yes"], {"GEMINI_API_KEY": ""}, "GEMINI_API_KEY is not set"),
        (["--yes"], {"GEMINI_API_KEY": "wrong"}, "Gemini refuses the key"),
        (["--yes", "--model", "none"], {}, "GEMINI_MODEL is not known"),
        (["--yes", "--languages", "jp"], {}, "--languages jp: "),
        (["--yes", "--shard", "3/2"], {}, "--shard 3/2: "),
        (["--yes", "--shard", "x"], {}, "--shard x: "),
        (["nowhere"], {}, "There is no room 'nowhere'"),
        ([], {}, "There is no terminal to ask on"),
        (["--batch", "--yes"], {"GEMINI_API_KEY": ""}, "GEMINI_API_KEY is not set"),
        (["--batch", "--yes"], {"GEMINI_API_KEY": "wrong"}, "Gemini refuses the key"),
    ],
)
async def test_errors_are_one_line(
    tmp_path: Path, gemini: GeminiServer, arguments: list[str], settings: dict[str, str], said: str
) -> None:
    room = record_room(tmp_path, count=1)
    result = await command(*arguments, folder=tmp_path, gemini=gemini, **settings)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith(said)
    assert lines(room) == []
    assert KEY not in result.err + result.out


async def test_a_segment_that_is_rejected_first_does_not_end_the_run(
    tmp_path: Path, gemini: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "BACKOFF", Backoff(0.1, 0.2))
    room = record_room(tmp_path)
    rejected = len(sound.markers()[2].pcm)  # the newest, which is sent first
    gemini.spoil = lambda call: "400" if len(call.pcm) == rejected else ""
    settings = settings_of(tmp_path, gemini, GEMINI_MAX_AT_ONCE="1")
    await do(settings, room, TranscriptionOptions(settings.gemini_model, ("es", "ar")))
    assert sorted(texts(room)) == [1, 2, 3]
    assert ["refused" in line for line in sorted(lines(room), key=lambda line: str(line["file"]))] == [
        False,
        False,
        True,
    ]


async def test_the_estimate_costs_nothing(tmp_path: Path, gemini: GeminiServer) -> None:
    record_room(tmp_path)
    result = await command("--estimate", "--json", folder=tmp_path, gemini=gemini)
    assert json.loads(result.out)["segments"] == 3
    assert gemini.calls == []


async def test_an_archive_of_many_rooms_holds_few_files_open(
    tmp_path: Path, gemini: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("art", "math", "music", "physics", "sports"):
        record_room(tmp_path, name, 1)
    chosen = Archive.from_settings(settings_of(tmp_path, gemini)).rooms()
    reserved, most = [0], [0]

    class Counted(files.Reservation):
        def __enter__(self) -> None:
            super().__enter__()
            reserved[0] += 1
            most[0] = max(most[0], reserved[0])

        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            reserved[0] -= 1

    monkeypatch.setattr(files, "Reservation", Counted)
    monkeypatch.setattr(transcribe_command, "ROOMS_AT_ONCE", 2)
    settings = settings_of(tmp_path, gemini)
    options = TranscriptionOptions(settings.gemini_model, settings.target_languages)
    request = transcribe_command.Request(settings, options, False, True, True)
    await asyncio.to_thread(transcribe_command._at_once, request, chosen)
    assert (most, reserved) == ([2], [0])
    assert len(gemini.calls) == 5
    assert all(len(lines(room)) == 1 for room in chosen)


# --- batches ---


def rooms(folder: Path) -> list[Room]:
    return Archive.from_settings(settings_for(folder)).rooms()


async def test_a_batch_is_submitted_and_collected_later(tmp_path: Path, gemini: GeminiServer) -> None:
    room = record_room(tmp_path)
    assert SessionFiles(room.path, Expected()).close("RM_math101", ClosedBy.RECORDER)
    gemini.is_batch_over = False
    first = await command("--batch", "--yes", folder=tmp_path, gemini=gemini)
    assert (first.code, first.out) == (3, "0 texts collected, 3 segments submitted, 3 still to come\n")
    second = await command("--batch", "--yes", folder=tmp_path, gemini=gemini)
    assert (second.code, second.out) == (3, "0 texts collected, 0 segments submitted, 3 still to come\n")
    assert lines(room) == []
    gemini.is_batch_over = True
    third = await command("--batch", "--yes", folder=tmp_path, gemini=gemini)
    assert (third.code, third.out) == (0, "3 texts collected, 0 segments submitted, 0 still to come\n"), (
        third.err
    )
    assert [sorted(one) for one in texts(room).values()] == [["ar", "en", "es"]] * 3
    assert {line["model"] for line in lines(room)} == {"gemini-3.8-flash"}
    assert len(gemini.calls) == 3, "each was sent once"
    assert list((tmp_path / ".batches").iterdir()) == []
    assert settled_in(room) == 3


async def test_a_batch_has_the_languages_and_names_of_a_call(tmp_path: Path, gemini: GeminiServer) -> None:
    room = record_room(tmp_path, count=1)
    manifest = room.path / "segments.jsonl"
    line = {
        **json.loads(manifest.read_text(encoding="utf-8")),
        "speaking_language": "en_US",
        "caption_languages": ["pt_BR", "und", "../../x"],
    }
    manifest.write_text(json.dumps(line) + "\n", encoding="utf-8")
    settings = settings_of(tmp_path, gemini)
    await submitted(settings, TranscriptionOptions(settings.gemini_model, settings.target_languages))
    assert await collected(settings) == (1, 0)
    assert gemini.calls[0].languages == ["es", "ar", "pt-BR"]
    (made,) = texts(room).values()
    assert {"es", "ar", "pt-BR"} < made.keys() and not {"en_US", "pt_BR", "und"} & made.keys()
    assert lines(room)[0]["language"] == "en"


async def test_large_archives_go_in_several_batches(
    tmp_path: Path, gemini: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MAX_SEGMENTS", 2)
    for name in ("art", "math101"):
        record_room(tmp_path, name)
    settings = settings_of(tmp_path, gemini)
    options = TranscriptionOptions(settings.gemini_model, settings.target_languages)
    assert await submitted(settings, options) == 6
    assert len(gemini.batches) == 3
    service = Batches(settings)
    assert service.waiting() == 6
    assert await service.collect() == (6, 0)
    await service.aclose()
    assert [len(texts(room)) for room in rooms(tmp_path)] == [3, 3]


async def submitted(settings: Settings, options: TranscriptionOptions) -> int:
    service = Batches(settings)
    try:
        tasks = (task for room in rooms(Path(settings.output_dir)) for task in tasks_of(room, options))
        return await service.submit(service.not_submitted(tasks), options, lambda _: None)
    finally:
        await service.aclose()


async def collected(settings: Settings) -> tuple[int, int]:
    service = Batches(settings)
    try:
        return await service.collect()
    finally:
        await service.aclose()


async def test_an_echo_of_the_instruction_is_marked_in_a_batch_too(
    tmp_path: Path, gemini: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = record_room(tmp_path)
    settings = settings_of(tmp_path, gemini)
    echo = json.dumps({"spoken_language": "en", "transcript": INSTRUCTION[:60], "translations": {}})
    monkeypatch.setattr("translator.text_of", lambda response: (echo, ""))
    await submitted(settings, TranscriptionOptions(settings.gemini_model, settings.target_languages))
    await collected(settings)
    assert {line["doubt"] for line in lines(room)} == {ECHO}


@pytest.mark.parametrize(("step", "is_there"), [("upload", False), ("create", False), ("created", True)])
async def test_killed_while_submitting_it_is_sent_once(
    tmp_path: Path, gemini: GeminiServer, step: str, is_there: bool
) -> None:
    room = record_room(tmp_path)
    settings = settings_of(tmp_path, gemini)
    options = TranscriptionOptions(settings.gemini_model, settings.target_languages)
    gemini.batch_mishap = lambda now: "500" if now == step else ""
    with pytest.raises(RetryLater):
        await submitted(settings, options)
    gemini.batch_mishap = lambda now: ""
    assert len(gemini.batches) == is_there
    assert await collected(settings) == ((3, 0) if is_there else (0, 0))
    assert await submitted(settings, options) == (0 if is_there else 3)
    await collected(settings)
    assert len(gemini.batches) == 1
    assert len(lines(room)) == 3
    assert len(gemini.calls) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
async def test_a_command_that_is_killed_after_google_has_the_batch_finds_it_again(
    tmp_path: Path, gemini: GeminiServer
) -> None:
    room = record_room(tmp_path)
    gemini.batch_mishap = lambda step: "hang" if step == "created" else ""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "lessons.py"),
        "transcribe",
        "--batch",
        "--yes",
        env=environment(**environ_of(tmp_path, gemini)),
    )
    try:
        await until(lambda: gemini.batches, "the batch is made", 60)
    finally:
        process.kill()
        await process.wait()
    gemini.batch_mishap = lambda step: ""
    result = await command("--batch", "--yes", folder=tmp_path, gemini=gemini)
    assert (result.code, result.out) == (0, "3 texts collected, 0 segments submitted, 0 still to come\n"), (
        result.err
    )
    assert len(gemini.batches) == 1
    assert len(lines(room)) == len(gemini.calls) == 3


async def test_killed_while_collecting_nothing_is_twice(
    tmp_path: Path, gemini: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = record_room(tmp_path)
    settings = settings_of(tmp_path, gemini)
    await submitted(settings, TranscriptionOptions(settings.gemini_model, settings.target_languages))
    save_one = Batches._save_one

    async def killed_after_one(self: Batches, *arguments: object) -> bool:
        if lines(room):
            raise KeyboardInterrupt
        return await save_one(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Batches, "_save_one", killed_after_one)
    service = Batches(settings)
    with pytest.raises(KeyboardInterrupt):
        await service.collect()
    await service.aclose()
    assert len(lines(room)) == 1
    monkeypatch.undo()
    assert await collected(settings) == (3, 0)
    assert sorted(int(str(line["number"])) for line in lines(room)) == [1, 2, 3]


async def test_what_a_batch_could_not_do_is_asked_for_again(tmp_path: Path, gemini: GeminiServer) -> None:
    room = record_room(tmp_path)
    settings = settings_of(tmp_path, gemini)
    options = TranscriptionOptions(settings.gemini_model, settings.target_languages)
    shortest = min(record.duration_seconds for record in room.records())

    def spoil(call: Call) -> str:
        return "500" if call.seconds == pytest.approx(shortest, abs=0.001) else ""

    gemini.spoil = spoil
    await submitted(settings, options)
    assert await collected(settings) == (2, 1)
    gemini.spoil = lambda call: ""
    assert await submitted(settings, options) == 1
    assert await collected(settings) == (1, 0)


async def test_answers_that_belong_to_no_segment_are_ignored(tmp_path: Path, gemini: GeminiServer) -> None:
    room = record_room(tmp_path)
    settings = settings_of(tmp_path, gemini)
    await submitted(settings, TranscriptionOptions(settings.gemini_model, settings.target_languages))
    (results,) = [name for name, content in gemini._files.items() if b'"response"' in content]
    gemini._files[results] += (
        b'{"key": "99", "response": {}}\n{"key": "-1"}\nnot JSON\n[]\n{"key": "../../x"}\n'
        + b"[" * 100_000
        + b"\n"
    )
    assert await collected(settings) == (3, 0)
    assert len(lines(room)) == 3


async def test_a_batch_that_the_service_does_not_know_is_reported(
    tmp_path: Path, gemini: GeminiServer
) -> None:
    record_room(tmp_path)
    settings = settings_of(tmp_path, gemini)
    options = TranscriptionOptions(settings.gemini_model, settings.target_languages)
    await submitted(settings, options)
    gemini.batches.clear()
    assert await collected(settings) == (0, 3)
    assert await submitted(settings, options) == 3


async def test_a_segment_without_sound_spoils_no_batch(tmp_path: Path, gemini: GeminiServer) -> None:
    room = record_room(tmp_path)
    (room.path / next(room.records()).file).write_bytes(noise(100).tobytes())
    settings = settings_of(tmp_path, gemini)
    assert await submitted(settings, TranscriptionOptions(settings.gemini_model, ())) == 2
