"""Fits time maps (straight lines of video time over lesson time) to the places that agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lesson_tools.export.alignment import TimeMap
from lesson_tools.export.place_search import Place

MAX_DRIFT = 600e-6
"""Largest difference between the two clocks, in seconds a second; 1 s an hour is 280e-6."""
COARSE_TOLERANCE_SECONDS = 0.08
MIN_STRETCHES = 2


def time_maps(places: Sequence[Place]) -> list[tuple[TimeMap, tuple[float, float]]]:
    """Finds time maps that places of several stretches agree on, best first, each with the lesson time it covers."""
    rest, lines = list(places), []
    while len(rest) >= MIN_STRETCHES:
        agreeing = _largest_agreement(rest)
        if len({place.stretch for place in agreeing}) < min(
            MIN_STRETCHES, len({place.stretch for place in places})
        ):
            break
        line = fitted([place.moment for place in agreeing], [place.shift for place in agreeing])
        span = min(place.span[0] for place in agreeing), max(place.span[1] for place in agreeing)
        lines.append((line, span))
        done = {place.stretch for place in agreeing}
        rest = [place for place in rest if place.stretch not in done]
    return lines


def _largest_agreement(places: Sequence[Place]) -> list[Place]:
    """Returns the places on the line with the highest total score. Lines through each pair of places are tried."""
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


def fitted(moments: Sequence[float], shifts: Sequence[float]) -> TimeMap:
    """Fits a line to the points by Theil-Sen: its medians are not moved by a few wrong points."""
    x, y = np.array(moments), np.array(shifts)
    one, two = np.triu_indices(len(x), 1)
    apart = x[two] - x[one]
    far = apart >= max(float(np.ptp(x)) / 3, 1.0)
    drift = float(np.median((y[two] - y[one])[far] / apart[far])) if far.any() else 0.0
    drift = max(-MAX_DRIFT, min(MAX_DRIFT, drift))
    return TimeMap(float(np.median(y - drift * x)), drift)
