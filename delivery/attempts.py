"""Delivers one item from the outbox to a target, and stores the outcome in the delivery log and the outbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from archive.delivery_log import Key, audio_key, note
from archive.outbox import Outbox, Work
from archive.session_files import read_session
from archive.session_removal import is_session_being_erased
from archive.tombstones import is_being_erased
from config import Settings
from core.backoff import Backoff
from core.errors import ConfigError, RecorderError, Refused, RetryLater, StorageError
from core.records import SegmentRecord
from core.session_records import OnSettled, ignore_settled
from core.text_records import TextRecord
from delivery.items import (
    CALL_TIMEOUT_SECONDS,
    AudioItem,
    Item,
    ListsItem,
    SessionItem,
    Target,
    TextItem,
    Unusable,
    expired_before,
)
from delivery.status import TargetState

logger = logging.getLogger("recorder")

T = TypeVar("T")

OUTBOX_RETRY_SECONDS = 1.0


class DeliveryAttempts:
    """Delivers items to one target."""

    def __init__(
        self,
        target: Target,
        outbox: Outbox,
        settings: Settings,
        state: TargetState,
        backoff: Backoff,
        on_settled: OnSettled = ignore_settled,
    ) -> None:
        self._target = target
        self._outbox = outbox
        self._settings = settings
        self._state = state
        self._backoff = backoff
        self._on_settled = on_settled

    async def deliver(self, work: Work) -> bool:
        """Delivers an item, then adds it to the delivery log, then settles it in the outbox. Raises nothing.

        Returns whether there may be other items to claim."""
        try:
            opened = await asyncio.to_thread(_opened, work, self._settings)
            if opened is None:
                return await self._until_stored(self._outbox.done, work)
            refusal = opened.unusable if opened.item is None else await self._put(opened.item)
            await asyncio.to_thread(_note, opened, self._target.name, refusal)
        except (TimeoutError, RecorderError) as error:
            self._state.fails(error)
        except Exception as error:  # unexpected: the item must not be lost
            logger.error("Delivery failed unexpectedly", exc_info=error)
            self._state.fails(RetryLater("unexpected error"))
        else:
            return await self._settle(work, opened, refusal)
        await self._until_stored(self._outbox.retry, work, self._backoff.pause(work.attempts + 1))
        return True

    async def _put(self, item: Item) -> str:
        """Puts the item into the target. Returns why it is refused for good; empty: it is delivered."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS * 2):
                await self._target.put(item)
        except Refused as refusal:
            await self._prove_it_takes_others(refusal)
            self._state.works()
            return str(refusal)
        self._state.works()
        return ""

    async def _prove_it_takes_others(self, refusal: Refused) -> None:
        """Raises ConfigError if the target also refuses its test item: then the refusal is not the item's fault."""
        try:
            await self._target.check()
        except Refused:
            raise ConfigError(f"it refuses everything: {refusal}") from None

    async def _settle(self, work: Work, opened: _Opened, refusal: str) -> bool:
        if refusal:
            logger.error(
                "%s is never delivered to %s (dead letter): %s",
                work.file,
                self._target.name,
                refusal,
                extra={"room": opened.room},
            )
            await self._until_stored(self._outbox.refuse, work, refusal)
            may_be_more = True
        else:
            self._state.delivered()
            logger.debug("%s delivered to %s", work.file, self._target.name, extra={"room": opened.room})
            may_be_more = await self._until_stored(self._outbox.done, work)
        if opened.room_sid is not None:
            self._on_settled(work.folder, opened.room_sid)
        return may_be_more

    async def _until_stored(self, step: Callable[..., Awaitable[T]], *values: object) -> T:
        """Repeats a step of the outbox until it succeeds: an item that stays claimed would block its room."""
        while True:
            try:
                return await step(*values)
            except StorageError as error:
                self._state.fails(error)
                await asyncio.sleep(OUTBOX_RETRY_SECONDS)


@dataclass(frozen=True)
class _Opened:
    """An item, with its content, and how it is named."""

    folder: Path
    key: Key
    room: str
    item: Item | None
    """None: it is unusable."""
    unusable: str = ""
    room_sid: str | None = None
    """The session of a segment; None: it is no segment's."""


def _opened(work: Work, settings: Settings) -> _Opened | None:
    """Reads an item; None: it is being erased, or a session whose file is no longer there. Blocks; raises
    StorageError."""
    folder, payload = Path(settings.output_dir) / work.folder, work.payload
    if "session" in payload:
        item_of_session = SessionItem(folder, str(payload["session"]))
        session = read_session(folder, item_of_session.room_sid)
        if session is None or is_session_being_erased(folder, session):
            return None
        return _Opened(folder, Key(work.file), folder.name, item_of_session)
    if "manifest_bytes" in payload:
        lists = ListsItem(
            folder,
            int(payload["manifest_bytes"]),
            int(payload.get("texts_bytes", 0)),
            int(payload.get("gaps_bytes", 0)),
            expired_before(settings.remote_retention_days),
        )
        return _Opened(folder, Key(work.file), folder.name, lists)
    record = SegmentRecord.from_json(payload["record"])
    if is_being_erased(folder, record):
        return None
    text = TextRecord.from_json(payload["text"]) if "text" in payload else None
    key = audio_key(record) if text is None else Key(work.file)
    try:
        item = AudioItem.read(folder, record) if text is None else TextItem.read(folder, record, text)
    except Unusable as refusal:
        return _Opened(folder, key, record.room_name, None, str(refusal), record.room_sid)
    return _Opened(folder, key, record.room_name, item, room_sid=record.room_sid)


def _note(opened: _Opened, target: str, refusal: str) -> None:
    try:
        note(opened.folder, target, opened.key, refusal)
    except FileNotFoundError:
        pass  # the whole room has been erased in the meantime
    except OSError as error:
        raise StorageError(f"the delivery log cannot be written: {error.strerror or error}") from error
