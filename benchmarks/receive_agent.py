"""A worker that receives every track as the recorder does, and drops the frames: a lower bound for a recorder.

Threads, no preload, no watch over the event loops, 16 kHz mono, 96 ms a frame. No voice detector, no files, no rules.
"""

from __future__ import annotations

import asyncio
import os

os.environ.setdefault("LIVEKIT_AGENTS_PRELOAD_LOCAL_INFERENCE", "0")
os.environ.setdefault("LIVEKIT_AGENTS_LOOP_BLOCK_WARN_MS", "0")

from livekit import rtc
from livekit.agents import AgentServer, JobContext, JobExecutorType, JobProcess, cli
from livekit.rtc._ffi_client import FfiClient

server = AgentServer(
    job_executor_type=JobExecutorType.THREAD,
    num_idle_processes=1,
    load_fnc=lambda: 0.0,
    host="127.0.0.1",
    port=0,
)


def prewarm(process: JobProcess) -> None:
    _ = FfiClient.instance  # before there are rooms: otherwise several threads would each create one


server.setup_fnc = prewarm


@server.rtc_session()
async def entrypoint(ctx: JobContext) -> None:
    tasks: set[asyncio.Task[None]] = set()

    @ctx.room.on("track_subscribed")
    def on_track_subscribed(
        track: rtc.Track, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant
    ) -> None:
        task = asyncio.create_task(receive(track))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await ctx.connect()


async def receive(track: rtc.Track) -> None:
    async for _ in rtc.AudioStream(track, sample_rate=16_000, num_channels=1, frame_size_ms=96):
        pass


if __name__ == "__main__":
    cli.run_app(server)
