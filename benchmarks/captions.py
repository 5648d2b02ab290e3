"""The time from the end of a sentence to its caption in a student's client, without the model's own time.

Ten rooms at once, each with a student and a teacher who gives the shipped lecture, recorded by the real worker as
threads; a stand-in for Gemini takes one second for each answer, in one further language. The time is measured from the
moment at which the recorder recognises that the sentence is over (`benchmarks/captions_agent.py` has the clock) until
the last of its text streams and packets has arrived, minus that second: saving the WAV, finding it, compressing and
sending it, reading the answer, and showing it in the order spoken. The teachers begin one after another, evenly spread
over one sentence.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from livekit import rtc

from benchmarks import meter
from benchmarks.classrooms import Classroom, Scene, classrooms, scene
from benchmarks.figures import Figure, Options, Outcome
from benchmarks.loads import MANY
from benchmarks.recipes import HERE, Recipe, RecipeWorker
from devtools.gemini_server import KEY, GeminiServer
from devtools.livekit_server import LiveKitServer
from devtools.speakers import token

NAME = "captions"

MODEL_SECONDS = 1.0
LANGUAGES = "es"
MAX_MILLISECONDS = 300.0
APART_SECONDS = 0.4
"""The teachers begin at different times, so that their sentences end at different times."""
LAST_SECONDS = 4.0
"""How long to wait for the caption of the last sentence."""


def measure(options: Options) -> Outcome:
    runs = []
    with scene(options.say) as place:
        for run in range(options.runs):
            options.say(f"  run {run + 1} of {options.runs} ...")
            runs.append(asyncio.run(_run(place, options)))
    name = f"pause recognised to caption, {MANY} rooms"
    return Outcome(
        NAME,
        [
            Figure(f"{name}: p50", "ms", [float(np.percentile(run, 50)) for run in runs], digits=0),
            Figure(
                f"{name}: p95",
                "ms",
                [float(np.percentile(run, 95)) for run in runs],
                digits=0,
                at_most=MAX_MILLISECONDS,
            ),
        ],
        [f"{min(len(run) for run in runs)} captions or more in each run."],
    )


class Reader:
    """A student's client: when each caption was complete, by its id."""

    def __init__(self) -> None:
        self.arrived: dict[str, float] = {}
        self.room = rtc.Room()
        self.room.register_text_stream_handler("lk.transcription", self._on_stream)
        self.room.on("transcription_received", self._on_packet)
        self._reading: set[asyncio.Task[None]] = set()

    async def join(self, server: LiveKitServer, name: str) -> None:
        await self.room.connect(
            server.url, token(server, "student", name), rtc.RoomOptions(auto_subscribe=False)
        )

    def _on_stream(self, reader: rtc.TextStreamReader, _: str) -> None:
        task = asyncio.create_task(self._read(reader))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _read(self, reader: rtc.TextStreamReader) -> None:
        await reader.read_all()
        self._note((reader.info.attributes or {})["lk.segment_id"])

    def _on_packet(self, segments: list[rtc.TranscriptionSegment], *_: object) -> None:
        for segment in segments:
            self._note(segment.id)

    def _note(self, id: str) -> None:
        self.arrived[id.rpartition("-")[0]] = time.time()


async def _lecture(room: Classroom, number: int, seconds: float) -> None:
    await room.teacher.silence(number * APART_SECONDS)
    await room.lecture(seconds)


async def _run(place: Scene, options: Options) -> list[float]:
    """Milliseconds, one for each caption."""
    seconds = 12.0 if options.quick else 40.0
    readers = [Reader() for _ in range(MANY)]
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times"
        async with GeminiServer(latency_seconds=MODEL_SECONDS) as gemini:
            recipe = Recipe(
                "captions",
                HERE / "captions_agent.py",
                settings={
                    "SENTENCE_TIMES": str(times),
                    "CAPTIONS": "true",
                    "TARGET_LANGUAGES": LANGUAGES,
                    "GEMINI_API_KEY": KEY,
                    "GOOGLE_GEMINI_BASE_URL": gemini.url,
                },
            )
            await meter.calm(options.say)
            async with RecipeWorker(recipe, place.server, place.fresh_folder()), classrooms() as rooms:
                for reader in readers:
                    rooms.append(await Classroom.open(place.server, place.fresh_name()))
                    await reader.join(place.server, rooms[-1].name)
                await asyncio.gather(*(_lecture(room, n, seconds) for n, room in enumerate(rooms)))
                await asyncio.sleep(LAST_SECONDS)
                await asyncio.gather(*(reader.room.disconnect() for reader in readers))
        ended = json.loads(times.read_text(encoding="utf-8"))
    arrived = {id: at for reader in readers for id, at in reader.arrived.items()}
    found = [1000 * (at - ended[id] - MODEL_SECONDS) for id, at in arrived.items() if id in ended]
    if len(found) < MANY:
        raise RuntimeError(f"only {len(found)} captions arrived in {MANY} rooms")
    return found
