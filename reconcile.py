"""Finds rooms that have a teacher and no recorder, and asks LiveKit to send one.

A server dispatches a recorder only when a room is created (fact 11): a room that opened before the worker, during a
deploy or a crash would stay unrecorded for ever. So the worker compares its picture with the server's, at the start
and every few seconds. LiveKit's own dispatch then chooses the worker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from livekit import api
from livekit.protocol import models

from config import Settings
from roles import ParticipantFacts, RoleRules
from vitals import vitals

logger = logging.getLogger("recorder")

NEW_ROOM_SECONDS = 3.0
"""A room younger than this may have its first recorder on the way."""

PATIENCE_SECONDS = 8.0
"""How long a dispatched recorder may take to appear before another is asked for."""


class Reconciler:
    """Compares rooms with recorders, one round at a time."""

    def __init__(
        self, livekit: api.LiveKitAPI, settings: Settings, is_recorded_here: Callable[[str], bool]
    ) -> None:
        self._livekit = livekit
        self._settings = settings
        self._is_recorded_here = is_recorded_here
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
            await asyncio.sleep(self._settings.reconcile_seconds)

    async def round(self) -> None:
        rooms = (await self._livekit.room.list_rooms(api.ListRoomsRequest())).rooms
        open_rooms = {room.sid for room in rooms}
        self._asked_at = {sid: moment for sid, moment in self._asked_at.items() if sid in open_rooms}
        for room in rooms:
            if self._may_need_recorder(room) and await self._needs_recorder(room):
                await self._ask_for_recorder(room)

    def _may_need_recorder(self, room: models.Room) -> bool:
        if room.num_participants == 0 or self._is_recorded_here(room.sid):
            return False
        if time.time() - room.creation_time < NEW_ROOM_SECONDS:
            return False
        return time.monotonic() - self._asked_at.get(room.sid, -PATIENCE_SECONDS) >= PATIENCE_SECONDS

    async def _needs_recorder(self, room: models.Room) -> bool:
        request = api.ListParticipantsRequest(room=room.name)
        participants = (await self._livekit.room.list_participants(request)).participants
        present = [one for one in participants if one.state != models.ParticipantInfo.DISCONNECTED]
        if any(one.identity == self._settings.agent_identity for one in present):
            return False
        rules = RoleRules(self._settings)
        return any(rules.judge(_facts(one)).is_recorded for one in present)

    async def _ask_for_recorder(self, room: models.Room) -> None:
        self._asked_at[room.sid] = time.monotonic()
        vitals.adopted()
        logger.info("A teacher without a recorder: asking for one", extra={"room": room.name})
        await self._livekit.agent_dispatch.create_dispatch(
            api.CreateAgentDispatchRequest(agent_name=self._settings.agent_name, room=room.name)
        )


def _facts(participant: models.ParticipantInfo) -> ParticipantFacts:
    return ParticipantFacts(
        sid=participant.sid,
        identity=participant.identity,
        is_standard=participant.kind == models.ParticipantInfo.STANDARD,
        metadata=participant.metadata,
        attributes=participant.attributes,
        can_update_metadata=participant.permission.can_update_metadata,
    )
