"""Settings: one line for each wrong value, and where the values come from."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from config import Settings, environment
from core.errors import ConfigError

REQUIRED = {
    "LIVEKIT_URL": "wss://school.example",
    "LIVEKIT_API_KEY": "APIxyz",
    "LIVEKIT_API_SECRET": "s3cr3t-s3cr3t-s3cr3t",
}
SECRETS = (
    "LIVEKIT_API_KEY",
    "LIVEKIT_API_SECRET",
    "E2EE_PASSPHRASE",
    "GEMINI_API_KEY",
    "S3_KEY_ID",
    "S3_KEY_SECRET",
    "DATABASE_URL",
)


def settings(**changes: str) -> Settings:
    return Settings.from_env({**REQUIRED, **changes})


def problems(**changes: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings(**changes)
    return str(caught.value).split("\n")


@pytest.fixture
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in dataclasses.fields(Settings):
        monkeypatch.delenv(field.name.upper(), raising=False)


# --- defaults ---


def test_the_three_required_ones_are_enough() -> None:
    made = settings()
    assert made.livekit_url == REQUIRED["LIVEKIT_URL"]
    assert (made.output_dir, made.save_audio, made.save_translations) == ("./segments", True, False)
    assert (made.log_level, made.gemini_api_key) == ("INFO", "")


def test_with_nothing_set_three_lines_say_what_to_put_where() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({})
    lines = str(caught.value).split("\n")
    assert [line.split(" ")[0] for line in lines] == list(REQUIRED)
    assert all(" is not set: it must be " in line for line in lines)
    assert "wss://" in lines[0]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Settings)])
@pytest.mark.parametrize("empty", ["", " ", "\t\n"])
def test_empty_is_the_same_as_not_set(name: str, empty: str) -> None:
    if name.upper() in REQUIRED:
        assert problems(**{name.upper(): empty})[0].startswith(f"{name.upper()} is not set")
    else:
        assert settings(**{name.upper(): empty}) == settings()


def test_every_default_is_a_value_that_would_be_accepted() -> None:
    for field in dataclasses.fields(Settings):
        kind = field.metadata["kind"]
        if not kind.required and field.default not in ("", ()):
            text = str(field.default)
            if isinstance(field.default, tuple):
                text = ",".join(field.default)
            assert kind.parse(text) == field.default, field.name


def test_unknown_settings_are_ignored() -> None:
    assert settings(PATH="/bin", SAVE_VIDEO="true") == settings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings().record = "everyone"  # type: ignore[misc]


# --- wrong values ---


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("LIVEKIT_URL", "livekit.example.com", "a URL such as wss://"),
        ("LIVEKIT_URL", "ftp://school", "a URL such as wss://"),
        ("LIVEKIT_URL", "wss://", "a URL such as wss://"),
        ("LIVEKIT_URL", "ws://host:port", "a URL such as wss://"),
        ("LIVEKIT_URL", "ws://host:99999", "a URL such as wss://"),
        ("LIVEKIT_URL", "ws://[::1", "a URL such as wss://"),
        ("SAVE_AUDIO", "maybe", "true or false"),
        ("SAVE_TRANSLATIONS", "2", "true or false"),
        ("HIDDEN", "nope", "true or false"),
        ("TIMEZONE", "Berlin", "Europe/Berlin"),
        ("TIMEZONE", "../../etc/passwd", "Europe/Berlin"),
        ("TIMEZONE", "/etc/localtime", "Europe/Berlin"),
        ("TIMEZONE", "Europe", "Europe/Berlin"),
        ("ROOM_DIR", "classroom", "{room} or {room_sid}"),
        ("ROOM_DIR", "{date}", "{room} or {room_sid}"),
        ("ROOM_DIR", "a/{room}", "no slash"),
        ("ROOM_DIR", "..\\{room}", "no slash"),
        ("ROOM_DIR", "{room", "{room} or {room_sid}"),
        ("ROOM_DIR", "{room.name}", "{room} or {room_sid}"),
        ("ROOM_DIR", "{room!r}", "{room} or {room_sid}"),
        ("ROOM_DIR", "{room:>9}", "{room} or {room_sid}"),
        ("ROOM_DIR", "{room}{}", "{room} or {room_sid}"),
        ("ROOM_DIR", "{room}{teacher}", "{room} or {room_sid}"),
        ("SEGMENT_NAME", "segment", "{number}"),
        ("SEGMENT_NAME", "{time}", "{number}"),
        ("SEGMENT_NAME", "{number}:{time}", "{number}"),
        ("SEGMENT_NAME", "{number}_{identity}", "{time}"),
        ("SEGMENT_NAME", "{number}_{time}\x07", "{number}"),
        ("MAX_UNSAVED_SECONDS", "9", "10 to 36000 (seconds)"),
        ("MAX_UNSAVED_SECONDS", "36001", "10 to 36000 (seconds)"),
        ("RECORD", "students", "teachers or everyone"),
        ("TEACHER_ROLES", ",", "separated by commas"),
        ("ROLE_TRUST", "none", "metadata or strict"),
        ("AGENT_IDENTITY", "x" * 129, "1 to 128 printable characters"),
        ("AGENT_IDENTITY", "a\nb", "1 to 128 printable characters"),
        ("VAD_RUNTIME", "gpu", "native or onnx"),
        ("SPEECH_START_PROBABILITY", "0.04", "0.05 to 0.95 (probability)"),
        ("SPEECH_START_PROBABILITY", "nan", "0.05 to 0.95 (probability)"),
        ("SPEECH_END_PROBABILITY", "1", "0.01 to 0.95 (probability)"),
        ("MIN_SPEECH_SECONDS", "0", "0.032 to 1 (seconds)"),
        ("PRE_ROLL_SECONDS", "-0.1", "0 to 2 (seconds)"),
        ("POST_ROLL_SECONDS", "2.1", "0 to 2 (seconds)"),
        ("PAUSE_SECONDS", "0.5s", "0.1 to 5 (seconds)"),
        ("JOIN_SECONDS", "inf", "0.1 to 10 (seconds)"),
        ("MIN_SEGMENT_SECONDS", "31", "0 to 30 (seconds)"),
        ("MAX_SEGMENT_SECONDS", "2", "3 to 60 (seconds)"),
        ("MAX_SEGMENT_SECONDS", "1e999", "3 to 60 (seconds)"),
        ("MAX_ROOMS", "-1", "0 to 1000 (rooms)"),
        ("MAX_ROOMS", "9" * 5_000, "0 to 1000 (rooms)"),
        ("RECONCILE_SECONDS", "0", "1 to 3600 (seconds)"),
        ("HEALTH_PORT", "65536", "0 to 65535 (port)"),
        ("HEALTH_PORT", "http", "0 to 65535 (port)"),
        ("LOG_LEVEL", "TRACE", "DEBUG or INFO or WARNING or ERROR"),
        ("LOG_FORMAT", "xml", "text or json"),
    ],
)
def test_a_wrong_value_is_one_line_with_name_value_and_what_is_allowed(
    name: str, value: str, allowed: str
) -> None:
    (line,) = problems(**{name: value})
    start, _, end = line.partition(" is wrong: it must be ")
    assert start.startswith(f"{name}=") and allowed in end
    assert value[:60] in start or not value.isprintable()
    assert line.isprintable() and len(line) < 300


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("MAX_UNSAVED_SECONDS", "10", "36000"),
        ("MAX_ROOMS", "0", "1000"),
        ("HEALTH_PORT", "0", "65535"),
        ("RECONCILE_SECONDS", "1", "3600"),
        ("PAUSE_SECONDS", "0.1", "5"),
        ("MIN_SPEECH_SECONDS", "0.032", "1"),
    ],
)
def test_the_bounds_themselves_are_allowed(name: str, low: str, high: str) -> None:
    for value in (low, high):
        assert getattr(settings(**{name: value}), name.lower()) == float(value)


def test_a_setting_that_is_gone_may_only_say_what_now_always_holds() -> None:
    assert settings(JOB_EXECUTOR="Thread", FILL_SECONDS="0.50", MAX_PARTICIPANTS=" ") == settings()
    assert problems(JOB_EXECUTOR="process", FRAME_MILLISECONDS="20") == [
        "FRAME_MILLISECONDS=20 is wrong: this setting no longer exists, its value is always 96",
        "JOB_EXECUTOR=process is wrong: this setting no longer exists, its value is always thread",
    ]


def test_every_wrong_value_has_its_line() -> None:
    lines = problems(SAVE_AUDIO="maybe", MAX_ROOMS="many", LIVEKIT_URL="", LOG_LEVEL="loud")
    assert [line.split("=")[0].split(" ")[0] for line in lines] == [
        "LIVEKIT_URL",
        "SAVE_AUDIO",
        "LOG_LEVEL",
        "MAX_ROOMS",
    ]


def test_a_long_value_is_shown_shortened() -> None:
    (line,) = problems(SAVE_AUDIO="x" * 10_000)
    assert "x..." in line and len(line) < 150


def test_a_value_cannot_forge_a_line() -> None:
    (line,) = problems(SAVE_AUDIO="a\nLIVEKIT_URL is fine\u202e\x1b[0m")
    assert line.isprintable()


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_never_shown(name: str) -> None:
    made = settings(**{name: "top-secret-value"})
    assert "top-secret-value" not in repr(made)
    assert "top-secret-value" not in str(made)
    for field in dataclasses.fields(Settings):
        assert field.metadata["kind"].secret == (field.name.upper() in SECRETS)


@pytest.mark.parametrize("value", ["TRUE", "Yes", "on", "1", " true "])
def test_true_has_several_words(value: str) -> None:
    assert settings(HIDDEN=value).hidden is True


@pytest.mark.parametrize("value", ["False", "NO", "off", "0"])
def test_false_has_several_words(value: str) -> None:
    assert settings(HIDDEN=value) == settings()


def test_a_choice_may_be_written_in_any_case() -> None:
    made = settings(LOG_LEVEL="debug", RECORD="Everyone", VAD_RUNTIME="ONNX")
    assert (made.log_level, made.record, made.vad_runtime) == ("DEBUG", "everyone", "onnx")


def test_words_are_separated_by_commas() -> None:
    made = settings(TARGET_LANGUAGES=" es , ar,,", TEACHER_ROLES="teacher,Lehrer in")
    assert (made.target_languages, made.teacher_roles) == (("es", "ar"), ("teacher", "Lehrer in"))


def test_languages_are_checked_and_written_as_usual() -> None:
    assert settings(TARGET_LANGUAGES="ES, pt-br,es").target_languages == ("es", "pt-BR")
    (line,) = problems(CAPTION_LANGUAGES="es,jp")
    assert line.startswith("CAPTION_LANGUAGES=es,jp is wrong: it must be at most 20 BCP 47 tags")


@pytest.mark.parametrize(
    "url", ["ftp://x", "x", "https://", "http://user:word@x", "http://x/?key=1", "http://x:port"]
)
def test_a_proxy_is_a_web_address_without_secrets(url: str) -> None:
    (line,) = problems(GOOGLE_GEMINI_BASE_URL=url)
    assert line.startswith("GOOGLE_GEMINI_BASE_URL")


@pytest.mark.parametrize(
    "model", ["gemini-3.8-flash", "projects/p/locations/l/endpoints/123", "models/x@001"]
)
def test_a_model_may_be_named_in_google_s_ways(model: str) -> None:
    assert settings(GEMINI_MODEL=model).gemini_model == model


@pytest.mark.parametrize("model", ["../x", "a b", "x?key=1", "-x"])
def test_a_model_s_name_is_no_address(model: str) -> None:
    (line,) = problems(GEMINI_MODEL=model)
    assert line.startswith("GEMINI_MODEL")


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])
def test_a_time_zone_has_its_usual_name(zone: str) -> None:
    assert settings(TIMEZONE=zone).timezone == zone


@pytest.mark.parametrize(
    "url",
    ["ws://127.0.0.1:7880", "wss://a.b.c", "http://localhost:7880", "https://x", "ws://[::1]:7880"],
)
def test_a_server_s_address_has_one_of_four_schemes(url: str) -> None:
    assert settings(LIVEKIT_URL=url).livekit_url == url


@pytest.mark.parametrize("template", ["{room}.", "{room} .", "{room}..."])
def test_a_folder_s_name_cannot_end_in_what_windows_drops(template: str) -> None:
    """``math.`` is the folder of ``math`` there."""
    (line,) = problems(ROOM_DIR=template)
    assert line.startswith("ROOM_DIR")


@pytest.mark.parametrize("template", ["con.{time}-{number}", "NUL .{time}-{number}", "com1.{time}-{number}"])
def test_a_template_cannot_be_called_like_a_windows_device(template: str) -> None:
    (line,) = problems(SEGMENT_NAME=template)
    assert line.startswith("SEGMENT_NAME")


# --- contradictions ---


def test_speech_cannot_end_above_where_it_begins() -> None:
    (line,) = problems(SPEECH_START_PROBABILITY="0.3", SPEECH_END_PROBABILITY="0.31")
    assert line == ("SPEECH_END_PROBABILITY=0.31 is wrong: it must not exceed SPEECH_START_PROBABILITY (0.3)")


def test_a_segment_must_have_room_for_its_minimum() -> None:
    (line,) = problems(MIN_SEGMENT_SECONDS="9.5")
    assert line.startswith("MAX_SEGMENT_SECONDS=10 is wrong: ") and line.endswith("at least 10.5")
    assert settings(MIN_SEGMENT_SECONDS="9").min_segment_seconds == 9


def test_a_segment_must_have_room_for_its_rolls() -> None:
    (line,) = problems(PRE_ROLL_SECONDS="2", POST_ROLL_SECONDS="1.5")
    assert line.startswith("MAX_SEGMENT_SECONDS=10 is wrong: ") and line.endswith("at least 10.5")


def test_translations_need_a_key() -> None:
    (line,) = problems(SAVE_TRANSLATIONS="true")
    assert line == "SAVE_TRANSLATIONS=true is wrong: it needs a GEMINI_API_KEY, or a GOOGLE_CLOUD_PROJECT"
    assert problems(CAPTIONS="true") == [line.replace("SAVE_TRANSLATIONS", "CAPTIONS")]
    assert settings(CAPTIONS="true", GOOGLE_CLOUD_PROJECT="lessons-1").captions
    assert settings(SAVE_TRANSLATIONS="true", GEMINI_API_KEY="key").save_translations


def test_captions_need_a_visible_recorder() -> None:
    (line,) = problems(CAPTIONS="true", GEMINI_API_KEY="k", HIDDEN="true")
    assert line.startswith("CAPTIONS=true is wrong: ") and line.endswith("HIDDEN=true")


def test_something_of_the_lesson_must_be_kept() -> None:
    (line,) = problems(SAVE_AUDIO="false")
    assert line.startswith("SAVE_AUDIO=false is wrong: ")
    assert not settings(SAVE_AUDIO="false", SAVE_TRANSLATIONS="true", GEMINI_API_KEY="key").save_audio


# --- where the values come from ---


@pytest.mark.usefixtures("empty_environment")
def test_the_process_comes_before_env_local_and_that_before_env(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("RECORD=teachers\nLOG_LEVEL=ERROR\nROLE_KEY=a\n")
    (tmp_path / ".env.local").write_text("LOG_LEVEL=DEBUG\nROLE_KEY=b\n")
    monkeypatch.setenv("ROLE_KEY", "c")
    values = environment(tmp_path)
    assert [values[name] for name in ("RECORD", "LOG_LEVEL", "ROLE_KEY")] == ["teachers", "DEBUG", "c"]


@pytest.mark.usefixtures("empty_environment")
def test_no_file_is_needed(tmp_path: Path) -> None:
    assert environment(tmp_path) == dict(os.environ)


@pytest.mark.usefixtures("empty_environment")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_may_come_from_notepad(tmp_path: Path, encoding: str, newline: str) -> None:
    text = f"LIVEKIT_URL=ws://localhost{newline}AGENT_DISPLAY_NAME=Aufzeichnung für alle{newline}"
    (tmp_path / ".env").write_bytes(text.encode(encoding))
    values = environment(tmp_path)
    assert values["LIVEKIT_URL"] == "ws://localhost"
    assert values["AGENT_DISPLAY_NAME"] == "Aufzeichnung für alle"


@pytest.mark.usefixtures("empty_environment")
@pytest.mark.parametrize("content", ["LOG_LEVEL=INFO".encode("utf-16"), b"LOG_LEVEL=INFO\n# f\xfcr\n"])
@pytest.mark.parametrize("name", [".env", ".env.local"])
def test_a_file_that_is_not_utf_8_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        environment(tmp_path)
    assert str(caught.value) == f"{tmp_path / name} is not UTF-8 text: save it as UTF-8"


@pytest.mark.usefixtures("empty_environment")
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("LOG_LEVEL=INFO")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("config.dotenv_values", refuse)
    with pytest.raises(ConfigError) as caught:
        environment(tmp_path)
    assert str(caught.value) == f"{tmp_path / '.env'} cannot be read: Permission denied"


@pytest.mark.usefixtures("empty_environment")
def test_a_secret_may_hold_any_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME_DIR", "/home")
    (tmp_path / ".env").write_text("LIVEKIT_API_SECRET=a$HOME_DIR${HOME_DIR}=b\nLIVEKIT_API_KEY='c#d e'\n")
    values = environment(tmp_path)
    assert values["LIVEKIT_API_SECRET"] == "a$HOME_DIR${HOME_DIR}=b"
    assert values["LIVEKIT_API_KEY"] == "c#d e"


@pytest.mark.usefixtures("empty_environment")
def test_a_name_without_a_value_is_not_set(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOG_LEVEL\nRECORD=\n")
    values = {**REQUIRED, **environment(tmp_path)}
    assert Settings.from_env(values) == settings()
