"""Live captions: sends what a teacher says, and its translations, to everybody in the room, in the order spoken.

The text service writes texts to ``texts.jsonl`` in the room's folder, where they are read. :class:`Captions` runs on
the room's event loop. A failure in it does not affect the recording.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from livekit import rtc

from archive.names import TEXTS
from config import Settings
from core import notify
from core.language_names import language_choices
from core.records import RoomInfo, SegmentRecord
from core.supervised import supervised
from recording.caption_languages import allowed_languages, offered_languages, wanted_languages
from recording.caption_order import Caption, CaptionOrder
from recording.caption_sender import CaptionSender
from recording.caption_texts import TextsFollower
from recording.roles import MAX_PARTICIPANTS
from recording.rpc_methods import RpcMethods

logger = logging.getLogger("recorder")

LANGUAGE_ATTRIBUTE = "captions_language"
"""Participant attribute: the language in which the participant wants to read captions."""
LANGUAGES_METHOD = "get/languages"
"""The RPC that returns the languages that an app can offer."""

LANGUAGES_SECONDS = 0.5
"""The shortest time between two evaluations of the requested languages: each looks at all participants, and many may
join at once."""

POLL_SECONDS = 0.5
"""How often ``texts.jsonl`` is polled while a text is expected: another process sends no notification."""
CLOSE_SECONDS = 3.0
"""How long closing a room waits for the captions of its last sentences."""
HANGING_SECONDS = 1.0
"""How much longer is waited for a room or a disk that does not answer."""
RECENT_CAPTIONS = 5
"""How many captions a participant who joins late is sent."""
RECENT_SECONDS = 120.0
"""How old they may be."""


class Captions:
    """Shows the texts of one room's segments in the room. Create it on the room's event loop.

    It is a ``segment_writer.Stage``.
    """

    def __init__(self, room: rtc.Room, info: RoomInfo, settings: Settings) -> None:
        self._room = room
        self._info = info
        self._settings = settings
        self._sender = CaptionSender(room, info)
        self._methods = RpcMethods(room)
        self._order = CaptionOrder()
        self._follower: TextsFollower | None = None
        self._folder: Path | None = None
        self._wanted: tuple[str, ...] = ()
        self._newcomers: set[str] = set()
        self._recent: deque[tuple[float, Caption]] = deque(maxlen=RECENT_CAPTIONS)
        self._sent = 0
        self.is_paused = False
        """Whether nothing is shown, because the recording is paused. What is due meanwhile is never shown."""
        self._closing_at: float | None = None
        self._languages_timer: asyncio.TimerHandle | None = None
        self._more = asyncio.Event()
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="captions")
        self._stop_listening = notify.listen(TEXTS, self._on_notified)
        self._task = supervised(self._work, "captions", room=info.sid, room_name=info.name)

    def attach(self) -> None:
        """Subscribes to the room's events. Call it before connecting."""
        # Not participant_connected: a participant receives no data before it is active.
        self._room.on("participant_active", self._on_participant_active)
        for event in ("participant_connected", "participant_disconnected", "participant_attributes_changed"):
            self._room.on(event, self._on_languages_changed)

    def begin(self) -> None:
        """Evaluates the requested languages and registers the RPC. Call it right after connecting."""
        self._update_languages()
        choices = json.dumps(language_choices(offered_languages(self._settings)), ensure_ascii=False)
        self._methods.offer(LANGUAGES_METHOD, lambda _: choices)

    def languages(self) -> tuple[str, ...]:
        """The languages that participants in the room request now."""
        people = itertools.islice(self._room.remote_participants.values(), MAX_PARTICIPANTS)
        requested = (one.attributes.get(LANGUAGE_ATTRIBUTE, "") for one in people if _is_person(one))
        return wanted_languages(requested, allowed_languages(self._settings))

    def segment_saved(self, record: SegmentRecord, path: Path) -> None:
        if self._follower is None:
            self._folder = path.parent
            self._follower = TextsFollower(path.parent / TEXTS)
        self._order.expect(record, time.monotonic())
        self._more.set()

    async def aclose(self) -> None:
        """Waits up to ``CLOSE_SECONDS`` for the last texts if there are readers, then stops."""
        wait = CLOSE_SECONDS if self._has_readers() else 0.0
        self._closing_at = time.monotonic() + wait
        if self._languages_timer is not None:
            self._languages_timer.cancel()
        self._more.set()
        await asyncio.wait({self._task}, timeout=wait + HANGING_SECONDS)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._stop_listening()
        self._disk.shutdown(wait=False)
        self._log(logging.INFO, f"Captions over: {self._sent} shown, {self._order.skipped} came too late")
        self._methods.withdraw()

    async def _work(self) -> None:
        while not self._is_over():
            await self._wait_for_work()
            try:
                await self._read_texts()
                await self._send_recent_captions()
                for caption in self._order.due(time.monotonic()):
                    if not self.is_paused:
                        await self._show(caption)
            except Exception as error:  # a failure must not end the task: the next caption may succeed
                self._sender.failed(error)
                await asyncio.sleep(POLL_SECONDS)

    async def _wait_for_work(self) -> None:
        """Waits for a notification, or for the next poll of the file while a text is expected."""
        loop = asyncio.get_running_loop()
        next_poll = loop.call_later(POLL_SECONDS, self._more.set) if self._order.is_waiting else None
        await self._more.wait()
        self._more.clear()
        if next_poll is not None:
            next_poll.cancel()

    def _on_participant_active(self, participant: rtc.RemoteParticipant) -> None:
        """Notes a participant who has joined, to send it the recent captions."""
        if self._recent and _is_person(participant):
            self._newcomers.add(participant.identity)
            self._more.set()

    def _on_languages_changed(self, *_: object) -> None:
        if self._languages_timer is None and self._closing_at is None:
            self._languages_timer = asyncio.get_running_loop().call_later(
                LANGUAGES_SECONDS, self._update_languages
            )

    def _update_languages(self) -> None:
        self._languages_timer = None
        wanted = self.languages()
        if wanted != self._wanted:
            self._wanted = wanted
            self._log(logging.INFO, f"Captions are wanted in {', '.join(wanted) or 'no other language'}")

    def _is_over(self) -> bool:
        if self._closing_at is None:
            return False
        return not self._order.is_waiting or time.monotonic() >= self._closing_at

    async def _read_texts(self) -> None:
        if self._follower is None or not self._order.is_waiting:
            return
        found = await asyncio.get_running_loop().run_in_executor(self._disk, self._follower.new_texts)
        for number, text in found:
            self._order.text_arrived(number, text, time.monotonic())

    async def _send_recent_captions(self) -> None:
        """Sends the recent captions to all new participants, before the next caption is shown, to keep the order."""
        if self.is_paused:
            return
        newcomers = sorted(self._newcomers & self._room.remote_participants.keys())
        self._newcomers.clear()
        if not newcomers:
            return
        for shown_at, caption in list(self._recent):
            if time.monotonic() - shown_at <= RECENT_SECONDS:
                await self._sender.send(caption, newcomers)

    async def _show(self, caption: Caption) -> None:
        if not await self._sender.send(caption):
            return
        self._sent += 1
        self._recent.append((time.monotonic(), caption))
        age = time.time() - caption.record.end.timestamp()
        languages = ", ".join(caption.by_language())
        self._log(
            logging.INFO,
            f"Caption shown: {caption.record.file} in {languages}, {age:.1f} s after the end of the sentence",
            caption.record.participant_identity,
        )

    def _on_notified(self, path: Path) -> None:
        if path.parent == self._folder:
            self._more.set()

    def _has_readers(self) -> bool:
        people = self._room.remote_participants.values()
        return self._room.isconnected() and any(_is_person(one) for one in people)

    def _log(self, level: int, message: str, participant: str | None = None) -> None:
        logger.log(level, "%s", message, extra={"room": self._info.name, "participant": participant})


def _is_person(participant: rtc.RemoteParticipant) -> bool:
    return participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD
