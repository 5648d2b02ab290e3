"""Rooms that are encrypted end to end, as LiveKit's client libraries do it: with a passphrase that all share.

With the passphrase the native client deciphers what it receives, and leaves alone what is not encrypted. Without it a
track is noise at full volume, so it is not subscribed to. With another, it is silence, and the client reports that
after ``UNDECIPHERABLE_PACKETS``. Both are logged once for each participant, and counted; the recorder records a gap.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from livekit import rtc

from core.worker_state import worker_state

UNDECIPHERABLE_PACKETS = 100
"""So many in a row, about two seconds, and the passphrase is another."""

UNDECIPHERABLE_SECONDS = 3.0
"""How much speech those packets hold, and a little more."""

PASSPHRASE_SECONDS = 5.0
"""How often it is tried again, in case that it becomes the right one."""

Log = Callable[[int, str, rtc.Participant], None]
"""Logs a message at a level, about a participant."""

OnFailing = Callable[[rtc.RemoteParticipant, float | None], None]
"""Told for how many seconds the sound of a participant has not been deciphered (infinite: it never has been), and with
None that it is from now on."""

_FAILED = (
    rtc.EncryptionState.DECRYPTION_FAILED,
    rtc.EncryptionState.MISSING_KEY,
    rtc.EncryptionState.INTERNAL_ERROR,
)


def encryption_options(passphrase: str) -> rtc.E2EEOptions | None:
    """What a room is to be joined with; None without a passphrase."""
    if not passphrase:
        return None
    keys = rtc.KeyProviderOptions(
        shared_key=passphrase.encode(),
        ratchet_window_size=0,  # as browsers have it; else each packet of a foreign sound costs sixteen derived keys
        failure_tolerance=UNDECIPHERABLE_PACKETS,  # with the default of -1 nobody is told
    )
    return rtc.E2EEOptions(key_provider_options=keys)


class Encryption:
    """Whose sound in a room can be deciphered."""

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
        """Whether a track is worth listening to: not encrypted, or we have a passphrase."""
        if publication.encryption_type == rtc.EncryptionType.NONE or self._passphrase:
            return True
        self._report(participant, "no E2EE_PASSPHRASE is set")
        return False

    def on_state_changed(
        self, participant: rtc.Participant | None, state: rtc.EncryptionState.ValueType
    ) -> None:
        """The room's event ``e2ee_state_changed``."""
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
        """The participant has left."""
        self._deciphered.discard(participant.sid)
        self._undecipherable.discard(participant.sid)

    async def keep_trying(self) -> None:
        """A key that has failed too often is not tried again until it is set again: the other side may have erred."""
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
