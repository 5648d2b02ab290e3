"""A local server that speaks as much of Gemini's REST API as the worker uses, for tests and the demo.

It checks what it gets (key, model, schema, decodable audio), answers with texts that tell which audio they belong to,
and misbehaves on command: ``server.mishaps.append("429")`` spoils the next call.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import soundfile
from aiohttp import web

KEY = "stand-in-key"


@dataclass(frozen=True)
class Call:
    """One call as it came in."""

    model: str
    seconds: float
    """Length of the audio."""
    languages: list[str]
    body: dict[str, Any]


@dataclass
class GeminiServer:
    """``async with GeminiServer() as gemini``: listens on loopback; ``gemini.url`` goes into GOOGLE_GEMINI_BASE_URL."""

    mishaps: deque[str] = field(default_factory=deque)
    calls: list[Call] = field(default_factory=list)
    url: str = ""
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> GeminiServer:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/{version:v1|v1beta}/models/{model}:generateContent", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if "key=" in str(request.url) or request.headers.get("x-goog-api-key") != KEY:
            return _error(400, "INVALID_ARGUMENT", "API key not valid.", [{"reason": "API_KEY_INVALID"}])
        if self.mishaps:
            return await _MISHAPS[self.mishaps.popleft()](request)
        call = _understood(request.match_info["model"], await request.json())
        self.calls.append(call)
        text = {
            "spoken_language": "en",
            "transcript": f"{call.seconds:.1f} seconds of speech",
            "translations": {language: f"{call.seconds:.1f} s [{language}]" for language in call.languages},
        }
        return web.json_response(_candidate(json.dumps(text)))


def _understood(model: str, body: dict[str, Any]) -> Call:
    """What a call asks for; raises (and so answers 500) if it is not what the real service would take."""
    config = body["generationConfig"]
    schema = config["responseJsonSchema"]
    assert config["responseMimeType"] == "application/json"
    assert {"spoken_language", "transcript"} <= set(schema["required"])
    audio = next(part["inlineData"] for part in body["contents"][0]["parts"] if "inlineData" in part)
    assert audio.get("mimeType", audio.get("mime_type")) == "audio/flac"  # protobuf's JSON takes both
    data = audio["data"].replace("-", "+").replace("_", "/")
    pcm, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    languages = list(schema["properties"].get("translations", {}).get("properties", {}))
    return Call(model, len(pcm) / rate, languages, body)


def _candidate(text: str, reason: str = "STOP") -> dict[str, Any]:
    return {
        "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": reason}],
        "usageMetadata": {"promptTokenCount": 320, "candidatesTokenCount": 40},
    }


def _error(code: int, status: str, message: str, details: list[dict[str, Any]] | None = None) -> web.Response:
    error = {"code": code, "status": status, "message": message, "details": details or []}
    return web.json_response({"error": error}, status=code)


async def _rate_limited(_: web.Request) -> web.StreamResponse:
    return _error(429, "RESOURCE_EXHAUSTED", "Slow down", [{"retryDelay": "0.3s"}])


async def _broken(_: web.Request) -> web.StreamResponse:
    return _error(500, "INTERNAL", "Internal error")


async def _too_large(_: web.Request) -> web.StreamResponse:
    return _error(400, "INVALID_ARGUMENT", "Request payload is too large")


async def _cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    await asyncio.sleep(0.1)
    return web.Response()


async def _hanging(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def _blocked(_: web.Request) -> web.StreamResponse:
    return web.json_response({"promptFeedback": {"blockReason": "SAFETY"}})


def _saying(text: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(_candidate(text))

    return answer


_MISHAPS: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
    "429": _rate_limited,
    "500": _broken,
    "400": _too_large,
    "cut": _cut,
    "hang": _hanging,
    "blocked": _blocked,
    "empty": _saying(""),
    "not JSON": _saying("Sure! Here is your transcript."),
    "language missing": _saying('{"spoken_language": "en", "transcript": "Hi", "translations": {}}'),
    "no words": _saying('{"spoken_language": "", "transcript": "", "translations": {"es": "", "ar": ""}}'),
    "path as language": _saying(
        '{"spoken_language": "../../x", "transcript": "Hi", "translations": {"es": "a", "ar": "b"}}'
    ),
    "control characters": _saying(
        '{"spoken_language": "en", "transcript": "One\\u202e\\n\\u0000two", "translations": {"es": "a", "ar": "b"}}'
    ),
}
