"""The command line of `lessons.py` as a person meets it: help, `list`, settings, and one clear line for trouble."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lessons
from archive.delivery_log import audio_key
from archive.delivery_log import note as note_delivered
from archive.rooms import Room
from core.records import RoomInfo
from devtools.sample_room import ANNA, BOB, CLOCK, ROOM, noise, open_room, segment_of
from storage import RoomFolder
from support import ROOT
from support.commands import environment, run, run_process
from support.recordings import write_recording

COMMANDS = [name for commands in lessons.COMMANDS.values() for name in commands]


def speak(folder: RoomFolder, at: int = 0, samples: int = 32_000) -> None:
    track = ANNA if at % 64_000 == 0 else BOB
    folder.begin(track, CLOCK, at, at).commit(segment_of(noise(samples, at), at))


def note(folder: RoomFolder, *texts: dict[str, object]) -> None:
    with open(folder.path / "texts.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps(text) + "\n" for text in texts)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two rooms: one with everything there is to see, one with a hostile name."""
    room = open_room(tmp_path)
    for at in (0, 32_000, 64_000, 160_000):
        speak(room, at)
    said = {"language": "en", "transcript": "Hi", "translations": {"es": "Hola"}}
    first, second, third, _ = ({"number": one.number, "file": one.file} for one in Room(room.path).records())
    note(room, {**first, **said}, {**second, "refused": "blocked"}, {**third, **said})
    left = room.begin(ANNA, CLOCK, 96_000, 96_000)
    left.append(noise(8_000))
    left.abandon()
    with open(room.path / "segments.jsonl", "a") as file:
        file.write("broken\n")
    speak(open_room(tmp_path, RoomInfo("a\x1b[31m\n\u202eroom", "RM_2", ROOM.started_at)))
    return tmp_path


# --- help ---


def test_without_a_command_it_shows_them_all() -> None:
    result = run()
    assert result.code == 2
    shown = result.out + result.err
    assert all(re.search(rf"│ {name} ", shown) for name in COMMANDS)


@pytest.mark.parametrize(
    "arguments, what",
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["--nonsense"], "No such option: --nonsense"),
        (["list", "--nonsense"], "No such option: --nonsense"),
        (["search", "x", "--limit", "0"], "--limit"),
        (["search", "x", "--limit", "many"], "--limit"),
        (["play", "math101", "first"], "N"),
        (["export"], "Missing argument 'ROOM'"),
        (["export", "math101", "--offset", "soon"], "--offset"),
        (["segment"], "Missing argument 'FILE...'"),
        (["list", "--json=\x1b[31m"], "--json"),
    ],
)
def test_what_was_asked_for_wrongly_is_one_line(arguments: list[str], what: str) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert what in line
    assert "lessons.py --help" in line
    assert line.isprintable()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_whatever_the_settings(command: str) -> None:
    result = run(command, "--help", SAVE_AUDIO="maybe")
    assert result.code == 0
    assert "Usage: lessons.py" in result.out
    assert len(result.out.splitlines()) > 8


def test_a_process_of_its_own_explains_the_same() -> None:
    assert run_process("list", "--help", SAVE_AUDIO="maybe") == run("list", "--help", SAVE_AUDIO="maybe")


def test_a_page_of_help_loads_no_command() -> None:
    """Neither numpy, which most commands need: the help appears at once."""
    script = (
        "import sys, lessons\n"
        "try: lessons.main(['--help'])\n"
        "except SystemExit: print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(), capture_output=True, encoding="utf-8"
    )
    loaded = set(done.stderr.split())
    commands = {
        target.rpartition(".")[0] for group in lessons.COMMANDS.values() for target, _ in group.values()
    }
    assert "lessons" in loaded
    assert not loaded & {*commands, "numpy", "config"}


@pytest.mark.parametrize(
    ("target", "summary"), [one for group in lessons.COMMANDS.values() for one in group.values()]
)
def test_the_list_of_commands_says_what_each_says_of_itself(target: str, summary: str) -> None:
    module, _, function = target.rpartition(".")
    told = inspect.getdoc(getattr(importlib.import_module(module), function))
    assert told and told.partition("\n\n")[0] == summary


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert f"lessons.py {command}" in pages
    assert f"lessons.py {command}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_wrong_option_is_said_with_the_right_ones() -> None:
    result = run("list", "--nonsense")
    assert result.code == 2
    assert "--nonsense" in result.err


# --- list ---


def test_list_shows_rooms_and_what_is_not_done(archive: Path) -> None:
    result = run("list", output_dir=archive)
    assert (result.code, result.err) == (0, "")
    head, hostile, math = result.out.splitlines()
    assert head.split()[:2] == ["Room", "SESSIONS"]
    assert hostile.startswith("a\\u001b[31m\\u000a\\u202eroom (")
    cells = re.split(r"  +", math)
    assert cells[0] == "math101"
    assert cells[4:] == [
        "0:08", "4", "2/4", "en,es",
        "1 left by a crash (check --repair); 1 broken line (check); 1 without text; 1 refused",
    ]  # fmt: skip


def test_list_shows_the_sessions_of_a_room(archive: Path) -> None:
    result = run("list", "math101", output_dir=archive, TIMEZONE="Europe/Berlin", TARGET_LANGUAGES="es,ar")
    assert result.code == 0
    title, head, session, *undone = result.out.splitlines()
    assert title == "math101, in math101"
    assert head.startswith("Began")
    assert session.startswith("2025-10-08 16:00")
    assert "anna, bob" in session and "RM_1" in session and "2 without ar" in session
    assert undone == ["1 left by a crash (check --repair)", "1 broken line (check)"]


def test_list_prints_json(archive: Path) -> None:
    answer = json.loads(run("list", "--json", output_dir=archive).out)
    hostile, math = answer["rooms"]
    assert hostile["room"] == "a\x1b[31m\n\u202eroom"
    (session,) = math["sessions"]
    assert (session["segments"], session["settled"], session["refused"]) == (4, 2, 1)
    assert session["started_at"] == "2025-10-08T14:00:00.000Z"
    assert session["speech_seconds"] == 8.0
    assert (math["parts_left"], math["being_recorded"], math["broken_lines"]) == (1, False, 1)


def test_list_shows_what_the_targets_have_not_got(archive: Path) -> None:
    store = archive.parent / f"{archive.name}-store"
    store.mkdir()

    def listed(save_audio: str = "true") -> tuple[str, dict[str, int]]:
        """What is not done in a room of four segments, for people and for scripts."""
        shown, answer = (
            run(
                "list",
                "math101",
                *options,
                output_dir=archive,
                STORE_URL=store.as_uri(),
                SAVE_AUDIO=save_audio,
            ).out
            for options in ([], ["--json"])
        )
        (session,) = json.loads(answer)["rooms"][0]["sessions"]
        return shown.splitlines()[2], session

    assert listed()[0].endswith("1 without text; 1 refused; 4 undelivered")
    assert listed(save_audio="false")[1]["undelivered"] == 0, "there is nothing to deliver"
    first = next(Room(archive / "math101").records())
    note_delivered(archive / "math101", store.as_uri().rstrip("/"), audio_key(first), refused="too large")
    assert listed()[0].endswith("3 undelivered; 1 dead letters (check)")
    options = ("deliver", "--retry-refused", "--set-up")
    assert run(*options, output_dir=archive, STORE_URL=store.as_uri()).code == 0
    said, session = listed()
    assert said.endswith("1 without text; 1 refused")
    assert (session["undelivered"], session["dead_letters"], session["without_text"]) == (0, 0, 1)


def test_list_shows_missing_texts(tmp_path: Path) -> None:
    speak(open_room(tmp_path))
    assert "without text" not in run("list", output_dir=tmp_path).out
    assert "1 without text" in run("list", output_dir=tmp_path, SAVE_TRANSLATIONS="true").out


def test_a_room_that_is_being_recorded_is_shown_so(tmp_path: Path) -> None:
    room = open_room(tmp_path)
    speak(room)
    living = room.begin(ANNA, CLOCK, 96_000, 96_000)
    assert "being recorded" in run("list", output_dir=tmp_path).out
    living.abandon()


# --- settings and trouble ---


def test_no_server_and_no_key_are_needed(archive: Path) -> None:
    result = run("list", output_dir=archive, SAVE_TRANSLATIONS="true", LIVEKIT_URL="", LIVEKIT_API_KEY="")
    assert result.code == 0


def test_a_wrong_setting_is_one_line(archive: Path) -> None:
    result = run("list", output_dir=archive, TIMEZONE="Mars")
    assert (result.code, result.out) == (2, "")
    assert result.err == "TIMEZONE=Mars is wrong: it must be a zone such as UTC or Europe/Berlin\n"


def test_the_folder_can_be_named_on_the_command_line(archive: Path) -> None:
    assert "math101" in run("--output-dir", str(archive), "list").out


@pytest.mark.parametrize("command", [["list"], ["check"], ["search", "x"], ["play", "x"], ["transcribe"]])
def test_no_archive_is_one_line(tmp_path: Path, command: list[str]) -> None:
    result = run(*command, output_dir=tmp_path / "none")
    assert result.code == 2
    assert result.err == f"OUTPUT_DIR={tmp_path / 'none'} is not there: nothing has been recorded yet\n"


@pytest.mark.parametrize("command", [["list"], ["check"], ["search", "x"]])
def test_an_archive_that_is_a_file_is_one_line(tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    result = run(*command, output_dir=file)
    assert result.code in (1, 2)
    assert result.err.startswith(f"OUTPUT_DIR={file} ")
    assert result.err.count("\n") == 1


def test_an_unexpected_error_is_one_line(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise TypeError("surprise")

    monkeypatch.setattr("lesson_tools.console.settings", broken)
    with pytest.raises(SystemExit) as ended:
        lessons.main(["list"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "Unexpected error, please report it: TypeError: surprise\n"


def test_a_reader_that_has_seen_enough_is_no_trouble(archive: Path) -> None:
    command = [sys.executable, str(ROOT / "lessons.py"), "list", "--json"]
    process = subprocess.Popen(
        command, env=environment(OUTPUT_DIR=str(archive)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    process.wait(60)
    assert b"Traceback" not in said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_quiet_and_harmless(tmp_path: Path, number: signal.Signals) -> None:
    path = write_recording(tmp_path / "lecture.mkv", noise(16_000 * 120) // 8)
    command = [sys.executable, str(ROOT / "lessons.py"), "segment", str(path)]
    output_dir = tmp_path / "segments"
    process = subprocess.Popen(
        command, env=environment(OUTPUT_DIR=str(output_dir)), stderr=subprocess.PIPE, start_new_session=True
    )
    while process.poll() is None and not list(output_dir.glob("*/.FILE_*.lock")):
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (130, 0)
    assert b"Traceback" not in said
    assert run("check", output_dir=output_dir).code == 0
