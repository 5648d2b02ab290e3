"""The text service: gets the text of every segment on disk, without delaying the recording.

The manifests list the segments, ``texts.jsonl`` in each folder the finished texts, and the outbox the open work. Open
work is therefore done even after an outage, a restart or the end of the room. The newest segments come first, so that a
lesson in progress never waits for an old one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from pathlib import Path

from archive.manifest_reader import ManifestReader
from archive.names import MANIFEST
from archive.outbox import Backlog, Order, Outbox, Work
from config import Settings
from core import notify
from core.errors import StorageError
from core.records import SegmentRecord
from core.trouble import Trouble, trouble_of
from core.worker_state import worker_state
from text.attempts import Answered, Done, NeverAgain, NotTried, Outcome, Skipped, TextAttempts, TryAgain
from text.audio_removal import AudioRemoval
from text.costs import CostsByLesson, TextCosts, TextMetrics
from text.gate import TEXT, CallGate
from text.results import TextFolders, save_refusal, save_text
from translator import Translator

logger = logging.getLogger("recorder")

SCAN_SECONDS = 2.0
"""How often all folders are checked for new segments."""

DISK_PAUSE_SECONDS = 1.0
QUIET_SECONDS = 120.0
"""After this long without a call, the costs of a lesson are logged."""


class TextService:
    """Gets and saves the texts of segments. One worker has one service.

    Args:
        budget: the outbox that counts the calls, if it is another one: all processes that use a disk share one budget.
        folders: the texts, if they are not those in OUTPUT_DIR.
        is_run: the work is to come to an end: a segment that fails again and again is skipped.
        removes_audio: False keeps the WAVs, whatever SAVE_AUDIO is.
    """

    def __init__(
        self,
        settings: Settings,
        translator: Translator,
        outbox: Outbox,
        budget: Outbox | None = None,
        folders: TextFolders | None = None,
        *,
        removes_audio: bool = True,
        is_run: bool = False,
    ) -> None:
        self.metrics = TextMetrics(self.backlog)
        self.gate = CallGate(settings, budget or outbox)
        self._settings = settings
        self._translator = translator
        self._outbox = outbox
        self._output_dir = Path(settings.output_dir)
        self._folders = folders or TextFolders(self._output_dir)
        self._costs = CostsByLesson(self.metrics)
        self._attempts = TextAttempts(
            settings, translator, self.gate, self._costs, self._folders, is_run=is_run
        )
        self._removal = AudioRemoval(outbox, self._output_dir) if removes_audio else None
        self._manifests = ManifestReader(outbox, self._output_dir, TEXT, self._folders.is_wanted)
        self._calls: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._notified: set[str] = set()
        """Folders with a notification that their manifests have grown."""
        self._may_claim = True
        self._scan_at = 0.0
        self._disk = Trouble()
        self._unsaved = 0
        """Outcomes in memory that are not stored yet."""

    async def run(self) -> None:
        """Works until cancelled. It may be started again; calls that are running go on until :meth:`aclose`."""
        stop_listening = notify.listen(MANIFEST, self._on_notified)
        try:
            while True:
                try:
                    await self._round()
                    self._disk_works()
                except (StorageError, OSError) as error:
                    self._disk_refuses(error)
                except Exception as error:  # unexpected: the next round tries again
                    logger.error("Looking for missing text failed", exc_info=error)
                self._costs.log(QUIET_SECONDS)
                await self._until_news()
        finally:
            stop_listening()

    async def aclose(self) -> None:
        """Ends the calls that are running, and closes the translator. They are repeated after the next start.

        Cancel :meth:`run` before, and close the outbox afterwards: it releases the items of these calls.
        """
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        self._costs.log(0)
        await self._translator.aclose()

    @property
    def costs(self) -> TextCosts:
        """What all text has cost since the start."""
        return self._costs.total

    async def backlog(self) -> Backlog:
        """The segments that wait for their text."""
        return await self._outbox.backlog(TEXT)

    # Finding work.

    async def _round(self) -> None:
        await self._find_work()
        if self._may_claim and self._removal is not None and not self._settings.save_audio:
            await self._removal.run_once()
        if self._may_claim and self.gate.seconds_closed <= 0:
            self._may_claim = False
            await self._begin_calls()

    async def _find_work(self) -> None:
        notified, self._notified = self._notified, set()
        if time.monotonic() >= self._scan_at:
            is_first = self._scan_at == 0
            self._scan_at = time.monotonic() + SCAN_SECONDS
            self._may_claim = True
            await self._manifests.look_everywhere()
            backlog = await self.backlog()
            worker_state.note("text", _note_on_refused(backlog))
            if is_first:
                _log_backlog(backlog)
        elif notified:
            self._may_claim |= await self._manifests.look_at(notified)

    async def _until_news(self) -> None:
        timeout, closed = SCAN_SECONDS, self.gate.seconds_closed
        if closed > 0:
            self._may_claim = True  # as soon as the gate opens
            timeout = min(timeout, closed)
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    def _on_notified(self, manifest: Path) -> None:
        if manifest.parent.parent == self._output_dir:
            self._notified.add(manifest.parent.name)
            self._news.set()

    def _wake(self) -> None:
        self._may_claim = True
        self._news.set()

    # Calls.

    async def _begin_calls(self) -> None:
        free = max(0, self.gate.max_calls - len(self._calls))
        for work in await self._outbox.claim(TEXT, Order.NEWEST_FIRST, free):
            call = asyncio.create_task(self._work_on(work), name=f"text of {work.file}")
            self._calls.add(call)
            call.add_done_callback(self._on_call_done)

    def _on_call_done(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._wake()
        if not call.cancelled() and call.exception() is not None:
            logger.error("The outcome of a text could not be stored", exc_info=call.exception())

    async def _work_on(self, work: Work) -> None:
        """Attempts a claimed item and stores the outcome. Whatever happens, the item does not stay claimed."""
        try:
            outcome = await self._attempts.attempt(work)
        except (StorageError, OSError) as error:
            self._disk_refuses(error)
            outcome = NotTried()
        except Exception as error:  # unexpected: the other items continue
            logger.error("Getting a text failed", exc_info=error, extra={"room": work.folder})
            outcome = TryAgain(self.gate.backoff.max_seconds)
        await self._until_stored(work, outcome)

    async def _until_stored(self, work: Work, outcome: Outcome) -> None:
        """Stores an outcome, and retries while the disk refuses: an answer that has been paid for is kept in memory."""
        self._unsaved += 1
        try:
            while True:
                try:
                    await self._store(work, outcome)
                    return
                except (StorageError, OSError) as error:
                    outcome = await self._after_disk_error(work, outcome, error)
                    await asyncio.sleep(DISK_PAUSE_SECONDS)
        finally:
            self._unsaved -= 1

    async def _after_disk_error(self, work: Work, outcome: Outcome, error: Exception) -> Outcome:
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            return NeverAgain("the name of its text file is too long")
        if await asyncio.to_thread(self._folders.is_gone, work.folder):
            return NeverAgain("its folder is gone", is_recorded=False)
        self._disk_refuses(error)
        return outcome

    async def _store(self, work: Work, outcome: Outcome) -> None:
        if isinstance(outcome, NotTried):
            await self._outbox.give_back(work)
        elif isinstance(outcome, TryAgain):
            await self._outbox.retry(work, outcome.after_seconds)
            asyncio.get_running_loop().call_later(outcome.after_seconds, self._wake)
        elif isinstance(outcome, Skipped):
            await self._skip(work, outcome)
        else:
            await self._settle(work, outcome)

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

    async def _settle(self, work: Work, outcome: Done | Answered | NeverAgain) -> None:
        segment, texts = SegmentRecord.from_json(work.payload), self._folders.texts_of(work.folder)
        if isinstance(outcome, NeverAgain):
            if outcome.is_recorded and await save_refusal(texts, segment, outcome.reason):
                self._costs.add(work.folder, segment, refused=1)
            await self._outbox.refuse(work, outcome.reason)
            self._attempts.forget(work)
        else:
            if isinstance(outcome, Answered):
                await self._save(work, segment, outcome)
            if self._removal is not None and await asyncio.to_thread(texts.may_remove_audio, segment):
                await self._removal.plan(work)
            await self._outbox.done(work)
            self._attempts.forget(work)

    async def _save(self, work: Work, segment: SegmentRecord, answer: Answered) -> None:
        is_new = await save_text(
            self._folders.texts_of(work.folder),
            segment,
            answer.result,
            with_files=self._settings.save_translations,
            is_audio_kept=self._settings.save_audio,
        )
        if is_new:
            self._costs.add(work.folder, segment, texts=1)

    # The disk.

    def _disk_refuses(self, error: Exception) -> None:
        trouble = trouble_of(error)
        if self._disk.begins(trouble):
            logger.warning("Text has to wait for the disk: %s", trouble)

    def _disk_works(self) -> None:
        if not self._unsaved and self._disk.ends():
            logger.warning("Texts can be written again")


def _log_backlog(backlog: Backlog) -> None:
    if backlog.count:
        logger.info(
            "%d segments wait for their text, the oldest for %.0f minutes; the newest come first",
            backlog.count,
            backlog.oldest_seconds / 60,
        )


def _note_on_refused(backlog: Backlog) -> str:
    if not backlog.refused:
        return ""
    return f"segments whose text was refused: {backlog.refused} (lessons.py check names them)"
