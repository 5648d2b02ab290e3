"""Sends captions to a room in both forms that clients read: text streams and transcription packets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from livekit import rtc

from core.records import RoomInfo
from core.trouble import Trouble, trouble_of
from recording.caption_order import Caption

logger = logging.getLogger("recorder")

TOPIC = "lk.transcription"

SEND_SECONDS = 5.0
"""A caption that cannot be sent within this time is dropped."""

_Message = Coroutine[Any, Any, None]
"""One text stream or packet that is still to be sent."""


class CaptionSender:
    """Sends captions one after the other. The first of several failures in a row is logged, and their end."""

    def __init__(self, room: rtc.Room, info: RoomInfo) -> None:
        self._room = room
        self._info = info
        self._trouble = Trouble()

    async def send(self, caption: Caption, to: Sequence[str] = ()) -> bool:
        """Sends a caption in all its languages to everybody or to these identities. Returns whether that worked."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._publish(caption, to)
        except Exception as error:  # a lost connection or a timeout: the next caption may succeed
            self.failed(error)
            return False
        if self._trouble.ends():
            self._log("Captions are shown again")
        return True

    def failed(self, error: Exception) -> None:
        """Logs that a caption could not be shown, unless the same failure is already logged."""
        if self._trouble.begins(trouble_of(error)):
            self._log(f"A caption could not be shown, the recording goes on: {self._trouble.current}")

    async def _publish(self, caption: Caption, to: Sequence[str]) -> None:
        """Sends the original first, by which clients tell it from translations; then all translations at once."""
        original, *translations = caption.by_language().items()
        await _all_of(self._messages(caption, *original, to))
        await _all_of([one for item in translations for one in self._messages(caption, *item, to)])

    def _messages(self, caption: Caption, language: str, text: str, to: Sequence[str]) -> list[_Message]:
        """The messages in both forms (fact 24). Packets cannot be addressed, so they are sent to everybody only."""
        stream = self._stream(caption, language, text, to)
        return [stream] if to else [stream, self._packet(caption, language, text)]

    async def _stream(self, caption: Caption, language: str, text: str, to: Sequence[str]) -> None:
        writer = await self._room.local_participant.stream_text(
            topic=TOPIC,
            attributes=stream_attributes(caption, language),
            sender_identity=caption.record.participant_identity,
            destination_identities=list(to),
        )
        await writer.write(text)
        await writer.aclose()

    async def _packet(self, caption: Caption, language: str, text: str) -> None:
        segment = rtc.TranscriptionSegment(
            id=_segment_id(caption, language),
            text=text,
            start_time=caption.start_milliseconds,
            end_time=caption.end_milliseconds,
            language=language,
            final=True,
        )
        record = caption.record
        await self._room.local_participant.publish_transcription(
            rtc.Transcription(record.participant_identity, record.track_sid, [segment])
        )

    def _log(self, message: str) -> None:
        logger.warning("%s", message, extra={"room": self._info.name, "participant": None})


async def _all_of(messages: Sequence[_Message]) -> None:
    """Sends all messages, even if one fails; then raises the first failure."""
    for outcome in await asyncio.gather(*messages, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def stream_attributes(caption: Caption, language: str) -> dict[str, str]:
    """The attributes of a text stream: those defined by LiveKit, then the recorder's own (docs/translation.md)."""
    return {
        "lk.transcription_final": "true",
        "lk.transcribed_track_id": caption.record.track_sid,
        "lk.segment_id": _segment_id(caption, language),
        "language": language,
        "spoken_language": caption.text.language,
        "segment": caption.id,
        "start_time": str(caption.start_milliseconds),
        "end_time": str(caption.end_milliseconds),
    }


def _segment_id(caption: Caption, language: str) -> str:
    """An id for each language: clients merge texts with the same id (fact 25)."""
    return f"{caption.id}-{language}"
