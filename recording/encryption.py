"""End-to-end encrypted rooms, as LiveKit's client libraries encrypt them: with a shared passphrase.

With the passphrase the native client decrypts what is encrypted and leaves the rest as it is. Without a passphrase an
encrypted track would be noise at full volume, so it is not subscribed to. With a wrong one it is silent, and the client
reports that after ``MAX_DECRYPTION_FAILURES``. Both are counted and logged once per participant, and a gap is recorded.

Packets that arrive before the client has set up the decryption of a track are decoded as they are: up to a second of
noise, on a busy machine. So the first audio of an encrypted track is held back until the client says whether it can be
decrypted, and dropped if it cannot.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable

from livekit import rtc

from core.records import SAMPLE_RATE
from core.worker_state import worker_state
from recording.track_processor import FrameStream

MAX_DECRYPTION_FAILURES = 100
"""After this many packets in a row that cannot be decrypted (about two seconds) the client reports a failure."""

DECRYPTION_FAILURE_SECONDS = 3.0
"""The length of the audio in those packets, with some margin."""

PASSPHRASE_SECONDS = 5.0
"""How often a passphrase that has failed is tried again, as the publisher may change to it."""

HELD_SECONDS = 3.0
"""How long the first audio of an encrypted track waits for the client to say whether it can be decrypted."""

Log = Callable[[int, str, rtc.Participant], None]
"""Logs a message at a level, about a participant."""

OnFailing = Callable[[rtc.RemoteParticipant, float | None], None]
"""Called with the seconds for which a participant's audio could not be decrypted (infinity: it never could), or with
None when it can be decrypted from now on."""

_FAILED = (
    rtc.EncryptionState.DECRYPTION_FAILED,
    rtc.EncryptionState.MISSING_KEY,
    rtc.EncryptionState.INTERNAL_ERROR,
)


def encryption_options(passphrase: str) -> rtc.E2EEOptions | None:
    """The encryption options for joining a room; None without a passphrase."""
    if not passphrase:
        return None
    keys = rtc.KeyProviderOptions(
        shared_key=passphrase.encode(),
        ratchet_window_size=0,  # as in browsers; otherwise each packet under another key costs sixteen derived keys
        failure_tolerance=MAX_DECRYPTION_FAILURES,  # with the default of -1 failures are not reported
    )
    return rtc.E2EEOptions(key_provider_options=keys)


class Encryption:
    """Keeps track of which participants' audio can be decrypted in one room."""

    def __init__(self, room: rtc.Room, passphrase: str, log: Log, on_failing: OnFailing) -> None:
        self._room = room
        self._passphrase = passphrase
        self._log = log
        self._on_failing = on_failing
        self._decrypted: set[str] = set()
        """Participants whose audio is being decrypted, by sid."""
        self._undecryptable: set[str] = set()
        """Participants whose audio cannot be decrypted, by sid."""

    def has_key_for(
        self, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant
    ) -> bool:
        """Whether a track may be subscribed to: it is not encrypted, or a passphrase is set."""
        if publication.encryption_type == rtc.EncryptionType.NONE or self._passphrase:
            return True
        self._report(participant, "no E2EE_PASSPHRASE is set")
        return False

    def is_decrypted(self, identity: str) -> bool | None:
        """Whether this participant's audio can be decrypted; None: the client has not said it yet."""
        participant = self._room.remote_participants.get(identity)
        sid = participant.sid if participant else ""
        return True if sid in self._decrypted else False if sid in self._undecryptable else None

    def held_back(self, stream: FrameStream, identity: str) -> FrameStream:
        """The stream of an encrypted track, whose first audio is held back."""
        return _HeldBack(stream, lambda: self.is_decrypted(identity))

    def on_state_changed(
        self, participant: rtc.Participant | None, state: rtc.EncryptionState.ValueType
    ) -> None:
        """Handles the room's event ``e2ee_state_changed``."""
        if not isinstance(participant, rtc.RemoteParticipant):
            return
        sid = participant.sid
        if state in _FAILED:
            self._report(participant, "E2EE_PASSPHRASE is not the passphrase of this participant")
            self._on_failing(participant, DECRYPTION_FAILURE_SECONDS if sid in self._decrypted else math.inf)
            self._decrypted.discard(sid)
        elif state == rtc.EncryptionState.OK:
            self._decrypted.add(sid)
            if sid in self._undecryptable:
                self._undecryptable.discard(sid)
                self._log(logging.INFO, "The encrypted audio can be decrypted now", participant)
                self._on_failing(participant, None)

    def forget(self, participant: rtc.RemoteParticipant) -> None:
        """Drops the state of a participant who has left."""
        self._decrypted.discard(participant.sid)
        self._undecryptable.discard(participant.sid)

    async def keep_trying(self) -> None:
        """Sets a failing passphrase again regularly: the client stops trying it, and the publisher may change to it."""
        while self._passphrase:
            await asyncio.sleep(PASSPHRASE_SECONDS)
            keys = self._room.e2ee_manager.key_provider
            if self._undecryptable and keys is not None:
                keys.set_shared_key(self._passphrase.encode(), 0)

    def _report(self, participant: rtc.RemoteParticipant, why: str) -> None:
        if participant.sid not in self._undecryptable:
            self._undecryptable.add(participant.sid)
            worker_state.counters.undecipherable.inc()
            message = f"NOT RECORDED: the audio is encrypted end to end, and {why}"
            self._log(logging.ERROR, message, participant)


class _HeldBack:
    """Frames of a stream that are held back for at most ``HELD_SECONDS``, until it is known whether they are noise."""

    def __init__(self, stream: FrameStream, is_decrypted: Callable[[], bool | None]) -> None:
        self._stream = stream
        self._is_decrypted = is_decrypted

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aiter__(self) -> AsyncIterator[rtc.AudioFrameEvent]:
        held: list[rtc.AudioFrameEvent] | None = []
        samples = 0
        async for event in self._stream:
            if held is None:
                yield event
                continue
            held.append(event)
            samples += event.frame.samples_per_channel
            if self._is_decrypted() is not None or samples > HELD_SECONDS * SAMPLE_RATE:
                for one in self._unless_noise(held):
                    yield one
                held = None
        for one in self._unless_noise(held or []):
            yield one

    def _unless_noise(self, held: list[rtc.AudioFrameEvent]) -> list[rtc.AudioFrameEvent]:
        return [] if self._is_decrypted() is False else held
