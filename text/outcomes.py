"""Stores the outcomes of attempts: texts and refusals in the rooms' folders, and what is done in the outbox."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable

from archive.outbox import Outbox, Work
from config import Settings
from core.errors import StorageError
from core.records import SegmentRecord
from core.session_records import OnSettled
from core.trouble import Trouble, trouble_of
from text.attempts import Answered, Done, NeverAgain, NotTried, Outcome, Skipped, TextAttempts, TryAgain
from text.audio_removal import AudioRemoval
from text.costs import CostsByLesson
from text.results import TextFolders, save_refusal, save_text

logger = logging.getLogger("recorder")

DISK_PAUSE_SECONDS = 1.0
"""The pause before an outcome is stored again that the disk has refused."""

OnSaved = Callable[[Work], Awaitable[None]]
"""Called after a text is saved."""


async def do_nothing(_: Work) -> None: ...


class OutcomeStore:
    """Stores outcomes. While the disk refuses they are kept in memory: an answer has been paid for."""

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        folders: TextFolders,
        costs: CostsByLesson,
        attempts: TextAttempts,
        removal: AudioRemoval | None,
        wake: Callable[[], None],
        on_saved: OnSaved,
        on_settled: OnSettled,
    ) -> None:
        """``wake`` is called when an item that is to be tried again is due. ``removal`` None: WAVs are kept."""
        self._settings = settings
        self._outbox = outbox
        self._folders = folders
        self._costs = costs
        self._attempts = attempts
        self._removal = removal
        self._wake = wake
        self._on_saved = on_saved
        self._on_settled = on_settled
        self._disk = Trouble()
        self._unsaved = 0
        """Outcomes in memory that are not stored yet."""

    async def until_stored(self, work: Work, outcome: Outcome) -> bool:
        """Stores an outcome, and retries while the disk refuses. Returns whether there may be other items to claim."""
        self._unsaved += 1
        try:
            while True:
                try:
                    return await self.store(work, outcome)
                except (StorageError, OSError) as error:
                    outcome = await self._after_disk_error(work, outcome, error)
                    await asyncio.sleep(DISK_PAUSE_SECONDS)
        finally:
            self._unsaved -= 1

    async def store(self, work: Work, outcome: Outcome) -> bool:
        """Stores an outcome once. Returns whether there may be other items to claim.

        Raises:
            StorageError, OSError: the disk refuses.
        """
        if isinstance(outcome, NotTried):
            await self._outbox.give_back(work)
        elif isinstance(outcome, TryAgain):
            await self._outbox.retry(work, outcome.after_seconds)
            asyncio.get_running_loop().call_later(outcome.after_seconds, self._wake)
        elif isinstance(outcome, Skipped):
            await self._skip(work, outcome)
        elif isinstance(outcome, NeverAgain):
            await self._refuse(work, outcome)
        else:
            return await self._finish(work, outcome)
        return True

    def disk_refuses(self, error: Exception) -> None:
        """Logs once that texts have to wait."""
        trouble = trouble_of(error)
        if self._disk.begins(trouble):
            logger.warning("Text has to wait for the disk: %s", trouble)

    def disk_works(self) -> None:
        """Logs that texts can be written again, once nothing waits in memory."""
        if not self._unsaved and self._disk.ends():
            logger.warning("Texts can be written again")

    async def _after_disk_error(self, work: Work, outcome: Outcome, error: Exception) -> Outcome:
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            return NeverAgain("the name of its text file is too long")
        if await asyncio.to_thread(self._folders.is_gone, work.folder):
            return NeverAgain("its folder is gone", is_recorded=False)
        self.disk_refuses(error)
        return outcome

    async def _skip(self, work: Work, outcome: Skipped) -> None:
        segment = SegmentRecord.from_json(work.payload)
        await self._outbox.refuse(work, outcome.reason)
        self._attempts.forget(work)
        self._costs.add(work.folder, segment, skipped=1)
        logger.error(
            "%s is skipped after several failures, and can be tried again later: %s",
            segment.file,
            outcome.reason,
            extra={"room": segment.room_name},
        )

    async def _refuse(self, work: Work, outcome: NeverAgain) -> None:
        segment, texts = SegmentRecord.from_json(work.payload), self._folders.texts_of(work.folder)
        if outcome.is_recorded and await save_refusal(texts, segment, outcome.reason):
            self._costs.add(work.folder, segment, refused=1)
        await self._outbox.refuse(work, outcome.reason)
        self._attempts.forget(work)
        self._on_settled(work.folder, segment.room_sid)

    async def _finish(self, work: Work, outcome: Done | Answered) -> bool:
        segment, texts = SegmentRecord.from_json(work.payload), self._folders.texts_of(work.folder)
        is_new = isinstance(outcome, Answered) and await self._save(work, segment, outcome)
        is_kept = is_new and self._settings.save_audio
        removal = None if is_kept else self._removal
        if removal is not None and await asyncio.to_thread(texts.may_remove_audio, segment):
            await removal.plan(work)
        may_be_more = await self._outbox.done(work)
        self._attempts.forget(work)
        self._on_settled(work.folder, segment.room_sid)
        if isinstance(outcome, Answered):
            await self._on_saved(work)
        return may_be_more

    async def _save(self, work: Work, segment: SegmentRecord, answer: Answered) -> bool:
        """Saves a text; False: the segment has one already, or has been erased."""
        is_new = await save_text(
            self._folders.texts_of(work.folder),
            segment,
            answer.result,
            with_files=self._settings.save_translations,
            is_audio_kept=self._settings.save_audio,
        )
        if is_new:
            self._costs.add(work.folder, segment, texts=1)
        return is_new
