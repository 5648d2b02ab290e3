"""What the speech detector misses: at the beginning of a stream, of a quiet voice, in noise, and after an hour.

"Model alone" is Silero without what the recorder adds (priming, renewal after long silence, a steady level), with the
probabilities 0.4 to begin speech and 0.2 to continue. Both feed the recorder's segmenter. "dB" is the level of the
whole recording, noise included; at 0 dB a voice has -21 dBFS. With "voice ... dB" only the voice is quieter. Cut in
mid-speech: the recording begins at a random place in speech; counted is what is lost of the next four seconds and is
not lost without the cut. The speech is synthetic, and its sentences begin and end at known samples; with
`--speech FOLDER`, your own recordings are measured as well, and in them loud parts count as speech.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from livekit.local_inference import VAD

from audio_processor import SegmenterOptions
from benchmarks import corpus, offline
from benchmarks.corpus import RATE, Labelled, Labels, Pcm, Random, Utterance
from benchmarks.figures import Figure, Options, Outcome
from benchmarks.noises import NOISES
from recording.speech_detector import DetectorFactory, NativeDetector

NAME = "detector"

LEVELS_DB = {0: 0.35, -9: 0.35, -20: 0.8, -26: None, -32: None}
"""Levels of the whole recording, each with the percentage of speech that may be lost."""
QUIET_VOICE_DB = -12
"""Level of the voice alone, in noise."""
CUTS = 1000
"""In all runs together."""
CUT_SECONDS = 4
CUT_PERCENT = 0.2
CUT_SILENCE_RATIO = 1.05
SILENCE_RATIO = 1.1
HOUR_SECONDS = 3600
LAST_SECONDS = 600
OTHER = "model alone"


class ModelAlone:
    """Silero without priming, renewal and gain."""

    def __init__(self) -> None:
        self._vad = VAD()

    def probability(self, window: Pcm) -> float:
        return self._vad.predict(window)


@dataclass(frozen=True)
class Recipe:
    new_detector: DetectorFactory
    options: SegmenterOptions

    def saved(self, pcm: Pcm) -> Labels:
        """Which samples are saved."""
        saved = np.zeros(pcm.size, np.bool_)
        for segment in offline.segments(pcm, self.new_detector(), self.options):
            saved[segment.start_sample : segment.end_sample] = True
        return saved


OURS = Recipe(NativeDetector, SegmenterOptions())
ALONE = Recipe(ModelAlone, SegmenterOptions(start_probability=0.4, end_probability=0.2))
RECIPES = (OURS, ALONE)


def measure(options: Options) -> Outcome:
    spoken = {"": corpus.shipped()}
    if options.speech is not None:
        spoken[f", {options.speech.name}"] = corpus.from_folder(options.speech)
    figures: list[Figure] = []
    for suffix, utterances in spoken.items():
        for measured in (_levels, _noises, _cuts, _hour):
            options.say(f"  {measured.__name__.strip('_')}{suffix} ...")
            figures += [
                replace(figure, what=figure.what + suffix) for figure in measured(utterances, options)
            ]
    return Outcome(NAME, figures)


def _levels(spoken: list[Utterance], options: Options) -> list[Figure]:
    figures = []
    for level, at_most in LEVELS_DB.items():
        recordings = [_attenuated(one, level) for one in _recordings(spoken, options)]
        lost, silence = _lost_and_silence(f"{level} dB", recordings)
        figures += [replace(lost, at_most=at_most), replace(silence, ratio_at_most=SILENCE_RATIO)]
    return figures


def _noises(spoken: list[Utterance], options: Options) -> list[Figure]:
    figures = []
    for name in NOISES:
        for level in (0, QUIET_VOICE_DB):
            recordings = _recordings(spoken, options, name, level)
            figures += _lost_and_silence(f"{name}, voice {level} dB", recordings)
    return figures


@dataclass(frozen=True)
class AfterCuts:
    """What happens in the seconds after cuts: speech lost beyond the uncut recording, and silence saved.

    After a cut both recipes save more silence than without it, as the segmenter waits longer after a short segment.
    """

    lost_percent: float
    silence_seconds: float


def _cuts(spoken: list[Utterance], options: Options) -> list[Figure]:
    count = 20 if options.quick else -(-CUTS // options.runs)
    recordings = _recordings(spoken, options)
    ours, alone = (
        [_after_cuts(recipe, one, count, seed) for seed, one in enumerate(recordings)] for recipe in RECIPES
    )
    lost = Figure(
        "cut in mid-speech: speech lost",
        "%",
        [run.lost_percent for run in ours],
        [run.lost_percent for run in alone],
        OTHER,
        digits=2,
        at_most=CUT_PERCENT,
    )
    silence = Figure(
        "cut in mid-speech: silence saved",
        "s",
        [run.silence_seconds for run in ours],
        [run.silence_seconds for run in alone],
        OTHER,
        ratio_at_most=CUT_SILENCE_RATIO,
    )
    return [lost, silence]


def _after_cuts(recipe: Recipe, whole: Labelled, count: int, seed: int) -> AfterCuts:
    random = np.random.default_rng(seed)
    uncut = recipe.saved(whole.pcm)
    length = CUT_SECONDS * RATE
    lost = speech = silence = 0
    for cut in random.choice(np.flatnonzero(whole.labels[: -3 * length]), count):
        after = slice(cut, cut + length)
        labels = whole.labels[after]
        saved = recipe.saved(whole.pcm[cut : cut + 2 * length])[:length]
        speech += int(labels.sum())
        lost += int((labels & uncut[after] & ~saved).sum())
        silence += int((~labels & saved).sum())
    return AfterCuts(100 * lost / speech, silence / RATE)


def _hour(spoken: list[Utterance], options: Options) -> list[Figure]:
    seconds = 60.0 if options.quick else HOUR_SECONDS
    one = _noisy(spoken, 0, seconds, "a fan", 0)
    last = slice(-int(min(LAST_SECONDS, seconds / 2) * RATE), None)
    lost = [_percent(one.labels[last] & ~recipe.saved(one.pcm)[last], one.labels[last]) for recipe in RECIPES]
    name = f"a fan, the end of {seconds / 60:.0f} minutes: speech lost"
    return [Figure(name, "%", lost[:1], lost[1:], OTHER, digits=2, at_most=LEVELS_DB[0])]


def _lost_and_silence(name: str, recordings: Sequence[Labelled]) -> list[Figure]:
    lost: list[list[float]] = []
    silence: list[list[float]] = []
    for recipe in RECIPES:
        saved = [recipe.saved(one.pcm) for one in recordings]
        lost.append(
            [_percent(one.labels & ~kept, one.labels) for one, kept in zip(recordings, saved, strict=True)]
        )
        silence.append(
            [float((~one.labels & kept).sum()) / RATE for one, kept in zip(recordings, saved, strict=True)]
        )
    return [
        Figure(f"{name}: speech lost", "%", lost[0], lost[1], OTHER, digits=2),
        Figure(f"{name}: silence saved", "s", silence[0], silence[1], OTHER, digits=1),
    ]


def _percent(some: Labels, of: Labels) -> float:
    return 100 * int(some.sum()) / int(of.sum())


def _recordings(
    spoken: list[Utterance], options: Options, noise: str = "a quiet room", voice_db: float = 0
) -> list[Labelled]:
    seconds = 20.0 if options.quick else 300.0
    return [_noisy(spoken, seed, seconds, noise, voice_db) for seed in range(options.runs)]


def _noisy(spoken: list[Utterance], seed: int, seconds: float, noise: str, voice_db: float) -> Labelled:
    """Utterances with pauses of 0.3 to 2.5 s, now and then of up to 20 s, in noise."""
    bare = corpus.recording(spoken, seed, seconds, _pause, noise=0)
    random = np.random.default_rng(seed)
    heard = bare.pcm * 10 ** (voice_db / 20) + NOISES[noise](random, bare.pcm.size, spoken)
    return Labelled(corpus.clipped(heard), bare.labels)


def _pause(random: Random) -> float:
    return float(random.uniform(5, 20) if random.random() < 0.1 else random.uniform(0.3, 2.5))


def _attenuated(one: Labelled, level_db: float) -> Labelled:
    return Labelled(corpus.clipped(one.pcm * 10 ** (level_db / 20)), one.labels)
