"""Live captions: what a teacher says, and its translations, to everybody in the room, in the order spoken.

Text is made elsewhere and comes back through ``texts.jsonl`` in the room's folder, so it does not matter whether
rooms are threads or processes. :class:`Captions` lives on the room's event loop. Nothing that it does, and nothing that
fails in it, reaches the recording.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from livekit import rtc

import doorbell
from config import Settings
from jsonl import Bookmark, bookmark_before_end, new_lines
from language_names import KNOWN_LANGUAGES, language_choices
from languages import is_same_language, language_tag_or_empty
from lesson_texts import entry_in
from names import TEXTS
from roles import MAX_PARTICIPANTS
from segments import RoomInfo, SegmentRecord, Translation

logger = logging.getLogger("recorder")

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

_Message = Coroutine[Any, Any, None]
"""One text stream or packet that is still to be sent."""

TOPIC = "lk.transcription"
LANGUAGE_ATTRIBUTE = "captions_language"
"""Participant attribute: the language somebody wants to read."""
LANGUAGES_METHOD = "get/languages"
"""The RPC by which an app asks which languages it can offer."""

MAX_LANGUAGES = 10
"""So many wishes of one room are met at once, those of most people first: every language costs."""
MAX_TEXT_CHARACTERS = 4000

CROWD_SECONDS = 0.5
"""People come in crowds, and a look at what they want takes as long as there are people: so often, and no more."""

LOOK_SECONDS = 0.5
"""How often the room's texts are looked at while one is awaited: another worker's do not ring here."""
PATIENCE_SECONDS = 5.0
"""So long a caption that is ready waits for those before it."""
LIVE_SECONDS = 60.0
"""What comes later than this is for the lesson's files only."""
SEND_SECONDS = 5.0
"""A caption that cannot be sent within this is let go."""
CLOSE_SECONDS = 3.0
"""How long the end of a room waits for the captions of its last sentences."""
HANGING_SECONDS = 1.0
"""A room or a disk that does not answer is waited for so much longer, and no more."""
RECENT_CAPTIONS = 5
RECENT_SECONDS = 120.0
"""What somebody who joins late still gets to see."""

MAX_EARLY_TEXTS = 200
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Caption:
    """The text of one segment, on its way to the room."""

    record: SegmentRecord
    text: Translation

    @property
    def id(self) -> str:
        """One for the segment and all of its languages. Track and time: never given twice in a room."""
        return f"{self.record.track_sid}-{self.start_milliseconds}"

    @property
    def start_milliseconds(self) -> int:
        """Since the Unix epoch, like :attr:`end_milliseconds`."""
        return milliseconds(self.record.start)

    @property
    def end_milliseconds(self) -> int:
        return milliseconds(self.record.end)

    def by_language(self) -> dict[str, str]:
        """What was said, and then its translations, by BCP 47 tag."""
        return {self.text.language: self.text.transcript, **self._translations()}

    def _translations(self) -> dict[str, str]:
        texts = self.text.translations
        return {tag: text for tag, text in texts.items() if tag != self.text.language and text}


def milliseconds(moment: datetime) -> int:
    """Since the Unix epoch, cut off as in the manifest."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


# --- the order ---


@dataclass
class _Awaited:
    """A segment that was saved and has not been shown yet."""

    record: SegmentRecord
    spoken_at: float
    answered_at: float | None = None
    text: Translation | None = None
    """None although answered: there will be no text."""


class CaptionOrder:
    """Puts texts, which come when they come, into the order in which their sentences ended.

    A text that does not come holds up those behind it for ``patience_seconds`` and no longer; what is not there
    within ``live_seconds`` is no live caption any more. Pure: ``now`` is any clock that only goes forward, in seconds.
    """

    def __init__(
        self, patience_seconds: float = PATIENCE_SECONDS, live_seconds: float = LIVE_SECONDS
    ) -> None:
        self.skipped = 0
        """Sentences that were given up because their text did not come in time."""
        self._patience_seconds = patience_seconds
        self._live_seconds = live_seconds
        self._awaited: OrderedDict[int, _Awaited] = OrderedDict()
        self._early: OrderedDict[int, Translation | None] = OrderedDict()
        """Texts whose segments nobody has told us of yet."""

    @property
    def is_waiting(self) -> bool:
        """Whether any caption is still to come."""
        return bool(self._awaited)

    def spoken(self, record: SegmentRecord, now: float) -> None:
        """A sentence has ended."""
        self._awaited[record.number] = _Awaited(record, now)
        if record.number in self._early:
            self.answered(record.number, self._early.pop(record.number), now)

    def answered(self, number: int, text: Translation | None, now: float) -> None:
        """The text of segment ``number`` is there, or (None) there will never be one."""
        awaited = self._awaited.get(number)
        if awaited is None:
            self._early[number] = text
            if len(self._early) > MAX_EARLY_TEXTS:
                self._early.popitem(last=False)
        elif awaited.answered_at is None:
            awaited.text, awaited.answered_at = text, now

    def due(self, now: float) -> list[Caption]:
        """What is to be shown now. Each caption comes once."""
        due = []
        while self._awaited:
            number, first = next(iter(self._awaited.items()))
            is_late = now - first.spoken_at > self._live_seconds
            if first.answered_at is None and not is_late and not self._others_have_waited(now):
                break
            del self._awaited[number]
            if first.text is not None and not is_late:
                due.append(Caption(first.record, first.text))
            elif first.text is not None or first.answered_at is None:
                self.skipped += 1
        return due

    def _others_have_waited(self, now: float) -> bool:
        """Whether a caption has been ready for longer than we are patient."""
        return any(
            one.text is not None
            and one.answered_at is not None
            and now - one.answered_at > self._patience_seconds
            for one in self._awaited.values()
        )


# --- where texts come from ---


class TextsFollower:
    """Reads what others add to a room's ``texts.jsonl``. Does disk work: call it on a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bookmark: Bookmark | None = None

    def new_texts(self) -> list[tuple[int, Translation | None]]:
        """What has been added since the last call: segment number and text, None where there will be none.

        The first time, the end of what is there: a text may be faster than the news of its segment.
        """
        if self._bookmark is None:
            if not self._path.exists():
                return []
            self._bookmark = bookmark_before_end(self._path, TAIL_BYTES)
        lines, self._bookmark = new_lines(self._path, self._bookmark)
        found = (text_in(line) for line in lines)
        return [text for text in found if text is not None]


def text_in(line: bytes) -> tuple[int, Translation | None] | None:
    """What a line of ``texts.jsonl`` says, checked. None: it is no such line."""
    entry = entry_in(line)
    if entry is None:
        return None
    return entry["number"], None if "refused" in entry else _translation(entry)


def _translation(fields: dict[str, Any]) -> Translation | None:
    """None if nothing was said, or it cannot be shown."""
    language, transcript = _language(fields.get("language")), _text(fields.get("transcript"))
    found = fields.get("translations")
    translations = list(found.items())[: 2 * MAX_LANGUAGES] if isinstance(found, dict) else []
    if not language or not transcript:
        return None
    checked = {_language(tag): _text(text) for tag, text in translations}
    return Translation(language, transcript, {tag: text for tag, text in checked.items() if tag and text})


def _language(value: object) -> str:
    return language_tag_or_empty(value) if isinstance(value, str) else ""


def _text(value: object) -> str:
    return value.strip()[:MAX_TEXT_CHARACTERS] if isinstance(value, str) else ""


# --- who wants to read what ---


def wanted_languages(wishes: Iterable[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """The languages to translate into, from what people put into their attribute: anything, until it is checked.

    ``allowed``: BCP 47 tags, empty for all. A wish for ``es-MX`` is met by ``es`` where only that is allowed. At most
    :data:`MAX_LANGUAGES`, those of most people first.
    """
    counts = Counter(tag for wish in wishes if (tag := _allowed(language_tag_or_empty(wish), allowed)))
    return tuple(sorted(counts, key=lambda tag: (-counts[tag], tag))[:MAX_LANGUAGES])


def _allowed(wish: str, allowed: Sequence[str]) -> str | None:
    if not wish or not allowed or wish in allowed:
        return wish or None
    return next((tag for tag in allowed if is_same_language(tag, wish)), None)


def allowed_languages(settings: Settings) -> tuple[str, ...]:
    """What students may ask for; empty: anything."""
    return settings.caption_languages and _each_once(settings.target_languages, settings.caption_languages)


def offered_languages(settings: Settings) -> tuple[str, ...]:
    """What an app is told to offer: where anything is allowed, every language we have a name for."""
    return allowed_languages(settings) or _each_once(settings.target_languages, KNOWN_LANGUAGES)


def _each_once(first: Iterable[str], more: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *more)))


# --- the room ---


class Captions:
    """Shows the text of one room's segments to the room. Create it on the room's event loop; a ``pipeline.Stage``."""

    def __init__(self, room: rtc.Room, info: RoomInfo, settings: Settings) -> None:
        self._room = room
        self._info = info
        self._settings = settings
        self._order = CaptionOrder()
        self._follower: TextsFollower | None = None
        self._folder: Path | None = None
        self._wanted: tuple[str, ...] = ()
        self._newcomers: set[str] = set()
        self._recent: deque[tuple[float, Caption]] = deque(maxlen=RECENT_CAPTIONS)
        self._sent = 0
        self._trouble: str | None = None
        self._closing_at: float | None = None
        self._look: asyncio.TimerHandle | None = None
        self._more = asyncio.Event()
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="captions")
        self._stop_listening = doorbell.listen(TEXTS, self._on_ring)
        self._task = asyncio.create_task(self._work(), name=f"captions {info.name}")

    def attach(self) -> None:
        """Listens to the room's events. Call it before connecting."""
        self._room.on("participant_active", self._greet)  # before that it receives no data
        for event in ("participant_connected", "participant_disconnected", "participant_attributes_changed"):
            self._room.on(event, self._on_wishes_changed)

    def begin(self) -> None:
        """Call it right after connecting."""
        self._see_wishes()
        choices = json.dumps(language_choices(offered_languages(self._settings)), ensure_ascii=False)
        self._room.local_participant.register_rpc_method(LANGUAGES_METHOD, lambda _: choices)

    def languages(self) -> tuple[str, ...]:
        """What the people who are in the room now want to read, besides what is spoken."""
        people = itertools.islice(self._room.remote_participants.values(), MAX_PARTICIPANTS)
        wishes = (one.attributes.get(LANGUAGE_ATTRIBUTE, "") for one in people if _is_person(one))
        return wanted_languages(wishes, allowed_languages(self._settings))

    def segment_saved(self, record: SegmentRecord, path: Path) -> None:
        if self._follower is None:
            self._folder = path.parent
            self._follower = TextsFollower(path.parent / TEXTS)
        self._order.spoken(record, time.monotonic())
        self._more.set()

    async def aclose(self) -> None:
        """Waits a moment for what is on its way, if there is anybody to read it."""
        patience = CLOSE_SECONDS if self._has_readers() else 0.0
        self._closing_at = time.monotonic() + patience
        if self._look is not None:
            self._look.cancel()
        self._more.set()
        await asyncio.wait({self._task}, timeout=patience + HANGING_SECONDS)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._stop_listening()
        self._disk.shutdown(wait=False)
        self._log(logging.INFO, f"Captions over: {self._sent} shown, {self._order.skipped} came too late")
        # See RoomRecorder: what stays registered keeps the room in memory.
        self._room.local_participant.unregister_rpc_method(LANGUAGES_METHOD)

    async def _work(self) -> None:
        while not self._is_over():
            await self._something_to_do()
            try:
                await self._read_texts()
                await self._welcome_newcomers()
                for caption in self._order.due(time.monotonic()):
                    await self._show(caption)
            except Exception as error:  # captions fail alone
                self._is_troubled(error)
                await asyncio.sleep(LOOK_SECONDS)

    async def _something_to_do(self) -> None:
        """A ring of the doorbell, or the next look at the file while a text is awaited."""
        loop = asyncio.get_running_loop()
        next_look = loop.call_later(LOOK_SECONDS, self._more.set) if self._order.is_waiting else None
        await self._more.wait()
        self._more.clear()
        if next_look is not None:
            next_look.cancel()

    def _greet(self, participant: rtc.RemoteParticipant) -> None:
        """Somebody has come who may have missed captions."""
        if self._recent and _is_person(participant):
            self._newcomers.add(participant.identity)
            self._more.set()

    def _on_wishes_changed(self, *_: object) -> None:
        if self._look is None and self._closing_at is None:
            self._look = asyncio.get_running_loop().call_later(CROWD_SECONDS, self._see_wishes)

    def _see_wishes(self) -> None:
        self._look = None
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
            self._order.answered(number, text, time.monotonic())

    async def _welcome_newcomers(self) -> None:
        """All who came meanwhile together, and before the next caption, so that theirs are in order, too."""
        newcomers = sorted(self._newcomers & self._room.remote_participants.keys())
        self._newcomers.clear()
        if not newcomers:
            return
        for shown_at, caption in list(self._recent):
            if time.monotonic() - shown_at <= RECENT_SECONDS:
                await self._send(caption, newcomers)

    async def _show(self, caption: Caption) -> None:
        if not await self._send(caption):
            return
        self._sent += 1
        self._recent.append((time.monotonic(), caption))
        age = time.time() - caption.record.end.timestamp()
        languages = ", ".join(caption.by_language())
        self._log(
            logging.INFO,
            f"Caption shown: {caption.record.file} in {languages}, {age:.1f} s after its end",
            caption.record.participant_identity,
        )

    async def _send(self, caption: Caption, to: Sequence[str] = ()) -> bool:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._publish(caption, to)
        except Exception as error:  # a lost connection, a time-out: the next caption may get through
            self._is_troubled(error)
            return False
        if self._trouble is not None:
            self._trouble = None
            self._log(logging.WARNING, "Captions are shown again")
        return True

    async def _publish(self, caption: Caption, to: Sequence[str]) -> None:
        """The original first, so that clients know which it is; then all translations at once."""
        original, *translations = caption.by_language().items()
        await _all_of(self._messages(caption, *original, to))
        await _all_of([one for item in translations for one in self._messages(caption, *item, to)])

    def _messages(self, caption: Caption, language: str, text: str, to: Sequence[str]) -> list[_Message]:
        """Both ways that clients listen to (fact 24). Packets cannot be addressed: they are for everybody."""
        stream = self._stream(caption, language, text, to)
        return [stream] if to else [stream, self._packet(caption, language, text)]

    async def _stream(self, caption: Caption, language: str, text: str, to: Sequence[str]) -> None:
        writer = await self._room.local_participant.stream_text(
            topic=TOPIC,
            attributes=stream_attributes(caption, language),
            sender_identity=caption.record.participant_identity,
            destination_identities=list(to),
        )
        await writer.write(text)
        await writer.aclose()

    async def _packet(self, caption: Caption, language: str, text: str) -> None:
        segment = rtc.TranscriptionSegment(
            id=_segment_id(caption, language),
            text=text,
            start_time=caption.start_milliseconds,
            end_time=caption.end_milliseconds,
            language=language,
            final=True,
        )
        record = caption.record
        await self._room.local_participant.publish_transcription(
            rtc.Transcription(record.participant_identity, record.track_sid, [segment])
        )

    def _is_troubled(self, error: Exception) -> None:
        """Said once until it is over."""
        trouble = str(error) or type(error).__name__
        if trouble != self._trouble:
            self._trouble = trouble
            self._log(logging.WARNING, f"A caption could not be shown, the recording goes on: {trouble}")

    def _on_ring(self, path: Path) -> None:
        if path.parent == self._folder:
            self._more.set()

    def _has_readers(self) -> bool:
        people = self._room.remote_participants.values()
        return self._room.isconnected() and any(_is_person(one) for one in people)

    def _log(self, level: int, message: str, participant: str | None = None) -> None:
        logger.log(level, "%s", message, extra={"room": self._info.name, "participant": participant})


async def _all_of(messages: Sequence[_Message]) -> None:
    """Sends all, even if one fails; raises what the first of them came to."""
    for outcome in await asyncio.gather(*messages, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def stream_attributes(caption: Caption, language: str) -> dict[str, str]:
    """What a text stream says of itself: LiveKit's own attributes, then ours (docs/translation.md)."""
    return {
        "lk.transcription_final": "true",
        "lk.transcribed_track_id": caption.record.track_sid,
        "lk.segment_id": _segment_id(caption, language),
        "language": language,
        "spoken_language": caption.text.language,
        "segment": caption.id,
        "start_time": str(caption.start_milliseconds),
        "end_time": str(caption.end_milliseconds),
    }


def _segment_id(caption: Caption, language: str) -> str:
    """Clients put together what has the same id (fact 25), so each language has its own."""
    return f"{caption.id}-{language}"


def _is_person(participant: rtc.RemoteParticipant) -> bool:
    return participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD
