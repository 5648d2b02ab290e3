"""Audit lines: who was recorded and what was erased or shared, one line of the log for each event, at INFO.

In the text format such a line begins with ``AUDIT`` and has its fields as ``name=value``; in the JSON format the fields
are keys, ``event`` among them. No line contains what was said, a link or a secret.
"""

from __future__ import annotations

import logging
from enum import StrEnum

LOGGER_NAME = "recorder.audit"
"""The logger of these lines: a command that logs only errors can still show them."""

_logger = logging.getLogger(LOGGER_NAME)


class AuditEvent(StrEnum):
    """What happened."""

    RECORDING_BEGUN = "recording_begun"
    """A participant is recorded from now on."""
    RECORDING_ENDED = "recording_ended"
    """Nothing of a participant is recorded any more."""
    RECORDING_PAUSED = "recording_paused"
    """Nothing of the room is recorded until it is resumed."""
    RECORDING_RESUMED = "recording_resumed"
    PERSON_ERASED = "person_erased"
    """What a participant said in a room was erased."""
    ROOM_ERASED = "room_erased"
    LINK_MADE = "link_made"
    """Anyone who has the link can read the file until it ends."""


def audit(event: AuditEvent, room: str, participant: str = "", **details: str | float) -> None:
    """Logs one audit line. ``details`` are further fields, such as ``segments=12``."""
    context = {"room": room, "participant": participant or None, "details": details}
    _logger.info("AUDIT %s", event.value.replace("_", " "), extra={**context, "event": event.value})
