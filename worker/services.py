"""The tasks that run beside the rooms while the worker serves: recovery, text, search index, delivery, disk space."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from archive.outbox import Outbox
from archive.recovery import recover_all
from config import Settings
from core.supervised import supervised
from core.worker_state import worker_state
from delivery.retention import Housekeeping
from delivery.service import DeliveryService
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
        self._texts = _text_service(settings, self._outbox)

    def start(self) -> list[asyncio.Task[None]]:
        """Starts all services. Cancel the tasks before :meth:`aclose`."""
        tasks = [
            supervised(lambda: _recover(self._settings), "recovery"),
            *_start_delivery(self._settings, self._outbox),
        ]
        if self._texts is not None:
            from search.index import FreshIndex

            index = FreshIndex(Path(self._settings.output_dir))
            worker_state.add_source(self._texts.metrics)
            tasks.append(supervised(self._texts.run, "texts"))
            tasks.append(supervised(index.run, "search index"))
        return tasks

    async def aclose(self) -> None:
        if self._texts is not None:
            await self._texts.aclose()
        await self._outbox.aclose()


def _text_service(settings: Settings, outbox: Outbox) -> TextService | None:
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

    return TextService(settings, GeminiTranslator(settings), outbox)


def _start_delivery(settings: Settings, outbox: Outbox) -> list[asyncio.Task[None]]:
    """Starts the deletion of old files, the warning about a full disk, and delivery to the configured targets."""
    targets, problems = open_targets(settings)
    for problem in problems:
        logger.error("%s. Recording goes on locally", problem)
    housekeeping = Housekeeping(settings, targets, is_complete=not problems)
    tasks = [supervised(housekeeping.run, "housekeeping")]
    if targets:
        delivery = DeliveryService(settings, targets, outbox)
        worker_state.add_source(delivery.metrics)
        tasks.append(supervised(delivery.run, "delivery"))
    return tasks


async def _recover(settings: Settings) -> None:
    """Makes segments of what a crash left. Rooms are recorded meanwhile; locks protect files that are being written."""
    try:
        recovered = await asyncio.to_thread(recover_all, settings)
    except OSError as error:
        logger.error("Cannot look for speech that a crash may have left: %s", error.strerror or error)
        return
    if recovered:
        seconds = sum(record.duration_seconds for record in recovered)
        logger.warning("Recovered %d segments (%.1f s) that a crash had left", len(recovered), seconds)
