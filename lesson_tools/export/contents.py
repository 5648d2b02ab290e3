"""What each exported file of a lesson contains."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import Any

from core.records import format_utc
from lesson_tools.console import progress
from lesson_tools.export import page, subtitles
from lesson_tools.export.alignment import Alignment
from lesson_tools.export.sound import as_data
from lesson_tools.export.video import AlignedVideo
from lesson_tools.lesson import Lesson, Utterance


@dataclass(frozen=True)
class ExportOptions:
    """Which files are made of a session, and where."""

    folder: Path
    stem: str
    """The beginning of their names."""
    formats: Sequence[str]
    zone: tzinfo
    embed: bool
    """Whether the page contains the sound."""


def contents(
    lesson: Lesson, aligned: AlignedVideo | None, options: ExportOptions
) -> Iterator[tuple[str, bytes]]:
    """Yields each file's suffix and content."""
    formats = options.formats
    if "html" in formats:
        yield "html", _page(lesson, aligned, options).encode()
    for language in lesson.languages:
        said = lesson.said(language, in_video=aligned is not None)
        if "vtt" in formats:
            yield f"{language}.vtt", subtitles.webvtt(said, language, lesson.room).encode()
        if "srt" in formats:  # with a byte order mark: the format does not say which encoding it is in
            yield f"{language}.srt", subtitles.srt(said).encode("utf-8-sig")
        if "txt" in formats:
            yield f"{language}.txt", subtitles.plain_text(lesson.said(language)).encode()
    if "json" in formats:
        document = json.dumps(_document(lesson, aligned), ensure_ascii=False, indent=1)
        yield "json", f"{document}\n".encode("utf-8", "replace")


def _page(lesson: Lesson, aligned: AlignedVideo | None, options: ExportOptions) -> str:
    video = aligned.video.address(options.folder) if aligned is not None else None

    def beside(one: Utterance) -> str | None:
        return None if one.wav is None else page.address(one.wav.resolve(), options.folder)

    if not options.embed:
        return page.page(lesson, page.Media(video, beside), options.zone)
    with progress("Compressing", len(lesson.utterances), "segments") as advance:

        def embedded(one: Utterance) -> str | None:
            advance(1)
            return None if one.wav is None else as_data(one.wav)

        return page.page(lesson, page.Media(video, embedded), options.zone)


def _document(lesson: Lesson, aligned: AlignedVideo | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "room": lesson.room,
        "session": lesson.session,
        "started_at": format_utc(lesson.started_at),
        "duration_seconds": round(lesson.seconds, 3),
        "languages": list(lesson.languages),
        "speakers": list(lesson.speakers),
    }
    if aligned is not None:
        document["video"] = {"name": aligned.video.name, **alignment_json(aligned.alignment)}
    document["lines"] = [
        {
            "number": one.number,
            "start_seconds": round(one.start, 3),
            "end_seconds": round(one.end, 3),
            **(
                {}
                if aligned is None
                else {"video_seconds": None if one.video is None else round(one.video, 3)}
            ),
            "speaker": one.speaker,
            "file": one.file if one.wav is not None else None,
            "language": one.spoken,
            "texts": dict(one.texts),
        }
        for one in lesson.utterances
    ]
    return document


def alignment_json(alignment: Alignment) -> dict[str, Any]:
    return {
        "aligned_by": alignment.source,
        "parts": [
            {
                "offset_seconds": round(span.time_map.offset, 4),
                "drift_seconds_an_hour": round(span.time_map.drift * 3600, 4),
                "from_seconds": round(span.first, 3) if math.isfinite(span.first) else None,
                "to_seconds": round(span.last, 3) if math.isfinite(span.last) else None,
            }
            for span in alignment.spans
        ],
        "segments_agreeing": alignment.agreeing,
        "segments_compared": alignment.measured,
        "residual_milliseconds": round(alignment.residual_seconds * 1000, 1),
    }
