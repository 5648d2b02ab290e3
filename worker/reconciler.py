"""Finds rooms that have a teacher and no living recorder, and asks LiveKit to send one.

A server dispatches a recorder only when a room is created (fact 11). A room that opened before the worker, during a
deploy or while all workers were full, or whose recorder was killed, would never be recorded. So every worker compares
the server's rooms with their recorders, at the start and every few seconds. LiveKit's own dispatch then chooses the
worker. With AGENT_NAME only rooms count that have a dispatch of this name; the server makes one for each agent that a
room's configuration names, and keeps it after the recorder was killed.

Workers do not know of each other. In a round, a worker looks at three times as many rooms as it records itself: first
at those it has not seen before, otherwise at random. So all workers together look at every room about three times a
round, however many workers there are. Before a worker asks for a recorder it waits a moment, and checks whether another
worker has asked (docs/scaling.md has the figures).
"""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from livekit import api
from livekit.protocol import agent, models

from archive.handover_note import HandoverNote
from config import Settings
from core.trouble import Trouble, trouble_of
from core.worker_state import worker_state
from worker.room_queries import RoomQueries, ask_for_recorder

logger = logging.getLogger("recorder")

NEW_ROOM_SECONDS = 3.0
"""The first recorder of a room younger than this may be joining. The age is by the server's clock: if this machine's
is far behind, the age is negative for long, and the room is not treated as new."""

MAX_JOIN_SECONDS = 8.0
"""How long a recorder may take to join after a worker has accepted the job, before another is asked for. A room is
treated as new for so long while this worker is joining others: if many rooms open together, every worker is."""

UNANSWERED_SECONDS = 4.0
"""After this a request that no worker has accepted is repeated: the server asks one worker, which may hang, and gives
it 3 s (livekit-server 1.13.3)."""

ABSENT_SECONDS = 60.0
"""For this long after a recorder was asked for, the list of participants is checked before the recorder is pinged: a
ping of a participant that is not there takes 3 s."""

MIN_LOOKS = 20
LOOKS_PER_RECORDED_ROOM = 3

MAX_LOOKS = 100
"""At the same time, even if this worker records a thousand rooms."""

SHORT_LIST = 200
"""A list of up to this many rooms is fetched every round; a longer one less often, in proportion to its length."""

CAUTION_SECONDS = (0.7, 1.7)
"""Shortest and longest random wait before a recorder is asked for: several workers may find the same room at the same
moment, and a recorder that another has just asked for would have joined by then."""


_UNDER_WAY = (agent.JS_PENDING, agent.JS_RUNNING)


def is_wanted(room: str, patterns: Sequence[str]) -> bool:
    """Whether ROOM_FILTER lets a room of this name be recorded. Without patterns, every room."""
    return not patterns or any(fnmatch.fnmatchcase(room, pattern) for pattern in patterns)


@dataclass(frozen=True)
class _Asked:
    """A request for a recorder."""

    at: float
    """When it was made (seconds of the monotonic clock)."""
    dispatches_before: Collection[str]
    """The ids of the room's dispatches before this request."""


class Reconciler:
    """Compares rooms with recorders, one round at a time."""

    def __init__(
        self,
        livekit: api.LiveKitAPI,
        settings: Settings,
        is_recorded_here: Callable[[str], bool],
        rooms_taken: Callable[[], int],
        rooms_joining: Callable[[], int],
        has_capacity: Callable[[], bool],
    ) -> None:
        self._livekit = livekit
        self._settings = settings
        self._queries = RoomQueries(livekit, settings)
        self._is_recorded_here = is_recorded_here
        self._rooms_taken = rooms_taken
        self._rooms_joining = rooms_joining
        self._has_capacity = has_capacity
        self._rooms: dict[str, models.Room] = {}
        """Rooms by sid, as of the last list."""
        self._list_again_at = 0.0
        self._seen: set[str] = set()
        """Sids of rooms that have been looked at."""
        self._asked: dict[str, _Asked] = {}
        """Requests by the room's sid."""
        self._looks: dict[str, asyncio.Task[None]] = {}
        """Running looks, by the room's sid."""
        self._trouble = Trouble()

    async def run(self) -> None:
        """Runs rounds until cancelled. A server that does not answer is asked again in the next round."""
        try:
            while True:
                try:
                    await self.round()
                except Exception as error:  # the next round asks again
                    self._log_once(error)
                # At random, so that workers do not run in step.
                await asyncio.sleep(self._settings.reconcile_seconds * random.uniform(0.8, 1.2))
        finally:
            for look in self._looks.values():
                look.cancel()

    async def round(self) -> None:
        """Starts to look at this worker's share of the rooms. A recorder that does not answer delays no round.

        Raises:
            api.TwirpError, aiohttp.ClientError, asyncio.TimeoutError: the server does not answer.
        """
        if not self._has_capacity():
            return  # workers with capacity ask for recorders
        if time.monotonic() >= self._list_again_at:
            await self._list_rooms()
            self._trouble.ends()
        for room in self._chosen():
            look = asyncio.create_task(self._look_at(room), name=f"look at {room.name}")
            self._looks[room.sid] = look
            look.add_done_callback(lambda look, sid=room.sid: self._on_look_done(look, sid))  # type: ignore[misc]

    async def replace(self, dead: HandoverNote) -> bool | None:
        """Asks at once for the successor of a recorder that is known to have died, by its note. Returns whether it
        asked. False: it never will, as the room is over or not for this agent. None: not now, as this worker is full,
        the room has another recorder, or nobody to be recorded.

        Raises:
            api.TwirpError, aiohttp.ClientError, asyncio.TimeoutError: the server does not answer.
        """
        if not self._has_capacity() or self._is_recorded_here(dead.room_sid):
            return None
        named = (await self._livekit.room.list_rooms(api.ListRoomsRequest(names=[dead.room_name]))).rooms
        room = next((room for room in named if room.sid == dead.room_sid), None)
        if room is None or not is_wanted(room.name, self._settings.room_filter):
            return False
        if not await self._queries.is_for_this_agent(room):
            return False
        if await self._queries.listed_recorder(room) not in (None, dead.recorder_sid):
            return None
        if not await self._queries.has_teacher(room):
            return None
        self._asked[room.sid] = _Asked(time.monotonic(), (await self._queries.dispatches(room)).keys())
        worker_state.counters.adoptions.inc()
        logger.info("The recorder of this room has died: asking for another", extra={"room": room.name})
        await ask_for_recorder(self._livekit, self._settings, room.name)
        return True

    def _on_look_done(self, look: asyncio.Task[None], sid: str) -> None:
        del self._looks[sid]
        if not look.cancelled() and (error := look.exception()) is not None:
            self._log_once(error)

    def _log_once(self, error: BaseException) -> None:
        if self._trouble.begins(trouble_of(error)):
            logger.warning("Cannot look for rooms without a recorder now: %s", self._trouble.current)

    async def _list_rooms(self) -> None:
        rooms = (await self._livekit.room.list_rooms(api.ListRoomsRequest())).rooms
        self._rooms = {room.sid: room for room in rooms}
        self._seen &= self._rooms.keys()
        self._asked = {sid: asked for sid, asked in self._asked.items() if sid in self._rooms}
        rounds = len(rooms) // SHORT_LIST
        self._list_again_at = time.monotonic() + rounds * self._settings.reconcile_seconds

    def _chosen(self) -> list[models.Room]:
        candidates = [room for room in self._rooms.values() if self._may_need_recorder(room)]
        random.shuffle(candidates)
        candidates.sort(key=lambda room: room.sid in self._seen)
        share = max(MIN_LOOKS, LOOKS_PER_RECORDED_ROOM * self._rooms_taken())
        return candidates[: min(share, MAX_LOOKS - len(self._looks))]

    def _may_need_recorder(self, room: models.Room) -> bool:
        if room.num_participants == 0 or room.sid in self._looks or self._is_recorded_here(room.sid):
            return False
        if not is_wanted(room.name, self._settings.room_filter):
            return False
        new_seconds = MAX_JOIN_SECONDS if self._rooms_joining() else NEW_ROOM_SECONDS
        if abs(time.time() - room.creation_time) < new_seconds:
            return False
        return self._asked_ago(room) >= UNANSWERED_SECONDS

    def _asked_ago(self, room: models.Room) -> float:
        """Seconds since this worker asked for a recorder, or saw that another worker had."""
        return time.monotonic() - self._asked[room.sid].at if room.sid in self._asked else math.inf

    async def _look_at(self, room: models.Room) -> None:
        try:
            is_ours = await self._queries.is_for_this_agent(room)
            if is_ours and not await self._has_recorder(room) and await self._queries.has_teacher(room):
                await self._ask_unless_another_has(room)
        except api.TwirpError as error:
            if error.code != api.TwirpErrorCode.NOT_FOUND:
                raise
            self._rooms.pop(room.sid, None)  # it is over
        self._seen.add(room.sid)

    async def _has_recorder(self, room: models.Room) -> bool:
        """Whether the room has a recorder that is alive. One that does not answer twice is removed from the room.

        For a recorder that answers this takes a single call.
        """
        if self._asked_ago(room) < ABSENT_SECONDS and await self._queries.listed_recorder(room) is None:
            return False
        is_alive = await self._queries.is_alive(room)
        listed = None if is_alive else await self._queries.listed_recorder(room)
        if is_alive or listed is None:
            return bool(is_alive)
        if is_alive is None or await self._queries.is_alive(room) is not False:
            return True
        if await self._queries.listed_recorder(room) != listed:
            return True  # there is a new one, or another worker has removed the old one and asks for another
        logger.warning("The room's recorder does not answer: removing it", extra={"room": room.name})
        return not await self._queries.remove_recorder(room)

    async def _ask_unless_another_has(self, room: models.Room) -> None:
        before = await self._queries.dispatches(room)
        if self._is_one_on_its_way(room, before):
            return
        await asyncio.sleep(random.uniform(*CAUTION_SECONDS))
        self._asked[room.sid] = _Asked(time.monotonic(), before.keys())
        after = await self._queries.dispatches(room)
        if after.keys() != before.keys() or await self._queries.listed_recorder(room) is not None:
            return
        worker_state.counters.adoptions.inc()
        logger.info("A teacher without a recorder: asking for one", extra={"room": room.name})
        await ask_for_recorder(self._livekit, self._settings, room.name)

    def _is_one_on_its_way(self, room: models.Room, dispatches: Mapping[str, api.AgentDispatch]) -> bool:
        """Whether a worker has accepted the last request. Only its jobs count: those of killed recorders may be listed
        as running for long."""
        if self._asked_ago(room) >= MAX_JOIN_SECONDS:
            return False
        new = dispatches.keys() - self._asked[room.sid].dispatches_before
        return any(job.state.status in _UNDER_WAY for sid in new for job in dispatches[sid].state.jobs)
