"""Puts captions into the order in which they were spoken; their texts arrive in any order. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from core.records import SegmentRecord
from core.text_records import Translation

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

MAX_WAIT_SECONDS = 5.0
"""How long a caption waits for the texts of earlier sentences."""
LIVE_SECONDS = 60.0
"""A text that arrives later than this after its sentence is not shown as a caption; it is in the lesson's files."""
MAX_EARLY_TEXTS = 200
"""How many texts are kept that arrive before their segments are known."""


@dataclass(frozen=True)
class Caption:
    """The text of one segment, to be shown in the room."""

    record: SegmentRecord
    text: Translation

    @property
    def id(self) -> str:
        """The id of the segment, the same for all languages: track and start time, unique in a room."""
        return f"{self.record.track_sid}-{self.start_milliseconds}"

    @property
    def start_milliseconds(self) -> int:
        """Start in milliseconds since the Unix epoch, like :attr:`end_milliseconds`."""
        return milliseconds(self.record.start)

    @property
    def end_milliseconds(self) -> int:
        return milliseconds(self.record.end)

    def by_language(self) -> dict[str, str]:
        """The transcript and, after it, the translations, by BCP 47 tag."""
        return {self.text.language: self.text.transcript, **self._translations()}

    def _translations(self) -> dict[str, str]:
        texts = self.text.translations
        return {tag: text for tag, text in texts.items() if tag != self.text.language and text}


def milliseconds(moment: datetime) -> int:
    """Milliseconds since the Unix epoch, truncated as in the manifest."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


@dataclass
class _ExpectedText:
    """A saved segment whose text has not been shown yet. Times as in :class:`CaptionOrder`."""

    record: SegmentRecord
    saved_at: float
    arrived_at: float | None = None
    text: Translation | None = None
    """If it is None although ``arrived_at`` is set, there will be no text."""


class CaptionOrder:
    """Puts texts, which arrive in any order, into the order in which their sentences ended.

    A missing text delays captions that are ready by at most ``max_wait_seconds``. A text that arrives more than
    ``live_seconds`` after its sentence is not shown. Pure: ``now`` is any clock that only goes forward, in seconds.
    """

    def __init__(
        self, max_wait_seconds: float = MAX_WAIT_SECONDS, live_seconds: float = LIVE_SECONDS
    ) -> None:
        self.skipped = 0
        """The number of sentences whose text did not arrive in time."""
        self._max_wait_seconds = max_wait_seconds
        self._live_seconds = live_seconds
        self._expected: OrderedDict[int, _ExpectedText] = OrderedDict()
        self._early: OrderedDict[int, Translation | None] = OrderedDict()
        """Texts that arrived before :meth:`expect` was called for their segments."""

    @property
    def is_waiting(self) -> bool:
        """Whether the text of any saved segment has been neither shown nor skipped."""
        return bool(self._expected)

    def expect(self, record: SegmentRecord, now: float) -> None:
        """A segment has been saved; its text is expected from now on."""
        self._expected[record.number] = _ExpectedText(record, now)
        if record.number in self._early:
            self.text_arrived(record.number, self._early.pop(record.number), now)

    def text_arrived(self, number: int, text: Translation | None, now: float) -> None:
        """The text of segment ``number`` has arrived. None: there will never be one."""
        expected = self._expected.get(number)
        if expected is None:
            self._early[number] = text
            if len(self._early) > MAX_EARLY_TEXTS:
                self._early.popitem(last=False)
        elif expected.arrived_at is None:
            expected.text, expected.arrived_at = text, now

    def due(self, now: float) -> list[Caption]:
        """Removes and returns the captions to be shown now, in order."""
        due = []
        while self._expected:
            number, first = next(iter(self._expected.items()))
            is_late = now - first.saved_at > self._live_seconds
            if first.arrived_at is None and not is_late and not self._others_have_waited(now):
                break
            del self._expected[number]
            if first.text is not None and not is_late:
                due.append(Caption(first.record, first.text))
            elif first.text is not None or first.arrived_at is None:
                self.skipped += 1
        return due

    def _others_have_waited(self, now: float) -> bool:
        """Whether a caption has been ready for longer than ``max_wait_seconds``."""
        return any(
            one.text is not None
            and one.arrived_at is not None
            and now - one.arrived_at > self._max_wait_seconds
            for one in self._expected.values()
        )
