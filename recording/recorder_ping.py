"""Pings a room's recorder, as the server lists a killed one for about twenty seconds more.

The ping is an RPC through the server. The recorder answers from the event loop that does the recording, and says
whether its tracks deliver frames. Any participant may call it; the answer reveals nothing else.
"""

from __future__ import annotations

from livekit import api
from livekit.protocol.room import PerformRpcRequest, PerformRpcResponse

METHOD = "recorder/alive"
ALIVE = "alive"
NO_FRAMES = "deaf"

ANSWER_SECONDS = 1.5

_NO_ANSWER = ("RpcError 1501", "RpcError 1502")
"""The server's errors if the participant has not received the request or has not answered it."""


async def is_alive(livekit: api.LiveKitAPI, room: str, identity: str) -> bool | None:
    """Whether a recorder of this identity answers and receives frames. None: unknown.

    Unknown if the recorder is still joining or of an older version, or if the server does not support such RPCs.

    Raises:
        aiohttp.ClientError, asyncio.TimeoutError: the server itself does not answer.
    """
    try:
        return await _ask(livekit, room, identity) != NO_FRAMES
    except api.TwirpError as error:
        is_silent = any(text in error.message for text in _NO_ANSWER)
        is_absent = error.code == api.TwirpErrorCode.UNAVAILABLE
        return False if is_silent or is_absent else None


async def _ask(livekit: api.LiveKitAPI, room: str, identity: str) -> str:
    request = PerformRpcRequest(
        room=room,
        destination_identity=identity,
        method=METHOD,
        response_timeout_ms=int(ANSWER_SECONDS * 1000),
    )
    # The library has no method for this server API yet.
    service = livekit.room
    grants = service._auth_header(api.VideoGrants(room_admin=True, room=room))
    answer = await service._client.request("RoomService", "PerformRpc", request, grants, PerformRpcResponse)
    return str(answer.payload)
