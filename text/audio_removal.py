"""With SAVE_AUDIO=false, removes WAVs whose text is saved and that are delivered to every target."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from archive.outbox import Order, Outbox, State, Work
from core.backoff import Backoff

REMOVE_AUDIO = "remove_audio"
"""Kind of work in the outbox; its items are named after the WAVs."""

REMOVALS_AT_ONCE = 50
BACKOFF = Backoff(2.0, 3600.0)


class AudioRemoval:
    """Removes WAVs, as work in the outbox.

    ``deliver_first`` lists the kinds of work in the outbox that must be done for a WAV before it is removed.
    """

    def __init__(self, outbox: Outbox, output_dir: Path, deliver_first: Sequence[str]) -> None:
        self._outbox = outbox
        self._output_dir = output_dir
        self._deliver_first = deliver_first

    async def plan(self, work: Work) -> None:
        """Adds the removal of this segment's WAV, since its text is saved."""
        await self._outbox.add([Work(REMOVE_AUDIO, work.folder, work.file, work.moment, {})])

    async def run_once(self) -> None:
        """Removes the WAVs that may be removed now.

        Raises:
            StorageError, OSError: the disk refuses.
        """
        for work in await self._outbox.claim(REMOVE_AUDIO, Order.NEWEST_FIRST, REMOVALS_AT_ONCE):
            if await self._is_delivered(work):
                await asyncio.to_thread((self._output_dir / work.folder / work.file).unlink, missing_ok=True)
                await self._outbox.done(work)
            else:
                await self._outbox.retry(work, BACKOFF.doubled(work.attempts + 1))

    async def _is_delivered(self, work: Work) -> bool:
        states = [await self._outbox.state(kind, work.folder, work.file) for kind in self._deliver_first]
        return all(state is State.DONE for state in states)
