"""File names: of a segment's files by a template, and of any text as a name that is valid on every system."""

from __future__ import annotations

import hashlib
import re
import string
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from config import Settings
from core.records import RoomInfo, TrackInfo
from core.setting_kinds import DEVICE_NAME

MANIFEST = "segments.jsonl"
GAPS = "gaps.jsonl"
"""The list of gaps (times from which speech may be missing), apart from MANIFEST, whose lines are all segments."""
TEXTS = "texts.jsonl"
HANDOVER_NOTE = ".heard"
"""The handover note: one line of JSON with how far each track has been received. Rewritten every second."""
HIGHEST_NUMBER = ".highest_number"
"""The highest segment number of the folder, and how far the manifest was read for it. May be deleted."""
SESSION_FILES = "session.json"
"""Stands for all session files of a folder (:func:`session_file`) where one of them is announced as changed."""
PART_SUFFIX = ".part"
NOTE_FRESH_SECONDS = 10.0
"""A recorder rewrites its handover note every second; a busy disk may take longer."""
LOST_AND_FOUND = "lost+found"
"""The system's own folder at the top of a disk, which only root may read. No room's folder has a plus in its name."""

_LOOKS_HASHED = re.compile(r"-[0-9a-f]{10}\Z", re.IGNORECASE)
_NAME_BYTES = 80
"""Short enough for a file name of 255 bytes with its other parts, and for a path of 260 characters on Windows."""


def is_plain_name(name: str) -> bool:
    """Whether a name read from a file can only mean an ordinary file in the same folder."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:  # half a surrogate pair: never written here
        return False
    return 0 < length <= 255 and not name.startswith(".") and not set(name) & set("/\\:\0")


def safe_name(text: str) -> str:
    """Makes a file name of ``text`` that is valid on every system and differs from that of any other text.

    A text of harmless characters is unchanged. Any other is cleaned, and gets a dash and ten digits of its SHA-256; so
    does a text that already ends like this, hence two texts never share a name. Letter case is not considered here.
    """
    cleaned = "".join(character if _is_harmless(character) else "_" for character in text)
    cleaned = _shortened(unicodedata.normalize("NFC", cleaned)).strip(" .") or "_"
    if DEVICE_NAME.fullmatch(cleaned):
        cleaned = f"_{cleaned}"
    if cleaned == text and not _LOOKS_HASHED.search(text):
        return text
    return f"{cleaned}-{digest_of(text)}"


def session_tag(room_sid: str) -> str:
    """Names a session in file names and indexes: valid everywhere, and different for different sids."""
    return safe_name(room_sid)


def session_file(room_sid: str) -> str:
    """The name of the file in a room's folder that sums up one session (:mod:`archive.session_files`)."""
    return session_file_of(session_tag(room_sid))


def session_file_of(tag: str) -> str:
    """The same by the session's tag."""
    return f"session_{tag}.json"


def is_like_session_file(name: str) -> bool:
    """Whether a name is like that of a session's file. Whether it is one, its content tells."""
    return name.startswith("session_") and name.endswith(".json")


def valid_unicode(text: str) -> str:
    r"""``text`` with its bytes that are not UTF-8, and halves of surrogate pairs, escaped: ``\xe9``."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def _is_harmless(character: str) -> bool:
    """Whether it is a letter, mark or digit of any script or one of ``-_. ``; not a control, direction mark or
    separator."""
    return character in "-_. " or unicodedata.category(character)[0] in "LMN"


def _shortened(text: str) -> str:
    return text.encode("utf-8", "surrogatepass")[:_NAME_BYTES].decode("utf-8", "ignore")


def digest_of(text: str) -> str:
    """Ten digits of a text's SHA-256, which distinguish two texts that would have the same file name."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]


@dataclass(frozen=True)
class SegmentNames:
    """Makes and parses the names of a room's files, by the template in the settings."""

    template: str
    zone: ZoneInfo

    @classmethod
    def from_settings(cls, settings: Settings) -> SegmentNames:
        return cls(settings.segment_name, ZoneInfo(settings.timezone))

    def stem(self, number: int, moment: datetime, room: RoomInfo, track: TrackInfo) -> str:
        """The name of a segment's files without the suffix. ``moment`` is when the first word began."""
        return self.template.format(
            number=f"{number:03d}",
            time=f"{moment.astimezone(self.zone):%Y%m%d_%H%M%S}",
            room=safe_name(room.name),
            identity=safe_name(track.participant_identity),
            source=track.source,
        )

    def number_in(self, file_name: str) -> int | None:
        """The segment number in the name of any of the segment's files; None if the name does not fit the template."""
        if is_like_session_file(file_name):  # whatever the template is
            return None
        pattern = ""
        for literal, name, _, _ in string.Formatter().parse(self.template):
            pattern += re.escape(literal)
            if name is not None:
                # A template may contain the number twice; one is enough.
                pattern += r"\d{3,}" if name == "number" and "<number>" in pattern else _PLACEHOLDER[name]
        found = re.fullmatch(pattern + _ENDING, file_name.removeprefix("."))
        return int(found["number"]) if found else None


_PLACEHOLDER = {
    "number": r"(?P<number>\d{3,})",
    "time": r"\d{8}_\d{6}",
    "room": r".+",
    "identity": r".+",
    "source": r"[a-z_]+",
}
_ENDING = r"(\.wav|\.wav\.part|\.json|_[A-Za-z0-9-]+\.txt)?"
