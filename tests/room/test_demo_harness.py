"""The speakers of the end-to-end tests: participants in the room receive what a speaker says."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from livekit import rtc

from devtools import sound
from devtools.livekit_server import LiveKitServer
from devtools.speakers import Speaker, resampled

pytestmark = pytest.mark.e2e


async def _hear(listener: Speaker, seconds: float) -> sound.IntArray:
    """The sound of the first track that the listener receives from now on."""
    publication = await _first_publication(listener)
    assert publication.track is not None
    stream = rtc.AudioStream(publication.track, sample_rate=16_000, num_channels=1, frame_size_ms=100)
    parts: list[sound.IntArray] = []
    async for event in stream:
        parts.append(np.frombuffer(event.frame.data, np.int16).copy())
        if len(parts) >= seconds * 10:
            break
    await stream.aclose()
    return np.concatenate(parts)


async def _first_publication(listener: Speaker) -> rtc.RemoteTrackPublication:
    while True:
        for participant in listener.room.remote_participants.values():
            for publication in participant.track_publications.values():
                if publication.track is not None:
                    return publication
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(("sample_rate", "channels"), [(48_000, 1), (44_100, 2), (8_000, 1)])
async def test_a_listener_hears_every_word_once(
    livekit_server: LiveKitServer, sample_rate: int, channels: int
) -> None:
    spoken = sound.markers()[:3]
    pcm, _ = sound.sequence(spoken, gap_seconds=0.3, tail_seconds=0)
    room = f"harness-{sample_rate}"
    async with (
        await Speaker.join(livekit_server, room, "teacher") as teacher,
        await Speaker.join(livekit_server, room, "listener", listen=True) as listener,
    ):
        await teacher.publish(sample_rate, channels)
        receiving = asyncio.create_task(_hear(listener, len(pcm) / 16_000 + 3))
        await teacher.silence(1)
        said = await teacher.say(pcm)
        teacher.mute()
        heard = await receiving

    assert said.end - said.start == pytest.approx(len(pcm) / 16_000, abs=0.002)
    assert sound.heard(heard, spoken) == [0, 1, 2]
    assert sound.partly_heard(heard, spoken[2]) > 0.8, "muting right after the last word cut it"


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_resampling_keeps_every_sample(rate: int) -> None:
    pcm = sound.load("student")[: 16_000 * 5]
    assert len(resampled(pcm, 16_000, rate)) == pytest.approx(len(pcm) * rate / 16_000, abs=2)


async def test_a_server_comes_back_on_the_same_ports(livekit_server: LiveKitServer) -> None:
    with LiveKitServer(livekit_server._binary) as server:
        url, pid = server.url, server.pid
        server.restart()
        assert server.url == url
        assert server.pid != pid
        async with await Speaker.join(server, "after-restart", "teacher") as teacher:
            assert teacher.room.isconnected()
        server.stop()
        server.stop()
        assert not server.running
