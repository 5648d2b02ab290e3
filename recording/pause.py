"""Pausing the recording of a room: by a teacher's RPC, or by the app in the room's metadata (docs/apps.md).

The state is kept in the room's metadata, ``{"recording": "paused"}``, so that it outlives this recorder. A teacher's
RPC takes effect at once and then writes it there, beside what the app has in the metadata. Until that succeeds, the
handover note has it for the next recorder. Participants cannot write a room's metadata, and an RPC of anybody but a
teacher is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any

from livekit import api, rtc

from config import Settings
from core.audit import AuditEvent, audit
from core.records import RoomInfo
from core.supervised import supervised
from core.trouble import Trouble, trouble_of
from recording.role_reading import MAX_METADATA_CHARACTERS
from recording.room_log import RoomLog
from recording.rpc_methods import RpcMethods

PAUSE_METHOD = "recorder/pause"
RESUME_METHOD = "recorder/resume"
"""The RPCs of a teacher. Both answer with the new state, as :func:`state_name` gives it."""

METADATA_KEY = "recording"
PAUSED = "paused"
RECORDING = "on"

NOT_ALLOWED = 403
"""The code of the error that anybody but a teacher gets."""

STORE_SECONDS = 5.0
"""How long writing the room's metadata may take."""

RETRY_SECONDS = 5.0
"""How long after a failure it is tried again."""


def state_name(*, is_paused: bool) -> str:
    return PAUSED if is_paused else RECORDING


def is_paused_in(metadata: str) -> bool:
    """Whether a room's metadata says that the recording is paused. Metadata that cannot be read does not."""
    found = _object_in(metadata)
    value = found.get(METADATA_KEY) if found else None
    return isinstance(value, str) and value.strip().casefold() == PAUSED


def with_state(metadata: str, *, is_paused: bool) -> str | None:
    """A room's metadata with the state written into it; None if it is not a JSON object and must stay as it is."""
    found = _object_in(metadata)
    if found is None:
        return None
    others = {key: value for key, value in found.items() if key != METADATA_KEY}
    return json.dumps({**others, METADATA_KEY: PAUSED} if is_paused else others, ensure_ascii=False)


def _object_in(metadata: str) -> dict[str, Any] | None:
    """The JSON object in a room's metadata; empty metadata counts as an empty one. None: it is something else."""
    if len(metadata) > MAX_METADATA_CHARACTERS:
        return None
    try:
        found = json.loads(metadata.strip() or "{}")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class Pause:
    """Whether one room's recording is paused. It is used on the room's event loop only."""

    def __init__(
        self,
        room: rtc.Room,
        info: RoomInfo,
        settings: Settings,
        is_teacher: Callable[[str], bool],
        on_change: Callable[[], None],
        log: RoomLog,
    ) -> None:
        """``is_teacher`` tells whether a participant of this identity is in the room and a teacher. ``on_change`` is
        called when the state has changed."""
        self._room = room
        self._info = info
        self._settings = settings
        self._is_teacher = is_teacher
        self._on_change = on_change
        self._log = log
        self._methods = RpcMethods(room)
        self._in_metadata = False
        self._requested: bool | None = None
        """What a teacher has requested and the room's metadata does not say yet; None: what it says holds."""
        self._more = asyncio.Event()
        """There may be something to store."""
        self._attempted = asyncio.Event()
        """The last request was stored, or that has failed. Until then changes of the metadata may come from the request
        before it."""
        self._attempted.set()
        self._storing: asyncio.Task[None] | None = None
        self._trouble = Trouble()
        self._is_refusal_logged = False
        self._has_begun = False
        self._is_paused = False

    @property
    def is_paused(self) -> bool:
        """The state; events of the room may ask for it before :meth:`begin`."""
        if self._has_begun:
            return self._is_paused
        return is_paused_in(self._room.metadata or "") if self._requested is None else self._requested

    @property
    def unstored(self) -> bool | None:
        """What a teacher has requested (True: a pause) and could not be stored; None: nothing."""
        return self._requested if self._trouble.current else None

    def take_over(self, unstored: bool | None) -> None:
        """Takes over what the recorder before could not store. Call it before connecting."""
        self._requested = unstored

    def attach(self) -> None:
        """Subscribes to the room's events. Call it before connecting."""
        self._room.on("room_metadata_changed", self._on_metadata_changed)
        self._room.on("reconnected", self._on_metadata_changed)

    def begin(self) -> None:
        """Reads the state and offers the RPCs. Call it right after connecting, before anything is subscribed to."""
        self._has_begun = True
        self._in_metadata = is_paused_in(self._room.metadata or "")
        self._on_metadata_changed()
        self._storing = supervised(self._keep_stored, "pause", room=self._info.sid, room_name=self._info.name)
        self._methods.offer(PAUSE_METHOD, self._pause)
        self._methods.offer(RESUME_METHOD, self._resume)

    async def aclose(self) -> None:
        """Lets an attempt to store end that is under way: it may be the next recorder that has to know of it. Call it
        when everything is saved. Idempotent."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STORE_SECONDS):
                await self._attempted.wait()
        if self._storing is not None:
            self._storing.cancel()
        self._methods.withdraw()

    async def _pause(self, call: rtc.RpcInvocationData) -> str:
        return await self._request(call.caller_identity, is_paused=True)

    async def _resume(self, call: rtc.RpcInvocationData) -> str:
        return await self._request(call.caller_identity, is_paused=False)

    async def _request(self, caller: str, *, is_paused: bool) -> str:
        """Takes effect at once, then waits for the first attempt to store it.

        Raises:
            rtc.RpcError: the caller is no teacher.
        """
        if not self._is_teacher(caller):
            if not self._is_refusal_logged:
                self._is_refusal_logged = True
                self._log(
                    logging.WARNING, "A request to pause or resume was refused: its sender is no teacher"
                )
            raise rtc.RpcError(NOT_ALLOWED, "only a teacher may pause or resume the recording")
        self._requested = is_paused
        self._attempted.clear()
        self._more.set()
        self._update(caller)
        await self._attempted.wait()
        return state_name(is_paused=self.is_paused)

    async def _keep_stored(self) -> None:
        """Writes what a teacher has requested into the room's metadata, again and again until it is there."""
        while True:
            self._more.clear()
            requested = self._requested
            problem = "" if requested is None else await self._store(is_paused=requested)
            if self._requested is not requested:
                continue  # a later request has replaced it, or the metadata decides now
            self._report(problem)
            self._attempted.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS if problem else None):
                    await self._more.wait()

    async def _store(self, *, is_paused: bool) -> str:
        """Returns why the room's metadata does not have the state; empty: it has."""
        try:
            async with asyncio.timeout(STORE_SECONDS):
                return await self._write_metadata(is_paused=is_paused)
        except Exception as error:  # the state holds in this recorder, whatever is wrong with the server
            return trouble_of(error)

    def _report(self, problem: str) -> None:
        if not problem:
            if self._trouble.ends():
                self._log(logging.INFO, "The room's metadata says whether the recording is paused")
            return
        state = state_name(is_paused=self._is_paused)
        message = (
            f"The room's metadata does not say that the recording is {state}: {problem}. "
            "It is tried again. It holds until another recorder takes over on another disk"
        )
        if self._trouble.begins(message):
            self._log(logging.WARNING, message)

    async def _write_metadata(self, *, is_paused: bool) -> str:
        """Writes the state into the room's metadata. Returns why that is not possible; empty if it was done."""
        settings, name = self._settings, self._info.name
        async with api.LiveKitAPI(
            settings.livekit_url, settings.livekit_api_key, settings.livekit_api_secret
        ) as livekit:
            rooms = (await livekit.room.list_rooms(api.ListRoomsRequest(names=[name]))).rooms
            before = rooms[0].metadata if rooms else self._room.metadata
            if is_paused_in(before) is is_paused:
                return ""
            metadata = with_state(before, is_paused=is_paused)
            if metadata is None:
                return "it is not a JSON object"
            await livekit.room.update_room_metadata(
                api.UpdateRoomMetadataRequest(room=name, metadata=metadata)
            )
        return ""

    def _on_metadata_changed(self, *_: object) -> None:
        before, self._in_metadata = self._in_metadata, is_paused_in(self._room.metadata or "")
        is_changed = before is not self._in_metadata
        if self._requested is self._in_metadata or (is_changed and self._attempted.is_set()):
            self._requested = None
        if self._trouble.current:
            self._more.set()
        self._update("")

    def _update(self, caller: str) -> None:
        is_paused = self._in_metadata if self._requested is None else self._requested
        if is_paused is self._is_paused or not self._has_begun:
            return
        self._is_paused = is_paused
        self._on_change()
        audit(
            AuditEvent.RECORDING_PAUSED if is_paused else AuditEvent.RECORDING_RESUMED,
            self._info.name,
            caller,
        )
