"""Waits for a LiveKit server that can be reached and accepts the key."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
from livekit import api

from config import Settings
from core.errors import ConfigError
from core.supervised import pauses

logger = logging.getLogger("recorder")

RETRY_SECONDS = (1, 2, 5, 10)
"""Pauses before each further attempt; the last is repeated."""


async def wait_for_server(livekit: api.LiveKitAPI, settings: Settings) -> None:
    """Returns when the server has accepted the key. Retries for ever while it cannot be reached.

    Raises:
        ConfigError: the server refuses the key or the secret.
    """
    waits = pauses(RETRY_SECONDS)
    while True:
        try:
            await livekit.room.list_rooms(api.ListRoomsRequest(names=["-"]))
            return
        except api.TwirpError as error:
            if error.status in (401, 403):
                raise ConfigError(
                    f"LIVEKIT_API_KEY or LIVEKIT_API_SECRET is wrong: {settings.livekit_url} refuses them"
                ) from None
            reason = f"it answers {error.status} {error.code}"
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
        pause = next(waits)
        logger.error(
            "LIVEKIT_URL=%s cannot be reached: %s. Next try in %d s", settings.livekit_url, reason, pause
        )
        await asyncio.sleep(pause)
