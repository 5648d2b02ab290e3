"""Answers as models really give them, through the real client: what is good is kept, the rest asked for again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from archive.names import SegmentNames
from archive.rooms import Room
from config import Settings
from core.backoff import Backoff
from core.plausibility import TOO_LONG
from core.records import RoomInfo
from devtools import gemini_mishaps, sound
from devtools.gemini_mishaps import candidate
from devtools.gemini_server import KEY, Call, GeminiServer
from devtools.sample_room import ANNA, CLOCK, open_room, segment_of
from lesson_tools.expected import expected_of
from lesson_tools.findings import Kind
from lesson_tools.inspection import inspect
from lesson_tools.transcription import (
    ArchiveTextService,
    TranscriptionOptions,
    count_refused,
    tasks_of,
    transcribe,
)
from support.commands import run_in_thread, run_process
from text import attempts, gate
from translator import GeminiTranslator

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BACKOFF", Backoff(0.05, 0.1))
    monkeypatch.setattr(attempts, "SEGMENT_BACKOFF", Backoff(0.05, 0.1))


@pytest.fixture
async def gemini() -> AsyncIterator[GeminiServer]:
    async with GeminiServer() as server:
        yield server


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any] | str], str]:
    """Registers a mishap that answers with this body, or with this text, and returns its name."""

    def register(answer: dict[str, Any] | str) -> str:
        name = f"says {len(gemini_mishaps.MISHAPS)}"
        body = candidate(answer) if isinstance(answer, str) else answer
        monkeypatch.setitem(gemini_mishaps.MISHAPS, name, gemini_mishaps._with(body))
        return name

    return register


def said(transcript: str, spoken: object = "en", **translations: object) -> str:
    answer = {"spoken_language": spoken, "transcript": transcript, "translations": translations}
    return json.dumps(answer, ensure_ascii=False)


def settings_of(folder: Path, gemini: GeminiServer, **changes: str) -> Settings:
    environ = {
        "GEMINI_API_KEY": KEY,
        "GOOGLE_GEMINI_BASE_URL": gemini.url,
        "OUTPUT_DIR": str(folder),
        "SAVE_TRANSLATIONS": "true",
        "TARGET_LANGUAGES": "es,ar",
        "GEMINI_MAX_AT_ONCE": "1",
    }
    return Settings.from_env({**environ, **changes}, for_worker=False)


def record_room(folder: Path, count: int = 3) -> Room:
    """A room in which markers were spoken, each of another length."""
    opened = open_room(folder, RoomInfo("math101", "RM_1", CLOCK.anchor))
    for marker in sound.markers()[:count]:
        start = 160_000 * marker.index
        opened.begin(ANNA, CLOCK, start, start).commit(segment_of(marker.pcm, start))
    return Room(opened.path)


async def transcribed(
    settings: Settings, room: Room, options: TranscriptionOptions | None = None
) -> ArchiveTextService:
    options = options or TranscriptionOptions(settings.gemini_model, settings.target_languages)
    translator, tasks = GeminiTranslator(settings), tasks_of(room, options)
    return await transcribe(settings, translator, tasks, lambda _: None, is_forced=options.may_replace)


def lines(room: Room) -> list[dict[str, Any]]:
    path = room.path / "texts.jsonl"
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    return sorted(found, key=lambda line: int(line["number"]))


def of_marker(index: int, mishap: str) -> Callable[[Call], str]:
    """The mishap for every call with this marker's sound."""
    return lambda call: mishap if len(call.pcm) == len(sound.markers()[index].pcm) else ""


# --- one answer ---


async def test_only_the_missing_translation_is_asked_for_again(
    tmp_path: Path, gemini: GeminiServer, saying: Callable[[str], str]
) -> None:
    room = record_room(tmp_path, 1)
    gemini.mishaps.append(saying(said("The leaves.", es="Las hojas.", ar=None)))
    service = await transcribed(settings_of(tmp_path, gemini), room)
    (line,) = lines(room)
    (call,) = gemini.calls
    assert call.languages == ["ar"] and "The leaves." in call.said_with_it
    assert line["transcript"] == "The leaves." and line["translations"]["es"] == "Las hojas."
    assert line["translations"]["ar"] and "missing" not in line
    assert service.costs.calls == 2 and line["input_tokens"] == 640


async def test_what_stays_missing_is_named_and_what_is_good_is_kept(
    tmp_path: Path, gemini: GeminiServer, saying: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    room = record_room(tmp_path, 2)
    mishap = saying(said("The leaves.", es="Las hojas."))
    gemini.spoil = lambda call: mishap
    service = await transcribed(settings_of(tmp_path, gemini), room)
    assert [line["missing"] for line in lines(room)] == [["ar"], ["ar"]]
    assert [line["translations"] for line in lines(room)] == 2 * [{"es": "Las hojas."}]
    assert (service.costs.calls, service.costs.refused) == (4, 0)
    assert caplog.text.count("lacks ar") == 2


@pytest.mark.parametrize("mishap", ["503", "429", "blocked", "nothing"])
async def test_a_second_call_that_fails_costs_nothing_of_the_first(
    tmp_path: Path, gemini: GeminiServer, saying: Callable[[str], str], mishap: str
) -> None:
    room = record_room(tmp_path, 1)
    gemini.mishaps.extend([saying(said("The leaves.", es="Las hojas.")), mishap])
    await transcribed(settings_of(tmp_path, gemini), room)
    (line,) = lines(room)
    assert (line["transcript"], line["missing"]) == ("The leaves.", ["ar"])


async def test_a_loop_is_asked_for_once_more_and_then_cut_and_marked(
    tmp_path: Path, gemini: GeminiServer, saying: Callable[[str], str]
) -> None:
    room = record_room(tmp_path, 3)
    loop = saying(said("no " * 3300, es="no " * 3300, ar="x"))
    gemini.spoil = of_marker(1, loop)
    service = await transcribed(settings_of(tmp_path, gemini), room)
    assert service.costs.calls == 4
    cut = lines(room)[1]
    assert cut["doubt"] == TOO_LONG and cut["transcript"] == "no no no" and cut["missing"] == ["es"]
    assert all("doubt" not in lines(room)[index] for index in (0, 2))
    assert not any("no no no" in call.said_with_it for call in gemini.calls), "it is no context of others"


async def test_a_loop_that_does_not_come_again_leaves_no_trace(
    tmp_path: Path, gemini: GeminiServer, saying: Callable[[str], str]
) -> None:
    room = record_room(tmp_path, 1)
    gemini.mishaps.append(saying('{"spoken_language": "en", "transcript": "' + "and so on, " * 2000))
    await transcribed(settings_of(tmp_path, gemini), room)
    (line,) = lines(room)
    assert "seconds of speech" in line["transcript"] and "doubt" not in line
    assert gemini.calls[0].body["generationConfig"]["temperature"]


# --- reasons ---


@pytest.mark.parametrize("reason", ["RECITATION", "OTHER", "LANGUAGE", "MALFORMED_RESPONSE", "A_NEW_ONE"])
async def test_an_end_for_an_unknown_reason_is_tried_again_in_another_way(
    tmp_path: Path, gemini: GeminiServer, saying: Callable[[dict[str, Any]], str], reason: str
) -> None:
    await transcribed(settings_of(tmp_path, gemini), record_room(tmp_path, 1))
    gemini.mishaps.append(saying({"candidates": [{"finishReason": reason}]}))
    room = record_room(tmp_path, 2)
    await transcribed(settings_of(tmp_path, gemini), room)
    assert [bool(line["transcript"]) for line in lines(room)] == [True, True, True]
    (again,) = [call for call in gemini.calls if "temperature" in call.body["generationConfig"]]
    assert "Said before" not in again.said_with_it


@pytest.mark.parametrize(
    "body",
    [
        {"candidates": [{"finishReason": "RECITATION"}]},
        {"promptFeedback": {"blockReason": "OTHER"}},
        {"candidates": []},
        {"error": {"code": 503, "status": "UNAVAILABLE"}},
    ],
)
async def test_a_segment_that_always_fails_while_others_succeed_is_refused_after_some_tries(
    tmp_path: Path, gemini: GeminiServer, saying: Callable[[dict[str, Any]], str], body: dict[str, Any]
) -> None:
    room = record_room(tmp_path, 3)
    gemini.spoil = of_marker(2, saying(body))
    service = await transcribed(settings_of(tmp_path, gemini, GEMINI_MAX_AT_ONCE="3"), room)
    assert [bool(line.get("refused")) for line in lines(room)] == [False, False, True]
    assert attempts.MAX_BAD_ANSWERS <= service.costs.failed_calls <= attempts.MAX_FAILURES_OF_A_RUN


async def test_a_text_is_taken_whatever_the_reason_of_its_end(
    tmp_path: Path, gemini: GeminiServer, saying: Callable[[dict[str, Any]], str]
) -> None:
    room = record_room(tmp_path, 1)
    gemini.mishaps.append(saying(candidate(said("The leaves.", es="Las hojas.", ar="x"), "A_NEW_ONE")))
    await transcribed(settings_of(tmp_path, gemini), room)
    assert lines(room)[0]["transcript"] == "The leaves." and not gemini.calls


# --- outages, and single segments ---


@pytest.mark.parametrize("mishap", ["nothing", "not JSON", "500", "400"])
async def test_what_fails_for_all_is_counted_against_none(
    tmp_path: Path, gemini: GeminiServer, mishap: str
) -> None:
    room = record_room(tmp_path, 4)
    done = settings_of(tmp_path, gemini)
    await transcribed(done, record_room(tmp_path, 1))
    calls = iter([mishap] * 12)
    gemini.spoil = lambda call: next(calls, "")
    service = await transcribed(done, room)
    assert service.costs.refused == service.costs.skipped == 0
    assert len(lines(room)) == 5 and not any("refused" in line for line in lines(room))


@pytest.mark.parametrize("index", [0, 2])
async def test_one_segment_that_always_gets_an_internal_error_does_not_keep_the_run_from_its_end(
    tmp_path: Path, gemini: GeminiServer, index: int, caplog: pytest.LogCaptureFixture
) -> None:
    room = record_room(tmp_path, 3)
    gemini.spoil = of_marker(index, "500")
    service = await transcribed(settings_of(tmp_path, gemini), room)
    assert service.costs.texts == 2 and service.costs.refused + service.costs.skipped == 1
    assert service.costs.failed_calls <= attempts.MAX_FAILURES_OF_A_RUN
    assert "500 INTERNAL" in caplog.text


async def test_one_segment_for_which_the_service_is_never_there_is_skipped_in_a_run(
    tmp_path: Path, gemini: GeminiServer
) -> None:
    room = record_room(tmp_path, 3)
    gemini.spoil = of_marker(0, "503")
    service = await transcribed(settings_of(tmp_path, gemini), room)
    assert (service.costs.texts, service.costs.skipped, service.costs.refused) == (2, 1, 0)
    assert len(lines(room)) == 2


async def test_an_only_segment_that_fails_is_skipped_and_not_refused(
    tmp_path: Path, gemini: GeminiServer
) -> None:
    room = record_room(tmp_path, 1)
    gemini.spoil = lambda call: "nothing"
    service = await transcribed(settings_of(tmp_path, gemini), room)
    assert (service.costs.skipped, lines(room)) == (1, [])
    gemini.spoil = lambda call: ""
    assert (await transcribed(settings_of(tmp_path, gemini), room)).costs.texts == 1


@pytest.mark.parametrize("mishap", ["500", "503", "nothing"])
async def test_a_run_in_which_no_call_succeeds_ends_and_notes_nothing_about_the_segments(
    tmp_path: Path, gemini: GeminiServer, mishap: str
) -> None:
    room = record_room(tmp_path, 2)
    gemini.spoil = lambda call: mishap
    changes = {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": gemini.url}
    result = await run_in_thread("transcribe", "--yes", output_dir=tmp_path, **changes)
    assert result.code == 3
    assert "Gemini has failed 20 times one after another: run the same command later" in result.err
    assert lines(room) == []
    gemini.spoil = lambda call: ""
    assert (await transcribed(settings_of(tmp_path, gemini), room)).costs.texts == 2


# --- what was refused ---


async def test_what_was_refused_is_not_done_and_is_asked_for_again_on_request(
    tmp_path: Path, gemini: GeminiServer
) -> None:
    room = record_room(tmp_path, 3)
    gemini.spoil = of_marker(1, "blocked")
    settings = settings_of(tmp_path, gemini)
    await transcribed(settings, room)
    gemini.spoil = lambda call: ""
    options = TranscriptionOptions(settings.gemini_model, settings.target_languages)
    assert (list(tasks_of(room, options)), count_refused(room, options)) == ([], 1)
    estimated = await asyncio.to_thread(run_process, "transcribe", "--estimate", output_dir=tmp_path)
    assert "The text of 1 segment was refused" in estimated.err and "every segment" not in estimated.out
    changes = {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": gemini.url}
    by_batch = await run_in_thread("transcribe", "--batch", "--estimate", output_dir=tmp_path, **changes)
    assert "The text of 1 segment was refused" in by_batch.err
    again = replace(options, is_refused_too=True)
    (task,) = tasks_of(room, again)
    assert count_refused(room, again) == 0
    await transcribed(settings, room, again)
    assert [bool(line.get("refused")) for line in lines(room)] == [False, True, False, False]
    with room.texts() as texts:
        text = texts.get(task.record)
    assert text is not None and text.transcript and text.refused is None
    assert not list(tasks_of(room, again))


async def test_a_text_that_lacks_a_translation_is_completed_on_request(
    tmp_path: Path, gemini: GeminiServer, saying: Callable[[str], str]
) -> None:
    room = record_room(tmp_path, 1)
    mishap = saying(said("The leaves.", es="Las hojas."))
    gemini.mishaps.extend([mishap, mishap])
    settings = settings_of(tmp_path, gemini)
    await transcribed(settings, room)
    names = SegmentNames.from_settings(settings)
    report = inspect(room, names, expected_of(settings))
    assert [finding.kind for finding in report.findings] == [Kind.TEXT_INCOMPLETE]
    options = TranscriptionOptions(settings.gemini_model, settings.target_languages, is_refused_too=True)
    await transcribed(settings, room, options)
    assert "missing" not in lines(room)[-1] and lines(room)[-1]["translations"].keys() == {"es", "ar"}


@pytest.mark.parametrize("mishap", ["blocked", "nothing", "empty", "gone"])
async def test_a_text_is_not_replaced_by_nothing(
    tmp_path: Path, gemini: GeminiServer, saying: Callable[[str], str], mishap: str
) -> None:
    room = record_room(tmp_path, 2)
    records = list(room.records())
    line = {"number": 1, "file": records[0].file, "language": "en", "transcript": "The leaves."}
    (room.path / "texts.jsonl").write_text(json.dumps({**line, "missing": ["es"]}) + "\n")
    gemini.spoil = of_marker(0, saying(said("")) if mishap == "empty" else mishap)
    settings = settings_of(tmp_path, gemini)
    options = TranscriptionOptions(settings.gemini_model, settings.target_languages, is_refused_too=True)
    tasks = list(tasks_of(room, options))
    if mishap == "gone":
        (room.path / records[0].file).unlink()
    await transcribe(settings, GeminiTranslator(settings), tasks, lambda _: None, is_forced=True)
    with room.texts() as texts:
        kept, made = map(texts.get, records)
    assert kept is not None and (kept.transcript, kept.refused) == ("The leaves.", None)
    assert made is not None and made.transcript


async def test_a_language_that_is_not_known_is_not_asked_for(
    tmp_path: Path, gemini: GeminiServer, saying: Callable[[str], str]
) -> None:
    room = record_room(tmp_path, 1)
    (record,) = room.records()
    line = {
        "number": 1,
        "file": record.file,
        "language": "und",
        "transcript": "Hm.",
        "missing": ["und", "es"],
    }
    (room.path / "texts.jsonl").write_text(json.dumps(line) + "\n")
    settings = settings_of(tmp_path, gemini)
    options = TranscriptionOptions(settings.gemini_model, settings.target_languages, is_refused_too=True)
    await transcribed(settings, room, options)
    assert gemini.calls[0].languages == ["es", "ar"] and "missing" not in lines(room)[-1]
    assert not list(tasks_of(room, options)), "it is not asked for again and again"


# --- one name ---


async def test_a_language_has_the_configured_name_also_when_nobody_asks_for_it(
    tmp_path: Path, gemini: GeminiServer, saying: Callable[[str], str]
) -> None:
    room = record_room(tmp_path, 3)
    mishap = saying(said("The leaves.", "en-US", es="Las hojas."))
    gemini.spoil = lambda call: mishap
    await transcribed(settings_of(tmp_path, gemini, TARGET_LANGUAGES="es", CAPTION_LANGUAGES="en,fr"), room)
    assert {line["language"] for line in lines(room)} == {"en"}
    assert all((room.path / f"{Path(line['file']).stem}_en.txt").exists() for line in lines(room))


async def test_a_language_that_is_not_configured_keeps_the_name_it_had_first(
    tmp_path: Path, gemini: GeminiServer, saying: Callable[[str], str]
) -> None:
    room = record_room(tmp_path, 4)
    gemini.mishaps.extend(saying(said("The leaves.", tag, es="x")) for tag in ("en-GB", "en", "en-US", "eng"))
    await transcribed(settings_of(tmp_path, gemini, TARGET_LANGUAGES="es"), room)
    assert {line["language"] for line in lines(room)} == {"en-GB"}
