"""Finds out which words of the lecture were recorded, by their sound and by the times of the files.

A word is recorded once or twice, lost within a recorded gap, lost outside all gaps, or torn: recorded without a break,
but distorted by the jitter buffer before it reached the recorder.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.soak.lecture import Word
from core.records import SAMPLE_RATE, parse_utc
from devtools import sound
from devtools.room_folders import Record, gaps, manifest, samples

MIN_LOSS_SECONDS = 0.25
"""The smallest loss that can be measured: less cannot be distinguished from other speech (devtools/sound.py)."""
WHOLE_SCORE = 0.75
"""A word that matches this well is recorded as a whole; of any other word the recorded share is measured."""
MAX_DISTANCE_SECONDS = 10.0
"""A marker that is found at most this far from when it was said is that word. The lecture repeats a marker only after
most of a minute."""
MAX_DRIFT_SECONDS = 0.15
"""The rest of a word is searched at most this far from its place: an overloaded jitter buffer is as late."""
BEFORE_SECONDS, AFTER_SECONDS = 0.5, 1.0
"""Around its time a word is searched once more, in pieces: a jitter buffer shifts and stretches speech."""
TORN_SHARE = 0.6
"""A word is torn, not lost, if at least this share of it is found around its time."""
MISDATED_SECONDS = 1.0
"""No jitter buffer delays speech for so long: a word that is farther from its time is in a file with a wrong time."""
BATCH_SECONDS = 120.0
TOUCHING_SECONDS = 0.002
"""Two files with at most this between them have no gap: times are written in milliseconds."""


class Span(NamedTuple):
    """A time span, in seconds since the epoch."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Sound:
    """The sound of one file.

    PCM s16le mono, shape (n,), 16 kHz.
    """

    start: float
    """Seconds since the epoch."""
    pcm: sound.IntArray = field(repr=False)

    @property
    def end(self) -> float:
        return self.start + len(self.pcm) / SAMPLE_RATE


class Found(NamedTuple):
    """A marker that was found in the files."""

    marker: int
    at: float
    """By the files' times, in seconds since the epoch."""
    score: float
    """Normalised correlation, 0 to 1."""


@dataclass(frozen=True)
class WordResult:
    """How much of one word was recorded."""

    word: Word
    received_at: float | None
    """When it begins by the files' times, in seconds since the epoch; None: it was not found."""
    lost_seconds: float = 0.0
    gap_seconds: float = 0.0
    """The part of ``lost_seconds`` that lies within recorded gaps."""
    times: int = 1
    """How often it was found."""
    is_torn: bool = False
    """Recorded without a break, but distorted before it reached the recorder."""

    @property
    def unexplained_seconds(self) -> float:
        """Lost outside all recorded gaps."""
        return self.lost_seconds - self.gap_seconds

    @property
    def is_unexplained(self) -> bool:
        """Whether the unexplained loss is large enough to be measured."""
        return self.unexplained_seconds > MIN_LOSS_SECONDS


@dataclass(frozen=True)
class WordCheck:
    """Which words of a lecture were recorded."""

    results: list[WordResult]
    extras: list[Found]
    """Markers where none was said: words that were recorded twice."""
    misplaced: int
    """Number of words that are found before a word that was said earlier."""
    segments: int
    segment_seconds: float
    gaps: list[Span]
    other_participants: list[str]
    """Identities of participants who were recorded and should not have been."""

    @property
    def spoken_seconds(self) -> float:
        return sum(result.word.seconds for result in self.results)

    @property
    def lost_seconds(self) -> float:
        return sum(result.lost_seconds for result in self.results)

    @property
    def saved_seconds(self) -> float:
        return self.spoken_seconds - self.lost_seconds

    @property
    def unexplained(self) -> list[WordResult]:
        return [result for result in self.results if result.is_unexplained]

    @property
    def doubled_seconds(self) -> float:
        more = sum((result.times - 1) * result.word.seconds for result in self.results)
        length = {result.word.marker: result.word.seconds for result in self.results}
        return more + sum(length.get(extra.marker, 1.0) for extra in self.extras)

    @property
    def torn(self) -> list[WordResult]:
        return [result for result in self.results if result.is_torn]

    @property
    def misdated(self) -> list[WordResult]:
        return [
            result
            for result in self.results
            if result.received_at is not None
            and abs(result.received_at - result.word.start) > MISDATED_SECONDS
        ]

    @property
    def is_good(self) -> bool:
        """Nothing lost outside gaps, nothing twice, everything in order and at its time, nobody else recorded."""
        wrong = (
            self.unexplained
            or self.doubled_seconds
            or self.misplaced
            or self.misdated
            or self.other_participants
        )
        return not wrong

    def offsets(self) -> list[tuple[float, float]]:
        """For each word when it was said, in seconds since the epoch, and its delay by the files' times, in seconds."""
        return [
            (result.word.start, result.received_at - result.word.start)
            for result in self.results
            if result.received_at is not None and result.word.is_timed and result.times == 1
        ]


def check_recordings(
    said: Sequence[Word], room_dir: Path, teacher: str, until: float | None = None, *, without_sid: str = ""
) -> WordCheck:
    """Searches all files of the room's folder for the words. ``until``: what was said later does not count.
    ``without_sid``: the sid of an earlier session, whose files are not searched."""
    records = [record for record in manifest(room_dir) if record["room_sid"] != without_sid]
    sounds = sorted(_sounds(records, room_dir), key=lambda one: one.start)
    gap_spans = _gap_spans(room_dir)
    found = [one for one in find_words(sounds, sound.markers()) if until is None or one.at < until]
    return compare(
        said,
        sounds,
        found,
        gap_spans,
        segments=len(records),
        other_participants=sorted({str(record["participant_identity"]) for record in records} - {teacher}),
    )


def compare(
    said: Sequence[Word],
    sounds: Sequence[Sound],
    heard: Sequence[Found],
    gap_spans: Sequence[Span],
    *,
    segments: int = 0,
    other_participants: Sequence[str] = (),
) -> WordCheck:
    """Compares the markers that were found, in the order of the files, with the words that were said."""
    markers = sound.markers()
    found = [_word_of(said, one) for one in heard]
    places: dict[int, list[Found]] = defaultdict(list)
    for index, one in zip(found, heard, strict=True):
        if index is not None:
            places[index].append(one)
    delay = _delay(said, places)
    local_delays = _local_delays(said, places, delay)
    order = [index for index in found if index is not None]
    return WordCheck(
        [
            _word_result(word, places[index], sounds, gap_spans, markers, delay, local_delays[index])
            for index, word in enumerate(said)
        ],
        [one for index, one in zip(found, heard, strict=True) if index is None],
        sum(after < before for before, after in zip(order, order[1:], strict=False)),
        segments,
        sum(len(one.pcm) for one in sounds) / SAMPLE_RATE,
        list(gap_spans),
        list(other_participants),
    )


# --- finding markers ---


def find_words(sounds: Sequence[Sound], markers: Sequence[sound.Marker]) -> list[Found]:
    """Every marker in the files, in their order. A word that is split between two touching files is found once."""
    return [one for batch in _batches(sounds) for one in _find_in_batch(batch, markers)]


def _find_in_batch(batch: Sequence[Sound], markers: Sequence[sound.Marker]) -> list[Found]:
    recording = np.concatenate([one.pcm for one in batch])
    begins = np.cumsum([0, *(len(one.pcm) for one in batch[:-1])])
    places = sorted(
        (place, marker.index)
        for marker, found in zip(markers, sound.find_markers(recording, markers), strict=True)
        for place in found
    )
    lengths = {marker.index: marker.pcm.size for marker in markers}
    heard = []
    for place, index in places:
        # Its middle tells the file: of a word that is cut off, the start would lie in the file before.
        file = max(0, bisect_right(begins, place.start_sample + lengths[index] // 2) - 1)
        at = batch[file].start + (place.start_sample - int(begins[file])) / SAMPLE_RATE
        heard.append(Found(index, at, place.score))
    return heard


def _batches(sounds: Sequence[Sound]) -> Iterator[list[Sound]]:
    """Groups of files of a few minutes: what is transformed at once must fit into memory."""
    batch: list[Sound] = []
    for one in sounds:
        meets = batch and abs(one.start - batch[-1].end) < TOUCHING_SECONDS
        if not meets and sum(len(part.pcm) for part in batch) > BATCH_SECONDS * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


# --- one word ---


def _word_of(said: Sequence[Word], heard: Found) -> int | None:
    """The index of the word that was found: the nearest one with this marker."""
    first = bisect_right(said, heard.at - MAX_DISTANCE_SECONDS, key=lambda word: word.start)
    last = bisect_right(said, heard.at + MAX_DISTANCE_SECONDS, key=lambda word: word.start)
    alike = [index for index in range(first, last) if said[index].marker == heard.marker]
    return min(alike, key=lambda index: abs(said[index].start - heard.at), default=None)


def _delay(said: Sequence[Word], places: dict[int, list[Found]]) -> float:
    """The median delay of the words by the files' times, in seconds."""
    found = [heard[0].at - said[index].start for index, heard in places.items()]
    return float(np.median(found)) if found else 0.0


def _local_delays(said: Sequence[Word], places: dict[int, list[Found]], usual: float) -> list[Span]:
    """The delay around each word: that of the whole words before and after it, in seconds.

    An overloaded machine is late by half a second for minutes.
    """
    late = {
        index: heard[0].at - said[index].start
        for index, heard in places.items()
        if heard[0].score >= WHOLE_SCORE
    }
    before, after = _filled(late, range(len(said)), usual), _filled(late, range(len(said))[::-1], usual)
    return [Span(min(pair), max(pair)) for pair in zip(before, after[::-1], strict=True)]


def _filled(known: dict[int, float], indices: range, first: float) -> list[float]:
    """The value of each index, or of the last index before it that has one."""
    values = [first]
    for index in indices:
        values.append(known.get(index, values[-1]))
    return values[1:]


def _word_result(
    word: Word,
    places: Sequence[Found],
    sounds: Sequence[Sound],
    gap_spans: Sequence[Span],
    markers: Sequence[sound.Marker],
    delay: float,
    local_delay: Span,
) -> WordResult:
    if places and places[0].score >= WHOLE_SCORE:
        return WordResult(word, places[0].at, times=len(places))
    here = Span(word.start + delay, word.end + delay)
    recording = _between(sounds, Span(here.start - BEFORE_SECONDS, here.end + AFTER_SECONDS))
    marker = markers[word.marker]
    covered = _covered(sounds, here)
    missing = here.seconds - sum(part.seconds for part in covered)
    missing = missing if missing >= TOUCHING_SECONDS else 0.0
    heard_seconds = max(
        word.seconds * sound.partly_heard(recording, marker),
        _heard_in_place(sounds, word, local_delay, [Span(0, word.seconds)], marker),
        _heard_in_place(sounds, word, local_delay, covered, marker),
    )
    is_stretched = not missing and bool(sound.heard(recording, [marker]))
    lost = 0.0 if is_stretched else word.seconds - heard_seconds
    is_torn = not missing and lost > MIN_LOSS_SECONDS and sound.share_heard(recording, marker) >= TORN_SHARE
    if is_torn or lost <= missing + MIN_LOSS_SECONDS:
        lost = missing  # the files' times are more precise than the search by sound
    return WordResult(
        word,
        places[0].at if places else None,
        lost,
        min(lost, sum(_overlap(here, gap) for gap in gap_spans)),
        times=max(1, len(places)),
        is_torn=is_torn,
    )


def _between(sounds: Sequence[Sound], window: Span) -> sound.IntArray:
    """The recorded sound within ``window``."""
    parts = [np.zeros(0, np.int16)]
    for one in _around(sounds, window):
        begin = max(0, round((window.start - one.start) * SAMPLE_RATE))
        parts.append(one.pcm[begin : max(begin, round((window.end - one.start) * SAMPLE_RATE))])
    return np.concatenate(parts)


def _covered(sounds: Sequence[Sound], word: Span) -> list[Span]:
    """The parts of a word that the files cover, in seconds since its start; files that touch are one."""
    parts: list[Span] = []
    for one in _around(sounds, word):
        part = Span(max(0.0, one.start - word.start), min(word.end, one.end) - word.start)
        if parts and part.start < parts[-1].end + TOUCHING_SECONDS:
            parts[-1] = Span(parts[-1].start, max(parts[-1].end, part.end))
        elif part.seconds > 0:
            parts.append(part)
    return parts


def _heard_in_place(
    sounds: Sequence[Sound], word: Word, delay: Span, parts: Sequence[Span], marker: sound.Marker
) -> float:
    """How many seconds of these parts of the word are found at their own time."""
    drift = round((MAX_DRIFT_SECONDS + delay.seconds / 2) * SAMPLE_RATE)
    start = word.start + (delay.start + delay.end) / 2
    timeline = np.zeros(round(word.seconds * SAMPLE_RATE) + 2 * drift, np.int16)
    for one in _around(sounds, Span(start, start + len(timeline) / SAMPLE_RATE)):
        at = round((one.start - start) * SAMPLE_RATE) + drift
        part = one.pcm[max(0, -at) :][: max(0, len(timeline) - max(0, at))]
        timeline[max(0, at) : max(0, at) + len(part)] = part
    samples_heard = 0
    for span in parts:
        place = drift + round(span.start * SAMPLE_RATE)
        samples_heard += sound.heard_in_place(timeline, _samples_of(marker, span), place, drift)
    return samples_heard / SAMPLE_RATE


def _samples_of(marker: sound.Marker, part: Span) -> sound.IntArray:
    return marker.pcm[round(part.start * SAMPLE_RATE) : round(part.end * SAMPLE_RATE)]


def _around(sounds: Sequence[Sound], window: Span) -> Iterator[Sound]:
    """The files that may lie within the window. Eight of them overlap at most: several recorders at a hand-over."""
    first = max(0, bisect_right(sounds, window.start, key=lambda one: one.start) - 8)
    for one in sounds[first:]:
        if one.start >= window.end:
            return
        yield one


def _overlap(one: Span, other: Span) -> float:
    return max(0.0, min(one.end, other.end) - max(one.start, other.start))


# --- the room's folder ---


def _sounds(records: Iterable[Record], room_dir: Path) -> Iterator[Sound]:
    for record in records:
        yield Sound(parse_utc(record["start"]).timestamp(), samples(room_dir / record["file"]))


def _gap_spans(room_dir: Path) -> list[Span]:
    """The recorded gaps; overlapping ones are merged."""
    spans = sorted(
        Span(parse_utc(gap["start"]).timestamp(), parse_utc(gap["end"]).timestamp()) for gap in gaps(room_dir)
    )
    merged: list[Span] = []
    for span in spans:
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged
