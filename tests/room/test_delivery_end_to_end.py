"""A lecture, a real worker, a real S3 and a real Postgres that go away, and a worker that is killed in between."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conftest import StartWorker
from devtools import sound
from devtools.livekit_server import LiveKitServer
from devtools.postgres_server import PostgresServer
from devtools.room_folders import TEACHER, Record, manifest, recorded, segments_of, until
from devtools.s3_server import Request, S3Server
from devtools.speakers import Speaker
from devtools.worker import Worker
from support.lessons_on_disk import sha256

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SOON = 60.0
MARKERS = sound.markers()


def sentences(first: int, count: int) -> sound.IntArray:
    return sound.sequence(MARKERS[first : first + count], 0.8, lead_seconds=0, tail_seconds=2.5)[0]


async def teacher_in(server: LiveKitServer, recorder: Worker, room: str, identity: str = "anna") -> Speaker:
    speaker = await Speaker.join(server, room, identity, metadata=TEACHER)
    before = len(recorder.lines)
    microphone = await speaker.publish()
    await recorder.wait_for(f"Track subscribed: microphone {microphone.sid}", SOON, skip_lines=before)
    await speaker.silence(0.5)
    return speaker


def in_s3(s3: S3Server, room: str) -> list[str]:
    return sorted(sha256(s3.get(key)) for key in s3.keys() if key.startswith(f"{room}/") and ".wav" in key)


def in_postgres(database: PostgresServer) -> list[str]:
    with psycopg.connect(database.url()) as connection:
        return sorted(sha256(row[0]) for row in connection.execute("SELECT audio_data FROM audio_segments"))


def hashes(records: list[Record]) -> list[str]:
    return sorted(record["sha256"] for record in records)


def hold_uploads(s3: S3Server) -> tuple[threading.Event, threading.Event]:
    """Holds back the answer to every stored upload until it is released."""
    reached, released = threading.Event(), threading.Event()

    def hold(request: Request) -> None:
        if ".wav" in request.path and not released.is_set():
            reached.set()
            released.wait(SOON)

    s3.gate.stored = hold
    return reached, released


async def everything_has_arrived(s3: S3Server, database: PostgresServer, room_dir: Path) -> None:
    def spoken() -> list[str]:
        return hashes(manifest(room_dir))

    await until(lambda: in_s3(s3, room_dir.name) == spoken(), "every segment in S3, once", SOON)
    await until(lambda: in_postgres(database) == spoken(), "every segment in Postgres, once", SOON)


async def the_session_has_arrived(s3: S3Server, database: PostgresServer, room_dir: Path) -> Record:
    """The room ended while no worker was there: the file is from the recovery, and complete once all is delivered."""
    await until(lambda: list(room_dir.glob("session_*")), "the session is found to be over", SOON)
    (path,) = room_dir.glob("session_*")
    await until(lambda: json.loads(path.read_bytes())["is_complete"], "the file says so", SOON)
    await until(lambda: s3.objects().get(f"lecture/{path.name}") == path.read_bytes(), "it is in S3", SOON)
    session: Record = json.loads(path.read_bytes())
    query = "SELECT summary FROM recorded_sessions WHERE folder = 'lecture' AND is_complete"
    with psycopg.connect(database.url(), autocommit=True) as connection:
        await until(lambda: connection.execute(query).fetchone() == (session,), "it is in Postgres", SOON)
    return session


async def test_a_lecture_arrives_through_outages_and_kills(
    livekit_server: LiveKitServer, worker: StartWorker, s3: S3Server, database: PostgresServer, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**s3.environment(), "DATABASE_URL": database.url(), "RECONCILE_SECONDS": "1"}
    room_dir = tmp_path / "segments" / "lecture"

    recorder = await worker(**settings)
    async with await teacher_in(livekit_server, recorder, "lecture") as teacher:
        await teacher.say(sentences(0, 3))
        await segments_of(room_dir, 1)
        await until(lambda: in_s3(s3, "lecture"), "the first segment in S3", SOON)

        s3.close()
        database.pause()
        before = len(manifest(room_dir))
        await teacher.say(sentences(3, 3))
        await segments_of(room_dir, before + 1)
        await until(lambda: not list(room_dir.glob("*.part")), "all that was said is saved", SOON)
        await recorder.wait_for("Delivery to s3://", SOON)
        await recorder.wait_for("cannot be reached", SOON)
        recorder.kill()  # between the local commit and the upload

        database.run()
        reached, killed = hold_uploads(s3)
        s3.open()
        recorder = await worker(**settings)
        await until(reached.is_set, "an upload", SOON)
        recorder.kill()  # between the upload and its record
        killed.set()

    recorder = await worker(**settings)
    await everything_has_arrived(s3, database, room_dir)
    assert hashes(manifest(room_dir)) == sorted(sha256(path.read_bytes()) for path in room_dir.glob("*.wav"))
    assert sound.heard(recorded(room_dir), MARKERS) == [0, 1, 2, 3, 4, 5]
    session = await the_session_has_arrived(s3, database, room_dir)
    assert session["segments"] == len(manifest(room_dir))
    await recorder.stop()
    assert s3.get("lecture/segments.jsonl") == (room_dir / "segments.jsonl").read_bytes()
    secrets = (settings["S3_KEY_SECRET"], database.password)
    assert not [secret for secret in secrets if secret in recorder.log]


async def test_bad_settings_are_said_and_recording_goes_on(
    livekit_server: LiveKitServer, worker: StartWorker, database: PostgresServer
) -> None:
    room = "bad-settings"
    recorder = await worker(
        S3_BUCKET="lessons",
        DATABASE_URL=database.url(password="wrong"),
        KEEP_LOCAL="until_delivered",
    )
    assert "S3_KEY_ID, S3_KEY_SECRET not set" in recorder.log
    await recorder.wait_for("user or password is wrong. Recording goes on locally", SOON)
    async with await teacher_in(livekit_server, recorder, room) as teacher:
        await teacher.say(sentences(0, 2))
    await recorder.wait_for("Room over: ")
    room_dir = recorder.output_dir / room
    assert sound.heard(recorded(room_dir), MARKERS) == [0, 1]
    assert "Traceback" not in recorder.log
