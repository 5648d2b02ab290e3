"""Takes rooms over at once whose recorder has died on this machine's disk: after a restart, or of another worker.

The reconciler finds such rooms, too, but has to ask the dead recorder twice whether it is alive. The lock on its
handover note tells it without asking.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from livekit import api

from archive.handover_note import HandoverNote
from archive.orphans import Orphan, find_orphans
from config import Settings

logger = logging.getLogger("recorder")

LOOK_SECONDS = 0.5

MAX_SHARE = 0.05
"""The greatest part of the time that looking may take, where there are thousands of folders."""

CLAIM_SECONDS = 4.0
"""How long an orphan that this worker takes over is kept from others; its new recorder is in the room by then."""

Replace = Callable[[HandoverNote], Awaitable[bool]]
"""Asks for another recorder of a room, unless that is in vain. Returns whether it asked."""


class OrphanWatch:
    """Looks for orphans regularly, and has each replaced."""

    def __init__(self, settings: Settings, replace: Replace) -> None:
        self._output_dir = Path(settings.output_dir)
        self._agent_name = settings.agent_name
        self._replace = replace
        self._claims: dict[Orphan, float] = {}
        """Orphans that were asked for, and until when they are kept from others (monotonic clock)."""
        self._hopeless: dict[str, float] = {}
        """Orphans that need no ping, by their recorder's sid: when the note was written."""

    async def run(self) -> None:
        """Looks until cancelled."""
        try:
            while True:
                began = time.monotonic()
                orphans = await asyncio.to_thread(self._find)
                took = time.monotonic() - began
                for orphan in orphans:
                    await self._take(orphan)
                await asyncio.sleep(max(LOOK_SECONDS, took / MAX_SHARE))
                self._release_claims()
        finally:
            for orphan in self._claims:
                orphan.lock.release()

    def _find(self) -> list[Orphan]:
        try:
            return list(find_orphans(self._output_dir, self._agent_name))
        except OSError as error:  # the health answer and the recorders of the rooms report the disk
            logger.debug("The output folder cannot be read", exc_info=error)
            return []

    async def _take(self, orphan: Orphan) -> None:
        """Has a recorder asked for. The orphan is locked meanwhile, so of several workers one asks."""
        sid = orphan.note.recorder_sid
        has_asked = False
        try:
            if self._hopeless.get(sid) != orphan.written_at:
                has_asked = await self._replace(orphan.note)
                if not has_asked:
                    self._hopeless[sid] = orphan.written_at
        except (api.TwirpError, aiohttp.ClientError, TimeoutError) as error:  # the next look asks again
            logger.debug("No recorder can be asked for now", exc_info=error)
        finally:
            if has_asked:
                self._claims[orphan] = time.monotonic() + CLAIM_SECONDS
            else:
                orphan.lock.release()

    def _release_claims(self) -> None:
        """Releases the orphans whose new recorder is there, or has not come in time."""
        for orphan, until in list(self._claims.items()):
            if time.monotonic() > until:
                del self._claims[orphan]
                orphan.lock.release()
