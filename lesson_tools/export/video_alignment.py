"""Finds where a lesson's segments lie in a video of it, by their sound.

1. Both sounds become spectrograms: how loudness changes in some bands of frequency (:mod:`.spectrogram`).
2. Stretches of the lesson are searched for in the whole video (:mod:`.place_search`).
3. Places that agree give time maps, whose slope is the drift between the two clocks (:mod:`.time_maps`). A video with a
   part cut out, or with an intermission, gives several.
4. Each segment is measured near its time map, to a few milliseconds. If too few agree, the video is refused.

All times are in seconds: of the lesson from its beginning, of the video as a player counts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from core.records import Pcm
from lesson_tools.export.alignment import AlignedSpan, Alignment, CannotAlign, Sound, TimeMap
from lesson_tools.export.place_search import STRETCH_SECONDS, likely_places
from lesson_tools.export.spectrogram import (
    FRAMES_A_SECOND,
    STEADY_FRAMES,
    Changes,
    Spectrogram,
    changes,
    correlation,
    peak_offset,
    spectrogram,
)
from lesson_tools.export.time_maps import fitted, time_maps

NEARBY_SECONDS = 0.3
"""How far from its time map a segment is searched for."""
MIN_SEGMENT_CORRELATION = 0.3
"""Lowest normalised correlation at which a segment counts as found."""
AGREEMENT_SECONDS = 0.04
MIN_MEASURED_SECONDS = 0.6
"""Shorter segments are not measured: too much else resembles them."""
MAX_MEASURED = 600
"""Of a lesson with more segments, this many are measured, evenly over the lesson."""
MIN_SEGMENTS = 3
MIN_SECONDS = 8.0
MIN_SHARE = 0.5
"""Share of the segments in a span that must agree, and share of the common time that must lie in spans."""


def align(sounds: Sequence[Sound], video: Iterable[Pcm]) -> Alignment:
    """Finds a lesson in the sound of a video, which comes in pieces (PCM s16le, mono, 16 kHz) from time 0 on.

    Raises:
        CannotAlign: it is not clearly a video of this lesson.
    """
    ordered = sorted(sounds, key=lambda sound: sound.start)
    if sum(sound.seconds for sound in ordered) < MIN_SECONDS:
        raise CannotAlign(f"the lesson has less than {MIN_SECONDS:g} s of sound to find in the video")
    spectra = spectrogram(video)
    if len(spectra) < MIN_SECONDS * FRAMES_A_SECOND:
        raise CannotAlign(f"the video has less than {MIN_SECONDS:g} s of sound")
    return _match(ordered, spectra)


def _match(sounds: Sequence[Sound], video: Spectrogram) -> Alignment:
    video_seconds = len(video) / FRAMES_A_SECOND
    places = likely_places(sounds, video)
    long = [sound for sound in sounds if sound.seconds >= MIN_MEASURED_SECONDS]
    chosen = long[:: max(1, math.ceil(len(long) / MAX_MEASURED))]
    of_sound = functools.cache(_changes)  # each segment is searched for with several time maps
    fits = [_measured(time_map, chosen, of_sound, video, period) for time_map, period in time_maps(places)]
    fits = _in_order([fit for fit in fits if fit.is_sure])
    if not fits:
        raise CannotAlign("no part of the lesson is clearly heard in the video")
    share = _share_explained([fit.span for fit in fits], sounds, video_seconds)
    if share < MIN_SHARE:
        raise CannotAlign(f"only {share:.0%} of what video and lesson should have in common is alike")
    return Alignment(
        tuple(fit.span for fit in fits),
        "sound",
        video_seconds,
        agreeing=sum(len(fit.residuals) for fit in fits),
        measured=sum(fit.within for fit in fits),
        residual_seconds=float(np.median(np.abs(np.concatenate([fit.residuals for fit in fits])))),
    )


@dataclass(frozen=True)
class _Fit:
    """A time map measured again with single segments."""

    span: AlignedSpan
    residuals: npt.NDArray[np.float64] = field(repr=False)
    seconds: float
    """Total length of the segments that agree."""
    within: int
    """Segments in the span, agreeing or not."""

    @property
    def is_sure(self) -> bool:
        agreeing = len(self.residuals)
        enough = agreeing >= MIN_SEGMENTS and self.seconds >= MIN_SECONDS
        return enough and agreeing >= MIN_SHARE * self.within


def _changes(sound: Sound) -> Changes:
    return changes(spectrogram([sound.load()]))


def _measured(
    time_map: TimeMap,
    sounds: Sequence[Sound],
    of_sound: Callable[[Sound], Changes],
    video: Spectrogram,
    period: tuple[float, float],
) -> _Fit:
    """Fits a time map to single segments, in and around the lesson time that the coarse search has found."""
    near = [
        sound for sound in sounds if period[0] - STRETCH_SECONDS <= sound.start <= period[1] + STRETCH_SECONDS
    ]
    offsets = [_offset(sound, of_sound(sound), time_map, video) for sound in near]
    found = [(sound, offset) for sound, offset in zip(near, offsets, strict=True) if offset is not None]
    for _ in range(2):
        if found:
            time_map = fitted([sound.start for sound, _ in found], [offset for _, offset in found])
        found = [
            (sound, offset)
            for sound, offset in found
            if abs(_residual(time_map, sound, offset)) <= AGREEMENT_SECONDS
        ]
    agreeing = {sound.start for sound, _ in found}
    run = _densest([sound.start in agreeing for sound in near])
    within = near[run]
    first, last = (within[0].start, within[-1].end) if within else (0.0, 0.0)
    since = near[run.start - 1].start if run.start > 0 else -math.inf
    until = near[run.stop].start if run.stop < len(near) else math.inf
    found = [(sound, offset) for sound, offset in found if first <= sound.start <= last]
    return _Fit(
        AlignedSpan(time_map, first, last, since, until),
        np.array([_residual(time_map, sound, offset) for sound, offset in found]),
        sum(sound.seconds for sound, _ in found),
        len(within),
    )


def _densest(agree: Sequence[bool]) -> slice:
    """Returns the run in which agreeing segments outnumber the others most; a distant chance match stays out."""
    best, most = slice(0, 0), 0
    begin, total = 0, 0
    for number, does in enumerate(agree):
        if total <= 0:
            begin, total = number, 0
        total += 1 if does else -1
        if total > most:
            best, most = slice(begin, number + 1), total
    return best


def _residual(time_map: TimeMap, sound: Sound, offset: float) -> float:
    return sound.start + offset - time_map.at(sound.start)


def _offset(sound: Sound, wanted: Changes, time_map: TimeMap, video: Spectrogram) -> float | None:
    """Measures video time minus lesson time of one segment; None if it is not found near its time map."""
    reach = round(NEARBY_SECONDS * FRAMES_A_SECOND)
    begin = round(time_map.at(sound.start) * FRAMES_A_SECOND) - reach
    searched = changes(video[max(begin, 0) : begin + len(wanted) + 2 * STEADY_FRAMES + 2 * reach])
    is_inside = begin >= 0 and len(searched) == len(wanted) + 2 * reach
    if not is_inside or len(wanted) < FRAMES_A_SECOND // 2:  # or its WAV is gone or damaged
        return None
    scores = correlation(wanted, searched)
    peak = int(np.argmax(scores))
    if scores[peak] < MIN_SEGMENT_CORRELATION:
        return None
    return (begin + peak + peak_offset(scores, peak)) / FRAMES_A_SECOND - sound.start


def _in_order(fits: list[_Fit]) -> list[_Fit]:
    """Keeps spans that do not contradict a longer one (neither lesson nor video runs backwards); in order of time."""
    kept: list[_Fit] = []
    for fit in sorted(fits, key=lambda fit: -fit.seconds):
        if all(_apart(fit.span, other.span) for other in kept):
            kept.append(fit)
    return sorted(kept, key=lambda fit: fit.span.first)


def _apart(one: AlignedSpan, other: AlignedSpan) -> bool:
    before, after = (one, other) if one.first < other.first else (other, one)
    return (
        before.last <= after.first and before.time_map.at(before.last) <= after.time_map.at(after.first) + 1.0
    )


def _share_explained(spans: Sequence[AlignedSpan], sounds: Sequence[Sound], video_seconds: float) -> float:
    """Computes which share of the time that lesson and video should have in common lies in aligned spans."""
    explained = sum(span.last - span.first for span in spans)
    first, last = spans[0], spans[-1]
    unexplained = max(0.0, min(first.first - sounds[0].start, first.time_map.at(first.first)))
    unexplained += max(0.0, min(sounds[-1].end - last.last, video_seconds - last.time_map.at(last.last)))
    for before, after in zip(spans, spans[1:], strict=False):
        in_video = after.time_map.at(after.first) - before.time_map.at(before.last)
        unexplained += max(0.0, min(after.first - before.last, in_video))
    return explained / max(explained + unexplained, 1e-9)
