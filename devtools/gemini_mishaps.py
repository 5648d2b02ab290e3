"""The mishaps of the local Gemini server: each answers a request as the real service does when something fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

HANG_SECONDS = 120.0

Mishap = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""Answers a request, or breaks its connection."""


def candidate(text: str, reason: str = "STOP") -> dict[str, Any]:
    """The body of an answer with this text."""
    return {
        "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": reason}],
        "usageMetadata": {"promptTokenCount": 320, "candidatesTokenCount": 40, "thoughtsTokenCount": 5},
    }


def error(code: int, status: str, message: str, details: list[dict[str, Any]] | None = None) -> web.Response:
    """An error answer in the format of Google APIs."""
    body = {"code": code, "status": status, "message": message, "details": details or []}
    return web.json_response({"error": body}, status=code)


def _failing(code: int, status: str, message: str, details: list[dict[str, Any]] | None = None) -> Mishap:
    async def answer(_: web.Request) -> web.StreamResponse:
        return error(code, status, message, details)

    return answer


def _with(answer_body: dict[str, Any]) -> Mishap:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(answer_body)

    return answer


def _saying(text: str) -> Mishap:
    return _with(candidate(text))


async def _cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    await asyncio.sleep(0.1)
    return web.Response()


async def _cut_in_the_middle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"candidates": [')
    return await _cut(request)


async def _hanging(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(HANG_SECONDS)
    return web.Response()


async def _gateway(_: web.Request) -> web.StreamResponse:
    return web.Response(status=502, text="<html>Bad Gateway</html>", content_type="text/html")


_RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.3s"}

MISHAPS: dict[str, Mishap] = {
    "429": _failing(429, "RESOURCE_EXHAUSTED", "Slow down", [_RETRY_INFO]),
    "500": _failing(500, "INTERNAL", "Internal error"),
    "503": _failing(503, "UNAVAILABLE", "The model is overloaded"),
    "400": _failing(400, "INVALID_ARGUMENT", "Request contains an invalid argument"),
    "no billing": _failing(400, "FAILED_PRECONDITION", "Billing is not enabled"),
    "413": _failing(413, "INVALID_ARGUMENT", "Request payload is too large"),
    "wrong key": _failing(400, "INVALID_ARGUMENT", "API key not valid.", [{"reason": "API_KEY_INVALID"}]),
    "gateway": _gateway,
    "cut": _cut,
    "cut in the middle": _cut_in_the_middle,
    "hang": _hanging,
    "blocked": _with({"promptFeedback": {"blockReason": "SAFETY"}}),
    "unsafe": _with(candidate("", "SAFETY")),
    "too long": _with(candidate('{"spoken_language": "en", "transcript": "and so', "MAX_TOKENS")),
    "nothing": _with({}),
    "empty": _saying(""),
    "not JSON": _saying("Sure! Here is your transcript."),
    "a list": _saying("[]"),
    "deeply nested": _saying("[" * 100_000),
    "language missing": _saying('{"spoken_language": "en", "transcript": "Hi", "translations": {}}'),
    "no words": _saying('{"spoken_language": "", "transcript": "", "translations": {"es": "", "ar": ""}}'),
    "path as language": _saying(
        '{"spoken_language": "../../x", "transcript": "Hi", "translations": {"es": "a", "ar": "b"}}'
    ),
    "control characters": _saying(
        '{"spoken_language": "en", "transcript": "One\\u202e\\n\\u0000two", "translations": {"es": "a", "ar": "b"}}'
    ),
    "spoken as wanted": _saying(
        '{"spoken_language": "ar-EG", "transcript": "\\u0633\\u0644\\u0627\\u0645", '
        '"translations": {"es": "Hola", "ar": "\\u0633\\u0644\\u0627\\u0645"}}'
    ),
    "endless": _saying(
        json.dumps(
            {"spoken_language": "en", "transcript": "x " * 10**6, "translations": {"es": "a", "ar": "b"}}
        )
    ),
}
