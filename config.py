"""Every setting, in one frozen object: its default, unit, bounds, and the message that is shown when it is wrong.

:meth:`Settings.from_env` turns an environment into settings or raises one :class:`~core.errors.ConfigError` that
names every wrong value. :func:`environment` is the only place that reads the process's environment and the ``.env``
files. How each kind of setting is read is in :mod:`core.setting_kinds`. ``docs/settings.md`` and ``.env.example``
are written by ``python -m devtools.settings_docs``; a test compares them with this file.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from core.errors import ConfigError
from core.setting_kinds import (
    FILE,
    FOLDER,
    IDENTITY,
    SERVER_URL,
    TIME_ZONE,
    WEB_URL,
    Form,
    choice,
    cloud_name,
    flag,
    integer,
    languages,
    number,
    removed_problems,
    secret,
    several,
    template,
    text,
    words,
)

ROOM_PLACEHOLDERS = ("room", "room_sid", "date")
SEGMENT_PLACEHOLDERS = ("number", "time", "room", "identity", "source")

REMOVED_SETTINGS = {
    "DELIVERIES_AT_ONCE": "8",
    "FILL_SECONDS": "0.5",
    "FRAME_MILLISECONDS": "96",
    "GEMINI_TIMEOUT_SECONDS": "60",
    "JOB_EXECUTOR": "thread",
    "MAX_PARTICIPANTS": "10000",
    "TRANSLATION_CONTEXT": "3",
}
"""Settings that no longer exist, and the fixed value of each. An older ``.env`` may still contain that value only."""


@dataclass(frozen=True)
class Settings:
    """All settings; the name in the environment is the field's name in capitals.

    The order is that of the documents, which have the headings from :mod:`devtools.settings_docs`.
    """

    # --- Start here ---

    livekit_url: str = text("", "address of your LiveKit server", SERVER_URL, required=True)
    livekit_api_key: str = secret("API key of the server", "the server's API key", required=True)
    livekit_api_secret: str = secret("secret of that API key", "the API key's secret", required=True)
    gemini_api_key: str = secret(
        "Google AI Studio key for text and captions; or set GOOGLE_CLOUD_PROJECT", "an API key"
    )
    output_dir: str = text("./segments", "folder for the recordings, with one folder per room", FOLDER)
    save_audio: bool = flag(
        True, "keep WAV files; false: delete each when its text is saved (needs SAVE_TRANSLATIONS)"
    )
    save_translations: bool = flag(
        False, "write transcript and translations as .txt files beside each WAV (needs Gemini)"
    )
    log_level: str = choice(
        "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"), "log only messages of this level and above"
    )

    # --- Text and captions ---

    target_languages: tuple[str, ...] = languages("languages that every segment is translated into")
    captions: bool = flag(False, "show live captions in the room (needs Gemini)")
    caption_languages: tuple[str, ...] = languages(
        "further languages that students may request for captions; empty: any language"
    )
    gemini_model: str = text("gemini-3.8-flash", "Gemini model", cloud_name("a model's name"))
    gemini_thinking: str = choice(
        "low",
        ("low", "minimal", "medium", "high", "default"),
        "thinking level: higher is slower and costs more; default: none sent (before Gemini 3)",
    )
    glossary_file: str = text("", "file of terms and names with their spelling, one per line, UTF-8", FILE)
    prompt_file: str = text("", "file of additional instructions for Gemini, UTF-8", FILE)
    gemini_max_at_once: int = integer(8, 1, 100, "calls", "most calls at the same time, over all rooms")
    gemini_max_per_minute: int = integer(
        0, 0, 100_000, "calls", "most calls in any 60 seconds; further calls wait; 0: no limit"
    )
    gemini_max_per_day: int = integer(
        0, 0, 10_000_000, "calls", "most calls in any 24 hours; further calls wait; 0: no limit"
    )
    google_cloud_project: str = text(
        "", "project for Gemini on Vertex AI; not used if GEMINI_API_KEY is set", cloud_name("a project's id")
    )
    google_cloud_location: str = text(
        "global", "location of Vertex AI", cloud_name("a location such as europe-west4")
    )
    google_application_credentials: str = text(
        "", "credentials for Vertex AI; empty: the machine's or gcloud's", FILE
    )
    google_gemini_base_url: str = text("", "address of a proxy for AI Studio", WEB_URL)
    google_vertex_base_url: str = text("", "address of a proxy for Vertex AI", WEB_URL)

    # --- Who is recorded ---

    record: str = choice("teachers", ("teachers", "everyone"), "record teachers only, or all participants")
    room_filter: tuple[str, ...] = words(
        (), "record only rooms whose name matches a pattern, such as class-*,exam?; empty: all"
    )
    role_key: str = text(
        "role",
        "key of the role in the participant's metadata (JSON), or a path such as user.role; "
        "an attribute of this name counts if the metadata has no role",
    )
    teacher_roles: tuple[str, ...] = words(
        ("teacher",), "values of the role that mean teacher", required=True
    )
    role_attribute: str = text("", "participant attribute that holds the role, used instead of the metadata")
    teacher_kinds: tuple[str, ...] = several(
        ("standard", "ingress", "sip"),
        ("standard", "ingress", "sip", "connector", "bridge"),
        "kinds of participants that may be recorded, as LiveKit names them; agents and egress never are",
    )
    role_trust: str = choice(
        "metadata",
        ("metadata", "strict"),
        "strict: a participant that may change its own metadata is never a teacher",
    )
    # A recorded track costs about 2.5 MB and 3 % of a core (docs/benchmarks.md): fifty fill a small machine.
    max_teachers_per_room: int = integer(
        50,
        1,
        1000,
        "participants",
        "most recorded at once in a room; the others wait and are named in log and gaps.jsonl",
    )
    # A microphone and a shared screen with sound, each twice while a client replaces it.
    max_tracks_per_teacher: int = integer(
        4, 1, 100, "tracks", "most recorded at once of one participant; the others wait"
    )
    e2ee_passphrase: str = secret(
        "passphrase of rooms with end-to-end encryption; other rooms need none",
        "the passphrase that the clients use",
    )
    agent_identity: str = text(
        "agent",
        "identity of the recorder, the same for all workers: a second recorder replaces the first",
        IDENTITY,
    )
    agent_display_name: str = text("Lesson recorder", "name that participants see")
    agent_name: str = text(
        "",
        "if set, only rooms with a dispatch of this name, or an agent of it in their configuration, are recorded",
    )
    hidden: bool = flag(False, "join rooms invisibly; check that your law allows it")

    # --- Files and disk ---

    timezone: str = text(
        "UTC", "time zone of the times in file names; the manifest is always in UTC", TIME_ZONE
    )
    room_dir: str = text(
        "{room}",
        "name of a room's folder; placeholders: {room}, {room_sid}, {date}",
        template("a name with {room} or {room_sid}, and no slash", ROOM_PLACEHOLDERS, ("room", "room_sid")),
    )
    segment_name: str = text(
        "segment_{number}_{time}",
        "name of a segment's files; placeholders: {number}, {time}, {room}, {identity}, {source}",
        template(
            "a name with {time}, and {number} not next to a digit or a placeholder, and no slash",
            SEGMENT_PLACEHOLDERS,
            ("number",),
            ("time",),
        ),
    )
    max_unsaved_seconds: float = number(
        600,
        10,
        36_000,
        "seconds",
        "most speech kept in memory per room while the disk fails (32 kB/s); beyond it the oldest is lost",
    )
    disk_warning_percent: float = number(
        10, 0, 90, "percent", "log a warning when less of the disk is free; 0: never"
    )

    # --- Delivery and retention ---

    retention_days: int = integer(
        0, 0, 36_500, "days", "delete files from this disk after this time, once delivered; 0: never"
    )
    keep_local: str = choice(
        "always",
        ("always", "until_delivered"),
        "until_delivered: delete audio and text here as soon as every target has them",
    )
    remote_retention_days: int = integer(
        0, 0, 36_500, "days", "delete objects and rows from the targets after this time; 0: never"
    )
    s3_endpoint: str = text(
        "",
        "S3-compatible store such as Cloudflare R2 or MinIO; empty: AWS",
        Form("a URL such as https://ACCOUNT.r2.cloudflarestorage.com"),
    )
    s3_region: str = text("auto", "region of the bucket", Form("a region's name"))
    s3_bucket: str = text(
        "", "bucket for all recordings; needs S3_KEY_ID and S3_KEY_SECRET", Form("a bucket's name")
    )
    s3_key_id: str = secret("access key id", "an access key id")
    s3_key_secret: str = secret("secret access key", "its secret")
    s3_prefix: str = text("", "path before all object names", Form("a path such as lessons/2026"))
    store_url: str = text(
        "",
        "another object store: gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER (docs/delivery.md)",
        Form("a URL"),
    )
    database_url: str = secret(
        "Postgres for all recordings (`python lessons.py migrate` creates its tables)",
        "a URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE",
    )

    # --- Operation ---

    max_rooms: int = integer(
        0,
        0,
        1000,
        "rooms",
        "most rooms at the same time in each worker process; 0: as memory and cores allow",
    )
    workers: int = integer(
        0, 0, 64, "processes", "worker processes, each with its own rooms; 0: as cores and memory allow"
    )
    on_stop: str = choice(
        "handover",
        ("handover", "drain"),
        "at SIGTERM: hand rooms over to another worker, or record them to their end",
    )
    reconcile_seconds: float = number(
        3, 1, 3600, "seconds", "interval of the search for rooms without a recorder"
    )
    health_host: str = text("127.0.0.1", "address of the health answer", Form("an address"))
    health_port: int = integer(8081, 0, 65535, "port", "port of the health answer; 0: any free one")
    metrics: bool = flag(False, "Prometheus metrics under /metrics on HEALTH_PORT")
    log_format: str = choice("text", ("text", "json"), "readable lines, or JSON for log collectors")

    # --- Speech detection ---

    vad_runtime: str = choice(
        "native", ("native", "onnx"), "how Silero VAD runs: native code, or the plugin's ONNX model"
    )
    speech_start_probability: float = number(
        0.25, 0.05, 0.95, "probability", "speech may begin at this probability"
    )
    speech_end_probability: float = number(
        0.1, 0.01, 0.95, "probability", "speech continues until the probability is below this"
    )
    min_speech_seconds: float = number(
        0.16, 0.032, 1, "seconds", "shorter sounds are ignored, such as a cough or a click"
    )
    pre_roll_seconds: float = number(0.3, 0, 2, "seconds", "audio kept before the first speech")
    post_roll_seconds: float = number(0.2, 0, 2, "seconds", "audio kept after the last speech")
    pause_seconds: float = number(0.5, 0.1, 5, "seconds", "a pause of this length ends a segment")
    join_seconds: float = number(
        2,
        0.1,
        10,
        "seconds",
        "a pause of this length ends a segment that is shorter than MIN_SEGMENT_SECONDS",
    )
    min_segment_seconds: float = number(
        2, 0, 30, "seconds", "a shorter segment is joined with speech that follows within JOIN_SECONDS"
    )
    max_segment_seconds: float = number(10, 3, 60, "seconds", "longest segment; longer speech is split")

    @property
    def has_gemini(self) -> bool:
        """Whether there are credentials for Gemini."""
        return bool(self.gemini_api_key or self.google_cloud_project)

    @property
    def wants_text(self) -> bool:
        """Whether segments are to be sent to Gemini."""
        return self.save_translations or self.captions

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, for_worker: bool = True) -> Settings:
        """Reads and checks all settings. An empty value counts as not set.

        Only the worker (``for_worker``) needs a server, and only its settings for text are checked against each other.
        Commands for recorded lessons check what they use themselves.

        Raises:
            ConfigError: one line for each setting that is missing or wrong.
        """
        values: dict[str, Any] = {}
        problems = removed_problems(environ, REMOVED_SETTINGS)
        for field in dataclasses.fields(cls):
            name, kind = field.name.upper(), field.metadata["kind"]
            value = environ.get(name, "").strip()
            if not value and kind.required and for_worker:
                problems.append(f"{name} is not set: it must be {kind.allowed}")
            if not value:
                continue
            try:
                values[field.name] = kind.parse(value)
            except ValueError:
                problems.append(kind.message(name, value))
        if not problems:
            settings = cls(**values)
            problems = _speech_contradictions(settings)
            problems += _text_contradictions(settings) if for_worker else []
        if problems:
            raise ConfigError("\n".join(problems))
        return settings


# --- settings that are allowed one by one, but not together ---


def _speech_contradictions(settings: Settings) -> list[str]:
    problems = []
    if settings.speech_end_probability > settings.speech_start_probability:
        problems.append(
            f"SPEECH_END_PROBABILITY={settings.speech_end_probability:g} is wrong: "
            f"it must not exceed SPEECH_START_PROBABILITY ({settings.speech_start_probability:g})"
        )
    shortest = max(
        settings.min_segment_seconds + 1, 3 * (settings.pre_roll_seconds + settings.post_roll_seconds)
    )
    if settings.max_segment_seconds < shortest:
        problems.append(
            f"MAX_SEGMENT_SECONDS={settings.max_segment_seconds:g} is wrong: with these MIN_SEGMENT_SECONDS, "
            f"PRE_ROLL_SECONDS and POST_ROLL_SECONDS it must be at least {shortest:g}"
        )
    return problems


def _text_contradictions(settings: Settings) -> list[str]:
    problems = []
    for name in ("save_translations", "captions"):
        if getattr(settings, name) and not settings.has_gemini:
            problems.append(
                f"{name.upper()}=true is wrong: it needs a GEMINI_API_KEY, or a GOOGLE_CLOUD_PROJECT"
            )
    if settings.captions and settings.hidden:
        problems.append("CAPTIONS=true is wrong: the recorder cannot show captions with HIDDEN=true")
    if not settings.save_audio and not settings.save_translations:
        problems.append(
            "SAVE_AUDIO=false is wrong: without SAVE_TRANSLATIONS=true neither audio nor text would be kept"
        )
    return problems


# --- where the values come from ---


def environment(folder: Path) -> dict[str, str]:
    """All variables: the process's environment, then ``.env.local``, then ``.env`` in ``folder``; the first counts.

    Raises:
        ConfigError: one of the files cannot be read as UTF-8 text.
    """
    values: dict[str, str] = {}
    for name in (".env", ".env.local"):
        values.update(_read_env_file(folder / name))
    return {**values, **os.environ}


def _read_env_file(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        # utf-8-sig: Windows' Notepad begins a file with a byte order mark. No interpolation: secrets contain "$".
        found = dotenv_values(path, encoding="utf-8-sig", interpolate=False)
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    return {name: value for name, value in found.items() if value is not None}
