"""Runs the recorder, and records when it recognised the end of each sentence.

Writes one JSON object to the file in SENTENCE_TIMES when the worker ends: seconds since the epoch, by the id of the
caption that the sentence will have.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import agent
from audio_processor import Closed, Update
from core.records import StreamClock
from recording.caption_order import milliseconds
from recording.track_sink import TrackSink

times: dict[str, float] = {}
take = TrackSink.take


def timed_take(self: TrackSink, update: Update, clock: StreamClock) -> None:
    if isinstance(update, Closed):
        start = milliseconds(clock.at(update.segment.start_sample))
        times[f"{self._track.track_sid}-{start}"] = time.time()
    take(self, update, clock)


TrackSink.take = timed_take  # type: ignore[method-assign]


if __name__ == "__main__":
    code = agent.main(sys.argv[1:])
    Path(os.environ["SENTENCE_TIMES"]).write_text(json.dumps(times), encoding="utf-8")
    sys.exit(code)
