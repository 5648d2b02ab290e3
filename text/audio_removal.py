"""With SAVE_AUDIO=false, removes WAVs whose text is saved."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from archive.outbox import Order, Outbox, Work
from core.backoff import Backoff

logger = logging.getLogger("recorder")

REMOVE_AUDIO = "remove_audio"
"""A kind of work in the outbox. Its items have the names of the WAVs."""

REMOVALS_AT_ONCE = 50
BACKOFF = Backoff(2.0, 3600.0)


class AudioRemoval:
    """Removes WAVs, as work in the outbox."""

    def __init__(self, outbox: Outbox, output_dir: Path) -> None:
        self._outbox = outbox
        self._output_dir = output_dir

    async def plan(self, work: Work) -> None:
        """Adds the removal of this segment's WAV. Call it when the text is saved."""
        await self._outbox.add([Work(REMOVE_AUDIO, work.folder, work.file, work.moment, {})])

    async def run_once(self) -> None:
        """Removes the WAVs that may be removed now. One that cannot be is tried again later.

        Raises:
            StorageError: the disk refuses.
        """
        for work in await self._outbox.claim(REMOVE_AUDIO, Order.NEWEST_FIRST, REMOVALS_AT_ONCE):
            try:
                await asyncio.to_thread((self._output_dir / work.folder / work.file).unlink, missing_ok=True)
            except OSError as error:  # on Windows, for example, while somebody plays it
                logger.warning("%s cannot be removed yet (SAVE_AUDIO=false): %s", work.file, error)
                await self._outbox.retry(work, BACKOFF.doubled(work.attempts + 1))
            else:
                await self._outbox.done(work)
