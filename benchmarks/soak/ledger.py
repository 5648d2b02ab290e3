"""What became of every word: heard once, torn on its way, lost, owned up to, or there twice. By its sound, and by the
times of the files."""

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

EAR_SECONDS = 0.25
"""What is missing of a word is measured no finer: less than this cannot be told from other speech
(devtools/sound.py)."""
WHOLE = 0.75
"""A word whose sound is so like what was said is all there; of others it is measured how much is."""
SAME_SECONDS = 10.0
"""A marker heard so near to when it was said is that word; it is said again only after most of a minute."""
LATE_SECONDS = 0.15
"""What is left of a word is looked for so near to its place: an overloaded jitter buffer is late by as much."""
BEFORE_SECONDS, AFTER_SECONDS = 0.5, 1.0
"""Around its time a word is looked for once more, in pieces: a jitter buffer shifts and stretches speech."""
TORN = 0.6
"""Of a word that was said at least so much is heard somewhere in its time, however a jitter buffer tore it apart."""
MISDATED_SECONDS = 1.0
"""No jitter buffer holds speech back for so long: a word farther from its time is in a file with a wrong date."""
BATCH_SECONDS = 120.0
MET_SECONDS = 0.002
"""Two files that meet: times are written in milliseconds."""


class Span(NamedTuple):
    """A time on the wall, in seconds since the epoch."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Sound:
    """One file, when it begins, and its sound."""

    start: float
    pcm: sound.IntArray = field(repr=False)

    @property
    def end(self) -> float:
        return self.start + len(self.pcm) / SAMPLE_RATE


class Heard(NamedTuple):
    """A marker in the files."""

    marker: int
    at: float
    """By the files' times, in seconds since the epoch."""
    score: float


@dataclass(frozen=True)
class Fate:
    """What became of one word."""

    word: Word
    received_at: float | None
    """None: not as a whole."""
    lost_seconds: float = 0.0
    owned_seconds: float = 0.0
    """Of those, what lies within gaps."""
    times: int = 1
    """How often it is there."""
    is_torn: bool = False
    """Saved without a break, and mangled before it reached the recorder."""

    @property
    def unowned_seconds(self) -> float:
        """Lost without a word about it."""
        return self.lost_seconds - self.owned_seconds

    @property
    def is_unowned(self) -> bool:
        """Whether so much of it is that it can be told from what the ear, or Silero, makes of a torn word's rest."""
        return self.unowned_seconds > EAR_SECONDS


@dataclass(frozen=True)
class Ledger:
    """The account of a lecture."""

    fates: list[Fate]
    strays: list[Heard]
    """Markers where none was said: words that are there twice."""
    misplaced: int
    """Words that stand before one that was said earlier."""
    segments: int
    segment_seconds: float
    gaps: list[Span]
    strangers: list[str]
    """Participants who should not have been recorded and were."""

    @property
    def spoken_seconds(self) -> float:
        return sum(fate.word.seconds for fate in self.fates)

    @property
    def lost_seconds(self) -> float:
        return sum(fate.lost_seconds for fate in self.fates)

    @property
    def saved_seconds(self) -> float:
        return self.spoken_seconds - self.lost_seconds

    @property
    def unowned(self) -> list[Fate]:
        return [fate for fate in self.fates if fate.is_unowned]

    @property
    def doubled_seconds(self) -> float:
        more = sum((fate.times - 1) * fate.word.seconds for fate in self.fates)
        length = {fate.word.marker: fate.word.seconds for fate in self.fates}
        return more + sum(length.get(stray.marker, 1.0) for stray in self.strays)

    @property
    def torn(self) -> list[Fate]:
        return [fate for fate in self.fates if fate.is_torn]

    @property
    def misdated(self) -> list[Fate]:
        return [
            fate
            for fate in self.fates
            if fate.received_at is not None and abs(fate.received_at - fate.word.start) > MISDATED_SECONDS
        ]

    @property
    def is_kept(self) -> bool:
        """Nothing lost without a word about it, nothing twice, all in order and at its time, nobody else."""
        wrong = self.unowned or self.doubled_seconds or self.misplaced or self.misdated or self.strangers
        return not wrong

    def offsets(self) -> list[tuple[float, float]]:
        """When a word was said, and how much later the files say it was; both in seconds."""
        return [
            (fate.word.start, fate.received_at - fate.word.start)
            for fate in self.fates
            if fate.received_at is not None and fate.word.is_timed and fate.times == 1
        ]


def draw_up(said: Sequence[Word], room_dir: Path, teacher: str, until: float | None = None) -> Ledger:
    """Listens to everything in the room's folder. ``until``: what was said later does not count."""
    records = manifest(room_dir)
    sounds = sorted(_sounds(records, room_dir), key=lambda one: one.start)
    owned = _owned(room_dir)
    heard = [one for one in listen(sounds, sound.markers()) if until is None or one.at < until]
    return reckon(
        said,
        sounds,
        heard,
        owned,
        segments=len(records),
        strangers=sorted({str(record["participant_identity"]) for record in records} - {teacher}),
    )


def reckon(
    said: Sequence[Word],
    sounds: Sequence[Sound],
    heard: Sequence[Heard],
    owned: Sequence[Span],
    *,
    segments: int = 0,
    strangers: Sequence[str] = (),
) -> Ledger:
    """Sets what was heard, in the order of the files, against what was said."""
    markers = sound.markers()
    found = [_word_of(said, one) for one in heard]
    places: dict[int, list[Heard]] = defaultdict(list)
    for index, one in zip(found, heard, strict=True):
        if index is not None:
            places[index].append(one)
    late = _lateness(said, places)
    late_here = _local_lateness(said, places, late)
    order = [index for index in found if index is not None]
    return Ledger(
        [
            _fate(word, places[index], sounds, owned, markers, late, late_here[index])
            for index, word in enumerate(said)
        ],
        [one for index, one in zip(found, heard, strict=True) if index is None],
        sum(after < before for before, after in zip(order, order[1:], strict=False)),
        segments,
        sum(len(one.pcm) for one in sounds) / SAMPLE_RATE,
        list(owned),
        list(strangers),
    )


# --- listening ---


def listen(sounds: Sequence[Sound], markers: Sequence[sound.Marker]) -> list[Heard]:
    """Every marker in the files, in their order. A word that a cut goes through is one: there two files meet."""
    return [one for batch in _batches(sounds) for one in _listen(batch, markers)]


def _listen(batch: Sequence[Sound], markers: Sequence[sound.Marker]) -> list[Heard]:
    recording = np.concatenate([one.pcm for one in batch])
    begins = np.cumsum([0, *(len(one.pcm) for one in batch[:-1])])
    places = sorted(
        (place, marker.index)
        for marker, found in zip(markers, sound.find_markers(recording, markers), strict=True)
        for place in found
    )
    heard = []
    for place, index in places:
        file = max(0, bisect_right(begins, place.start_sample) - 1)
        at = batch[file].start + (place.start_sample - int(begins[file])) / SAMPLE_RATE
        heard.append(Heard(index, at, place.score))
    return heard


def _batches(sounds: Sequence[Sound]) -> Iterator[list[Sound]]:
    """A few minutes each: what is transformed at once has to fit into memory."""
    batch: list[Sound] = []
    for one in sounds:
        meets = batch and abs(one.start - batch[-1].end) < MET_SECONDS
        if not meets and sum(len(part.pcm) for part in batch) > BATCH_SECONDS * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


# --- one word ---


def _word_of(said: Sequence[Word], heard: Heard) -> int | None:
    """Which word this is: the nearest of this marker."""
    first = bisect_right(said, heard.at - SAME_SECONDS, key=lambda word: word.start)
    last = bisect_right(said, heard.at + SAME_SECONDS, key=lambda word: word.start)
    alike = [index for index in range(first, last) if said[index].marker == heard.marker]
    return min(alike, key=lambda index: abs(said[index].start - heard.at), default=None)


def _lateness(said: Sequence[Word], places: dict[int, list[Heard]]) -> float:
    """Seconds from when a word was said to when the files say it was."""
    found = [heard[0].at - said[index].start for index, heard in places.items()]
    return float(np.median(found)) if found else 0.0


def _local_lateness(said: Sequence[Word], places: dict[int, list[Heard]], usual: float) -> list[Span]:
    """The same around each word: how late the whole words before and behind it are. An overloaded machine is late by
    half a second for minutes."""
    late = {
        index: heard[0].at - said[index].start for index, heard in places.items() if heard[0].score >= WHOLE
    }
    before, behind = _filled(late, range(len(said)), usual), _filled(late, range(len(said))[::-1], usual)
    return [Span(min(pair), max(pair)) for pair in zip(before, behind[::-1], strict=True)]


def _filled(known: dict[int, float], indices: range, first: float) -> list[float]:
    """The value of each index, or of the last one before it that has any."""
    values = [first]
    for index in indices:
        values.append(known.get(index, values[-1]))
    return values[1:]


def _fate(
    word: Word,
    places: Sequence[Heard],
    sounds: Sequence[Sound],
    owned: Sequence[Span],
    markers: Sequence[sound.Marker],
    late: float,
    late_here: Span,
) -> Fate:
    if places and places[0].score >= WHOLE:
        return Fate(word, places[0].at, times=len(places))
    here = Span(word.start + late, word.end + late)
    recording, covered = _between(sounds, Span(here.start - BEFORE_SECONDS, here.end + AFTER_SECONDS), here)
    marker = markers[word.marker]
    missing = here.seconds - covered
    is_covered = missing < MET_SECONDS
    is_stretched = is_covered and bool(sound.heard(recording, [marker]))
    share = max(sound.partly_heard(recording, marker), _share_in_place(sounds, word, late_here, marker))
    lost = 0.0 if is_stretched else word.seconds * (1 - share)
    if not is_covered and lost <= missing + EAR_SECONDS:
        lost = missing  # the files' times are finer than the ear
    is_torn = is_covered and lost > EAR_SECONDS and sound.share_heard(recording, marker) >= TORN
    if is_torn or (is_covered and lost <= EAR_SECONDS):
        lost = 0.0
    return Fate(
        word,
        places[0].at if places else None,
        lost,
        min(lost, sum(_overlap(here, gap) for gap in owned)),
        times=max(1, len(places)),
        is_torn=is_torn,
    )


def _between(sounds: Sequence[Sound], window: Span, word: Span) -> tuple[sound.IntArray, float]:
    """The sound of a time, and how many seconds of the word's own time there are files of."""
    first = max(0, bisect_right(sounds, window.start, key=lambda one: one.start) - 8)
    parts = [np.zeros(0, np.int16)]
    covered, reached = 0.0, word.start
    for one in sounds[first:]:
        if one.start >= window.end:
            break
        begin = max(0, round((window.start - one.start) * SAMPLE_RATE))
        parts.append(one.pcm[begin : max(begin, round((window.end - one.start) * SAMPLE_RATE))])
        new = Span(max(reached, one.start), min(word.end, one.end))
        if new.seconds > 0:
            covered, reached = covered + new.seconds, new.end
    return np.concatenate(parts), covered


def _share_in_place(sounds: Sequence[Sound], word: Word, late: Span, marker: sound.Marker) -> float:
    """How much of the word is heard when it should be, at both sides of a hole."""
    drift = round((LATE_SECONDS + late.seconds / 2) * SAMPLE_RATE)
    start = word.start + (late.start + late.end) / 2
    timeline = np.zeros(round(word.seconds * SAMPLE_RATE) + 2 * drift, np.int16)
    first = max(0, bisect_right(sounds, start, key=lambda one: one.start) - 8)
    for one in sounds[first:]:
        at = round((one.start - start) * SAMPLE_RATE) + drift
        if at >= len(timeline):
            break
        part = one.pcm[max(0, -at) :][: len(timeline) - max(0, at)]
        timeline[max(0, at) : max(0, at) + len(part)] = part
    return sound.share_in_place(timeline, marker, drift, drift)


def _overlap(one: Span, other: Span) -> float:
    return max(0.0, min(one.end, other.end) - max(one.start, other.start))


# --- what is in the folder ---


def _sounds(records: Iterable[Record], room_dir: Path) -> Iterator[Sound]:
    for record in records:
        yield Sound(parse_utc(record["start"]).timestamp(), samples(room_dir / record["file"]))


def _owned(room_dir: Path) -> list[Span]:
    """The gaps, those that overlap as one."""
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
