"""``python agent.py check``: its report on servers, disks, clocks and keys that work, and on others."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from email.utils import formatdate
from pathlib import Path

import pytest
from aiohttp import web
from livekit import api
from livekit.protocol.room import ListRoomsResponse

from config import Settings
from core.errors import ConfigError, RetryLater
from worker.preflight import Probe, Wrong, check, probes_of_targets

KEY, SECRET = "devkey", "a-secret-of-at-least-32-characters"


@dataclass
class Server:
    """The parts of LiveKit and Gemini that are used, with settings for their faults."""

    url: str = ""
    clock_error_seconds: float = 0.0
    has_date: bool = True
    status: int = 200
    gemini_status: int = 200

    async def front_page(self, _: web.Request) -> web.Response:
        headers = (
            {"Date": formatdate(time.time() - self.clock_error_seconds, usegmt=True)} if self.has_date else {}
        )
        response = web.Response(status=self.status, text="OK", headers=headers)
        return response

    async def list_rooms(self, request: web.Request) -> web.Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        try:
            claims = api.TokenVerifier(KEY, SECRET).verify(token)
        except Exception as error:
            return web.json_response({"code": "unauthenticated", "msg": str(error)}, status=401)
        assert claims.video is not None
        assert claims.video.room_list
        return web.Response(body=ListRoomsResponse().SerializeToString(), content_type="application/protobuf")

    async def model(self, request: web.Request) -> web.Response:
        if request.headers.get("x-goog-api-key") != "good-key":
            error = {
                "code": 400,
                "message": "API key not valid. Please pass one.",
                "status": "INVALID_ARGUMENT",
            }
            return web.json_response({"error": error}, status=400)
        if self.gemini_status != 200:
            error = {"code": self.gemini_status, "message": "no", "status": "NO"}
            return web.json_response({"error": error}, status=self.gemini_status)
        return web.json_response({"name": f"models/{request.match_info['model']}"})


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_get("/", server.front_page)
    app.router.add_post("/twirp/livekit.RoomService/ListRooms", server.list_rooms)
    app.router.add_get("/{version}/models/{model}", server.model)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
        yield
    finally:
        await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    async with serving(made):
        yield made


def settings_for(server: Server, folder: Path, **changes: str) -> Settings:
    environ = {
        "LIVEKIT_URL": server.url,
        "LIVEKIT_API_KEY": KEY,
        "LIVEKIT_API_SECRET": SECRET,
        "OUTPUT_DIR": str(folder),
        "GOOGLE_GEMINI_BASE_URL": f"http://{server.url.partition('://')[2]}",
        **changes,
    }
    return Settings.from_env(environ)


Verdicts = Mapping[str, tuple[str, str]]
"""Verdict and text by name of the probe."""


def said(capsys: pytest.CaptureFixture[str]) -> Verdicts:
    lines = capsys.readouterr().out.splitlines()
    split = [line.split(maxsplit=2) for line in lines]
    assert all(verdict in ("ok", "WRONG") for verdict, _, _ in split)
    return {name: (verdict, text) for verdict, name, text in split}


async def test_all_is_well(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await check(settings_for(server, tmp_path / "new", GEMINI_API_KEY="good-key"), None) == 0
    seen = said(capsys)
    assert {name: verdict for name, (verdict, _) in seen.items()} == dict.fromkeys(
        ["settings", "disk", "VAD", "server", "clock", "key", "Gemini"], "ok"
    )
    assert "hours of speech" in seen["disk"][1]
    assert list((tmp_path / "new").iterdir()) == [], "nothing is left behind"


async def test_without_a_gemini_key_gemini_is_not_asked(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await check(settings_for(server, tmp_path), None) == 0
    assert "Gemini" not in said(capsys)


async def test_wrong_settings_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert await check(Settings(), ConfigError("A=1 is wrong\nB is not set")) == 2
    assert capsys.readouterr().out == "WRONG  settings  A=1 is wrong\nWRONG  settings  B is not set\n"


@pytest.mark.parametrize(
    "changes",
    [{"LIVEKIT_API_KEY": "other"}, {"LIVEKIT_API_SECRET": "another-secret-of-32-characters-!"}],
    ids=["key", "secret"],
)
async def test_a_refused_key(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
) -> None:
    assert await check(settings_for(server, tmp_path, **changes), None) == 1
    seen = said(capsys)
    assert seen["server"][0] == "ok"
    assert seen["key"][0] == "WRONG"
    assert "LIVEKIT_API_KEY with LIVEKIT_API_SECRET" in seen["key"][1]
    assert not any(value in str(seen) for value in changes.values()), "no secret is shown"


@pytest.mark.parametrize(("error", "text"), [(30, "30 s ahead of"), (-3600, "s behind")])
async def test_a_wrong_clock(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: float, text: str
) -> None:
    server.clock_error_seconds = error
    assert await check(settings_for(server, tmp_path), None) == 1
    verdict, line = said(capsys)["clock"]
    assert verdict == "WRONG"
    assert text in line


async def test_a_server_that_is_not_well(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.status = 503
    assert await check(settings_for(server, tmp_path), None) == 1
    assert said(capsys)["server"] == (
        "WRONG",
        f"{server.url} answers 503: the server is reachable but fails, see its log",
    )


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1", "wss://no-such-server.invalid"])
async def test_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert await check(settings_for(Server(url), tmp_path), None) == 1
    seen = said(capsys)
    assert [seen[name][0] for name in ("server", "clock", "key")] == ["WRONG"] * 3
    assert "LIVEKIT_URL" in seen["server"][1]
    assert seen["disk"][0] == seen["VAD"][0] == "ok", "what can be tried is tried"


async def test_a_server_without_tls(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secure = replace(server, url=server.url.replace("ws:", "wss:"))
    assert await check(settings_for(secure, tmp_path), None) == 1
    assert said(capsys)["server"][0] == "WRONG"


async def test_a_folder_that_is_a_file(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert await check(settings_for(server, tmp_path / "file"), None) == 1
    verdict, line = said(capsys)["disk"]
    assert verdict == "WRONG"
    assert "OUTPUT_DIR" in line


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() == 0, reason="root may write everywhere")
async def test_a_folder_that_cannot_be_written(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o500)
    try:
        assert await check(settings_for(server, tmp_path), None) == 1
    finally:
        tmp_path.chmod(0o700)
    assert "Permission denied" in said(capsys)["disk"][1]


async def test_a_disk_that_is_nearly_full(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.preflight.prove_disk", lambda _: 10_000_000)
    assert await check(settings_for(server, tmp_path), None) == 1
    assert "make room" in said(capsys)["disk"][1]


@pytest.mark.parametrize(
    ("key", "status", "text"),
    [
        ("bad-key", 200, "is refused"),
        ("good-key", 404, "GEMINI_MODEL"),
        ("good-key", 429, "quota"),
        ("good-key", 500, "answers 500"),
    ],
)
async def test_a_gemini_that_does_not_help(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, status: int, text: str
) -> None:
    server.gemini_status = status
    assert await check(settings_for(server, tmp_path, GEMINI_API_KEY=key), None) == 1
    verdict, line = said(capsys)["Gemini"]
    assert verdict == "WRONG"
    assert text in line


async def test_credentials_that_are_not_there(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vertex = {"GOOGLE_CLOUD_PROJECT": "school", "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none.json")}
    assert await check(settings_for(server, tmp_path, **vertex), None) == 1
    verdict, line = said(capsys)["Gemini"]
    assert verdict == "WRONG"
    assert "GOOGLE_APPLICATION_CREDENTIALS" in line


@dataclass
class Shelf:
    """A place where recordings are delivered to."""

    name: str
    trouble: Exception | None = None
    is_closed: bool = False

    async def check(self) -> None:
        if self.trouble is not None:
            raise self.trouble

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    ("trouble", "verdict", "text"),
    [
        (None, "ok", "s3 lessons accepts recordings"),
        (ConfigError("there is no bucket lessons"), "WRONG", "s3 lessons: there is no bucket lessons"),
        (RetryLater("it answers 503"), "WRONG", "s3 lessons: it answers 503"),
    ],
)
async def test_where_recordings_go_is_tried(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    trouble: Exception | None,
    verdict: str,
    text: str,
) -> None:
    shelf = Shelf("s3 lessons", trouble)
    code = await check(settings_for(server, tmp_path), None, probes_of_targets([shelf], []))
    assert code == (1 if trouble else 0)
    assert said(capsys)["delivery"] == (verdict, text)
    assert shelf.is_closed


async def test_a_target_that_cannot_even_be_made_is_named(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = probes_of_targets([], ["S3_BUCKET is not set"])
    assert await check(settings_for(server, tmp_path), None, more) == 1
    assert said(capsys)["delivery"] == ("WRONG", "S3_BUCKET is not set")


async def test_other_parts_bring_probes_of_their_own(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def wrong() -> str:
        raise Wrong("there is no such bucket: make it")

    async def broken() -> str:
        raise ZeroDivisionError("an oversight\nTraceback (forged)")

    async def well() -> str:
        return "takes what it is given"

    more = [Probe("S3", wrong), Probe("Postgres", broken), Probe("other", well)]
    assert await check(settings_for(server, tmp_path), None, more) == 1
    seen = said(capsys)
    assert seen["S3"] == ("WRONG", "there is no such bucket: make it")
    assert seen["Postgres"] == ("WRONG", "ZeroDivisionError: an oversight\\u000aTraceback (forged)")
    assert seen["other"][0] == "ok"
