"""The tasks that run beside the rooms while the worker serves: recovery, text, search index, delivery, disk space."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from archive.list_parts import join_parts
from archive.outbox import TEXT, Outbox
from archive.recovery import recover_all
from archive.session_counts import Expected
from archive.session_keeper import SessionKeeper
from config import Settings
from core.supervised import supervised
from core.worker_state import worker_state
from delivery.retention import Housekeeping
from delivery.service import DeliveryService, kind_of
from delivery.targets import open_targets

if TYPE_CHECKING:
    from text.service import TextService

logger = logging.getLogger("recorder")


class Services:
    """The services that the settings require. Created before the server is contacted, started when it has answered."""

    def __init__(self, settings: Settings) -> None:
        """
        Raises:
            ConfigError: a file that the settings name cannot be used.
        """
        self._settings = settings
        self._outbox = Outbox(Path(settings.output_dir))
        self._targets, self._problems = open_targets(settings)
        self.sessions = self._session_keeper()
        self._texts = _text_service(settings, self._outbox, self.sessions)

    def start(self) -> list[asyncio.Task[None]]:
        """Starts all services. Cancel the tasks before :meth:`aclose`."""
        sessions = self.sessions
        tasks = [
            supervised(lambda: _recover(self._settings, sessions), "recovery"),
            supervised(sessions.run, "session files"),
            *self._start_delivery(),
        ]
        if self._texts is not None:
            from search.index import FreshIndex

            index = FreshIndex(Path(self._settings.output_dir))
            worker_state.add_source(self._texts.metrics)
            tasks.append(supervised(self._texts.run, "texts"))
            tasks.append(supervised(index.run, "search index"))
        return tasks

    def _session_keeper(self) -> SessionKeeper:
        settings, targets = self._settings, self._targets
        kinds = [*([TEXT] if settings.wants_text else []), *map(kind_of, targets)]
        expected = Expected.from_settings(settings, [target.name for target in targets])
        return SessionKeeper(Path(settings.output_dir), expected, self._outbox, kinds)

    def _start_delivery(self) -> list[asyncio.Task[None]]:
        """Starts the deletion of old files, the warning about a full disk, and delivery to the configured targets."""
        housekeeping = Housekeeping(self._settings, self._targets, is_complete=not self._problems)
        tasks = [supervised(housekeeping.run, "housekeeping")]
        for problem in self._problems:
            logger.error("%s. Recording goes on locally", problem)
        if self._targets:
            delivery = DeliveryService(
                self._settings, self._targets, self._outbox, on_settled=self.sessions.progressed
            )
            worker_state.add_source(delivery.metrics)
            tasks.append(supervised(delivery.run, "delivery"))
        return tasks

    async def aclose(self) -> None:
        if self._texts is not None:
            await self._texts.aclose()
        await self._outbox.aclose()


def _text_service(settings: Settings, outbox: Outbox, sessions: SessionKeeper) -> TextService | None:
    """The text service, or None if no text is wanted. Gemini's library is imported only if needed.

    Raises:
        ConfigError: a file that the settings name cannot be used.
    """
    if not settings.wants_text:
        logger.info(
            "Audio only. For transcripts and translations set GEMINI_API_KEY (or GOOGLE_CLOUD_PROJECT) and "
            "SAVE_TRANSLATIONS=true, for live captions CAPTIONS=true"
        )
        return None
    from text.service import TextService
    from translator import GeminiTranslator

    return TextService(settings, GeminiTranslator(settings), outbox, on_settled=sessions.progressed)


async def _recover(settings: Settings, sessions: SessionKeeper) -> None:
    """Makes segments of what a crash left, and then looks for sessions that it has left without a file. Rooms are
    recorded meanwhile; locks protect files that are being written."""
    # First, or what only a part of a list names would be taken for something that a crash has left.
    await asyncio.to_thread(join_parts, Path(settings.output_dir))
    try:
        recovered = await asyncio.to_thread(recover_all, settings)
    except OSError as error:
        logger.error("Cannot look for speech that a crash may have left: %s", error.strerror or error)
        recovered = []
    if recovered:
        seconds = sum(record.duration_seconds for record in recovered)
        logger.warning("Recovered %d segments (%.1f s) that a crash had left", len(recovered), seconds)
    await sessions.recover()
