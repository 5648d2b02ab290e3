"""Asks the server about one room: who is in it, whether its recorder is alive, and for a recorder.

Every call may raise ``api.TwirpError``, ``aiohttp.ClientError`` or ``asyncio.TimeoutError``: the server does not
answer.
"""

from __future__ import annotations

from livekit import api
from livekit.protocol import models

from config import Settings
from recording import recorder_ping
from recording.roles import ParticipantFacts, RoleRules


class RoomQueries:
    """What the server and the room's recorder say."""

    def __init__(self, livekit: api.LiveKitAPI, settings: Settings) -> None:
        self._livekit = livekit
        self._settings = settings
        self._rules = RoleRules(settings)

    async def is_for_this_agent(self, room: models.Room) -> bool:
        """Whether somebody asked for an agent of this worker's name; without AGENT_NAME, every room is for it."""
        name = self._settings.agent_name
        if not name:
            return True
        try:
            dispatches = await self.dispatches(room)
        except api.TwirpError as error:
            if error.code == api.TwirpErrorCode.UNAVAILABLE:
                return False  # nobody serves the room: it is over, or moves to another server
            raise
        return any(dispatch.agent_name == name for dispatch in dispatches.values())

    async def is_alive(self, room: models.Room) -> bool | None:
        """See :func:`recording.recorder_ping.is_alive`."""
        return await recorder_ping.is_alive(self._livekit, room.name, self._settings.agent_identity)

    async def listed_recorder(self, room: models.Room) -> str | None:
        """The sid of the recorder that the server lists in the room; None: it lists none."""
        try:
            return (await self._livekit.room.get_participant(self._recorder_in(room))).sid
        except api.TwirpError as error:
            if error.code == api.TwirpErrorCode.NOT_FOUND:
                return None
            raise

    async def remove_recorder(self, room: models.Room) -> bool:
        """Returns whether this worker removed it: of several that try, only that one asks for another recorder."""
        try:
            await self._livekit.room.remove_participant(self._recorder_in(room))
        except api.TwirpError:
            return False
        return True

    def _recorder_in(self, room: models.Room) -> api.RoomParticipantIdentity:
        return api.RoomParticipantIdentity(room=room.name, identity=self._settings.agent_identity)

    async def has_teacher(self, room: models.Room) -> bool:
        """Whether somebody is in the room who is to be recorded."""
        people = (
            await self._livekit.room.list_participants(api.ListParticipantsRequest(room=room.name))
        ).participants
        present = [one for one in people if one.state != models.ParticipantInfo.DISCONNECTED]
        return any(self._rules.judge(_facts(one)).is_recorded for one in present)

    async def dispatches(self, room: models.Room) -> dict[str, api.AgentDispatch]:
        """The room's dispatches by id."""
        dispatches = await self._livekit.agent_dispatch.list_dispatch(room.name)
        return {dispatch.id: dispatch for dispatch in dispatches}


async def ask_for_recorder(livekit: api.LiveKitAPI, settings: Settings, room: str) -> None:
    """Asks LiveKit to send a recorder into the room; LiveKit chooses the worker."""
    request = api.CreateAgentDispatchRequest(agent_name=settings.agent_name, room=room)
    await livekit.agent_dispatch.create_dispatch(request)


def _facts(participant: models.ParticipantInfo) -> ParticipantFacts:
    return ParticipantFacts(
        sid=participant.sid,
        identity=participant.identity,
        kind=_kind(participant),
        metadata=participant.metadata,
        attributes=participant.attributes,
        can_update_metadata=participant.permission.can_update_metadata,
    )


def _kind(participant: models.ParticipantInfo) -> str:
    """As in :mod:`recording.people`, by the server's numbers of the kinds: the client has others."""
    kinds = models.ParticipantInfo.Kind
    return kinds.Name(participant.kind).lower() if participant.kind in kinds.values() else "unknown"
