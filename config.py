"""Every setting, in one frozen object: its default, unit, bounds, and the line that is shown when it is wrong.

:meth:`Settings.from_env` turns an environment into settings or raises one :class:`~core.errors.ConfigError` that
names every wrong value. :func:`environment` is the only place that looks at the process and at ``.env`` files.
The table in the README and ``.env.example`` are written by ``python config.py readme`` and ``python config.py
env``; a test holds them to what is here.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import string
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from dotenv import dotenv_values

from core.errors import ConfigError
from core.language_tags import language_tags

ROOM_PLACEHOLDERS = ("room", "room_sid", "date")
SEGMENT_PLACEHOLDERS = ("number", "time", "room", "identity", "source")

DEVICE_NAME = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.IGNORECASE
)
"""What Windows takes for a device, whatever its ending."""

MAX_LANGUAGES = 20

REMOVED_SETTINGS = {
    "DELIVERIES_AT_ONCE": "8",
    "FILL_SECONDS": "0.5",
    "FRAME_MILLISECONDS": "96",
    "GEMINI_TIMEOUT_SECONDS": "60",
    "JOB_EXECUTOR": "thread",
    "MAX_PARTICIPANTS": "10000",
    "TRANSLATION_CONTEXT": "3",
}
"""Settings that are gone, and the value that now always holds: an older ``.env`` may say that and nothing else."""

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


# --- kinds of settings ---


@dataclass(frozen=True)
class Kind:
    """How a value is read: ``parse`` raises ValueError, ``allowed`` says what it would have accepted."""

    parse: Callable[[str], Any]
    allowed: str
    section: str
    help: str
    secret: bool = False
    required: bool = False


def _setting(default: Any, kind: Kind) -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind}, repr=not kind.secret)


def _text(
    section: str,
    default: str,
    help: str,
    *,
    allowed: str = "any text",
    parse: Callable[[str], str] = str,
    secret: bool = False,
    required: bool = False,
) -> Any:
    return _setting(default, Kind(parse, allowed, section, help, secret, required))


def _number(section: str, default: float, low: float, high: float, unit: str, help: str) -> Any:
    def parse(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError
        return value

    return _setting(default, Kind(parse, f"a number from {low:g} to {high:g} ({unit})", section, help))


def _integer(section: str, default: int, low: int, high: int, unit: str, help: str) -> Any:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return _setting(default, Kind(parse, f"a whole number from {low} to {high} ({unit})", section, help))


def _flag(section: str, default: bool, help: str) -> Any:
    def parse(text: str) -> bool:
        word = text.casefold()
        if word not in _TRUE + _FALSE:
            raise ValueError
        return word in _TRUE

    return _setting(default, Kind(parse, "true or false", section, help))


def _choice(section: str, default: str, choices: tuple[str, ...], help: str) -> Any:
    def parse(text: str) -> str:
        by_word = {choice.casefold(): choice for choice in choices}
        if text.casefold() not in by_word:
            raise ValueError
        return by_word[text.casefold()]

    return _setting(default, Kind(parse, " or ".join(choices), section, help))


def _words(section: str, default: tuple[str, ...], help: str, *, required: bool = False) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        words = tuple(word.strip() for word in text.split(",") if word.strip())
        if required and not words:
            raise ValueError
        return words

    return _setting(default, Kind(parse, "words separated by commas", section, help))


def _languages(section: str, help: str) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        tags = language_tags(word for word in text.split(",") if word.strip())
        if len(tags) > MAX_LANGUAGES:
            raise ValueError
        return tags

    allowed = f"at most {MAX_LANGUAGES} BCP 47 tags separated by commas, such as es,ar,pt-BR"
    return _setting((), Kind(parse, allowed, section, help))


def _web_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise ValueError
    _ = parts.port  # raises ValueError where it is not a number
    return text


def _cloud_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.:_@/-]{0,255}", text) or ".." in text:
        raise ValueError
    return text


def _server_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname:
        raise ValueError
    _ = parts.port  # raises ValueError where it is not a number
    return text


def _time_zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except Exception as error:  # ZoneInfo raises KeyError, ValueError, OSError and IsADirectoryError
        raise ValueError from error
    return text


def _template(placeholders: tuple[str, ...], one_of: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        pieces = list(string.Formatter().parse(text))
        names = [name for _, name, _, _ in pieces if name is not None]
        if any(spec or conversion for _, _, spec, conversion in pieces) or not set(names) <= set(
            placeholders
        ):
            raise ValueError
        literals = "".join(literal for literal, _, _, _ in pieces)
        if len(literals.encode()) > 24 or not literals.isprintable() or set(literals) & set('<>:"/\\|?*{}'):
            raise ValueError
        if text[0] in ". " or text[-1] in ". " or DEVICE_NAME.fullmatch(text):
            raise ValueError
        if not set(names) & set(one_of):
            raise ValueError
        if any(character.isdigit() or character in "{}" for character in _neighbours(text, "{number}")):
            raise ValueError  # such a number could not be read back from a name
        return text

    return parse


def _neighbours(text: str, part: str) -> str:
    """The characters directly before and behind each ``part`` of ``text``."""
    pieces = text.split(part)
    return "".join(piece[-1:] for piece in pieces[:-1]) + "".join(piece[:1] for piece in pieces[1:])


def _identity(text: str) -> str:
    if not text or len(text.encode()) > 128 or not text.isprintable():
        raise ValueError
    return text


# --- the settings ---


@dataclass(frozen=True)
class Settings:
    """All settings; the name in the environment is the field's name in capitals."""

    livekit_url: str = _text(
        "LiveKit",
        "",
        "address of your LiveKit server",
        allowed="a URL such as wss://livekit.example.com or ws://127.0.0.1:7880",
        parse=_server_url,
        required=True,
    )
    livekit_api_key: str = _text(
        "LiveKit", "", "API key", allowed="the server's API key", secret=True, required=True
    )
    livekit_api_secret: str = _text(
        "LiveKit", "", "API secret", allowed="the API key's secret", secret=True, required=True
    )
    e2ee_passphrase: str = _text(
        "LiveKit",
        "",
        "the shared passphrase of rooms that are encrypted end to end; unencrypted rooms need none and suffer none",
        allowed="the passphrase that the clients use",
        secret=True,
    )
    gemini_api_key: str = _text(
        "Text",
        "",
        "Google AI Studio key; text needs it, or GOOGLE_CLOUD_PROJECT",
        allowed="an API key",
        secret=True,
    )
    google_cloud_project: str = _text(
        "Text",
        "",
        "Google Cloud project: Gemini on Vertex AI, where no GEMINI_API_KEY is set",
        allowed="a project's id",
        parse=_cloud_name,
    )
    google_cloud_location: str = _text(
        "Text", "global", "Vertex AI's location", allowed="a location such as europe-west4", parse=_cloud_name
    )
    google_application_credentials: str = _text(
        "Text",
        "",
        "credentials for Vertex AI; empty: those of the machine or of gcloud",
        allowed="a file's path",
    )
    google_gemini_base_url: str = _text(
        "Text",
        "",
        "where AI Studio is reached instead of directly (a proxy)",
        allowed="an http or https URL",
        parse=_web_url,
    )
    google_vertex_base_url: str = _text(
        "Text",
        "",
        "where Vertex AI is reached instead of directly (a proxy)",
        allowed="an http or https URL",
        parse=_web_url,
    )

    output_dir: str = _text(
        "Files", "./segments", "folder that holds one folder a room", allowed="a folder's path"
    )
    save_audio: bool = _flag(
        "Files", True, "keep the WAV files; false: each goes as soon as its text is safe (needs text)"
    )
    save_translations: bool = _flag(
        "Text", False, "write transcript and translations as .txt beside each WAV"
    )
    target_languages: tuple[str, ...] = _languages("Text", "languages that everything is translated into")
    captions: bool = _flag("Text", False, "show live captions in the room")
    caption_languages: tuple[str, ...] = _languages(
        "Text", "languages that students may ask for in captions, besides TARGET_LANGUAGES"
    )
    gemini_model: str = _text(
        "Text", "gemini-3.8-flash", "Gemini model", allowed="a model's name", parse=_cloud_name
    )
    gemini_thinking: str = _choice(
        "Text",
        "low",
        ("low", "minimal", "medium", "high", "default"),
        "how much Gemini thinks first: more is later and dearer; default: send nothing (models before Gemini 3)",
    )
    glossary_file: str = _text(
        "Text", "", "terms and names as they are to be written, one a line, UTF-8", allowed="a file's path"
    )
    prompt_file: str = _text(
        "Text", "", "what Gemini is to know or do beyond our own instruction, UTF-8", allowed="a file's path"
    )
    gemini_max_at_once: int = _integer("Text", 8, 1, 100, "calls", "calls under way at once, over all rooms")
    gemini_max_per_minute: int = _integer(
        "Text", 0, 0, 100_000, "calls", "most calls in any 60 seconds; what is over waits; 0: no limit"
    )
    gemini_max_per_day: int = _integer(
        "Text", 0, 0, 10_000_000, "calls", "most calls in any 24 hours; what is over waits; 0: no limit"
    )
    timezone: str = _text(
        "Files",
        "UTC",
        "time zone of the times in file names (the manifest is always UTC)",
        allowed="a zone such as UTC or Europe/Berlin",
        parse=_time_zone,
    )
    room_dir: str = _text(
        "Files",
        "{room}",
        "name of a room's folder; placeholders: {room}, {room_sid}, {date}",
        allowed="a name with {room} or {room_sid}, and no slash",
        parse=_template(ROOM_PLACEHOLDERS, ("room", "room_sid")),
    )
    segment_name: str = _text(
        "Files",
        "segment_{number}_{time}",
        "name of a segment's files; placeholders: {number}, {time}, {room}, {identity}, {source}",
        allowed="a name with {number} not next to a digit or a placeholder, and no slash",
        parse=_template(SEGMENT_PLACEHOLDERS, ("number",)),
    )
    max_unsaved_seconds: float = _number(
        "Files",
        600,
        10,
        36_000,
        "seconds",
        "speech a room holds in memory while the disk refuses; beyond it the oldest goes (32 kB a second)",
    )

    retention_days: int = _integer(
        "Delivery",
        0,
        0,
        36_500,
        "days",
        "how long files stay on this disk; 0: for ever; nothing goes that is not delivered",
    )
    keep_local: str = _choice(
        "Delivery",
        "always",
        ("always", "until_delivered"),
        "until_delivered: sound and text leave this disk as soon as all targets have them",
    )
    disk_warning_percent: float = _number(
        "Delivery", 10, 0, 90, "percent", "less free space than this on the disk is warned about; 0: never"
    )
    s3_endpoint: str = _text(
        "Delivery",
        "",
        "object storage that is not AWS: Cloudflare R2, MinIO and so on; empty: AWS",
        allowed="a URL such as https://ACCOUNT.r2.cloudflarestorage.com",
    )
    s3_region: str = _text("Delivery", "auto", "region of the bucket", allowed="a region's name")
    s3_bucket: str = _text(
        "Delivery", "", "bucket that gets everything; set with key id and secret", allowed="a bucket's name"
    )
    s3_key_id: str = _text("Delivery", "", "access key id", allowed="an access key id", secret=True)
    s3_key_secret: str = _text("Delivery", "", "secret access key", allowed="its secret", secret=True)
    s3_prefix: str = _text(
        "Delivery", "", "what the names of all objects begin with", allowed="a path such as lessons/2026"
    )
    store_url: str = _text(
        "Delivery",
        "",
        "another store: gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER (docs/delivery.md)",
        allowed="a URL",
    )
    database_url: str = _text(
        "Delivery",
        "",
        "Postgres that gets everything (`python lessons.py migrate` makes its tables)",
        allowed="a URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE",
        secret=True,
    )
    remote_retention_days: int = _integer(
        "Delivery",
        0,
        0,
        36_500,
        "days",
        "how long objects and rows stay where they were delivered; 0: for ever",
    )

    record: str = _choice("Who", "teachers", ("teachers", "everyone"), "whose audio is recorded")
    room_filter: tuple[str, ...] = _words(
        "Who", (), "only rooms whose names match one of these patterns are recorded, such as class-*,exam?"
    )
    role_key: str = _text("Who", "role", "key of the role in the participant's metadata (a JSON object)")
    teacher_roles: tuple[str, ...] = _words(
        "Who", ("teacher",), "values of the role that mean teacher, separated by commas", required=True
    )
    role_attribute: str = _text(
        "Who", "", "participant attribute that holds the role; set, it replaces the metadata"
    )
    role_trust: str = _choice(
        "Who",
        "metadata",
        ("metadata", "strict"),
        "strict: a participant whose token may change its own metadata is never a teacher",
    )
    # A recorded track costs about 2.5 MB and 3 % of a core (docs/benchmarks.md): fifty fill a small machine.
    max_teachers_per_room: int = _integer(
        "Who",
        50,
        1,
        1000,
        "participants",
        "recorded at once in a room; who is over it is named in log and gaps.jsonl and gets the next free place",
    )
    # A microphone, a shared screen with sound, and each once more while a client replaces it.
    max_tracks_per_teacher: int = _integer(
        "Who", 4, 1, 100, "tracks", "of one participant that are recorded at once; the others wait likewise"
    )

    agent_identity: str = _text(
        "Agent",
        "agent",
        "identity in the rooms, the same for all workers: a second recorder replaces the first",
        allowed="1 to 128 printable characters",
        parse=_identity,
    )
    agent_display_name: str = _text(
        "Agent", "Lesson recorder", "name under which people see that they are recorded"
    )
    agent_name: str = _text(
        "Agent", "", "set: only rooms that ask for an agent of this name are recorded (explicit dispatch)"
    )
    hidden: bool = _flag("Agent", False, "join rooms invisibly (check that your law allows it)")

    vad_runtime: str = _choice(
        "Speech", "native", ("native", "onnx"), "how Silero VAD runs: native code, or the plugin's ONNX model"
    )
    speech_start_probability: float = _number(
        "Speech", 0.4, 0.05, 0.95, "probability", "from here on a moment may begin speech"
    )
    speech_end_probability: float = _number(
        "Speech", 0.2, 0.01, 0.95, "probability", "speech goes on until a moment falls below this"
    )
    min_speech_seconds: float = _number(
        "Speech", 0.16, 0.032, 1, "seconds", "less speech than this is a cough or a click"
    )
    pre_roll_seconds: float = _number("Speech", 0.3, 0, 2, "seconds", "kept before the first sound of a word")
    post_roll_seconds: float = _number("Speech", 0.2, 0, 2, "seconds", "kept after the last sound of a word")
    pause_seconds: float = _number("Speech", 0.5, 0.1, 5, "seconds", "a pause this long ends a segment")
    join_seconds: float = _number(
        "Speech", 2, 0.1, 10, "seconds", "a segment that is still too short waits this long for more"
    )
    min_segment_seconds: float = _number("Speech", 2, 0, 30, "seconds", "what counts as too short")
    max_segment_seconds: float = _number("Speech", 10, 3, 60, "seconds", "no file is longer than this")

    max_rooms: int = _integer(
        "Worker", 0, 0, 1000, "rooms", "rooms at once; 0: by the machine's memory and cores"
    )
    on_stop: str = _choice(
        "Worker",
        "handover",
        ("handover", "drain"),
        "at SIGTERM: hand rooms over to another worker at once, or record them to their end",
    )
    reconcile_seconds: float = _number(
        "Worker", 3, 1, 3600, "seconds", "how often rooms without a recorder are looked for"
    )
    health_host: str = _text("Worker", "127.0.0.1", "address of the health answer", allowed="an address")
    health_port: int = _integer(
        "Worker", 8081, 0, 65535, "port", "port of the health answer; 0: any free one"
    )
    metrics: bool = _flag("Worker", False, "Prometheus metrics beside the health answer, under /metrics")
    log_level: str = _choice(
        "Worker", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"), "least level of what is logged"
    )
    log_format: str = _choice("Worker", "text", ("text", "json"), "one readable line an event, or JSON")

    @property
    def has_gemini(self) -> bool:
        """Whether we may call Gemini at all."""
        return bool(self.gemini_api_key or self.google_cloud_project)

    @property
    def wants_text(self) -> bool:
        """Whether segments are to be sent to Gemini."""
        return self.save_translations or self.captions

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, for_worker: bool = True) -> Settings:
        """Reads and checks all settings. An empty value counts as not set.

        Only the worker (``for_worker``) needs a server, and only its wishes for text can contradict each other:
        commands for recorded lessons take what is set and ask for what they use.

        Raises:
            ConfigError: one line for each setting that is missing or wrong.
        """
        values: dict[str, Any] = {}
        problems = _removed(environ)
        for field in dataclasses.fields(cls):
            name, kind = field.name.upper(), field.metadata["kind"]
            text = environ.get(name, "").strip()
            if not text and kind.required and for_worker:
                problems.append(f"{name} is not set: it must be {kind.allowed}")
            if not text:
                continue
            try:
                values[field.name] = kind.parse(text)
            except ValueError:
                problems.append(_wrong(name, text, kind))
        if not problems:
            settings = cls(**values)
            problems = settings._speech_contradictions()
            problems += settings._text_contradictions() if for_worker else []
        if problems:
            raise ConfigError("\n".join(problems))
        return settings

    # Settings that are right alone and wrong together.

    def _speech_contradictions(self) -> list[str]:
        problems = []
        if self.speech_end_probability > self.speech_start_probability:
            problems.append(
                f"SPEECH_END_PROBABILITY={self.speech_end_probability:g} is wrong: "
                f"it must not exceed SPEECH_START_PROBABILITY ({self.speech_start_probability:g})"
            )
        shortest = max(self.min_segment_seconds + 1, 3 * (self.pre_roll_seconds + self.post_roll_seconds))
        if self.max_segment_seconds < shortest:
            problems.append(
                f"MAX_SEGMENT_SECONDS={self.max_segment_seconds:g} is wrong: with these MIN_SEGMENT_SECONDS, "
                f"PRE_ROLL_SECONDS and POST_ROLL_SECONDS it must be at least {shortest:g}"
            )
        return problems

    def _text_contradictions(self) -> list[str]:
        problems = []
        for name in ("save_translations", "captions"):
            if getattr(self, name) and not self.has_gemini:
                problems.append(
                    f"{name.upper()}=true is wrong: it needs a GEMINI_API_KEY, or a GOOGLE_CLOUD_PROJECT"
                )
        if self.captions and self.hidden:
            problems.append("CAPTIONS=true is wrong: nobody sees who shows them with HIDDEN=true")
        if not self.save_audio and not self.save_translations:
            problems.append(
                "SAVE_AUDIO=false is wrong: without SAVE_TRANSLATIONS=true nothing of the lesson would be kept"
            )
        return problems


def _removed(environ: Mapping[str, str]) -> list[str]:
    """A line for each setting that is gone and does not have the value that now always holds."""
    return [
        f"{name}={_shortened(text)} is wrong: this setting is gone, it is always {value}"
        for name, value in REMOVED_SETTINGS.items()
        if (text := environ.get(name, "").strip()) and not _is_same(text, value)
    ]


def _is_same(text: str, value: str) -> bool:
    try:
        return float(text) == float(value)
    except ValueError:
        return text.casefold() == value


def _wrong(name: str, text: str, kind: Kind) -> str:
    shown = "(hidden)" if kind.secret else _shortened(text)
    return f"{name}={shown} is wrong: it must be {kind.allowed}"


def _shortened(text: str) -> str:
    printable = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return printable if len(printable) <= 80 else printable[:77] + "..."


# --- where the values come from ---


def environment(folder: Path) -> dict[str, str]:
    """The process's environment over ``.env.local`` over ``.env`` in ``folder``.

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


# --- what documents them ---


def _shown_default(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def readme_table() -> str:
    """The settings as a Markdown table."""
    lines = ["| setting | default | allowed | what it does |", "|---|---|---|---|"]
    for field in dataclasses.fields(Settings):
        kind = field.metadata["kind"]
        default = "**required**" if kind.required else f"`{_shown_default(field.default)}`".replace("``", "")
        lines.append(f"| `{field.name.upper()}` | {default} | {kind.allowed} | {kind.help} |")
    return "\n".join(lines) + "\n"


def env_example() -> str:
    """The settings as a ``.env`` file: the required ones to fill in, the others with their defaults."""
    lines = ["# Copy this file to .env and fill in the first three. Everything else has a default."]
    sections = dict.fromkeys(field.metadata["kind"].section for field in dataclasses.fields(Settings))
    for section in sections:
        lines += ["", f"# --- {section} ---"]
        for field in dataclasses.fields(Settings):
            kind = field.metadata["kind"]
            if kind.section != section:
                continue
            name, default = field.name.upper(), _shown_default(field.default)
            lines += [f"# {kind.help} [{kind.allowed}]", f"{'' if kind.required else '#'}{name}={default}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(readme_table() if sys.argv[1:] == ["readme"] else env_example())
