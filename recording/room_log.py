"""Log lines about one room, or about a participant in it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from livekit import rtc

logger = logging.getLogger("recorder")


@dataclass(frozen=True)
class RoomLog:
    """``log(logging.INFO, "Participant left", participant)``: a line with the room's name and the identity."""

    room: str

    def __call__(self, level: int, message: str, participant: rtc.Participant | None = None) -> None:
        context = {"room": self.room, "participant": participant.identity if participant else None}
        logger.log(level, "%s", message, extra=context)

    @property
    def shows_debug(self) -> bool:
        """Whether the log shows lines of level DEBUG."""
        return logger.isEnabledFor(logging.DEBUG)
