"""Both recipes process the same labelled speech offline: how much is lost, saved twice or saved needlessly, and how
long the files are.

Three conditions: short recordings that are cut off in the middle of a sentence; sentences with pauses under 0.2 s;
ordinary speech with pauses of 0.3 to 2.5 s. The speech is synthetic (`devtools/speech/`), so its sentences begin and
end at known samples; with `--speech FOLDER`, your own recordings are measured as well; in them loud parts count as
speech. Every run uses another recording.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks import corpus, offline
from benchmarks.corpus import RATE, Labelled, Utterance
from benchmarks.figures import Figure, Options, Outcome

NAME = "speech"

LOST_PERCENT = 0.5
MIN_SECONDS, MAX_SECONDS = 2.0, 10.0
WITHIN_PERCENT = 95.0

Recipe = Callable[[offline.Pcm], list[offline.Saved]]


@dataclass(frozen=True)
class Condition:
    """A way of speaking. ``make`` makes recordings of about this many seconds from a seed."""

    name: str
    make: Callable[[list[Utterance], int, float], list[Labelled]]
    ends_by_itself: bool = True
    is_ordinary: bool = False


CONDITIONS = (
    Condition(
        "cut off at the end",
        lambda spoken, seed, seconds: corpus.cut_off(spoken, seed, max(4, round(seconds / 6))),
        ends_by_itself=False,
    ),
    Condition(
        "pauses under 0.2 s",
        lambda spoken, seed, seconds: [
            corpus.recording(spoken, seed, seconds, lambda random: random.uniform(0.05, 0.19))
        ],
    ),
    Condition(
        "ordinary speech",
        lambda spoken, seed, seconds: [
            corpus.recording(spoken, seed, seconds, lambda random: random.uniform(0.3, 2.5))
        ],
        is_ordinary=True,
    ),
)


@dataclass(frozen=True)
class Score:
    """The result of a recipe on some recordings."""

    lost_percent: float
    """Of the labelled speech."""
    doubled_seconds: float
    silence_seconds: float
    """Saved, though nobody speaks."""
    within_percent: float
    """Of the files: 2 to 10 s long."""
    longest_seconds: float


def measure(options: Options) -> Outcome:
    corpora = {"": corpus.shipped()}
    if options.speech is not None:
        corpora[f", {options.speech.name}"] = corpus.from_folder(options.speech)
    figures = []
    for suffix, spoken in corpora.items():
        for condition in CONDITIONS:
            options.say(f"  {condition.name}{suffix} ...")
            figures += _figures(condition, suffix, *_scores(condition, spoken, options))
    return Outcome(NAME, figures)


def _scores(
    condition: Condition, spoken: list[Utterance], options: Options
) -> tuple[list[Score], list[Score]]:
    """Ours and stock, run by run."""
    seconds = 20.0 if options.quick else 180.0
    runs = [condition.make(spoken, seed, seconds) for seed in range(options.runs)]
    return [score(run, offline.ours) for run in runs], [score(run, offline.stock) for run in runs]


def score(recordings: Sequence[Labelled], recipe: Recipe) -> Score:
    lost = speech = doubled = silence = 0
    lengths: list[float] = []
    for one in recordings:
        saved = recipe(one.pcm)
        times = np.zeros(one.pcm.size, np.int16)
        for start, end in saved:
            times[start:end] += 1
        speech += int(one.labels.sum())
        lost += int((one.labels & (times == 0)).sum())
        doubled += int((times > 1).sum())
        silence += int((~one.labels & (times > 0)).sum())
        lengths += [(end - start) / RATE for start, end in saved]
    within = [MIN_SECONDS <= length <= MAX_SECONDS for length in lengths]
    return Score(
        lost_percent=100 * lost / speech,
        doubled_seconds=doubled / RATE,
        silence_seconds=silence / RATE,
        within_percent=100 * sum(within) / len(within) if within else 0.0,
        longest_seconds=max(lengths, default=0.0),
    )


def _figures(condition: Condition, suffix: str, ours: list[Score], stock: list[Score]) -> list[Figure]:
    def figure(what: str, unit: str, field: str) -> Figure:
        name = f"{condition.name}{suffix}: {what}"
        return Figure(name, unit, _each(ours, field), _each(stock, field), digits=2, judged_by_worst=True)

    silence = figure("silence saved", "s", "silence_seconds")
    within = figure("files of 2 to 10 s", "%", "within_percent")
    return [
        replace(figure("speech lost", "%", "lost_percent"), at_most=LOST_PERCENT),
        replace(figure("doubled", "s", "doubled_seconds"), at_most=0),
        replace(silence, ratio_at_most=1) if condition.is_ordinary else silence,
        # A recording of three seconds that ends suddenly always leaves a short file.
        replace(within, at_least=WITHIN_PERCENT) if condition.ends_by_itself else within,
        replace(figure("longest file", "s", "longest_seconds"), at_most=MAX_SECONDS),
    ]


def _each(scores: list[Score], field: str) -> list[float]:
    return [float(getattr(one, field)) for one in scores]
