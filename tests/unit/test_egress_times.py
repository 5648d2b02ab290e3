"""When an egress began to record, read from each kind of file that it writes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf import json_format
from livekit.protocol.egress import EgressInfo, FileInfo, SegmentsInfo

from core.errors import InputError
from lesson_tools.export.egress_times import RecordedSpan, recorded_spans

BEGAN = datetime(2025, 10, 8, 14, 0, 3, 250_000, tzinfo=UTC)
NANOSECONDS = 1_759_932_003_250_000_000
EARLIER = NANOSECONDS - 4_000_000_000


def only(text: str) -> datetime:
    (found,) = recorded_spans(text)
    assert found.video == 0
    return found.recorded_at


def info(**results: Any) -> EgressInfo:
    return EgressInfo(egress_id="EG_1", room_id="RM_1", room_name="math101", started_at=EARLIER, **results)


@pytest.mark.parametrize("snake_case", [True, False])
@pytest.mark.parametrize(
    "message",
    [
        info(file_results=[FileInfo(filename="a.mp4", started_at=NANOSECONDS)]),
        info(segment_results=[SegmentsInfo(playlist_name="a.m3u8", started_at=NANOSECONDS)]),
        info(file=FileInfo(filename="a.mp4", started_at=NANOSECONDS)),
        FileInfo(filename="a.mp4", started_at=NANOSECONDS),
    ],
    ids=["files", "segments", "file", "FileInfo"],
)
def test_what_the_api_answers(message: Any, snake_case: bool) -> None:
    text = json_format.MessageToJson(message, preserving_proto_field_name=snake_case)
    assert only(text) == BEGAN


def test_a_webhook_and_a_manifest() -> None:
    file = {"filename": "a.mp4", "startedAt": str(NANOSECONDS)}
    assert only(json.dumps({"event": "egress_ended", "egressInfo": {"fileResults": [file]}})) == BEGAN
    assert only(json.dumps({"egress_id": "EG_1", "started_at": NANOSECONDS})) == BEGAN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "null",
        "{}",
        '{"startedAt": "yesterday"}',
        '{"startedAt": 0}',
        '{"started_at": 1759932003}',
        '{"started_at": 99999999999999999999}',
        '{"started_at": true}',
        '{"fileResults": [{"filename": "a.mp4"}]}',
        "[" * 100_000,
        "#EXTM3U\n#EXTINF:4.0,\na.ts\n",
    ],
)
def test_a_file_without_a_start_time_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        recorded_spans(text)


def playlist(*entries: tuple[datetime | None, float]) -> str:
    lines = ["#EXTM3U", "#EXT-X-VERSION:4", "#EXT-X-TARGETDURATION:6"]
    for number, (moment, seconds) in enumerate(entries):
        if moment is not None:
            lines.append(
                f"#EXT-X-PROGRAM-DATE-TIME:{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
            )
        lines += [f"#EXTINF:{seconds:.3f},", f"a_{number:05d}.ts"]
    return "\n".join([*lines, "#EXT-X-ENDLIST", ""])


def test_a_playlist_without_interruption_is_one_stretch() -> None:
    text = playlist(
        (BEGAN, 6.0), (BEGAN + timedelta(seconds=6.01), 6.0), (BEGAN + timedelta(seconds=12), 3.5)
    )
    assert recorded_spans(text) == [RecordedSpan(0.0, BEGAN, 15.5)]


def test_a_playlist_that_was_interrupted() -> None:
    again = BEGAN + timedelta(seconds=100)
    text = playlist((BEGAN, 6.0), (None, 6.0), (again, 6.0), (again + timedelta(seconds=6), 2.0))
    assert recorded_spans(text) == [RecordedSpan(0.0, BEGAN, 12.0), RecordedSpan(12.0, again, 8.0)]


def test_a_date_that_comes_late_counts_for_what_was_before() -> None:
    assert recorded_spans(playlist((None, 6.0), (BEGAN + timedelta(seconds=6), 6.0))) == [
        RecordedSpan(0.0, BEGAN, 12.0)
    ]


@pytest.mark.parametrize(
    "date",
    ["2025-10-08T14:00:03.25Z", "2025-10-08T16:00:03.250000+02:00", "2025-10-08T16:00:03.2500000+0200"],
)
def test_dates_in_all_their_forms(date: str) -> None:
    text = f"#EXTM3U\n#EXT-X-PROGRAM-DATE-TIME:{date}\n#EXTINF:6,\na.ts\n"
    assert only(text) == BEGAN
