"""Whether a room's recorder is alive: the server goes on listing one that was killed for some twenty seconds.

So it is asked, through the server: a recorder answers an RPC, from the event loop that does the recording, with whether
it hears what it listens to. Anybody in the room may ask; there is nothing in the answer.
"""

from __future__ import annotations

from livekit import api
from livekit.protocol.room import PerformRpcRequest, PerformRpcResponse

METHOD = "recorder/alive"
ALIVE = "alive"
NO_FRAMES = "deaf"

ANSWER_SECONDS = 1.5

_NO_ANSWER = ("RpcError 1501", "RpcError 1502")
"""How the server says that the participant did not take the question, or did not answer it."""


async def is_alive(livekit: api.LiveKitAPI, room: str, identity: str) -> bool | None:
    """Whether a recorder of this identity answers and hears. None: it cannot be asked.

    The latter is one that is only joining or of an older version, or a server that does not know how to ask.

    Raises:
        aiohttp.ClientError, asyncio.TimeoutError: the server itself does not answer.
    """
    try:
        return await _ask(livekit, room, identity) != NO_FRAMES
    except api.TwirpError as error:
        is_silent = any(sign in error.message for sign in _NO_ANSWER)
        is_absent = error.code == api.TwirpErrorCode.UNAVAILABLE
        return False if is_silent or is_absent else None


async def _ask(livekit: api.LiveKitAPI, room: str, identity: str) -> str:
    request = PerformRpcRequest(
        room=room,
        destination_identity=identity,
        method=METHOD,
        response_timeout_ms=int(ANSWER_SECONDS * 1000),
    )
    # The library has no method for this call of the server's yet.
    service = livekit.room
    grants = service._auth_header(api.VideoGrants(room_admin=True, room=room))
    answer = await service._client.request("RoomService", "PerformRpc", request, grants, PerformRpcResponse)
    return str(answer.payload)
