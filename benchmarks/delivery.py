"""Delivers a backlog of ten rooms and 1,000 segments to S3, compared with the client library alone.

Both send the same files, eight at once, from a process of their own, to a server that answers each object after 20 ms,
like a store nearby. The library alone reads files and sends them; ours also keeps the order, the outbox, checksums and
the delivery log.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from aiohttp import web

from archive.files import prepare_output_dir
from benchmarks.figures import Figure, Options, Outcome
from config import Settings
from core.records import SAMPLE_RATE, EndReason, RoomInfo, SpeechSegment, StreamClock, TrackInfo
from delivery.service import DELIVERIES_AT_ONCE
from storage import RoomFolder

NAME = "delivery"

ROOMS, SEGMENTS = 10, 100
SEGMENT_SECONDS = 5
ANSWER_SECONDS = 0.02
MAX_TIMES_SLOWER = 2.0
MAX_MEGABYTES_MORE = 40.0
START = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = Path(__file__).resolve().parent.parent

_ALONE = """
import asyncio, datetime, os, sys
from pathlib import Path
from obstore import put_async
from obstore.store import S3Store
store = S3Store(
    "lessons", aws_endpoint_url_s3=os.environ["S3_ENDPOINT"], region="us-east-1", access_key_id="k",
    secret_access_key="s", checksum_algorithm="SHA256", client_options={"allow_http": True},
)
async def worker(paths):
    for path in paths:
        await put_async(store, f"{path.parent.name}/{path.name}", path.read_bytes(), use_multipart=False)
async def main():
    paths = iter(sorted(Path(os.environ["OUTPUT_DIR"]).glob("*/*.wav")))
    await asyncio.gather(*(worker(paths) for _ in range(int(os.environ["AT_ONCE"]))))
"""
_OURS = """
import asyncio, os
from pathlib import Path
from config import Settings
from delivery.service import DeliveryService
from archive.outbox import Outbox
from delivery.targets import open_targets
async def main():
    settings = Settings.from_env(os.environ, for_worker=False)
    outbox = Outbox(Path(settings.output_dir))
    service = DeliveryService(settings, open_targets(settings)[0], outbox)
    assert await service.drain(60)
    await service.aclose()
    await outbox.aclose()
"""
_EMPTY_LIST = (
    "<ListBucketResult><Name>lessons</Name><Prefix></Prefix><KeyCount>0</KeyCount>"
    "<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>"
)
"""The answer to the question which objects there are."""
_MEASURED = """
import json, time
began = time.monotonic()
asyncio.run(main())
seconds = time.monotonic() - began
import psutil
memory = psutil.Process().memory_info()
peak = getattr(memory, "peak_wset", 0)
if not peak:
    import resource, sys
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([seconds, peak / 2**20]), flush=True)
os._exit(0)  # a native thread that still frees its last answer would abort the interpreter at its end
"""


def measure(options: Options) -> Outcome:
    """In every run both deliver the whole backlog, one after the other."""
    rooms, segments = (2, 10) if options.quick else (ROOMS, SEGMENTS)
    ours: list[tuple[float, float]] = []
    alone: list[tuple[float, float]] = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            _record(Path(folder), rooms, segments)
            alone.append(asyncio.run(_delivered(_ALONE, Path(folder), rooms * segments)))
            ours.append(asyncio.run(_delivered(_OURS, Path(folder), rooms * segments)))
    count = rooms * segments
    return Outcome(
        NAME,
        [
            Figure(
                f"{count} segments of {rooms} rooms: time",
                "s",
                [seconds for seconds, _ in ours],
                [seconds for seconds, _ in alone],
                other_name="obstore alone",
                digits=2,
                ratio_at_most=MAX_TIMES_SLOWER,
            ),
            Figure(
                "highest memory of the process",
                "MB",
                [memory for _, memory in ours],
                [memory for _, memory in alone],
                other_name="obstore alone",
                at_most=max(memory for _, memory in alone) + MAX_MEGABYTES_MORE,
            ),
        ],
    )


def _record(output_dir: Path, rooms: int, segments: int) -> None:
    """Writes rooms as the recorder does; all segments are different."""
    settings = Settings(output_dir=str(output_dir))
    prepare_output_dir(output_dir)
    noise = np.random.default_rng(1).integers(-3000, 3000, SEGMENT_SECONDS * SAMPLE_RATE).astype(np.int16)
    for number in range(rooms):
        folder = RoomFolder.open(settings, RoomInfo(f"room{number}", f"RM_{number}", START))
        track = TrackInfo("anna", "Anna", f"TR_{number}", "microphone")
        for index in range(segments):
            start = index * 10 * SAMPLE_RATE
            segment = SpeechSegment(start, start, noise + np.int16(index), 0.9, 0.5, EndReason.PAUSE)
            folder.begin(track, StreamClock(START), start, start).commit(segment)


async def _delivered(program: str, output_dir: Path, segments: int) -> tuple[float, float]:
    """Runs a process that delivers everything; returns its seconds and megabytes."""
    stored: set[str] = set()

    async def answer(request: web.Request) -> web.Response:
        if "list-type" in request.query:
            return web.Response(text=_EMPTY_LIST, content_type="application/xml")
        if request.method != "PUT":
            return web.Response(status=404)
        await request.read()
        await asyncio.sleep(ANSWER_SECONDS)
        stored.add(request.path)
        return web.Response(headers={"ETag": '"1"'})

    application = web.Application(client_max_size=1 << 26)
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OUTPUT_DIR": str(output_dir),
            "S3_ENDPOINT": f"http://127.0.0.1:{port}",
            "S3_BUCKET": "lessons",
            "S3_KEY_ID": "k",
            "S3_KEY_SECRET": "s",
            "AT_ONCE": str(DELIVERIES_AT_ONCE),
        }
        said = await asyncio.to_thread(_run, [sys.executable, "-c", program + _MEASURED], environ)
    finally:
        await runner.cleanup()
    sounds = [path for path in stored if path.endswith(".wav")]
    if len(sounds) != segments:
        raise RuntimeError(f"{len(sounds)} of {segments} segments were delivered")
    seconds, megabytes = json.loads(said)
    return float(seconds), float(megabytes)


def _run(command: Sequence[str], environ: dict[str, str]) -> str:
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=600)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return done.stdout
