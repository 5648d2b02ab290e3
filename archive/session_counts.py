"""Counts what a session has and what is not done yet. Pure: the lines come from the caller."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from archive.delivery_log import Key, Undelivered, keys_of
from archive.texts import Text
from config import Settings
from core.records import GapRecord, SegmentRecord
from core.session_records import (
    ClosedBy,
    DeliveryTotals,
    GapTotals,
    ParticipantTotals,
    SessionRecord,
    TargetTotals,
    TextTotals,
)
from core.text_records import TextRecord


@dataclass(frozen=True)
class Expected:
    """What should be done with every segment, by the settings."""

    texts: bool = False
    """SAVE_TRANSLATIONS, CAPTIONS: every segment has a text. A session that has some should have all anyway."""
    languages: tuple[str, ...] = ()
    """TARGET_LANGUAGES, as BCP 47 tags."""
    targets: tuple[str, ...] = ()
    """Where everything should have been delivered, by the targets' names."""
    audio: bool = True
    """SAVE_AUDIO: the sound is kept and delivered, too."""

    @classmethod
    def from_settings(cls, settings: Settings, targets: Iterable[str]) -> Expected:
        return cls(settings.wants_text, settings.target_languages, tuple(targets), settings.save_audio)

    def keys_of(
        self, record: SegmentRecord, text_of: Callable[[SegmentRecord], TextRecord | None]
    ) -> list[Key]:
        """What every target should have of a segment by now."""
        return keys_of(record, text_of(record), save_audio=self.audio) if self.targets else []

    def is_answered_by(self, record: SessionRecord) -> bool:
        """Whether a session's record says of everything that is expected whether it is done."""
        return (
            (record.texts.is_wanted or not self.texts)
            and set(self.languages) <= record.texts.missing.keys()
            and set(self.targets) <= record.delivery.targets.keys()
        )


class SessionCount:
    """The sums of one session while its lines are added."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._room_name = self._room_sid = ""
        self._began: datetime | None = None
        self._ended: datetime | None = None
        self._started_at: datetime | None = None
        self._numbers: tuple[int, int] | None = None
        self._participants: dict[str, ParticipantTotals] = {}
        self._texts = _TextCount(expected.languages)
        self._delivery = _DeliveryCount(expected.targets)
        self._gaps: list[GapRecord] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is no segment."""
        return self._began is None

    def add(self, record: SegmentRecord, text: Text | None, undelivered: Iterable[Undelivered]) -> None:
        """Adds a segment, with its text (None: there is none yet) and what some target has not received of it."""
        self._room_name, self._room_sid = record.room_name, record.room_sid
        self._began = min(self._began or record.start, record.start)
        self._ended = max(self._ended or record.end, record.end)
        if self._started_at is None and record.offset_seconds is not None:
            with contextlib.suppress(OverflowError):
                self._started_at = record.start - timedelta(seconds=record.offset_seconds)
        lowest, highest = self._numbers or (record.number, record.number)
        self._numbers = min(lowest, record.number), max(highest, record.number)
        self._add_speaker(record)
        self._texts.add(text)
        self._delivery.add(undelivered)

    def add_gap(self, gap: GapRecord) -> None:
        self._gaps.append(gap)

    def record(self, closed_by: ClosedBy, ended_at: datetime | None = None) -> SessionRecord:
        """What was counted. ``ended_at`` None: the end is not known. The count must not be empty."""
        assert self._began is not None and self._ended is not None and self._numbers is not None
        people = sorted(self._participants.values(), key=lambda one: one.identity)
        return SessionRecord(
            room_name=self._room_name,
            room_sid=self._room_sid,
            started_at=self._started_at or self._began,
            ended_at=max(ended_at or self._ended, self._ended),
            closed_by=closed_by,
            speech_began_at=self._began,
            speech_ended_at=self._ended,
            segments=sum(one.segments for one in people),
            first_number=self._numbers[0],
            last_number=self._numbers[1],
            speech_seconds=sum(one.speech_seconds for one in people),
            participants=tuple(people),
            gaps=gap_totals(self._gaps),
            texts=self._texts.totals(is_expected=self._expected.texts),
            delivery=self._delivery.totals(),
        )

    def _add_speaker(self, record: SegmentRecord) -> None:
        identity = record.participant_identity
        before = self._participants.get(identity, ParticipantTotals(identity, "", 0, 0.0))
        self._participants[identity] = ParticipantTotals(
            identity,
            record.participant_name or before.name,
            before.segments + 1,
            before.speech_seconds + record.duration_seconds,
        )


class _TextCount:
    def __init__(self, languages: Sequence[str]) -> None:
        self._settled = self._refused = 0
        self._languages: Counter[str] = Counter()
        self._missing = dict.fromkeys(languages, 0)

    def add(self, text: Text | None) -> None:
        if text is None:
            return
        self._settled += text.refused is None
        self._refused += text.refused is not None
        self._languages.update(list(text.by_language))
        for language in self._missing if text.by_language else ():
            self._missing[language] += language not in text.by_language

    def totals(self, *, is_expected: bool) -> TextTotals:
        is_wanted = is_expected or bool(self._settled or self._refused)
        languages = tuple(language for language, _ in self._languages.most_common())
        return TextTotals(is_wanted, self._settled, self._refused, languages, self._missing)


class _DeliveryCount:
    """Counts segments: of each, any number of files may be missing in any target."""

    def __init__(self, targets: Sequence[str]) -> None:
        self._all = [0, 0]
        self._by_target = {target: [0, 0] for target in targets}

    def add(self, undelivered: Iterable[Undelivered]) -> None:
        missing = [(one.target, bool(one.refused)) for one in undelivered]
        for is_refused in {is_refused for _, is_refused in missing}:
            self._all[is_refused] += 1
        for target, is_refused in set(missing):
            self._by_target[target][is_refused] += 1

    def totals(self) -> DeliveryTotals:
        by_target = {target: TargetTotals(*counts) for target, counts in self._by_target.items()}
        undelivered, dead_letters = self._all
        return DeliveryTotals(undelivered, dead_letters, by_target)


def gap_totals(gaps: Iterable[GapRecord]) -> dict[str, GapTotals]:
    """Adds gaps up by their reasons. Where two of one track overlap, the time belongs to the one that began earlier; a
    gap that lies within others does not count."""
    until: dict[tuple[str, str], datetime] = {}
    totals: dict[str, GapTotals] = {}
    for gap in sorted(gaps, key=lambda gap: (gap.start, gap.end)):
        track = gap.participant_identity, gap.track_sid
        start = max(gap.start, until.get(track, gap.start))
        if gap.end < start or (gap.end == start and gap.start < start):
            continue
        until[track] = gap.end
        before = totals.get(gap.reason.value, GapTotals(0, 0.0))
        seconds = (gap.end - start).total_seconds()
        totals[gap.reason.value] = GapTotals(before.count + 1, before.seconds + seconds)
    return totals
