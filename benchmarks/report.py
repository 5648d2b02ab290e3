"""Writes docs/benchmarks.md from the results of the benchmarks."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from types import ModuleType

from benchmarks.figures import Outcome, markdown_table

INTRODUCTION = """\
# Benchmarks

Written by `python dev.py bench` from a run; do not edit. Measured on {cores} cores, {system}, Python {python}, with \
livekit-agents {agents}, livekit {rtc}, livekit-plugins-silero {silero}.

"Stock" is the recipe that the framework's documentation leads to (`benchmarks/stock_agent.py`):
`silero.VAD.load().stream()`, the audio of every `END_OF_SPEECH` into a WAV, default options, two idle processes. Both
record the same speech on the same livekit-server, on one machine with the speakers. The tables show the median of the
runs, or the worst where they say so; the ratio is the median of the ratios within each run. {targets}
"""


def document(benchmarks: Mapping[str, ModuleType], outcomes: Sequence[Outcome]) -> str:
    """Makes the whole page from one outcome per benchmark."""
    sections = [_introduction(outcomes)]
    for outcome in outcomes:
        about = (benchmarks[outcome.benchmark].__doc__ or "").strip()
        sections.append(f"## {outcome.benchmark}\n\n{about}\n\n{markdown_table(outcome.figures)}\n")
        sections += [f"{note}\n" for note in outcome.notes]
    return "\n".join(sections)


def _introduction(outcomes: Sequence[Outcome]) -> str:
    return INTRODUCTION.format(
        cores=os.cpu_count(),
        system=platform.system(),
        python=".".join(platform.python_version_tuple()[:2]),
        agents=version("livekit-agents"),
        rtc=version("livekit"),
        silero=version("livekit-plugins-silero"),
        targets=_targets(outcomes),
    )


def _targets(outcomes: Sequence[Outcome]) -> str:
    judged = [figure for outcome in outcomes for figure in outcome.figures if figure.passed is not None]
    misses = [figure.what for figure in judged if not figure.passed]
    met = f"{len(judged) - len(misses)} of {len(judged)} targets are met"
    return f"{met}; missed: {'; '.join(misses)}." if misses else f"{met}."
