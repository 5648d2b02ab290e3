"""End-to-end encrypted rooms, as LiveKit's client libraries encrypt them: with a shared passphrase.

With the passphrase the native client decrypts what it receives, and passes on what is not encrypted. Without one a
track would be noise at full volume, so it is not subscribed to. With a wrong one it is silence, and the client reports
that after ``UNDECIPHERABLE_PACKETS``. Both are logged once per participant, and counted; the recorder records a gap.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from livekit import rtc

from core.worker_state import worker_state

UNDECIPHERABLE_PACKETS = 100
"""After this many failures in a row, about two seconds, the passphrase is reported as wrong."""

UNDECIPHERABLE_SECONDS = 3.0
"""How much speech those packets hold, and a little more."""

PASSPHRASE_SECONDS = 5.0
"""How often a passphrase that has failed is set again: the publisher may change to it."""

Log = Callable[[int, str, rtc.Participant], None]
"""Logs a message at a level, about a participant."""

OnFailing = Callable[[rtc.RemoteParticipant, float | None], None]
"""Called with the seconds for which a participant's audio could not be decrypted (infinite: never), or with None when
it can be decrypted from now on."""

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
        failure_tolerance=UNDECIPHERABLE_PACKETS,  # with the default of -1 failures are not reported
    )
    return rtc.E2EEOptions(key_provider_options=keys)


class Encryption:
    """Tracks whose audio in a room can be decrypted."""

    def __init__(self, room: rtc.Room, passphrase: str, log: Log, on_failing: OnFailing) -> None:
        self._room = room
        self._passphrase = passphrase
        self._log = log
        self._on_failing = on_failing
        self._deciphered: set[str] = set()
        self._undecipherable: set[str] = set()

    def has_key_for(
        self, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant
    ) -> bool:
        """Whether a track may be subscribed to: it is not encrypted, or a passphrase is set."""
        if publication.encryption_type == rtc.EncryptionType.NONE or self._passphrase:
            return True
        self._report(participant, "no E2EE_PASSPHRASE is set")
        return False

    def on_state_changed(
        self, participant: rtc.Participant | None, state: rtc.EncryptionState.ValueType
    ) -> None:
        """Handles the room's event ``e2ee_state_changed``."""
        if not isinstance(participant, rtc.RemoteParticipant):
            return
        sid = participant.sid
        if state in _FAILED:
            self._report(participant, "E2EE_PASSPHRASE is not the one it uses")
            self._on_failing(participant, UNDECIPHERABLE_SECONDS if sid in self._deciphered else math.inf)
            self._deciphered.discard(sid)
        elif state == rtc.EncryptionState.OK:
            self._deciphered.add(sid)
            if sid in self._undecipherable:
                self._undecipherable.discard(sid)
                self._log(logging.INFO, "The encrypted sound can be deciphered now", participant)
                self._on_failing(participant, None)

    def forget(self, participant: rtc.RemoteParticipant) -> None:
        """Drops the state of a participant who has left."""
        self._deciphered.discard(participant.sid)
        self._undecipherable.discard(participant.sid)

    async def keep_trying(self) -> None:
        """Sets a failing key again regularly, as the client stops trying it: the publisher's key may change."""
        while self._passphrase:
            await asyncio.sleep(PASSPHRASE_SECONDS)
            keys = self._room.e2ee_manager.key_provider
            if self._undecipherable and keys is not None:
                keys.set_shared_key(self._passphrase.encode(), 0)

    def _report(self, participant: rtc.RemoteParticipant, why: str) -> None:
        if participant.sid not in self._undecipherable:
            self._undecipherable.add(participant.sid)
            worker_state.counters.undecipherable.inc()
            message = f"NOT RECORDED: the sound is encrypted end to end, and {why}"
            self._log(logging.ERROR, message, participant)
