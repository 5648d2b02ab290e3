"""Where a lesson's segments lie in a video of it, found by their sound.

Both sounds are reduced to the same picture: how loudness changes in some bands of frequency, every 10 ms. That survives
another microphone, another codec, noise, and music underneath. Stretches of the lesson are laid over the whole video
(:func:`_likely_places`); places that agree make straight lines of video time over lesson time, whose slope is the
drift of the two clocks; each segment is then measured near its line, to a few milliseconds. A video with a part cut
out, or with an intermission, gives several lines. What too few segments agree upon is refused, not guessed.

All times are in seconds: of the lesson from its beginning, of the video as a player counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from core.errors import RecorderError
from core.records import SAMPLE_RATE, Pcm

Floats = npt.NDArray[np.float32]
Spectrogram = npt.NDArray[np.float16]
"""Shape (frames, BANDS): compressed energy in each band, ``FRAMES_A_SECOND`` frames a second."""
Changes = npt.NDArray[np.float32]
"""Shape (frames, BANDS): how much louder each band gets."""

FRAMES_A_SECOND = 100
HOP = SAMPLE_RATE // FRAMES_A_SECOND
WINDOW = 512
BANDS = 20
LOWEST_HZ, HIGHEST_HZ = 120.0, 5000.0
"""Telephones and cheap codecs keep most of this."""
COMPRESSION = 0.3
"""Power of the energy that is compared: what is loud counts more, but not alone."""
STEADY_FRAMES = 2
"""Loudness is compared with that so many frames earlier and later; what does not change drops out."""

COARSE = 4
"""Frames that are one when the whole video is searched."""
STRETCHES = 48
STRETCH_SPEECH_SECONDS, STRETCH_SECONDS = 10.0, 40.0
"""A stretch that is searched for has that much speech in at most that much time."""
PLACES = 4
"""Places in the video at which a stretch may be."""
PLACES_APART_SECONDS = 0.5

MIN_CORRELATION = 1e-6
"""Keeps silence from being divided by."""
MAX_DRIFT = 600e-6
"""Seconds a second; 1 s an hour is 280e-6."""
COARSE_TOLERANCE_SECONDS = 0.08
NEARBY_SECONDS = 0.3
"""How far from its line a segment is looked for."""
ALIKE = 0.3
"""Least normalised correlation of a segment with the video at its place."""
AGREEMENT_SECONDS = 0.04
MIN_MEASURED_SECONDS = 0.6
"""A shorter sound resembles too much."""
MAX_MEASURED = 600
"""Segments that are measured; of more, that many evenly over the lesson."""
CUT_SECONDS = 0.25
"""What would begin so shortly before the next part was cut out with the rest."""
MIN_STRETCHES = 2
MIN_SEGMENTS = 3
MIN_SECONDS = 8.0
MIN_SHARE = 0.5
"""Of the segments in a matching part that must agree, and of the common time that must be in matching parts."""


class CannotAlign(RecorderError):
    """The video cannot be lined up with the lesson. The text says why, in one line."""


@dataclass(frozen=True)
class Sound:
    """One segment: when it began, how long it is, and how to get its sound (PCM s16le, shape (n,), 16 kHz)."""

    start: float
    seconds: float
    load: Callable[[], Pcm]

    @property
    def end(self) -> float:
        return self.start + self.seconds


@dataclass(frozen=True)
class TimeMap:
    """Video time as a straight line over lesson time: ``offset + (1 + drift) * lesson time``."""

    offset: float
    drift: float = 0.0

    def at(self, moment: float) -> float:
        return self.offset + (1 + self.drift) * moment


@dataclass(frozen=True)
class AlignedSpan:
    """A part of the lesson that is in the video without interruption."""

    line: TimeMap
    first: float = -math.inf
    last: float = math.inf
    """Lesson times of the first and the last sound that was found."""
    since: float = -math.inf
    until: float = math.inf
    """Lesson times of the nearest sounds before and after it that were looked for there, and not found."""


@dataclass(frozen=True)
class Alignment:
    """How lesson and video belong together, and how that is known."""

    parts: tuple[AlignedSpan, ...]
    """In order of time; more than one if the video was cut or paused."""
    source: str
    """``sound``, ``offset``, or where a start time was read."""
    video_seconds: float = math.inf
    agreeing: int = 0
    measured: int = 0
    """Of this many segments that many agree."""
    residual_seconds: float = 0.0
    """Median distance of the agreeing segments from their line."""

    def video_time(self, moment: float) -> float | None:
        """The video's time of a moment of the lesson; None if it is not in the video."""
        time = self._on_its_line(moment)
        return time if time is not None and 0 <= time <= self.video_seconds else None

    def _on_its_line(self, moment: float) -> float | None:
        earlier = [part for part in self.parts if part.first <= moment]
        later = [part for part in self.parts if part.first > moment]
        before, after = earlier[-1] if earlier else None, later[0] if later else None
        if before is not None:
            time = before.line.at(moment)
            if moment <= before.last or after is None:
                return time
            if moment < before.until and time < after.line.at(after.first) - CUT_SECONDS:
                return time
        if after is not None:
            time = after.line.at(moment)
            if before is None or (moment > after.since and time > before.line.at(before.last)):
                return time
        return None

    @classmethod
    def from_offset(cls, offset: float, source: str = "offset") -> Alignment:
        """The lesson begins ``offset`` seconds into the video (below 0: before it)."""
        return cls((AlignedSpan(TimeMap(offset)),), source)


def align(sounds: Sequence[Sound], video: Iterable[Pcm]) -> Alignment:
    """Finds a lesson in the sound of a video, which comes in pieces (PCM s16le, mono, 16 kHz) from time 0 on.

    Raises:
        CannotAlign: it is not clearly a video of this lesson.
    """
    ordered = sorted(sounds, key=lambda sound: sound.start)
    if sum(sound.seconds for sound in ordered) < MIN_SECONDS:
        raise CannotAlign(f"the lesson has less than {MIN_SECONDS:g} s of sound to find in the video")
    shown = spectrogram(video)
    if len(shown) < MIN_SECONDS * FRAMES_A_SECOND:
        raise CannotAlign(f"the video has less than {MIN_SECONDS:g} s of sound")
    return _match(ordered, shown)


def _match(sounds: Sequence[Sound], video: Spectrogram) -> Alignment:
    video_seconds = len(video) / FRAMES_A_SECOND
    places = _likely_places(sounds, video)
    long = [sound for sound in sounds if sound.seconds >= MIN_MEASURED_SECONDS]
    chosen = long[:: max(1, math.ceil(len(long) / MAX_MEASURED))]
    fits = [_measured(line, chosen, video, span) for line, span in _lines(places)]
    fits = _in_order([fit for fit in fits if fit.is_sure])
    if not fits:
        raise CannotAlign("no part of the lesson is clearly heard in the video")
    share = _share_explained([fit.part for fit in fits], sounds, video_seconds)
    if share < MIN_SHARE:
        raise CannotAlign(f"only {share:.0%} of what video and lesson should have in common is alike")
    return Alignment(
        tuple(fit.part for fit in fits),
        "sound",
        video_seconds,
        agreeing=sum(len(fit.residuals) for fit in fits),
        measured=sum(fit.within for fit in fits),
        residual_seconds=float(np.median(np.abs(np.concatenate([fit.residuals for fit in fits])))),
    )


# --- pictures of sound ---


def _band_edges() -> list[int]:
    """FFT bins between which the bands lie, evenly on the mel scale."""
    low, high = (1127 * math.log1p(hz / 700) for hz in (LOWEST_HZ, HIGHEST_HZ))
    hertz = 700 * np.expm1(np.linspace(low, high, BANDS + 1) / 1127)
    return [int(edge) for edge in np.round(hertz * WINDOW / SAMPLE_RATE)]


_EDGES = _band_edges()
_TAPER = np.hanning(WINDOW).astype(np.float32)


def spectrogram(pieces: Iterable[npt.NDArray[np.int16] | Floats]) -> Spectrogram:
    """The picture of a sound that comes in pieces; what is kept of it takes 4 kB a second."""
    rest, rows = np.zeros(0, np.float32), [np.zeros((0, BANDS), np.float16)]
    for piece in pieces:
        rest = np.concatenate([rest, piece])
        count = (len(rest) - WINDOW) // HOP + 1
        if count >= FRAMES_A_SECOND:
            rows.append(_rows(rest, count))
            rest = rest[count * HOP :]
    if len(rest) >= WINDOW:
        rows.append(_rows(rest, (len(rest) - WINDOW) // HOP + 1))
    return np.concatenate(rows)


def _rows(samples: Floats, count: int) -> npt.NDArray[np.float16]:
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP][:count]
    energy = np.abs(np.fft.rfft(windows * _TAPER, axis=1)) ** 2
    bands = np.add.reduceat(energy[:, : _EDGES[-1]], _EDGES[:-1], axis=1)
    return np.minimum(bands**COMPRESSION, np.finfo(np.float16).max).astype(np.float16)


def _changes(shown: Spectrogram) -> Changes:
    """How each band gets louder or softer; begins and ends ``STEADY_FRAMES`` later and earlier than the picture."""
    wide = shown.astype(np.float32)
    earlier = wide[: max(0, len(wide) - 2 * STEADY_FRAMES)]
    return np.asarray(wide[2 * STEADY_FRAMES :] - earlier, np.float32)


def _coarse(shown: Spectrogram) -> Changes:
    """``COARSE`` frames in one, and how that changes."""
    whole = shown[: len(shown) // COARSE * COARSE]
    thin = whole.reshape(-1, COARSE, BANDS).mean(axis=1, dtype=np.float32)
    changes = np.zeros(thin.shape, np.float32)
    changes[1:-1] = thin[2:] - thin[:-2]
    return changes


# --- the whole video: where may a stretch of the lesson be? ---


@dataclass(frozen=True)
class _Place:
    """A place in the video that resembles a stretch of the lesson."""

    stretch: int
    moment: float
    """Lesson time of the stretch's middle."""
    span: tuple[float, float]
    """Lesson time of the stretch and of its neighbours."""
    shift: float
    """Video time minus lesson time."""
    score: float


def _likely_places(sounds: Sequence[Sound], video: Spectrogram) -> list[_Place]:
    search = _Search(_coarse(video))
    stretches = _stretches(sounds)
    places = []
    for number, stretch in enumerate(stretches):
        start, shown, filled = _mixed(stretch)
        middle, span = (start + stretch[-1].end) / 2, _about(stretches, number, sounds)
        places += [
            _Place(number, middle, span, at - start, score)
            for at, score in search.best(_coarse(shown), filled)
        ]
    return places


def _about(stretches: Sequence[Sequence[Sound]], number: int, sounds: Sequence[Sound]) -> tuple[float, float]:
    """From the stretch before one to the one behind it: what belongs to it may reach so far."""
    before = stretches[max(0, number - 1)]
    behind = stretches[number + 1] if number + 1 < len(stretches) else sounds
    return before[0].start, behind[-1].end


def _stretches(sounds: Sequence[Sound]) -> list[list[Sound]]:
    """Neighbours that together are long enough to be unlike anything else, evenly over the lesson."""
    found = []
    for begin in range(0, len(sounds), math.ceil(len(sounds) / STRETCHES)):
        stretch = [sounds[begin]]
        for sound in sounds[begin + 1 :]:
            too_long = sound.end - stretch[0].start > STRETCH_SECONDS
            if too_long or sum(one.seconds for one in stretch) >= STRETCH_SPEECH_SECONDS:
                break
            stretch.append(sound)
        found.append(stretch)
    return found


def _mixed(stretch: Sequence[Sound]) -> tuple[float, Spectrogram, npt.NDArray[np.bool_]]:
    """When a stretch begins, its picture, and which coarse frames of it are known (there is speech)."""
    start = stretch[0].start
    length = round((max(sound.end for sound in stretch) - start) * SAMPLE_RATE) + WINDOW
    mix, known = np.zeros(length, np.float32), np.zeros(length, np.bool_)
    for sound in stretch:
        at = round((sound.start - start) * SAMPLE_RATE)
        pcm = sound.load()[: length - at]
        mix[at : at + len(pcm)] += pcm
        known[at : at + len(pcm)] = True
    shown = spectrogram([mix])
    frames = known[: len(shown) * HOP].reshape(-1, HOP)[:, 0]
    coarse = frames[: len(frames) // COARSE * COARSE].reshape(-1, COARSE).min(axis=1)
    return start, shown, np.asarray(coarse, np.bool_)


class _Search:
    """A video that many stretches are laid over: its spectra are computed once."""

    def __init__(self, video: Changes) -> None:
        self._frames = len(video)
        self._longest = round((STRETCH_SECONDS + 60) * FRAMES_A_SECOND / COARSE)
        self._size = 1 << (len(video) + 2 * self._longest).bit_length()
        self._bands = [self._spectrum(band) for band in video.T]
        self._energy = self._spectrum((video**2).sum(axis=1))

    def _spectrum(self, values: Floats) -> npt.NDArray[np.complex64]:
        return np.fft.rfft(values, self._size).astype(np.complex64)

    def best(self, wanted: Changes, known: npt.NDArray[np.bool_]) -> Iterator[tuple[float, float]]:
        """Where in the video (seconds) it may begin, also before its start, and the normalised correlation there."""
        wanted = wanted[: self._longest] * known[: self._longest, None]
        likeness = self._correlated(self._products(wanted))
        local = self._correlated(
            self._energy * np.conj(self._spectrum(known[: self._longest].astype(np.float32)))
        )
        own = float((wanted**2).sum())
        # Where less than half of it could lie in the video, the little that does may resemble it by chance.
        least = max(0.25 * float(np.median(local[self._longest :])), MIN_CORRELATION)
        scores = np.asarray(
            likeness / np.sqrt(np.maximum(local, least) * max(own, MIN_CORRELATION)), np.float32
        )
        apart = round(PLACES_APART_SECONDS * FRAMES_A_SECOND / COARSE)
        for _ in range(PLACES):
            peak = int(np.argmax(scores))
            shift = _summit(scores, peak)
            yield (peak + shift - self._longest) * COARSE / FRAMES_A_SECOND, float(scores[peak])
            scores[max(0, peak - apart) : peak + apart + 1] = -1

    def _products(self, wanted: Changes) -> npt.NDArray[np.complex64]:
        total = np.zeros_like(self._energy)
        for of_video, band in zip(self._bands, wanted.T, strict=True):
            total += of_video * np.conj(self._spectrum(band))
        return total

    def _correlated(self, spectrum: npt.NDArray[np.complex64]) -> Floats:
        """From ``-longest`` frames on, so that what began before the video is found, too."""
        values = np.roll(np.fft.irfft(spectrum, self._size), self._longest)
        return values[: self._longest + self._frames].astype(np.float32)


def _summit(values: Floats, peak: int) -> float:
    """Where between the frames the summit at ``peak`` lies, -0.5 to 0.5, by a parabola."""
    if not 0 < peak < len(values) - 1:
        return 0.0
    before, at, after = (float(value) for value in values[peak - 1 : peak + 2])
    bend = before - 2 * at + after
    return 0.0 if bend >= 0 else max(-0.5, min(0.5, 0.5 * (before - after) / bend))


# --- lines through places that agree ---


def _lines(places: Sequence[_Place]) -> list[tuple[TimeMap, tuple[float, float]]]:
    """Lines on which places of several stretches lie, best first, each with the lesson time it covers."""
    rest, lines = list(places), []
    while len(rest) >= MIN_STRETCHES:
        agreeing = _largest_agreement(rest)
        if len({place.stretch for place in agreeing}) < min(
            MIN_STRETCHES, len({place.stretch for place in places})
        ):
            break
        line = _fitted([place.moment for place in agreeing], [place.shift for place in agreeing])
        span = min(place.span[0] for place in agreeing), max(place.span[1] for place in agreeing)
        lines.append((line, span))
        done = {place.stretch for place in agreeing}
        rest = [place for place in rest if place.stretch not in done]
    return lines


def _largest_agreement(places: Sequence[_Place]) -> list[_Place]:
    """The places on the line that has most score: lines through any two are tried."""
    moments = np.array([place.moment for place in places])
    shifts = np.array([place.shift for place in places])
    scores = np.array([place.score for place in places])
    best, most = np.zeros(len(places), np.bool_), -math.inf
    for one in range(len(places)):
        apart = moments - moments[one]
        with np.errstate(divide="ignore", invalid="ignore"):
            drifts = np.where(apart != 0, (shifts - shifts[one]) / apart, 0.0)
        drifts[one] = 0.0
        for drift in np.unique(drifts[np.abs(drifts) <= MAX_DRIFT]):
            near = np.abs(shifts - shifts[one] - drift * apart) <= COARSE_TOLERANCE_SECONDS
            score = float(scores[near].sum())
            if score > most:
                best, most = near, score
    return [place for place, is_near in zip(places, best, strict=True) if is_near]


def _fitted(moments: Sequence[float], shifts: Sequence[float]) -> TimeMap:
    """The line through most of the points (Theil-Sen: medians, so that a few wrong ones do not bend it)."""
    x, y = np.array(moments), np.array(shifts)
    one, two = np.triu_indices(len(x), 1)
    apart = x[two] - x[one]
    far = apart >= max(float(np.ptp(x)) / 3, 1.0)
    drift = float(np.median((y[two] - y[one])[far] / apart[far])) if far.any() else 0.0
    drift = max(-MAX_DRIFT, min(MAX_DRIFT, drift))
    return TimeMap(float(np.median(y - drift * x)), drift)


# --- each segment near its line ---


@dataclass(frozen=True)
class _Fit:
    """A line measured anew by the segments that lie on it."""

    part: AlignedSpan
    residuals: npt.NDArray[np.float64] = field(repr=False)
    seconds: float
    """Sound that agrees."""
    within: int
    """Segments in the part, agreeing or not."""

    @property
    def is_sure(self) -> bool:
        agreeing = len(self.residuals)
        enough = agreeing >= MIN_SEGMENTS and self.seconds >= MIN_SECONDS
        return enough and agreeing >= MIN_SHARE * self.within


def _measured(line: TimeMap, sounds: Sequence[Sound], video: Spectrogram, span: tuple[float, float]) -> _Fit:
    """The line through the lags of single segments, in and about the time that the coarse search has found."""
    near = [
        sound for sound in sounds if span[0] - STRETCH_SECONDS <= sound.start <= span[1] + STRETCH_SECONDS
    ]
    shifts = [_offset(sound, line, video) for sound in near]
    found = [(sound, shift) for sound, shift in zip(near, shifts, strict=True) if shift is not None]
    for _ in range(2):
        if found:
            line = _fitted([sound.start for sound, _ in found], [shift for _, shift in found])
        found = [
            (sound, shift) for sound, shift in found if abs(_off(line, sound, shift)) <= AGREEMENT_SECONDS
        ]
    agreeing = {sound.start for sound, _ in found}
    run = _densest([sound.start in agreeing for sound in near])
    within = near[run]
    first, last = (within[0].start, within[-1].end) if within else (0.0, 0.0)
    since = near[run.start - 1].start if run.start > 0 else -math.inf
    until = near[run.stop].start if run.stop < len(near) else math.inf
    found = [(sound, shift) for sound, shift in found if first <= sound.start <= last]
    return _Fit(
        AlignedSpan(line, first, last, since, until),
        np.array([_off(line, sound, shift) for sound, shift in found]),
        sum(sound.seconds for sound, _ in found),
        len(within),
    )


def _densest(agree: Sequence[bool]) -> slice:
    """The run in which those that agree outnumber the others the most: one far off that agrees by chance is no part."""
    best, most = slice(0, 0), 0
    begin, total = 0, 0
    for number, does in enumerate(agree):
        if total <= 0:
            begin, total = number, 0
        total += 1 if does else -1
        if total > most:
            best, most = slice(begin, number + 1), total
    return best


def _off(line: TimeMap, sound: Sound, shift: float) -> float:
    return sound.start + shift - line.at(sound.start)


def _offset(sound: Sound, line: TimeMap, video: Spectrogram) -> float | None:
    """Video time minus lesson time of one segment, None if it is not heard near its line."""
    wanted = _changes(spectrogram([sound.load()]))
    reach = round(NEARBY_SECONDS * FRAMES_A_SECOND)
    begin = round(line.at(sound.start) * FRAMES_A_SECOND) - reach
    heard = _changes(video[max(begin, 0) : begin + len(wanted) + 2 * STEADY_FRAMES + 2 * reach])
    is_inside = begin >= 0 and len(heard) == len(wanted) + 2 * reach
    if not is_inside or len(wanted) < FRAMES_A_SECOND // 2:  # or its WAV is gone or damaged
        return None
    scores = _likeness(wanted, heard)
    peak = int(np.argmax(scores))
    if scores[peak] < ALIKE:
        return None
    return (begin + peak + _summit(scores, peak)) / FRAMES_A_SECOND - sound.start


def _likeness(wanted: Changes, heard: Changes) -> Floats:
    """Normalised correlation at every place of ``wanted`` in ``heard``."""
    windows = np.lib.stride_tricks.sliding_window_view(heard, len(wanted), axis=0)
    products = np.einsum("lbt,tb->l", windows, wanted, optimize=True)
    energy = np.einsum("lbt,lbt->l", windows, windows, optimize=True)
    scores = products / np.sqrt(
        np.maximum(energy, MIN_CORRELATION) * max(float((wanted**2).sum()), MIN_CORRELATION)
    )
    return np.asarray(scores, np.float32)


# --- what belongs together, and whether that is enough ---


def _in_order(fits: list[_Fit]) -> list[_Fit]:
    """The parts in order of time, the surest first to claim theirs: neither lesson nor video runs backwards."""
    kept: list[_Fit] = []
    for fit in sorted(fits, key=lambda fit: -fit.seconds):
        if all(_apart(fit.part, other.part) for other in kept):
            kept.append(fit)
    return sorted(kept, key=lambda fit: fit.part.first)


def _apart(one: AlignedSpan, other: AlignedSpan) -> bool:
    before, after = (one, other) if one.first < other.first else (other, one)
    return before.last <= after.first and before.line.at(before.last) <= after.line.at(after.first) + 1.0


def _share_explained(parts: Sequence[AlignedSpan], sounds: Sequence[Sound], video_seconds: float) -> float:
    """Of the time that lesson and video should have in common, the share that lies in matching parts."""
    explained = sum(part.last - part.first for part in parts)
    first, last = parts[0], parts[-1]
    unexplained = max(0.0, min(first.first - sounds[0].start, first.line.at(first.first)))
    unexplained += max(0.0, min(sounds[-1].end - last.last, video_seconds - last.line.at(last.last)))
    for before, after in zip(parts, parts[1:], strict=False):
        in_video = after.line.at(after.first) - before.line.at(before.last)
        unexplained += max(0.0, min(after.first - before.last, in_video))
    return explained / max(explained + unexplained, 1e-9)
