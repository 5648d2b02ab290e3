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
    rest, maps = list(places), []
    while len(rest) >= MIN_STRETCHES:
        agreeing = _largest_agreement(rest)
        if len({place.stretch for place in agreeing}) < min(
            MIN_STRETCHES, len({place.stretch for place in places})
        ):
            break
        time_map = fitted([place.moment for place in agreeing], [place.offset for place in agreeing])
        period = min(place.period[0] for place in agreeing), max(place.period[1] for place in agreeing)
        maps.append((time_map, period))
        done = {place.stretch for place in agreeing}
        rest = [place for place in rest if place.stretch not in done]
    return maps


def _largest_agreement(places: Sequence[Place]) -> list[Place]:
    """Returns the places on the line with the highest total score. Lines through each pair of places are tried."""
    moments = np.array([place.moment for place in places])
    offsets = np.array([place.offset for place in places])
    scores = np.array([place.score for place in places])
    best, most = np.zeros(len(places), np.bool_), -math.inf
    for one in range(len(places)):
        apart = moments - moments[one]
        with np.errstate(divide="ignore", invalid="ignore"):
            drifts = np.where(apart != 0, (offsets - offsets[one]) / apart, 0.0)
        drifts[one] = 0.0
        for drift in np.unique(drifts[np.abs(drifts) <= MAX_DRIFT]):
            near = np.abs(offsets - offsets[one] - drift * apart) <= COARSE_TOLERANCE_SECONDS
            score = float(scores[near].sum())
            if score > most:
                best, most = near, score
    return [place for place, is_near in zip(places, best, strict=True) if is_near]


def fitted(moments: Sequence[float], offsets: Sequence[float]) -> TimeMap:
    """Fits a line to the points by Theil-Sen: its medians are not moved by a few wrong points."""
    x, y = np.array(moments), np.array(offsets)
    one, two = np.triu_indices(len(x), 1)
    apart = x[two] - x[one]
    far = apart >= max(float(np.ptp(x)) / 3, 1.0)
    drift = float(np.median((y[two] - y[one])[far] / apart[far])) if far.any() else 0.0
    drift = max(-MAX_DRIFT, min(MAX_DRIFT, drift))
    return TimeMap(float(np.median(y - drift * x)), drift)
