"""The records of texts: what was said in a segment, and its translations."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from core.records import format_utc, parse_utc, segment_number_in


@dataclass(frozen=True)
class Translation:
    """The text of one segment: its transcript and translations."""

    language: str
    """BCP 47 tag of what was spoken."""
    transcript: str
    translations: dict[str, str]
    """Text by BCP 47 tag."""
    missing: tuple[str, ...] = ()
    """The languages that were asked for, and are not among the translations."""
    doubt: str = ""
    """Why the text may not be what was said, such as a loop of the model; empty: there is no such reason."""


@dataclass(frozen=True)
class TextRecord:
    """The text of one segment, or its refusal: a line of ``texts.jsonl`` in the room's folder, one per segment.

    A segment without intelligible speech has an empty ``transcript``. A ``refused`` segment has no text and will never
    have any.
    """

    number: int
    file: str
    """The segment's WAV. Number and file are those of the manifest."""
    at: datetime
    """When this was written (UTC)."""
    start: datetime
    """When it was spoken, as in the manifest (UTC)."""
    participant_identity: str
    """Who spoke."""
    language: str = ""
    """BCP 47 tag of what was spoken."""
    transcript: str = ""
    translations: dict[str, str] = field(default_factory=dict)
    """Text by BCP 47 tag."""
    missing: tuple[str, ...] = ()
    """The languages that were asked for, and are not among the translations."""
    doubt: str = ""
    """Why the text may not be what was said, such as a loop of the model; empty: there is no such reason."""
    files: tuple[str, ...] = ()
    """Text files beside the WAV."""
    model: str = ""
    latency_seconds: float = 0.0
    """How long the service took to answer."""
    audio_seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    is_audio_kept: bool = True
    """False: the WAV will be or has been deleted (SAVE_AUDIO)."""
    refused: str = ""
    """Why there will never be a text; empty: the text is not refused."""

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values; for a refused segment without the fields of a text."""
        line: dict[str, Any] = {
            "number": self.number,
            "file": self.file,
            "at": format_utc(self.at),
            "start": format_utc(self.start),
            "participant_identity": self.participant_identity,
        }
        if self.refused:
            return {**line, "refused": self.refused}
        return {
            **line,
            "language": self.language,
            "transcript": self.transcript,
            "translations": self.translations,
            **({"missing": list(self.missing)} if self.missing else {}),
            **({"doubt": self.doubt} if self.doubt else {}),
            "files": list(self.files),
            "model": self.model,
            "latency_seconds": round(self.latency_seconds, 3),
            "audio_seconds": round(self.audio_seconds, 3),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "is_audio_kept": self.is_audio_kept,
        }

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> TextRecord:
        """Reads a record from a line.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: the line is not a text record.
        """
        return cls(
            number=segment_number_in(line),
            file=str(line["file"]),
            at=parse_utc(line["at"]),
            start=parse_utc(line["start"]),
            participant_identity=str(line["participant_identity"]),
            language=str(line.get("language", "")),
            transcript=str(line.get("transcript", "")),
            translations={str(tag): str(text) for tag, text in line.get("translations", {}).items()},
            missing=tuple(str(tag) for tag in line.get("missing", ())),
            doubt=str(line.get("doubt", "")),
            files=tuple(str(name) for name in line.get("files", ())),
            model=str(line.get("model", "")),
            latency_seconds=float(line.get("latency_seconds", 0)),
            audio_seconds=float(line.get("audio_seconds", 0)),
            input_tokens=int(line.get("input_tokens", 0)),
            output_tokens=int(line.get("output_tokens", 0)),
            is_audio_kept=bool(line.get("is_audio_kept", True)),
            refused=str(line.get("refused", "")),
        )
