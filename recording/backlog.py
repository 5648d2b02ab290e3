"""The queue of one room's updates that are waiting for the disk, in order and bounded in memory."""

from __future__ import annotations

from collections import deque

from audio_processor import Closed, Grown
from recording.track_sink import Item


class Backlog:
    """A queue of updates. Pure. ``max_seconds`` bounds the speech of finished segments in it."""

    def __init__(self, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._waiting: deque[Item] = deque()
        self._current: Item | None = None

    def __bool__(self) -> bool:
        """Whether there is an item to take, or one that has not been handled."""
        return self._current is not None or bool(self._waiting)

    @property
    def seconds(self) -> float:
        """Seconds of finished speech that are not saved yet."""
        return sum(item.seconds for item in self.items())

    def items(self) -> list[Item]:
        """All items in order, beginning with the one that is being handled."""
        return [*([] if self._current is None else [self._current]), *self._waiting]

    def put(self, item: Item) -> None:
        """Appends an item. ``Closed`` replaces the waiting ``Grown`` updates of its segment."""
        if isinstance(item.update, Closed):
            self._drop_growth(item, item.update.segment.start_sample)
        self._waiting.append(item)

    def take(self) -> Item:
        """Takes out the oldest item. Until :meth:`done` is called it counts as unsaved and is returned again."""
        if self._current is None:
            self._current = self._waiting.popleft()
        return self._current

    def done(self) -> None:
        """The item that was taken has been handled."""
        self._current = None

    def overflow(self) -> list[Item]:
        """Removes and returns the oldest segments beyond the bound. The newest segment stays, however long it is."""
        finished = [item for item in self._waiting if isinstance(item.update, Closed)]
        seconds = sum(item.seconds for item in finished)
        dropped = []
        while seconds > self._max_seconds and len(finished) > 1:
            dropped.append(finished.pop(0))
            self._waiting.remove(dropped[-1])
            seconds -= dropped[-1].seconds
        return dropped

    def _drop_growth(self, closed: Item, start_sample: int) -> None:
        """Removes waiting ``Grown`` updates of a segment that has closed: ``Closed`` holds all of its PCM."""
        key = closed.key(start_sample)
        self._waiting = deque(
            item
            for item in self._waiting
            if not (isinstance(item.update, Grown) and item.key(item.update.start_sample) == key)
        )
