"""When an egress began to record, read from each kind of file that it writes, and which of several fits a lesson."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf import json_format
from livekit.protocol.egress import EgressInfo, FileInfo, ListEgressResponse, SegmentsInfo, StreamInfo

from core.errors import InputError
from lesson_tools.export.egress_info import Wanted, chosen_file, egress_files
from lesson_tools.export.egress_times import RecordedSpan, recorded_spans

BEGAN = datetime(2025, 10, 8, 14, 0, 3, 250_000, tzinfo=UTC)
NANOSECONDS = 1_759_932_003_250_000_000
EARLIER = NANOSECONDS - 4_000_000_000


def only(text: str) -> datetime:
    (found,) = egress_files(text)
    return found.started_at


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
    assert only('{"fileResults": [{"filename": "a.mp4", "startedAt": 1.75993200325e+18}]}') == BEGAN


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
        '{"started_at": 1e999}',
        '{"started_at": NaN}',
        '{"fileResults": [{"filename": "a.mp4"}]}',
        "[" * 100_000,
        "[" * 900 + "]" * 900,
        '{"items": []}',
        '[{"fileResults": []}, 5, null]',
        '{"items": {"items": {}}}',
        "{} {",
    ],
)
def test_a_file_without_a_start_time_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        egress_files(text)


@pytest.mark.parametrize(
    "printed",
    [
        "Using default project [school]\n{}",
        "Using url, api-key from environment\n\n{}",
        "{}\nA new version of lk is available [2.1]\n",
        "[INFO] reading\n  {}\n[INFO] done {{0}}\n",
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_lines_around_the_json_are_skipped(printed: str, indent: int | None) -> None:
    one = json_format.MessageToDict(info(file=FileInfo(filename="a.mp4", started_at=NANOSECONDS)))
    assert only(printed.format(json.dumps([one], indent=indent))) == BEGAN
    assert only(printed.format(json.dumps(one, indent=indent))) == BEGAN
    with pytest.raises(InputError, match="neither JSON"):
        egress_files(printed.format(json.dumps([one], indent=indent)[:-1]))


def test_a_playlist_without_a_date_is_refused() -> None:
    with pytest.raises(InputError):
        recorded_spans("#EXTM3U\n#EXTINF:4.0,\na.ts\n")


# --- one of many ---

HOUR = 3_600_000_000_000
WANTED = Wanted("math101", "RM_1", BEGAN, 3000.0, "film.mp4")


def file_of(
    name: str, hours: float, *, room: str = "math101", sid: str = "RM_1", length: int = HOUR
) -> EgressInfo:
    began = NANOSECONDS + round(hours * HOUR)
    file = FileInfo(filename=name, started_at=began, ended_at=began + length, duration=length)
    return EgressInfo(
        egress_id=f"EG_{name}",
        room_id=sid,
        room_name=room,
        started_at=began - 10**9,
        file_results=[file],
        file=file,
    )


YESTERDAY = file_of("yesterday", -24, sid="RM_0")
ART = file_of("art", 0, room="art", sid="RM_2")
TODAY = file_of("today", 0)
STREAM = EgressInfo(
    egress_id="EG_stream",
    room_name="math101",
    started_at=NANOSECONDS,
    stream_results=[StreamInfo(url="rtmp://x")],
)
ALL = (YESTERDAY, ART, STREAM, TODAY)


def as_go_prints_it(message: EgressInfo) -> dict[str, Any]:
    """As the command line client prints it: encoding/json, not the JSON of protobuf."""
    fields: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    fields.pop("file_results", None)
    file = fields.pop("file", None)
    for one in (fields, file or {}):
        for key in ("started_at", "ended_at", "duration"):
            if key in one:
                one[key] = int(one[key])
    return {**fields, "Request": {"RoomComposite": {}}, "Result": {"File": file} if file else None}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "printed",
    [
        lambda all: json_format.MessageToJson(ListEgressResponse(items=all)),
        lambda all: json_format.MessageToJson(
            ListEgressResponse(items=all), always_print_fields_with_no_presence=True
        ),
        lambda all: json_format.MessageToJson(
            ListEgressResponse(items=all), preserving_proto_field_name=True
        ),
        lambda all: json.dumps([json_format.MessageToDict(one) for one in all]),
        lambda all: json.dumps([as_go_prints_it(one) for one in all], indent=2),
        lambda all: "\n".join(json.dumps(json_format.MessageToDict(one)) for one in all),
        lambda all: json.dumps([{"egressInfo": json_format.MessageToDict(one)} for one in all]),
    ],
    ids=["items", "empty fields", "snake case", "list", "lk", "lines", "webhooks"],
)
def test_of_a_list_the_one_of_this_room_and_time_is_taken(printed: Any, order: int) -> None:
    found = chosen_file(egress_files(printed(ALL[::order])), WANTED)
    assert (found.egress_id, found.started_at, found.seconds) == ("EG_today", BEGAN, 3600.0)
    assert str(found) == "EG_today of room math101, today, from 2025-10-08T14:00:03.250Z"


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([file_of("half", -0.5), file_of("rest", 0.1)], "today"),
        ([file_of("other session", -0.1, sid="RM_9")], "today"),
        ([file_of("rec/film.mp4", 0.2)], "rec/film.mp4"),
        ([file_of("same length", 0.2, length=2_500_400_000_000)], "same length"),
    ],
    ids=["overlap", "session", "name", "length"],
)
def test_of_several_that_fit_the_likeliest_is_taken(others: list[EgressInfo], expected: str) -> None:
    text = json_format.MessageToJson(ListEgressResponse(items=[*others, TODAY]))
    assert chosen_file(egress_files(text), replace(WANTED, video_seconds=2500.0)).name == expected


def test_a_list_in_which_none_fits_is_refused() -> None:
    files = egress_files(json_format.MessageToJson(ListEgressResponse(items=[YESTERDAY, ART])))
    with pytest.raises(InputError, match="none of its 2 files was recorded in room math101 between 2025"):
        chosen_file(files, WANTED)


def test_the_only_one_is_taken_whatever_its_room() -> None:
    assert chosen_file(egress_files(json_format.MessageToJson(ART)), WANTED).name == "art"


def aborted(room: str, began: int = EARLIER) -> EgressInfo:
    return EgressInfo(egress_id=f"EG_aborted_{room}", room_name=room, started_at=began)


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ([aborted("math101"), ART], "EG_aborted_math101"),
        ([aborted("math101"), TODAY], "EG_today"),
        ([aborted("math101", 0), TODAY], "EG_today"),
        ([TODAY], "EG_today"),
        ([YESTERDAY], "EG_yesterday"),
        ([aborted("math101", 0), ART], None),
        ([ART], None),
    ],
)
def test_the_file_of_another_room_is_not_taken_from_a_list(
    listed: list[EgressInfo], expected: str | None
) -> None:
    files = egress_files(json_format.MessageToJson(ListEgressResponse(items=listed)))
    if expected is not None:
        assert chosen_file(files, WANTED).egress_id == expected
        return
    with pytest.raises(InputError, match="none of its 1 files was recorded in room math101"):
        chosen_file(files, WANTED)


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
    (found,) = recorded_spans(text)
    assert (found.video, found.recorded_at) == (0, BEGAN)
