"""Participants for the demo, tests and benchmarks: they join rooms, publish tracks, speak, and leave.

A published track is fed without a break, like a microphone's, paced by an absolute clock: the track's time stays the
wall clock's time.

Everywhere: PCM s16le mono, shape (n,), 16 kHz, unless a name says otherwise.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import time
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from livekit import api, rtc

from devtools import stalls

Pcm = npt.NDArray[np.int16]
Samples = npt.NDArray[np.int16]
"""Interleaved, shape (n, channels), at the track's own rate."""

ParticipantKind = Literal["standard", "ingress", "egress", "sip", "agent"]
"""The kinds that a token may name."""

SPEECH_RATE = 16_000
MICROPHONE = rtc.TrackSource.SOURCE_MICROPHONE
SCREENSHARE_AUDIO = rtc.TrackSource.SOURCE_SCREENSHARE_AUDIO

LEAD_SECONDS = 0.2
"""Audio is handed over this long ahead of its time: a shorter stall of this process causes no gap."""
STEP_SECONDS = 0.05
QUEUE_SECONDS = 0.5

NOISE_PEAK = 6
"""A microphone in a quiet room: about -75 dB, never digital silence."""


# A thread of the SDK that calls Python while the interpreter ends aborts the process. This is registered before the SDK
# registers its own cleanup, so it runs after that: the threads get a moment to finish.
atexit.register(time.sleep, 0.1)


class Server(Protocol):
    """The address of a server, and the key that signs tokens."""

    @property
    def url(self) -> str: ...
    @property
    def api_key(self) -> str: ...
    @property
    def api_secret(self) -> str: ...


def token(
    server: Server,
    identity: str,
    room: str,
    *,
    name: str = "",
    metadata: str = "",
    attributes: Mapping[str, str] | None = None,
    can_update_metadata: bool = False,
    kind: ParticipantKind = "standard",
) -> str:
    """An access token for a room, valid for six hours."""
    grants = api.VideoGrants(room_join=True, room=room, can_update_own_metadata=can_update_metadata)
    made = api.AccessToken(server.api_key, server.api_secret).with_identity(identity).with_grants(grants)
    made = made.with_name(name).with_metadata(metadata).with_attributes(dict(attributes or {}))
    return made.with_kind(kind).to_jwt()


def administration(server: Server) -> api.LiveKitAPI:
    """LiveKit's server API, for what an app's backend does: ``async with administration(server) as livekit``."""
    return api.LiveKitAPI(server.url, server.api_key, server.api_secret)


class Said(NamedTuple):
    """When something was said, in seconds since the epoch."""

    start: float
    end: float


class Speaker:
    """One participant. Join with :meth:`join`, end with :meth:`leave`, or use ``async with``."""

    def __init__(self, room: rtc.Room, identity: str) -> None:
        self.room = room
        self.identity = identity
        self.microphones: list[Microphone] = []

    @classmethod
    async def join(
        cls,
        server: Server,
        room: str,
        identity: str,
        *,
        name: str = "",
        metadata: str = "",
        attributes: Mapping[str, str] | None = None,
        can_update_metadata: bool = False,
        kind: ParticipantKind = "standard",
        listen: bool = False,
        passphrase: str = "",
    ) -> Speaker:
        """Joins a room; the server creates it if need be. ``listen``: subscribes to all others. ``passphrase``:
        encrypts end to end, as LiveKit's client libraries do."""
        access = token(
            server,
            identity,
            room,
            name=name,
            metadata=metadata,
            attributes=attributes,
            can_update_metadata=can_update_metadata,
            kind=kind,
        )
        connection = rtc.Room()
        keys = rtc.KeyProviderOptions(shared_key=passphrase.encode())
        encryption = rtc.E2EEOptions(key_provider_options=keys) if passphrase else None
        # In sequence: many simultaneous joins in one process cause a time-out in the SDK, and then a panic.
        async with _join_lock():
            options = rtc.RoomOptions(auto_subscribe=listen, encryption=encryption)
            await connection.connect(server.url, access, options)
        return cls(connection, connection.local_participant.identity)

    @property
    def microphone(self) -> Microphone:
        """The track published last."""
        assert self.microphones, f"{self.identity} has published nothing"
        return self.microphones[-1]

    async def publish(
        self,
        sample_rate: int = 48_000,
        channels: int = 1,
        source: rtc.TrackSource.ValueType = MICROPHONE,
        name: str = "microphone",
    ) -> Microphone:
        """Publishes a track, which from now on carries faint noise and what is said."""
        audio = rtc.AudioSource(sample_rate, channels, queue_size_ms=round(QUEUE_SECONDS * 1000))
        track = rtc.LocalAudioTrack.create_audio_track(name, audio)
        options = rtc.TrackPublishOptions(source=source)
        publication = await self.room.local_participant.publish_track(track, options)
        microphone = Microphone(self.room, track, publication, audio)
        self.microphones.append(microphone)
        return microphone

    async def say(self, pcm: Pcm) -> Said:
        """Says it in real time on the track published last; returns when the last sample has been played."""
        return await self.microphone.say(pcm)

    async def silence(self, seconds: float) -> Said:
        return await self.microphone.silence(seconds)

    def mute(self) -> None:
        self.microphone.track.mute()

    def unmute(self) -> None:
        self.microphone.track.unmute()

    async def unpublish(self) -> None:
        """Unpublishes the track published last."""
        await self.microphones.pop().unpublish()

    async def reconnect(self, *, full: bool) -> None:
        """Interrupts the connection. ``full``: the tracks are published again, not resumed."""
        kinds = rtc.SimulateScenarioKind
        await self.room.simulate_scenario(
            kinds.SIMULATE_FULL_RECONNECT if full else kinds.SIMULATE_SIGNAL_RECONNECT
        )

    async def leave(self) -> None:
        """Leaves the room without unpublishing first, like a closed browser tab. Idempotent."""
        await self.room.disconnect()
        while self.microphones:
            await self.microphones.pop().close()

    async def __aenter__(self) -> Speaker:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()


@dataclass
class _Utterance:
    """Samples to play, and a future that is done when they have been played."""

    samples: Samples
    done: asyncio.Future[Said]
    _taken: int = 0
    _started_at: float = 0.0

    def take(self, count: int, now: float) -> Samples:
        """At most this many of the samples not yet taken; the first of them is played at ``now``."""
        if not self._taken:
            self._started_at = now
        part = self.samples[self._taken : self._taken + count]
        self._taken += len(part)
        return part

    def finish(self, now: float) -> bool:
        """Completes the future if all samples are taken; returns whether they are."""
        finished = self._taken >= len(self.samples)
        if finished and not self.done.done():
            self.done.set_result(Said(self._started_at, now))
        return finished


@dataclass
class Microphone:
    """One published track and the task that feeds it."""

    room: rtc.Room
    track: rtc.LocalAudioTrack
    publication: rtc.LocalTrackPublication
    audio: rtc.AudioSource
    stalls: int = 0
    """How often this process stalled for so long that listeners heard a gap."""
    worst_stall_seconds: float = 0.0
    """The longest of these gaps."""
    _waiting: deque[_Utterance] = field(default_factory=deque)

    def __post_init__(self) -> None:
        rate, channels = self.audio.sample_rate, self.audio.num_channels
        noise = np.random.default_rng(7).integers(-NOISE_PEAK, NOISE_PEAK + 1, (rate, channels))
        self._noise = noise.astype(np.int16)
        self._feeding = asyncio.create_task(self._feed())

    @property
    def sid(self) -> str:
        """Changes with a full reconnect: the client publishes again."""
        return str(self.publication.sid)

    async def say(self, pcm: Pcm) -> Said:
        """Says it in real time, after what is already being said; returns when the last sample has been played."""
        mono = await asyncio.to_thread(
            resampled, pcm, SPEECH_RATE, self.audio.sample_rate
        )  # in a thread: other speakers must not be delayed
        return await self._play(np.repeat(mono[:, None], self.audio.num_channels, axis=1))

    async def silence(self, seconds: float) -> Said:
        samples = round(seconds * self.audio.sample_rate)
        return await self._play(np.zeros((samples, self.audio.num_channels), np.int16))

    async def unpublish(self) -> None:
        await self.room.local_participant.unpublish_track(self.sid)
        await self.close()

    async def close(self) -> None:
        """Stops feeding; pending calls of ``say`` are cancelled."""
        self._feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._feeding
        while self._waiting:
            self._waiting.popleft().done.cancel()
        await self.audio.aclose()

    async def _play(self, samples: Samples) -> Said:
        utterance = _Utterance(samples, asyncio.get_running_loop().create_future())
        self._waiting.append(utterance)
        try:
            said = await utterance.done
        finally:
            with contextlib.suppress(ValueError):  # cancelled: the rest is not said
                self._waiting.remove(utterance)
        await asyncio.sleep(max(0.0, said.end - time.time()))
        return said

    async def _feed(self) -> None:
        rate = self.audio.sample_rate
        began, given = time.monotonic(), 0
        while True:
            now = time.monotonic()
            late = now - (began + given / rate)
            if late > 0 and given:  # everything was played during a stall; the rest is that much later
                self.stalls += 1
                self.worst_stall_seconds = max(self.worst_stall_seconds, late)
                stalls.seconds.append(late)
                began += late
            due = round((now - began + LEAD_SECONDS) * rate) - given
            due -= due % (rate // 100)  # whole frames of 10 ms
            if due:
                await self._give(self._next(due, time.time() + began + given / rate - now))
                given += due
            await asyncio.sleep(STEP_SECONDS)

    async def _give(self, samples: Samples) -> None:
        frame = rtc.AudioFrame(
            data=samples.tobytes(),
            sample_rate=self.audio.sample_rate,
            num_channels=self.audio.num_channels,
            samples_per_channel=len(samples),
        )
        await self.audio.capture_frame(frame)

    def _next(self, count: int, plays_at: float) -> Samples:
        """The next samples: pending speech, then noise. The first of them is played at ``plays_at``."""
        parts: list[Samples] = []
        have = 0
        while have < count and self._waiting:
            part = self._waiting[0].take(count - have, plays_at + have / self.audio.sample_rate)
            have += len(part)
            parts.append(part)
            if self._waiting[0].finish(plays_at + have / self.audio.sample_rate):
                self._waiting.popleft()
        parts.append(np.resize(self._noise, (count - have, self.audio.num_channels)))
        return np.concatenate(parts)


def resampled(pcm: Pcm, from_rate: int, to_rate: int) -> Pcm:
    """The sound at another sample rate."""
    if from_rate == to_rate:
        return pcm
    resampler = rtc.AudioResampler(from_rate, to_rate, quality=rtc.AudioResamplerQuality.HIGH)
    frames = [*resampler.push(bytearray(pcm.astype("<i2").tobytes())), *resampler.flush()]
    return np.concatenate([np.frombuffer(frame.data, np.int16) for frame in frames])


_join_locks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()


def _join_lock() -> asyncio.Lock:
    """One for each event loop: a lock belongs to the loop that first waited for it, and each test has its own."""
    return _join_locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
