"""The RPC methods that the recorder offers in a room."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from livekit import rtc

logger = logging.getLogger("recorder")

Handler = Callable[[rtc.RpcInvocationData], str | Awaitable[str]]


class RpcMethods:
    """Those of one part of the recorder. It is used on the room's event loop only."""

    def __init__(self, room: rtc.Room) -> None:
        self._room = room
        self._offered: list[str] = []

    def offer(self, method: str, handler: Handler) -> None:
        """Registers a method. Call it after connecting.

        Raises:
            Exception: the room is not connected.
        """
        self._room.local_participant.register_rpc_method(method, handler)
        self._offered.append(method)

    def withdraw(self) -> None:
        """Unregisters all methods: one that stays keeps the room in the client's memory for ever, half a megabyte.

        A client that has failed has nothing to unregister.
        """
        for method in self._offered:
            try:
                self._room.local_participant.unregister_rpc_method(method)
            except Exception as error:  # closing a room must go on
                logger.debug("The RPC method %s cannot be unregistered", method, exc_info=error)
        self._offered.clear()
