"""CPU time (user and system) of the worker and everything it starts, while teachers lecture in real time: for one room
and for ten, in CPU seconds per hour of one room. 3600 would be a whole core for each room.

"Receive only" is a worker that receives frames of the same length and rate as ours and drops them
(`benchmarks/receive_agent.py`). All figures include what a worker uses without any room.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import Figure, Options, Outcome
from benchmarks.loads import MANY, Session, sessions, window_seconds
from benchmarks.recipes import OURS, RECEIVE_ONLY, STOCK_UNLIMITED

NAME = "cpu"

STOCK_RATIO = 1 / 3
RECEIVE_RATIO = 1.3
MAX_CORES = 0.5
UNIT = "CPU s per room-hour"


def measure(options: Options) -> Outcome:
    found = sessions(options)
    ours, stock, receive = found[OURS.name], found[STOCK_UNLIMITED.name], found[RECEIVE_ONLY.name]
    figures = []
    for what, per_room in (("one room", _one), (f"{MANY} rooms", _many)):
        figures += [
            Figure(what, UNIT, per_room(ours), per_room(stock), digits=0, ratio_at_most=STOCK_RATIO),
            Figure(
                what,
                UNIT,
                per_room(ours),
                per_room(receive),
                RECEIVE_ONLY.name,
                digits=0,
                ratio_at_most=RECEIVE_RATIO,
            ),
        ]
    figures.append(Figure(f"{MANY} rooms", "cores", _cores(ours), _cores(stock), digits=2, at_most=MAX_CORES))
    loads = [load for listed in found.values() for session in listed for load in (session.one, session.many)]
    others = max(load.others_cores for load in loads)
    note = f"Windows of {window_seconds(options):.0f} s; in any of them, others used at most {others:.0%} of a core."
    return Outcome(NAME, figures, [note])


def _one(found: Sequence[Session]) -> list[float]:
    return [session.one.cpu_seconds_per_hour for session in found]


def _many(found: Sequence[Session]) -> list[float]:
    return [session.many.cpu_seconds_per_hour / session.many.rooms for session in found]


def _cores(found: Sequence[Session]) -> list[float]:
    return [session.many.cores for session in found]
