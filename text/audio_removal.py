"""With SAVE_AUDIO=false, removes WAVs whose text is saved."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from archive.outbox import Order, Outbox, Work
from core.backoff import Backoff
from core.trouble import trouble_of

logger = logging.getLogger("recorder")

REMOVE_AUDIO = "remove_audio"
"""A kind of work in the outbox. Its items have the names of the WAVs."""

REMOVALS_AT_ONCE = 50
BACKOFF = Backoff(2.0, 60.0)


class AudioRemoval:
    """Removes WAVs, as work in the outbox. A WAV that cannot be removed is tried again, and delays no other."""

    def __init__(self, outbox: Outbox, output_dir: Path) -> None:
        self._outbox = outbox
        self._output_dir = output_dir
        self._claimed: list[Work] = []
        """Claimed and not settled yet: the disk has refused in between."""

    async def plan(self, work: Work) -> None:
        """Adds the removal of this segment's WAV. Call it when the text is saved."""
        await self._outbox.add([Work(REMOVE_AUDIO, work.folder, work.file, work.moment, {})])

    async def run_once(self) -> None:
        """Removes the WAVs that may be removed now. One that cannot be is tried again later.

        Raises:
            StorageError: the outbox refuses; the next call goes on with the same WAVs.
        """
        if not self._claimed:
            self._claimed = await self._outbox.claim(REMOVE_AUDIO, Order.NEWEST_FIRST, REMOVALS_AT_ONCE)
        while self._claimed:
            await self._remove(self._claimed[0])
            del self._claimed[0]

    async def _remove(self, work: Work) -> None:
        try:
            await asyncio.to_thread((self._output_dir / work.folder / work.file).unlink, missing_ok=True)
        except NotADirectoryError:
            pass  # the room's folder is gone
        except OSError as error:
            if not work.attempts:  # once for each WAV
                logger.warning("%s cannot be removed yet: %s", work.file, trouble_of(error))
            await self._outbox.retry(work, BACKOFF.doubled(work.attempts + 1))
            return
        await self._outbox.done(work)
