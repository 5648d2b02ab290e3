"""What `lessons.py check` can find in a room's folder, and its report on one room."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What can be wrong. The value is what scripts read."""

    BROKEN_LINE = "broken_line"
    BROKEN_TEXT_LINE = "broken_text_line"
    """No fault: its segment counts as one without text."""
    DUPLICATE_NUMBER = "duplicate_number"
    MISSING_NUMBER = "missing_number"
    TIMES = "times"
    OVERLAP = "overlap"
    GAP = "gap"
    MISSING_WAV = "missing_wav"
    WAV_HEADER = "wav_header"
    WAV_LENGTH = "wav_length"
    CHECKSUM = "checksum"
    UNLISTED_WAV = "unlisted_wav"
    UNREADABLE = "unreadable"
    """The room's folder, or one of its lists."""
    NOT_RECOVERABLE = "not_recoverable"
    """A file of the recorder that is not in the manifest and cannot be added to it."""
    PART_LEFT = "part_left"
    BEING_RECORDED = "being_recorded"
    BEING_ERASED = "being_erased"
    SPEECH_MISSED = "speech_missed"
    """The recorder has recorded a gap itself: it was not in the room, or could not save the speech."""
    UNDELIVERED = "undelivered"
    TEXT_MISSING = "text_missing"
    TEXT_REFUSED = "text_refused"
    """Not done: `transcribe --refused` asks again."""
    TEXT_INCOMPLETE = "text_incomplete"
    """The transcript is there, and translations are missing."""
    TEXT_DOUBTFUL = "text_doubtful"
    TEXT_FILE_MISSING = "text_file_missing"
    SESSION_FILE_MISSING = "session_file_missing"
    """No fault: a session is over, and no worker has written its file yet."""
    SESSION_FILE_DAMAGED = "session_file_damaged"
    SESSION_FILE_WRONG = "session_file_wrong"
    """It says something else than the lists."""


_NO_FAULT = (
    Kind.BEING_RECORDED,
    Kind.SPEECH_MISSED,
    Kind.TEXT_INCOMPLETE,
    Kind.TEXT_DOUBTFUL,
    Kind.BROKEN_TEXT_LINE,
    Kind.SESSION_FILE_MISSING,
)
_REPAIRABLE = (
    Kind.BROKEN_LINE,
    Kind.WAV_HEADER,
    Kind.WAV_LENGTH,
    Kind.UNLISTED_WAV,
    Kind.PART_LEFT,
    Kind.TEXT_FILE_MISSING,
    Kind.SESSION_FILE_MISSING,
    Kind.SESSION_FILE_DAMAGED,
    Kind.SESSION_FILE_WRONG,
)


@dataclass(frozen=True)
class Finding:
    """One fault, or one fact worth knowing."""

    kind: Kind
    what: str
    """A sentence for people."""
    file: str = ""
    samples: int | None = None
    """How many samples a WAV that can be repaired should have."""
    room_sid: str = ""
    """The session whose file it is about."""

    @property
    def is_fault(self) -> bool:
        return self.kind not in _NO_FAULT

    @property
    def can_be_repaired(self) -> bool:
        is_wav = self.kind in (Kind.WAV_HEADER, Kind.WAV_LENGTH)
        return self.kind in _REPAIRABLE and (self.samples is not None or not is_wav)


@dataclass
class Report:
    """The result of checking one room."""

    room: str
    folder: str
    segments: int = 0
    speech_seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.is_fault]
