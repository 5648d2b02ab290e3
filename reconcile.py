"""Finds rooms that have a teacher and no living recorder, and asks LiveKit to send one.

A server dispatches a recorder only when a room is created (fact 11): a room that opened before the worker, during a
deploy, while all workers were full or whose recorder was killed would stay unrecorded for ever. So every worker
compares its picture with the server's, at the start and every few seconds. LiveKit's own dispatch then chooses the
worker.

Workers do not know of each other, and need not: each looks at no more rooms a round than it could take itself, rooms it
has not seen before first and otherwise at random. All workers together then look at every room every few seconds,
however many they are (docs/scaling.md), and before one asks for a recorder it waits a moment, and looks whether another
has.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import logging
import random
import time
from collections.abc import Callable, Sequence

from livekit import api
from livekit.protocol import models

import liveness
from config import Settings
from roles import ParticipantFacts, RoleRules

logger = logging.getLogger("recorder")

NEW_ROOM_SECONDS = 3.0
"""A room younger than this may have its first recorder on the way."""

PATIENCE_SECONDS = 8.0
"""How long a dispatched recorder may take to appear before another is asked for."""

LEAST_LOOKS = 20
LOOKS_PER_ROOM_OF_OURS = 2
"""Of rooms in a round, by the rooms that we could record: what keeps a large fleet from asking a server to death."""

LOOKS_AT_ONCE = 10

SPREAD_SECONDS = 1.0
"""Several workers may find the same room at the same moment; each waits up to so long before it acts."""


def is_wanted(room: str, patterns: Sequence[str]) -> bool:
    """Whether ROOM_FILTER lets a room of this name be recorded. Without patterns, every room."""
    return not patterns or any(fnmatch.fnmatchcase(room, pattern) for pattern in patterns)


class Reconciler:
    """Compares rooms with recorders, one round at a time."""

    def __init__(
        self,
        livekit: api.LiveKitAPI,
        settings: Settings,
        max_rooms: int,
        is_recorded_here: Callable[[str], bool],
        has_capacity: Callable[[], bool],
    ) -> None:
        self._livekit = livekit
        self._settings = settings
        self._looks = max(LEAST_LOOKS, LOOKS_PER_ROOM_OF_OURS * max_rooms)
        self._is_recorded_here = is_recorded_here
        self._has_capacity = has_capacity
        self._rules = RoleRules(settings)
        self._seen: set[str] = set()
        """Sids of rooms that have been looked at."""
        self._asked_at: dict[str, float] = {}

    async def run(self) -> None:
        """Rounds until cancelled. A server that does not answer is asked again at the next round."""
        trouble = ""
        while True:
            try:
                await self.round()
                trouble = ""
            except Exception as error:  # whatever the server said, the next round asks again
                if str(error) != trouble:
                    trouble = str(error)
                    logger.warning("Rooms without a recorder cannot be looked for now: %s", trouble)
            # Never in step with other workers.
            await asyncio.sleep(self._settings.reconcile_seconds * random.uniform(0.8, 1.2))

    async def round(self) -> None:
        """Looks at as many rooms as are ours to look at, and asks for a recorder where one is missing.

        Raises:
            api.TwirpError, aiohttp.ClientError, asyncio.TimeoutError: the server does not answer.
        """
        if not self._has_capacity():
            return  # those who have room for more ask for it
        rooms = (await self._livekit.room.list_rooms(api.ListRoomsRequest())).rooms
        open_rooms = {room.sid for room in rooms}
        self._seen &= open_rooms
        self._asked_at = {sid: moment for sid, moment in self._asked_at.items() if sid in open_rooms}
        at_once = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def look(room: models.Room) -> None:
            async with at_once:
                await self._look_at(room)

        results = await asyncio.gather(*(look(room) for room in self._chosen(rooms)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _chosen(self, rooms: Sequence[models.Room]) -> list[models.Room]:
        candidates = [room for room in rooms if self._may_need_recorder(room)]
        random.shuffle(candidates)
        candidates.sort(key=lambda room: room.sid in self._seen)
        return candidates[: self._looks]

    def _may_need_recorder(self, room: models.Room) -> bool:
        if room.num_participants == 0 or self._is_recorded_here(room.sid):
            return False
        if not is_wanted(room.name, self._settings.room_filter):
            return False
        if time.time() - room.creation_time < NEW_ROOM_SECONDS:
            return False
        return time.monotonic() - self._asked_at.get(room.sid, -PATIENCE_SECONDS) >= PATIENCE_SECONDS

    async def _look_at(self, room: models.Room) -> None:
        needs_recorder = await self._needs_recorder(room)
        self._seen.add(room.sid)
        if not needs_recorder:
            return
        before = await self._dispatches(room)
        await asyncio.sleep(random.uniform(0, SPREAD_SECONDS))
        self._asked_at[room.sid] = time.monotonic()
        if await self._dispatches(room) == before:
            await self._ask_for_recorder(room)

    async def _needs_recorder(self, room: models.Room) -> bool:
        request = api.ListParticipantsRequest(room=room.name)
        participants = (await self._livekit.room.list_participants(request)).participants
        present = [one for one in participants if one.state != models.ParticipantInfo.DISCONNECTED]
        if not any(self._rules.judge(_facts(one)).is_recorded for one in present):
            return False
        identity = self._settings.agent_identity
        if not any(one.identity == identity for one in present):
            return True
        if await liveness.answers(self._livekit, room.name, identity):
            return False
        logger.warning("The room's recorder does not answer: removing it", extra={"room": room.name})
        with contextlib.suppress(api.TwirpError):  # it has just gone by itself
            await self._livekit.room.remove_participant(
                api.RoomParticipantIdentity(room=room.name, identity=identity)
            )
        return True

    async def _dispatches(self, room: models.Room) -> set[str]:
        return {dispatch.id for dispatch in await self._livekit.agent_dispatch.list_dispatch(room.name)}

    async def _ask_for_recorder(self, room: models.Room) -> None:
        logger.info("A teacher without a recorder: asking for one", extra={"room": room.name})
        await ask_for_recorder(self._livekit, self._settings, room.name)


async def ask_for_recorder(livekit: api.LiveKitAPI, settings: Settings, room: str) -> None:
    """Has LiveKit send a recorder into the room: of the workers that can take one, it chooses.

    Raises:
        api.TwirpError, aiohttp.ClientError, asyncio.TimeoutError: the server does not answer.
    """
    request = api.CreateAgentDispatchRequest(agent_name=settings.agent_name, room=room)
    await livekit.agent_dispatch.create_dispatch(request)


def _facts(participant: models.ParticipantInfo) -> ParticipantFacts:
    return ParticipantFacts(
        sid=participant.sid,
        identity=participant.identity,
        is_standard=participant.kind == models.ParticipantInfo.STANDARD,
        metadata=participant.metadata,
        attributes=participant.attributes,
        can_update_metadata=participant.permission.can_update_metadata,
    )
