"""How many calls may be made a minute and a day: counted in the outbox's file, for all workers that share it."""

from __future__ import annotations

import time

from archive.outbox_file import OutboxFile

MINUTE_SECONDS, HOUR_SECONDS, DAY_SECONDS = 60, 3_600, 86_400


def spend(file: OutboxFile, kind: str, per_minute: int, per_day: int) -> float:
    """Takes one unit of the budget, within a transaction. A limit of 0 means no limit.

    Returns 0 if it was taken, otherwise the seconds until one may be free.
    """
    now = time.time()
    # What is far in the future was counted before the clock was set back.
    file.run(
        "DELETE FROM spent WHERE second <= ? OR second > ?", int(now) - DAY_SECONDS, int(now) + HOUR_SECONDS
    )
    for limit, seconds in ((per_day, DAY_SECONDS), (per_minute, MINUTE_SECONDS)):
        wait = _seconds_until_free(file, kind, limit, seconds, now) if limit else 0.0
        if wait:
            return wait
    file.run(
        "INSERT INTO spent VALUES (?, ?, 1) ON CONFLICT (kind, second) DO UPDATE SET units = units + 1",
        kind,
        int(now),
    )
    return 0.0


def _seconds_until_free(file: OutboxFile, kind: str, limit: int, seconds: int, now: float) -> float:
    row = file.one(
        "SELECT COALESCE(SUM(units), 0), MIN(second) FROM spent WHERE kind = ? AND second > ?",
        kind,
        int(now) - seconds,
    )
    if row is None or row[0] < limit:
        return 0.0
    return max(0.05, float(row[1]) + seconds + 1 - now)
