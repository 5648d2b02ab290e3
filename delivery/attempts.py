"""Delivers one item from the outbox to a target, and stores the outcome in the delivery log and the outbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from archive.delivery_log import Key, audio_key, note
from archive.outbox import Outbox, Work
from archive.session_files import read_session
from archive.session_removal import is_session_being_erased
from archive.tombstones import is_being_erased
from config import Settings
from core.backoff import Backoff
from core.errors import ConfigError, RecorderError, Refused, RetryLater, StorageError
from core.records import SegmentRecord
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

OUTBOX_RETRY_SECONDS = 1.0

OnSettled = Callable[[str, str], None]
"""Called with a folder and the sid of a session when nothing is left to be done with one of its items."""


def tell_nobody(folder: str, room_sid: str) -> None: ...


class DeliveryAttempts:
    """Delivers items to one target."""

    def __init__(
        self,
        target: Target,
        outbox: Outbox,
        settings: Settings,
        state: TargetState,
        backoff: Backoff,
        on_settled: OnSettled = tell_nobody,
    ) -> None:
        self._target = target
        self._outbox = outbox
        self._settings = settings
        self._state = state
        self._backoff = backoff
        self._on_settled = on_settled

    async def deliver(self, work: Work) -> None:
        """Delivers an item, then adds it to the delivery log, then settles it in the outbox. Raises nothing."""
        try:
            item, key = _item_of(work, self._settings)
            if await asyncio.to_thread(_is_to_stay, item):
                await self._until_stored(self._outbox.done, work)
                return
            refusal = await self._put(item)
            await asyncio.to_thread(_note, item, self._target.name, key, refusal)
        except (TimeoutError, RecorderError) as error:
            self._state.fails(error)
        except Exception as error:  # unexpected: the item must not be lost
            logger.error("Delivery failed unexpectedly", exc_info=error)
            self._state.fails(RetryLater("unexpected error"))
        else:
            await self._settle(work, item, refusal)
            return
        await self._until_stored(self._outbox.retry, work, self._backoff.pause(work.attempts + 1))

    async def _put(self, item: Item) -> str:
        """Puts the item into the target. Returns why it is refused for good; empty: it is delivered."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS * 2):
                await self._target.put(item)
        except Refused as refusal:
            if not isinstance(refusal, Unusable):
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

    async def _settle(self, work: Work, item: Item, refusal: str) -> None:
        if refusal:
            logger.error(
                "%s is never delivered to %s (dead letter): %s",
                work.file,
                self._target.name,
                refusal,
                extra=_room(item),
            )
            await self._until_stored(self._outbox.refuse, work, refusal)
        else:
            self._state.delivered()
            logger.debug("%s delivered to %s", work.file, self._target.name, extra=_room(item))
            await self._until_stored(self._outbox.done, work)
        if isinstance(item, (AudioItem, TextItem)):
            self._on_settled(work.folder, item.record.room_sid)

    async def _until_stored(self, step: Callable[..., Awaitable[None]], *values: object) -> None:
        """Repeats a step of the outbox until it succeeds: an item that stays claimed would block its room."""
        while True:
            try:
                await step(*values)
                return
            except StorageError as error:
                self._state.fails(error)
                await asyncio.sleep(OUTBOX_RETRY_SECONDS)


def _item_of(work: Work, settings: Settings) -> tuple[Item, Key]:
    folder, payload = Path(settings.output_dir) / work.folder, work.payload
    if "session" in payload:
        return SessionItem(folder, str(payload["session"])), Key(work.file)
    if "manifest_bytes" in payload:
        lists = ListsItem(
            folder,
            int(payload["manifest_bytes"]),
            int(payload.get("texts_bytes", 0)),
            int(payload.get("gaps_bytes", 0)),
            expired_before(settings.remote_retention_days),
        )
        return lists, Key(work.file)
    record = SegmentRecord.from_json(payload["record"])
    if "text" in payload:
        return TextItem(folder, record, TextRecord.from_json(payload["text"])), Key(work.file)
    return AudioItem(folder, record), audio_key(record)


def _is_to_stay(item: Item) -> bool:
    """Whether an item is not delivered: it is being erased, or a session whose file is no longer there."""
    if isinstance(item, SessionItem):
        session = read_session(item.folder, item.room_sid)
        return session is None or is_session_being_erased(item.folder, session)
    return not isinstance(item, ListsItem) and is_being_erased(item.folder, item.record)


def _note(item: Item, target: str, key: Key, refusal: str) -> None:
    try:
        note(item.folder, target, key, refusal)
    except FileNotFoundError:
        pass  # the whole room has been erased in the meantime
    except OSError as error:
        raise StorageError(f"the delivery log cannot be written: {error.strerror or error}") from error


def _room(item: Item) -> dict[str, str]:
    return {"room": item.record.room_name if isinstance(item, (AudioItem, TextItem)) else item.folder.name}
