"""Measures the recorder against the stock recipe: python dev.py bench [names] [--runs N] [--quick | --full].

Without names it runs all benchmarks. Figures are stored in benchmarks/results, and docs/benchmarks.md is written from
them as soon as every benchmark has been run. A missed target is a result like any other: the exit code is 0 unless a
benchmark failed.
"""

from __future__ import annotations

import argparse
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType

from benchmarks import (
    age,
    bell,
    captions,
    cores,
    cpu,
    delivery,
    detector,
    disk,
    fleet,
    joins,
    latency,
    lessons,
    memory,
    report,
    speech,
    text,
    vad,
    video,
)
from benchmarks.figures import Options, Outcome, table
from core.logs import end_at_once
from devtools.go_programs import BuildFailed
from devtools.livekit_server import ServerUnavailable
from devtools.worker import WorkerFailed

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "benchmarks.md"

BENCHMARKS: dict[str, ModuleType] = {
    module.NAME: module
    for module in (
        speech,
        detector,
        disk,
        delivery,
        vad,
        joins,
        latency,
        text,
        captions,
        lessons,
        video,
        age,
        cpu,
        memory,
        bell,
        cores,
    )
}
ON_REQUEST: dict[str, ModuleType] = {fleet.NAME: fleet}
"""Run only if named: it does not compare with the stock recipe, and takes ten minutes."""
KNOWN = {**BENCHMARKS, **ON_REQUEST}


def main() -> int:
    names, options = _options()
    signal.signal(signal.SIGTERM, _interrupt)
    logging.getLogger("livekit").setLevel(logging.ERROR)
    try:
        outcomes = [_measured_and_kept(name, options) for name in names]
    except KeyboardInterrupt:
        _say("Stopped.")
        return 130
    except (ServerUnavailable, BuildFailed, WorkerFailed, RuntimeError, OSError, TimeoutError) as error:
        _say(f"A benchmark failed: {error}")
        return 1
    _show(outcomes)
    if not options.quick:
        _write_document()
    return 0


def _options() -> tuple[list[str], Options]:
    parser = argparse.ArgumentParser(
        prog="python dev.py bench", description="Measures the recorder against the stock recipe."
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"which: {', '.join(KNOWN)} (all but {', '.join(ON_REQUEST)})",
    )
    parser.add_argument("--runs", type=int, default=3, help="how often everything is measured (3)")
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds each, only to check that it works"
    )
    parser.add_argument("--full", action="store_true", help="200 rooms, 20 runs of ten rooms, longer windows")
    parser.add_argument(
        "--speech",
        type=Path,
        metavar="FOLDER",
        help="measure `speech` and `detector` on your recordings, too",
    )
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in KNOWN]
    if unknown or given.runs < 1:
        parser.error(f"unknown: {', '.join(unknown)}" if unknown else "--runs must be at least 1")
    options = Options(
        runs=1 if given.quick else given.runs,
        quick=given.quick,
        full=given.full,
        speech=given.speech,
        say=_say,
    )
    return given.names or list(BENCHMARKS), options


def _measured_and_kept(name: str, options: Options) -> Outcome:
    outcome = _measured(name, options)
    if not options.quick:
        outcome.save(RESULTS)
    return outcome


def _measured(name: str, options: Options) -> Outcome:
    _say(f"{name} ...")
    began = time.monotonic()
    measure: Callable[[Options], Outcome] = KNOWN[name].measure
    outcome = measure(options)
    _say(f"  done in {time.monotonic() - began:.0f} s")
    return outcome


def _show(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        _say(f"\n{outcome.benchmark}\n{table(outcome.figures)}")
        for note in outcome.notes:
            _say(note)
    figures = [figure for outcome in outcomes for figure in outcome.figures if figure.passed is not None]
    misses = [figure.what for figure in figures if not figure.passed]
    _say(f"\n{len(figures) - len(misses)} of {len(figures)} targets met.")
    for what in misses:
        _say(f"  MISS {what}")


def _write_document() -> None:
    known = [Outcome.load(RESULTS, name) for name in BENCHMARKS]
    complete = [outcome for outcome in known if outcome is not None]
    missing = [name for name, outcome in zip(BENCHMARKS, known, strict=True) if outcome is None]
    if missing:
        _say(f"docs/benchmarks.md is not written until these have been run, too: {', '.join(missing)}.")
        return
    DOCUMENT.write_text(report.document(BENCHMARKS, complete), encoding="utf-8", newline="\n")
    _say("docs/benchmarks.md is written.")


def _say(line: str) -> None:
    print(line, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    end_at_once(main())
