"""Finds where a lesson lies in a video: by --offset, by the times that egress wrote, or by its sound."""

from __future__ import annotations

import math
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from core.errors import InputError
from core.records import SAMPLE_RATE, Pcm
from lesson_tools import console
from lesson_tools.console import progress, tell
from lesson_tools.decoding import Recording
from lesson_tools.export import page
from lesson_tools.export.alignment import AlignedSpan, Alignment, CannotAlign, Sound, TimeMap
from lesson_tools.export.egress_info import Wanted, chosen_file, egress_files
from lesson_tools.export.egress_times import RecordedSpan, is_playlist, recorded_spans
from lesson_tools.export.sound import loader
from lesson_tools.export.video_alignment import align
from lesson_tools.lesson import Lesson

MAX_SIDE_FILE_BYTES = 1 << 24
"""Most bytes of a playlist or of egress' JSON that are read; a playlist of ten hours has some hundred thousand."""
FETCH_SECONDS = 30.0


@dataclass(frozen=True)
class Video:
    """A video by the name that was given: a file's path, or an http(s) address."""

    name: str

    @property
    def is_remote(self) -> bool:
        return urlsplit(self.name).scheme.casefold() in ("http", "https")

    @property
    def is_playlist(self) -> bool:
        return urlsplit(self.name).path.casefold().endswith(".m3u8")

    @property
    def source(self) -> Path | str:
        """What :class:`Recording` opens."""
        return self.name if self.is_remote else Path(self.name)

    def address(self, folder: Path) -> str:
        """Returns its address from a page in ``folder``."""
        return self.name if self.is_remote else page.address(Path(self.name).resolve(), folder)


@dataclass(frozen=True)
class Source:
    """A video, and what the command line says about the lesson's place in it."""

    video: Video
    offset: float | None
    egress_file: Path | None


@dataclass(frozen=True)
class AlignedVideo:
    """A video and where the lesson is in it."""

    video: Video
    alignment: Alignment


def source_of(video: str | None, offset: float | None, egress_file: Path | None) -> Source | None:
    """Checks the options of the command line; None if there is no video.

    Raises:
        InputError: they do not fit together.
    """
    if offset is not None and (egress_file is not None or not math.isfinite(offset)):
        raise InputError("--offset must be a number of seconds, and without --egress")
    if video is not None:
        return Source(Video(video), offset, egress_file)
    if offset is not None or egress_file is not None:
        raise InputError("--offset and --egress say where a video begins: name it with --video")
    return None


def aligned_video(source: Source, lesson: Lesson) -> AlignedVideo:
    """Finds the lesson in its video.

    Raises:
        InputError: the video cannot be used, or contains nothing of the lesson.
        CannotAlign: it is not clear where the lesson is in it.
    """
    video = source.video
    if not video.is_remote and not Path(video.name).is_file():
        state = "is not a file" if Path(video.name).exists() else "does not exist"
        raise InputError(f"--video={video.name} {state}")
    alignment = _aligned(source, lesson)
    if all(alignment.video_time(one.start) is None for one in lesson.utterances):
        raise InputError(
            f"--video={video.name} was recorded at another time than this lesson, according to {alignment.source}"
        )
    return AlignedVideo(video, alignment)


def _aligned(source: Source, lesson: Lesson) -> Alignment:
    """Aligns in the most reliable way available: by --offset, else by egress' times, else by sound."""
    video, egress_file = source.video, source.egress_file
    if source.offset is not None:
        return replace(Alignment.from_offset(source.offset), video_seconds=_video_seconds(video) or math.inf)
    if egress_file is not None:
        egress = _side_file(str(egress_file), False)
        seconds = _video_seconds(video)
        alignment = _by_egress(egress, egress_file.name, lesson, video, seconds)
        return replace(alignment, video_seconds=seconds or alignment.video_seconds)
    if video.is_playlist:
        try:
            return _by_egress(_side_file(video.name, video.is_remote), "the playlist", lesson, video)
        except InputError as without_date:
            tell(f"{without_date}: the lesson is searched by its sound instead")
    return _by_sound(video, lesson)


def _video_seconds(video: Video) -> float:
    """Returns the length of a video on this disk; 0 if it is not known. Its sound is read for it: headers may lie."""
    if video.is_remote or video.is_playlist:
        return 0.0
    with Recording(video.source) as recording:
        metadata, seconds = recording.metadata, recording.length_seconds()
        is_estimate = metadata.duration_seconds is None
        # The picture may be longer than the sound.
        return seconds if is_estimate else max(seconds, metadata.estimated_seconds or 0.0)


def _by_egress(text: str, name: str, lesson: Lesson, video: Video, video_seconds: float = 0.0) -> Alignment:
    try:
        found = recorded_spans(text) if is_playlist(text) else [_recorded(text, lesson, video, video_seconds)]
    except InputError as problem:
        raise InputError(f"{name}: {problem}") from None
    spans = []
    for one in found:
        began = (one.recorded_at - lesson.started_at).total_seconds()
        spans.append(AlignedSpan(TimeMap(one.video - began), began, began + one.seconds))
    return Alignment(tuple(spans), "egress", max(one.video + one.seconds for one in found))


def _recorded(text: str, lesson: Lesson, video: Video, video_seconds: float) -> RecordedSpan:
    """Reads from egress' JSON when the video was recorded, and says which of its files was taken for it."""
    wanted = Wanted(lesson.room, lesson.session, lesson.started_at, lesson.seconds, video.name, video_seconds)
    file = chosen_file(egress_files(text), wanted)
    tell(f"The video is that of {file}")
    return RecordedSpan(0.0, file.started_at, math.inf)


def _side_file(name: str, is_remote: bool) -> str:
    try:
        if is_remote:
            with urllib.request.urlopen(name, timeout=FETCH_SECONDS) as answer:
                data = answer.read(MAX_SIDE_FILE_BYTES)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_SIDE_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return str(data.decode("utf-8-sig", "replace"))


def _by_sound(video: Video, lesson: Lesson) -> Alignment:
    sounds = [
        Sound(one.start, one.end - one.start, loader(one.wav))
        for one in lesson.utterances
        if one.wav is not None
    ]
    if not sounds:
        raise InputError("the lesson has no WAVs to find in the video: say where it begins with --offset")
    with Recording(video.source) as recording:
        length = recording.metadata.estimated_seconds or 0.0
        with progress("Listening to the video", length, "s") as advance:
            try:
                return align(sounds, sound_of(recording, advance))
            except CannotAlign as reason:
                raise CannotAlign(
                    f"{video.name}: {reason}. If it is the right one, use --offset or --egress"
                ) from None


def sound_of(recording: Recording, advance: console.Advance) -> Iterator[Pcm]:
    """Yields the video's sound from player time 0 on, and reports the seconds to ``advance``."""
    for piece in recording.sound():
        advance(len(piece) / SAMPLE_RATE)
        yield piece


def in_video_time(lesson: Lesson, alignment: Alignment) -> Lesson:
    """Returns the lesson with the video time of each utterance."""
    return replace(
        lesson,
        utterances=tuple(replace(one, video=alignment.video_time(one.start)) for one in lesson.utterances),
    )
