"""Runs the recorder, and records when each frame arrived and when its probabilities were ready.

Writes one JSON array a track to the file in FRAME_TIMES, a pair of seconds for each frame, when the worker ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from livekit.rtc._ffi_client import FfiQueue

import agent
from core.records import Pcm
from recording.track_processor import TrackProcessor

arrivals: dict[int, deque[float]] = {}
"""By native stream: when frames were handed to Python that have not been processed yet."""

times: dict[int, list[tuple[float, float]]] = {}
"""By native stream: arrival and end of processing of each frame."""

hand_over = FfiQueue.put
process = TrackProcessor._take


def timed_hand_over(self: FfiQueue[Any], event: Any) -> None:
    """Called on the native client's thread, as soon as Python runs there."""
    if event.WhichOneof("message") == "audio_stream_event" and event.audio_stream_event.HasField(
        "frame_received"
    ):
        stream = event.audio_stream_event.stream_handle
        arrivals.setdefault(stream, deque()).append(time.perf_counter())
    hand_over(self, event)


def timed_process(self: TrackProcessor, pcm: Pcm) -> None:
    process(self, pcm)
    stream = self.stream._ffi_handle.handle  # type: ignore[attr-defined]
    times.setdefault(stream, []).append((arrivals[stream].popleft(), time.perf_counter()))


FfiQueue.put = timed_hand_over  # type: ignore[method-assign, assignment]
TrackProcessor._take = timed_process  # type: ignore[method-assign]


if __name__ == "__main__":
    code = agent.main(sys.argv[1:])
    lines = [json.dumps(frames) for frames in times.values()]
    Path(os.environ["FRAME_TIMES"]).write_text("\n".join(lines), encoding="utf-8")
    sys.exit(code)
