"""Finds out from a recording's metadata when it began, as cameras, phones and field recorders write it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo

OLDEST_RECORDING = datetime(1990, 1, 1, tzinfo=UTC)
"""Containers without a creation time give the year 1904 or 1970."""

WHOLE_TIMES = (
    "com.apple.quicktime.creationdate",
    "creation_time",
    "date_recorded",
    "date_digitized",
    "originaldate",
    "creationdate",
    "wm/encodingtime",
    "datetimeoriginal",
    "date",
    "recorded_date",
    "tdrc",
    "idit",
    "icrd",
)
"""Tags with date and time, the most exact first. Apple's says the zone; ``creation_time`` with a date is UTC."""

_DATE = r"(?P<date>\d{4}[-:./_ ]?\d{2}[-:./_ ]?\d{2})"
_TIME = r"(?P<time>\d{2}[-:._ ]?\d{2}(?:[-:._ ]?\d{2}(?:[.,]\d+)?)?)"
_MOMENT = re.compile(rf"\s*{_DATE}[T _]+{_TIME}\s*(?P<zone>Z|UTC|[+-]\d\d:?\d\d)?\s*", re.IGNORECASE)
_CTIME = "%a %b %d %H:%M:%S %Y"
"""As AVI and C have it: ``Wed Oct 08 14:05:00 2025``."""


def began_at(tags: Mapping[str, str], zone: tzinfo, sample_rate: int | None = None) -> datetime | None:
    """Returns when a recording began (UTC), by its tags; None if they do not say it plausibly.

    Args:
        zone: of times without one. Field recorders write their local time.
        sample_rate: of the recording; the time reference of a Broadcast WAV counts samples.
    """
    folded = {name.casefold(): value.strip() for name, value in tags.items()}
    for name in WHOLE_TIMES:
        moment = _plausible(_moment(folded.get(name, ""), UTC if name == "creation_time" else zone))
        if moment is not None:
            return moment
    return _plausible(_of_broadcast_wav(folded, zone, sample_rate))


def _moment(text: str, zone: tzinfo) -> datetime | None:
    found = _MOMENT.fullmatch(text)
    if found is None:
        with contextlib.suppress(ValueError):
            return datetime.strptime(text, _CTIME).replace(tzinfo=zone)
        return None
    digits, fraction = re.sub(r"\D", "", found["date"]), ""
    time = found["time"]
    if "," in time or re.search(r"\d{2}\D\d{2}\D\d{2}\.", time):
        time, _, fraction = time.replace(",", ".").rpartition(".")
    digits += re.sub(r"\D", "", time).ljust(6, "0")
    zone_text = (found["zone"] or "").upper().replace("UTC", "Z")
    with contextlib.suppress(ValueError):
        offset = zone_text.replace("Z", "+00:00")
        moment = datetime.fromisoformat(f"{digits[:8]}T{digits[8:14]}.{fraction[:6].ljust(6, '0')}{offset}")
        return moment if offset else moment.replace(tzinfo=zone)
    return None


def _of_broadcast_wav(tags: Mapping[str, str], zone: tzinfo, sample_rate: int | None) -> datetime | None:
    """Reads ``bext``: FFmpeg shows its time alone as ``creation_time``, and its date as ``date``."""
    date, time = tags.get("date", ""), tags.get("creation_time", "")
    if not re.fullmatch(_DATE, date):
        return None
    moment = _moment(f"{date} {time}", zone) if time else None
    reference = tags.get("time_reference", "")
    is_midnight = moment is None or not (moment.hour or moment.minute or moment.second)
    if is_midnight and sample_rate and reference.isdecimal() and int(reference):
        midnight = _moment(f"{date} 00:00:00", zone)
        seconds = int(reference) / sample_rate
        return midnight + timedelta(seconds=seconds) if midnight and seconds < 86_400 else None
    return moment


def _plausible(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    try:
        moment = moment.astimezone(UTC)
    except (OverflowError, ValueError):
        return None
    return moment if OLDEST_RECORDING < moment < datetime.now(UTC) + timedelta(days=1) else None
