"""A speaker in its own process, so that a test can crash or freeze it."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile

from devtools.speakers import SPEECH_RATE, Server, Speaker, token

ROOT = Path(__file__).resolve().parent.parent


class SpeakerProcess:
    """Joins, publishes a microphone and says a FLAC or WAV file, repeatedly, until it is crashed or stopped.

    Usable as ``async with``; crashes at the end if it still runs.
    """

    def __init__(self, server: Server, room: str, identity: str, sound: Path, *, metadata: str = "") -> None:
        access = token(server, identity, room, metadata=metadata)
        self._environ = {**os.environ, "SPEAKER_URL": server.url, "SPEAKER_TOKEN": access}
        self._sound = sound
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when it begins to speak."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "devtools.speaker_process", str(self._sound)),
            cwd=ROOT,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        line = await self._process.stdout.readline()
        if line.strip() != b"speaking":
            raise RuntimeError(f"the speaker's process ended with {await self._process.wait()}")

    async def crash(self) -> None:
        """Kills it, so that the server is not informed. Idempotent."""
        if self._process and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def freeze(self) -> None:
        """Suspends it with its connections open, like a laptop that falls asleep. Not on Windows."""
        assert self._process and sys.platform != "win32"
        self._process.send_signal(signal.SIGSTOP)

    async def __aenter__(self) -> SpeakerProcess:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.crash()


async def _speak(environ: Mapping[str, str], sound: Path) -> None:
    pcm, rate = soundfile.read(sound, dtype="int16")
    assert rate == SPEECH_RATE and pcm.ndim == 1
    async with await Speaker.join_with_token(environ["SPEAKER_URL"], environ["SPEAKER_TOKEN"]) as speaker:
        await speaker.publish()
        await speaker.silence(1)
        print("speaking", flush=True)
        while True:
            await speaker.say(np.asarray(pcm, dtype=np.int16))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("sound", type=Path)
    asyncio.run(_speak(os.environ, parser.parse_args().sound))
