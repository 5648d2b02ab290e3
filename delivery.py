"""Delivery: everything that is safe on disk goes on to where it lasts, and nobody waits for it.

The manifests are the list of what there is, :mod:`ledger` of what has been delivered, and the outbox of what is under
way. Of each room one item after the other goes to each target, in the order spoken, its texts when they are there, and
the lists of both behind what they name. Targets do not wait for each other. A target in trouble is tried again for
ever, with one item at a time, until it takes one; an item that it refuses while it takes others is set aside with the
reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import doorbell
from config import Settings
from deadline import within
from deliverables import CALL_TIMEOUT_SECONDS, Item, Lists, Sound, Target, Unusable, Words
from delivery_status import DeliveryMetrics, Status
from jsonl import Bookmark, end_of, new_lines
from ledger import Key, Ledger, lists_key, note, sound_key, words_key
from lesson_texts import text_in
from manifest import read_manifest, record_in
from names import GAPS, MANIFEST, TEXTS, is_plain_name
from outbox import Order, Outbox, Work
from segments import ConfigError, RecorderError, Refused, RetryLater, SegmentRecord, StorageError, TextRecord
from supervised import supervised

logger = logging.getLogger("recorder")


LOOK_SECONDS = 2.0
"""How often folders are looked at that nobody rings for."""
LOOK_AGAIN_SECONDS = 60.0
"""How often also those are looked at that have not grown: the outbox may have been begun anew."""
LISTS_SECONDS = 60.0
"""How often a room's lists are delivered while they grow."""
LAST_SECONDS = 5.0
"""What the end of the process may take; hosts kill it soon after."""
COUNT_SECONDS = 5.0
"""How old the figures of a backlog may be."""
REPORT_SECONDS = 60.0
"""How often a backlog is worth a line in the log."""


@dataclass(frozen=True)
class Backoff:
    """How long a target in trouble is left alone: longer each time, to a limit, with jitter."""

    first_seconds: float = 1.0
    longest_seconds: float = 60.0

    def pause(self, failures: int) -> float:
        longest = min(self.longest_seconds, self.first_seconds * 2 ** min(failures - 1, 20))
        return random.uniform(longest / 2, longest)


def kind_of(target: Target) -> str:
    """The outbox's name for what goes to a target."""
    return f"delivery {target.name}"


class DeliveryService:
    """Delivers from one OUTPUT_DIR to all targets. One a process; several share the work through the outbox."""

    def __init__(
        self, settings: Settings, targets: Sequence[Target], outbox: Outbox, backoff: Backoff | None = None
    ) -> None:
        self.metrics = DeliveryMetrics(self.status)
        self._lanes = [
            _Lane(settings, target, outbox, backoff or Backoff(), self.metrics) for target in targets
        ]

    def status(self) -> list[Status]:
        """One for each target."""
        return [replace(lane.status) for lane in self._lanes]

    async def run(self) -> None:
        """Delivers until cancelled, then for a few seconds what the end of the rooms has brought: a container's disk
        may go with it. What is left is left to the next start."""
        stops = [doorbell.listen(name, self._wake) for name in (MANIFEST, TEXTS)]
        running = [supervised(lane.run, f"delivery to {lane.status.target}") for lane in self._lanes]
        try:
            await asyncio.gather(*running)
        finally:
            for stop in stops:
                stop()
            with contextlib.suppress(asyncio.TimeoutError):
                await within(LAST_SECONDS, self.drain(patience_seconds=0))
            await self.aclose()

    async def drain(self, patience_seconds: float) -> bool:
        """Delivers what there is and returns; False if something is left because a target stayed in trouble for so
        long, or is in trouble that only the operator can mend."""
        return all(await asyncio.gather(*(lane.drain(patience_seconds) for lane in self._lanes)))

    async def look(self) -> None:
        """Brings the outbox up to date, so that :meth:`status` tells the whole backlog."""
        for lane in self._lanes:
            await lane.look(with_lists=True)
            await lane.count()

    async def aclose(self) -> None:
        """Lets go of the targets; the outbox is the caller's. Idempotent."""
        for lane in self._lanes:
            await lane.aclose()

    def _wake(self, path: Path) -> None:
        for lane in self._lanes:
            lane.wake()


class _Lane:
    """The way to one target."""

    def __init__(
        self, settings: Settings, target: Target, outbox: Outbox, backoff: Backoff, metrics: DeliveryMetrics
    ) -> None:
        self.status = Status(target.name)
        self._metrics = metrics
        self._target = target
        self._kind = kind_of(target)
        self._outbox = outbox
        self._backoff = backoff
        self._most = settings.deliveries_at_once
        self._output_dir = Path(settings.output_dir)
        self._feed = _Feed(settings, outbox, target.name, self._kind)
        self._running: set[asyncio.Task[None]] = set()
        self._more = asyncio.Event()
        self._failures = 0
        """In a row, of any items."""
        self._not_before = 0.0
        self._well_at = time.monotonic()
        self._is_operators = False
        self._reported_at = -REPORT_SECONDS
        self._counted_at = -COUNT_SECONDS
        self._look_at = 0.0

    def wake(self) -> None:
        self._look_at = 0.0
        self._more.set()

    async def run(self) -> None:
        await self._say_hello()
        while True:
            await self._step(with_lists=False)
            await self._rest(LOOK_SECONDS)

    async def drain(self, patience_seconds: float) -> bool:
        self._well_at = time.monotonic()
        while True:
            await self._step(with_lists=True)
            if not self._running and not self._failures:
                await self.count()
                if not self.status.waiting and not await self.look(with_lists=True):
                    return True
            is_out_of_patience = time.monotonic() - self._well_at >= patience_seconds
            if self._failures and (self._is_operators or is_out_of_patience):
                await self.count()
                return False
            await self._rest(0.2)

    async def look(self, *, with_lists: bool) -> bool:
        """Whether there was anything new."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        try:
            return await self._feed.look(with_lists=with_lists)
        except (OSError, StorageError) as error:
            self._trouble(error)
            return False

    async def count(self) -> None:
        """Brings the backlog's figures up to date."""
        with contextlib.suppress(StorageError):
            backlog = await self._outbox.backlog(self._kind)
            self.status.waiting, self.status.refused = backlog.count, backlog.refused
            self.status.oldest_seconds = backlog.oldest_seconds

    async def aclose(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._target.aclose()

    async def _say_hello(self) -> None:
        """One line at the start that says whether the target would take something."""
        try:
            await self._target.check()
            logger.info("Delivery to %s", self._target.name)
        except (ConfigError, Refused) as error:
            logger.error("Delivery to %s: %s. Recording goes on locally", self._target.name, error)
        except RecorderError as error:
            logger.warning("Delivery to %s: %s. Recording goes on locally", self._target.name, error)
        except Exception as error:
            logger.error("Delivery to %s cannot be tried", self._target.name, exc_info=error)

    async def _step(self, *, with_lists: bool) -> None:
        try:
            if time.monotonic() >= self._look_at:
                await self.look(with_lists=with_lists)
            await self._begin()
            await self._report()
        except StorageError as error:
            self._trouble(error)
        except Exception as error:  # the way stays open
            logger.error("Delivery failed in a way nobody foresaw", exc_info=error)
            self._trouble(RetryLater("something unforeseen"))

    async def _begin(self) -> None:
        """Claims as much as may be under way at once: one item only while it is not known whether it will go."""
        if time.monotonic() < self._not_before:
            return
        free = (1 if self._failures else self._most) - len(self._running)
        if free <= 0:
            return
        for work in await self._outbox.claim(self._kind, Order.ROOMS_IN_ORDER, free):
            task = asyncio.create_task(self._deliver(work))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._more.set()

    async def _rest(self, seconds: float) -> None:
        """Until something has ended, grown or become due, or for so long."""
        if not self._running:
            with contextlib.suppress(StorageError):
                due = await self._outbox.due_in(self._kind)
                seconds = seconds if due is None else min(seconds, max(0.01, due))
        pause = self._not_before - time.monotonic()
        seconds = min(seconds, pause) if pause > 0 else seconds
        if pause > 0:
            await asyncio.sleep(max(0.01, seconds))
        else:
            with contextlib.suppress(asyncio.TimeoutError):
                await within(seconds, self._more.wait())
        self._more.clear()

    # One item.

    async def _deliver(self, work: Work) -> None:
        """From the outbox to the target; the record of it first, then the outbox."""
        try:
            item, key = _item_of(work, self._output_dir)
            refusal = await self._put(item)
            await asyncio.to_thread(_note, item, self._target.name, key, refusal)
        except (RecorderError, asyncio.TimeoutError) as error:
            self._trouble(error)
        except Exception as error:  # whatever it was, the item is not lost for it
            logger.error("Delivery failed in a way nobody foresaw", exc_info=error)
            self._trouble(RetryLater("something unforeseen"))
        else:
            await self._settle(work, item, refusal)
            return
        await self._insist(self._outbox.retry, work, self._backoff.pause(work.attempts + 1))

    async def _put(self, item: Item) -> str:
        """Why the item is refused for good; empty: it is there."""
        try:
            await within(CALL_TIMEOUT_SECONDS * 2, self._target.put(item))
        except Refused as refusal:
            if not isinstance(refusal, Unusable):
                await self._prove_it_takes_others(refusal)
                self._is_well()
            return str(refusal)
        self._is_well()
        return ""

    async def _prove_it_takes_others(self, refusal: Refused) -> None:
        """It is the item's own fault only if the target takes something else."""
        try:
            await self._target.check()
        except Refused:
            raise ConfigError(f"it refuses everything: {refusal}") from None

    async def _settle(self, work: Work, item: Item, refusal: str) -> None:
        if refusal:
            logger.error("%s is set aside, %s: %s", work.file, self._target.name, refusal, extra=_room(item))
            await self._insist(self._outbox.refuse, work, refusal)
        else:
            self.status.delivered += 1
            self._metrics.add(self.status.target, delivered=1)
            logger.debug("%s delivered to %s", work.file, self._target.name, extra=_room(item))
            await self._insist(self._outbox.done, work)

    async def _insist(self, step: Callable[..., Awaitable[None]], *values: object) -> None:
        """Until the outbox takes it: an item that stays claimed would hold its room up."""
        while True:
            try:
                await step(*values)
                return
            except StorageError as error:
                self._trouble(error)
                await asyncio.sleep(1.0)

    # How the target is.

    def _is_well(self) -> None:
        if self._failures:
            logger.warning("Delivery to %s works again", self._target.name)
        self._failures, self._not_before, self._is_operators = 0, 0.0, False
        self._well_at = time.monotonic()
        self.status.trouble = ""

    def _trouble(self, error: Exception) -> None:
        """All wait: what troubles one item troubles the next. Said when it begins, and when it changes."""
        self._failures += 1
        self.status.failures += 1
        self._metrics.add(self.status.target, failures=1)
        hint = error.after_seconds if isinstance(error, RetryLater) else None
        pause = hint or self._backoff.pause(self._failures)
        self._not_before = time.monotonic() + pause
        self._is_operators = isinstance(error, ConfigError)
        text = str(error) or "no answer in time"
        if text != self.status.trouble:
            self.status.trouble = text
            level = logging.ERROR if self._is_operators else logging.WARNING
            logger.log(level, "Delivery to %s has to wait: %s. It is tried for ever", self._target.name, text)

    async def _report(self) -> None:
        now = time.monotonic()
        if now - self._counted_at >= COUNT_SECONDS:
            self._counted_at = now
            await self.count()
        if now - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = now
        if self.status.waiting > self._most or (self.status.waiting and self._failures):
            logger.info(
                "Delivery to %s: %d waiting, the oldest for %s",
                self.status.target,
                self.status.waiting,
                _duration(self.status.oldest_seconds),
            )


def _note(item: Item, target: str, key: Key, refusal: str) -> None:
    try:
        note(item.folder, target, key, refusal)
    except FileNotFoundError:
        pass  # the whole room has been erased meanwhile
    except OSError as error:
        raise StorageError(
            f"the record of deliveries cannot be written: {error.strerror or error}"
        ) from error


def _room(item: Item) -> dict[str, str]:
    return {"room": item.folder.name if isinstance(item, Lists) else item.record.room_name}


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


# --- what there is to deliver ---


_Sizes = tuple[int, int, int]
"""Of the manifest, the list of texts and that of gaps, in bytes."""


@dataclass
class _Seen:
    """What is known of one folder."""

    sizes: _Sizes = (0, 0, 0)
    """When they were last read to their ends."""
    gaps_bytes: int = 0
    grown_at: float | None = None
    """When something came that the delivered lists do not name yet, 0 if before the start; None: they name all."""

    def note_growth(self) -> None:
        if self.grown_at is None:
            self.grown_at = time.monotonic()

    def is_time_for_lists(self, *, at_once: bool) -> bool:
        if self.grown_at is None:
            return False
        return at_once or self.grown_at == 0 or time.monotonic() - self.grown_at >= LISTS_SECONDS


class _Feed:
    """Reads manifests and lists of texts into the outbox, for one target."""

    def __init__(self, settings: Settings, outbox: Outbox, target: str, kind: str) -> None:
        self._output_dir = Path(settings.output_dir)
        self._save_audio = settings.save_audio
        self._outbox = outbox
        self._target = target
        self._kind = kind
        self._seen: dict[str, _Seen] = {}
        self._behind: set[str] = set()
        """Folders of which the outbox has not taken all: it is full, or another worker was faster."""
        self._looked_again_at = time.monotonic()

    async def look(self, *, with_lists: bool) -> bool:
        """Adds what is new, and says whether there was anything. With the lists even if they have just been sent.

        Raises:
            OSError, StorageError: the disk does not let it now.
        """
        if time.monotonic() - self._looked_again_at > LOOK_AGAIN_SECONDS:
            self._looked_again_at = time.monotonic()
            for seen in self._seen.values():
                seen.sizes = (0, 0, 0)
        has_news = False
        for folder, sizes in (await asyncio.to_thread(self._sizes)).items():
            seen = self._seen.setdefault(folder, _Seen(grown_at=0.0))
            if sizes != seen.sizes:
                has_news = await self._read_on(folder, seen, sizes) or has_news
            if seen.is_time_for_lists(at_once=with_lists):
                has_news = await self._add_lists(folder) or has_news
                seen.grown_at = None
        return has_news

    async def _read_on(self, folder: str, seen: _Seen, sizes: _Sizes) -> bool:
        """Reads what has grown to its end; whether there was anything that is to be delivered."""
        has_news = False
        if sizes[2] != seen.gaps_bytes:
            seen.gaps_bytes = sizes[2]
            seen.note_growth()
        while await self._read(folder, MANIFEST, self._sounds) or await self._read(
            folder, TEXTS, self._words
        ):
            has_news = True
            seen.note_growth()
        seen.sizes = (0, 0, 0) if folder in self._behind else sizes
        self._behind.discard(folder)
        return has_news

    def _sizes(self) -> dict[str, _Sizes]:
        found = {}
        with os.scandir(self._output_dir) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    path = Path(entry.path)
                    sizes = (_size(path / MANIFEST), _size(path / TEXTS), _size(path / GAPS))
                    if sizes[0]:
                        found[entry.name] = sizes
        return found

    async def _read(
        self, folder: str, file: str, works_in: Callable[[str, list[bytes]], Iterable[Work]]
    ) -> bool:
        """Reads one list on; whether there was more."""
        source = f"{folder}/{file}"
        before = await self._outbox.bookmark(self._kind, source)
        lines, behind = await asyncio.to_thread(new_lines, self._output_dir / folder / file, before)
        if behind == before:
            return False
        works = await asyncio.to_thread(lambda: list(works_in(folder, lines)))
        if await self._outbox.add_read(self._kind, source, works, before, behind):
            return True
        self._behind.add(folder)
        return False

    def _sounds(self, folder: str, lines: list[bytes]) -> Iterator[Work]:
        ledger = Ledger(self._output_dir / folder)
        for record in filter(None, map(record_in, lines)):
            if not self._save_audio or not is_plain_name(record.file) or not record.file.endswith(".wav"):
                continue
            if not ledger.is_settled(self._target, sound_key(record)):
                payload = {"record": record.to_json()}
                yield Work(self._kind, folder, record.file, record.start.timestamp(), payload)

    def _words(self, folder: str, lines: list[bytes]) -> Iterator[Work]:
        path = self._output_dir / folder
        ledger = Ledger(path)
        texts = [text for line in lines if (text := text_in(line)) is not None and text.files]
        records = {record.file: record for record in read_manifest(path)} if texts else {}
        for text in texts:
            record, key = records.get(text.file), words_key(text)
            if record is not None and is_ours(text) and not ledger.is_settled(self._target, key):
                moment = max(text.at, record.end).timestamp()
                payload = {"record": record.to_json(), "text": text.to_json()}
                yield Work(self._kind, folder, key.item, moment, payload)

    async def _add_lists(self, folder: str) -> bool:
        manifest = await self._outbox.bookmark(self._kind, f"{folder}/{MANIFEST}")
        texts = await self._outbox.bookmark(self._kind, f"{folder}/{TEXTS}")
        work = await asyncio.to_thread(self._lists, folder, manifest, texts)
        return work is not None and await self._outbox.add([work]) > 0

    def _lists(self, folder: str, manifest: Bookmark, texts: Bookmark) -> Work | None:
        gaps = end_of(self._output_dir / folder / GAPS)
        key = key_of_lists(manifest, texts, gaps)
        if not manifest.bytes or Ledger(self._output_dir / folder).is_settled(self._target, key):
            return None
        if (
            next(read_manifest(self._output_dir / folder), None) is None
        ):  # another program's, of the same name
            return None
        payload = {
            "manifest_bytes": manifest.bytes,
            "texts_bytes": texts.bytes,
            "gaps_bytes": gaps.bytes,
        }
        return Work(self._kind, folder, key.item, time.time(), payload)


def key_of_lists(*ends: Bookmark) -> Key:
    """What identifies the state of the lists, from their ends."""
    return lists_key(*(f"{end.bytes} {end.digest}" for end in ends))


def _item_of(work: Work, output_dir: Path) -> tuple[Item, Key]:
    folder, payload = output_dir / work.folder, work.payload
    if "manifest_bytes" in payload:
        lists = Lists(folder, **{name: int(size) for name, size in payload.items()})
        return lists, Key(work.file)
    record = SegmentRecord.from_json(payload["record"])
    if "text" in payload:
        return Words(folder, record, TextRecord.from_json(payload["text"])), Key(work.file)
    return Sound(folder, record), sound_key(record)


def is_ours(text: TextRecord) -> bool:
    """Whether its files are plain names that belong to its segment: a list may not make us send anything else."""
    stem = Path(text.file).stem
    return all(
        is_plain_name(file) and file.startswith(f"{stem}_") and file.endswith(".txt") for file in text.files
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
