"""Shows everybody in the room who is being recorded, in an attribute of the recorder's participant."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable

from livekit import rtc

from recording.room_log import RoomLog

RECORDED_ATTRIBUTE = "recorded_participants"
"""A JSON list of identities."""

MAX_ANNOUNCED_PARTICIPANTS = 100
"""LiveKit bounds the size of attributes (64 KiB by default)."""


class Announcement:
    """Keeps the attribute up to date. A change during a request is sent when the request has ended."""

    def __init__(self, room: rtc.Room, recorded: Callable[[], Iterable[str]], log: RoomLog) -> None:
        self._room = room
        self._recorded = recorded
        self._log = log
        self._announced: list[str] = []
        self._task: asyncio.Task[None] | None = None

    def update(self) -> None:
        """Sends the list if it has changed."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._announce())

    def cancel(self) -> None:
        """Sends nothing more."""
        if self._task is not None:
            self._task.cancel()

    async def _announce(self) -> None:
        while (identities := self._identities()) != self._announced:
            self._announced = identities
            try:
                await self._room.local_participant.set_attributes(
                    {RECORDED_ATTRIBUTE: json.dumps(identities)}
                )
            except Exception as error:  # an announcement that fails must not end the recording
                self._log(logging.WARNING, f"The list of recorded participants could not be shown: {error}")

    def _identities(self) -> list[str]:
        return sorted(set(self._recorded()))[:MAX_ANNOUNCED_PARTICIPANTS]
