"""SAVE_AUDIO=false: WAVs go when their text is safe and they are delivered wherever they are to be delivered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from archive.outbox import Order, Outbox, State, Work
from core.backoff import Backoff

REMOVE_AUDIO = "remove_audio"
"""Kind of work in the outbox; it names a segment by its WAV."""

REMOVALS_AT_ONCE = 50
BACKOFF = Backoff(2.0, 3600.0)


class AudioRemoval:
    """Removes WAVs, through the outbox.

    ``deliver_first`` names the kinds of work in the outbox that must be done with a WAV before it may go.
    """

    def __init__(self, outbox: Outbox, output_dir: Path, deliver_first: Sequence[str]) -> None:
        self._outbox = outbox
        self._output_dir = output_dir
        self._deliver_first = deliver_first

    async def plan(self, work: Work) -> None:
        """The text of this segment is safe: its WAV may go."""
        await self._outbox.add([Work(REMOVE_AUDIO, work.folder, work.file, work.moment, {})])

    async def run_once(self) -> None:
        """Removes what may go now.

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
