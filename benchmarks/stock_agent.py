"""The stock recipe: records speech as the framework's documentation suggests. Not a part of the recorder.

Settings have their defaults, except those that are set here, each with a comment that gives the reason.
"""

from __future__ import annotations

import asyncio
import os
import wave
from pathlib import Path

from livekit import rtc
from livekit.agents import AgentServer, JobContext, JobProcess, cli
from livekit.agents.vad import VADEventType
from livekit.plugins import silero

OUTPUT_DIR = Path(os.environ.get("OUTPUT_DIR", "segments"))

server = AgentServer(
    num_idle_processes=2,  # the default of a machine with two cores, whatever machine this is
    host="127.0.0.1",  # the default is every interface,
    port=0,  # and 8081, which may be taken here
)

if os.environ.get("STOCK_TAKES_EVERY_ROOM"):
    # By default it refuses rooms while the machine is busy. `joins` measures that; for memory and CPU it must take all
    # ten, although the speakers keep the same machine busy.
    server.load_fnc = lambda: 0.0


def prewarm(process: JobProcess) -> None:
    process.userdata["vad"] = silero.VAD.load()


server.setup_fnc = prewarm


@server.rtc_session()
async def entrypoint(ctx: JobContext) -> None:
    tasks: set[asyncio.Task[None]] = set()

    @ctx.room.on("track_subscribed")
    def on_track_subscribed(
        track: rtc.Track, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant
    ) -> None:
        if track.kind == rtc.TrackKind.KIND_AUDIO:
            task = asyncio.create_task(record(ctx, track))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    await ctx.connect()


async def record(ctx: JobContext, track: rtc.Track) -> None:
    vad_stream = ctx.proc.userdata["vad"].stream()

    async def push_frames() -> None:
        async for event in rtc.AudioStream(track):
            vad_stream.push_frame(event.frame)
        vad_stream.end_input()

    pushing = asyncio.create_task(push_frames())
    count = 0
    async for event in vad_stream:
        if event.type == VADEventType.END_OF_SPEECH:
            count += 1
            save(OUTPUT_DIR / ctx.room.name / f"segment_{count:03d}.wav", event.frames)
    await pushing


def save(path: Path, frames: list[rtc.AudioFrame]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(frames[0].num_channels)
        file.setsampwidth(2)
        file.setframerate(frames[0].sample_rate)
        for frame in frames:
            file.writeframes(bytes(frame.data))


if __name__ == "__main__":
    cli.run_app(server)
