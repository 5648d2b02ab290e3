"""The text service: gets the text of every segment on disk, without delaying the recording.

The manifests list the segments, ``texts.jsonl`` in each folder the finished texts, and the outbox the open work. Open
work is therefore done even after an outage, a restart or the end of the room. The newest segments come first, so that a
lesson in progress never waits for an old one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from archive.manifest_reader import ManifestReader
from archive.names import MANIFEST
from archive.outbox import TEXT, Backlog, Order, Outbox, Work
from config import Settings
from core import notify
from core.errors import StorageError
from core.session_records import OnSettled, ignore_settled
from core.worker_state import worker_state
from text.attempts import NotTried, TextAttempts, TryAgain
from text.audio_removal import AudioRemoval
from text.costs import CostsByLesson, TextCosts, TextMetrics
from text.gate import CallGate
from text.outcomes import OnSaved, OutcomeStore, do_nothing
from text.results import TextFolders
from translator import Translator

logger = logging.getLogger("recorder")

SCAN_SECONDS = 2.0
"""How often folders are checked for new segments of other processes."""

QUIET_SECONDS = 120.0
"""After this long without a call, the costs of a lesson are logged."""


class TextService:
    """Gets and saves the texts of segments. One worker has one service.

    Args:
        budget: the outbox that counts the calls, if it is another one: all processes that use a disk share one budget.
        folders: the texts, if they are not those in OUTPUT_DIR.
        is_run: the work is to come to an end: a segment that fails again and again is skipped.
        removes_audio: False keeps the WAVs, whatever SAVE_AUDIO is.
        on_saved: called after a text is saved.
        on_settled: called with folder and session sid when a segment has its text, or is refused.
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
        on_saved: OnSaved = do_nothing,
        on_settled: OnSettled = ignore_settled,
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
        self._manifests = ManifestReader(outbox, self._output_dir, TEXT, self._folders.unfinished)
        self._calls: set[asyncio.Task[bool]] = set()
        self._news = asyncio.Event()
        self._notified: set[str] = set()
        """Folders with a notification that their manifests have grown."""
        self._may_claim = True
        self._scan_at = 0.0
        self._outcomes = OutcomeStore(
            settings,
            outbox,
            self._folders,
            self._costs,
            self._attempts,
            self._removal,
            self._wake,
            on_saved,
            on_settled,
        )

    async def run(self) -> None:
        """Works until cancelled. It may be started again; calls that are running go on until :meth:`aclose`."""
        stop_listening = notify.listen(MANIFEST, self._on_notified)
        try:
            while True:
                try:
                    await self._round()
                    self._outcomes.disk_works()
                except (StorageError, OSError) as error:
                    self._outcomes.disk_refuses(error)
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
        if notified:
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

    def _on_call_done(self, call: asyncio.Task[bool]) -> None:
        self._calls.discard(call)
        if not call.cancelled() and call.exception() is not None:
            logger.error("The outcome of a text could not be stored", exc_info=call.exception())
        elif not call.cancelled() and not call.result() and self._settings.save_audio:
            return  # nothing is left to be claimed, and no WAV to be removed
        self._wake()

    async def _work_on(self, work: Work) -> bool:
        """Attempts a claimed item and stores the outcome. Whatever happens, the item does not stay claimed.

        Returns whether there may be other items to claim."""
        try:
            outcome = await self._attempts.attempt(work)
        except (StorageError, OSError) as error:
            self._outcomes.disk_refuses(error)
            outcome = NotTried()
        except Exception as error:  # unexpected: the other items continue
            logger.error("Getting a text failed", exc_info=error, extra={"room": work.folder})
            outcome = TryAgain(self.gate.backoff.max_seconds)
        return await self._outcomes.until_stored(work, outcome)


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
