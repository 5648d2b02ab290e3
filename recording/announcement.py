"""Shows everybody in the room who is being recorded, and whether that is paused, in attributes of the recorder."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable

from livekit import rtc

from core.trouble import Trouble, trouble_of
from recording.pause import state_name
from recording.room_log import RoomLog

RECORDED_ATTRIBUTE = "recorded_participants"
"""A JSON list of identities."""

STATE_ATTRIBUTE = "recording"
"""``on`` or ``paused``."""

MAX_ANNOUNCED_PARTICIPANTS = 100
"""LiveKit bounds the size of attributes (64 KiB by default)."""

RETRY_SECONDS = 1.0


class Announcement:
    """Keeps the attributes up to date. A change during a request is sent when the request has ended."""

    def __init__(
        self,
        room: rtc.Room,
        recorded: Callable[[], Iterable[str]],
        is_paused: Callable[[], bool],
        log: RoomLog,
    ) -> None:
        self._room = room
        self._recorded = recorded
        self._is_paused = is_paused
        self._log = log
        self._announced: dict[str, str] = {}
        self._trouble = Trouble()
        self._task: asyncio.Task[None] | None = None

    def update(self) -> None:
        """Sends the attributes if they have changed."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._announce())

    def cancel(self) -> None:
        """Sends nothing more."""
        if self._task is not None:
            self._task.cancel()

    async def _announce(self) -> None:
        while (attributes := self._attributes()) != self._announced:
            try:
                await self._room.local_participant.set_attributes(attributes)
            except Exception as error:  # an announcement that fails must not end the recording
                if self._trouble.begins(trouble_of(error)):
                    message = (
                        f"Who is recorded could not be shown, and is tried again: {self._trouble.current}"
                    )
                    self._log(logging.WARNING, message)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._announced = attributes
                self._trouble.ends()

    def _attributes(self) -> dict[str, str]:
        recorded = sorted(set(self._recorded()))[:MAX_ANNOUNCED_PARTICIPANTS]
        return {
            RECORDED_ATTRIBUTE: json.dumps(recorded),
            STATE_ATTRIBUTE: state_name(is_paused=self._is_paused()),
        }
