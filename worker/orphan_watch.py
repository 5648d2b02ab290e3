"""Takes rooms over at once whose recorder has died on this machine's disk: after a restart, or of another worker.

The reconciler finds such rooms, too, but has to ask the dead recorder twice whether it is alive. The lock on its
handover note tells it without asking.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import aiohttp
from livekit import api

from archive.handover_note import HandoverNote
from archive.orphans import RECENT_SECONDS, Orphan, find_orphans
from config import Settings

logger = logging.getLogger("recorder")

LOOK_SECONDS = 0.5

MAX_SHARE = 0.05
"""The greatest part of the time that looking may take, where there are thousands of folders."""

CLAIM_SECONDS = 4.0
"""How long an orphan that this worker takes over is kept from others; its new recorder is in the room by then."""

ASK_SECONDS = 5.0
"""How long asking for one may take. It is locked meanwhile: no other worker can ask."""

AGAIN_SECONDS = 5.0
"""After this an orphan that needed no recorder, or for which this worker had no place, is looked at again."""

Replace = Callable[[HandoverNote], Awaitable[bool | None]]
"""Asks for another recorder of a room. Returns whether it asked; False: that is in vain for ever; None: for now."""


class _InVain(NamedTuple):
    written_at: float
    """When the note was last written (seconds since 1970)."""
    again_at: float
    """When to ask again (monotonic clock); infinite: never."""


class OrphanWatch:
    """Looks for orphans regularly, and has each replaced."""

    def __init__(self, settings: Settings, replace: Replace) -> None:
        self._output_dir = Path(settings.output_dir)
        self._agent_name = settings.agent_name
        self._replace = replace
        self._claims: dict[Orphan, float] = {}
        """Orphans that were asked for, and until when they are kept from others (monotonic clock)."""
        self._found: list[Orphan] = []
        """Orphans of the last look."""
        self._is_over = False
        self._ending = threading.Lock()
        self._in_vain: dict[str, _InVain] = {}
        """Orphans for which no recorder was asked, by their recorder's sid."""

    async def run(self) -> None:
        """Looks until cancelled."""
        self._is_over = False  # it may be restarted
        try:
            while True:
                began = time.monotonic()
                await asyncio.to_thread(self._find)
                took = time.monotonic() - began
                await asyncio.gather(*map(self._take, self._found))
                await asyncio.sleep(max(LOOK_SECONDS, took / MAX_SHARE))
                self._release_claims()
        finally:
            with self._ending:
                self._is_over = True
                left = [*self._found, *self._claims]
            for orphan in left:  # a task that is cancelled before it has started has released nothing
                orphan.lock.release()

    def _find(self) -> None:
        """Finds and locks orphans. The watch may end meanwhile: then they are released again."""
        try:
            found = list(find_orphans(self._output_dir, self._agent_name))
        except OSError as error:  # the health answer and the recorders of the rooms report the disk
            logger.debug("The output folder cannot be read", exc_info=error)
            found = []
        with self._ending:
            self._found = [] if self._is_over else found
        if self._is_over:
            for orphan in found:
                orphan.lock.release()

    async def _take(self, orphan: Orphan) -> None:
        """Has a recorder asked for. The orphan is locked meanwhile, so of several workers one asks."""
        has_asked = None
        try:
            if self._may_ask(orphan):
                async with asyncio.timeout(ASK_SECONDS):
                    has_asked = await self._replace(orphan.note)
                    self._note(orphan, has_asked)
        except (api.TwirpError, aiohttp.ClientError, TimeoutError) as error:  # the next look asks again
            logger.debug("No recorder can be asked for now", exc_info=error)
        finally:
            if has_asked:
                self._claims[orphan] = time.monotonic() + CLAIM_SECONDS
            else:
                orphan.lock.release()

    def _may_ask(self, orphan: Orphan) -> bool:
        asked = self._in_vain.get(orphan.note.recorder_sid)
        return asked is None or asked.written_at != orphan.written_at or time.monotonic() >= asked.again_at

    def _note(self, orphan: Orphan, has_asked: bool | None) -> None:
        """Notes when an orphan was asked for in vain; forgets those whose notes are too old to be found again."""
        earliest = time.time() - RECENT_SECONDS
        self._in_vain = {sid: asked for sid, asked in self._in_vain.items() if asked.written_at > earliest}
        if not has_asked:
            again_at = math.inf if has_asked is False else time.monotonic() + AGAIN_SECONDS
            self._in_vain[orphan.note.recorder_sid] = _InVain(orphan.written_at, again_at)

    def _release_claims(self) -> None:
        """Releases the orphans whose new recorder is there, or has not come in time."""
        for orphan, until in list(self._claims.items()):
            if time.monotonic() > until:
                del self._claims[orphan]
                orphan.lock.release()
