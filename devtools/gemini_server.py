"""A local server that implements the part of Gemini's REST API that the worker uses, for tests and the demo.

It answers on the paths of AI Studio (with a key) and of Vertex AI (with a token, which it also issues to a service
account). It checks key or token, model, schema and audio of each request. Its texts tell which audio they belong to.
It fails on request: ``server.mishaps.append("429")`` makes the next call fail, ``server.spoil`` decides for each call
(devtools/gemini_mishaps.py lists the mishaps).
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from aiohttp import web

from devtools.gemini_mishaps import MISHAPS, Mishap, candidate, error

KEY = "stand-in-key-" + "0123456789abcdef"
PROJECT, LOCATION = "stand-in-project", "europe-west4"
MODEL = "gemini-3.8-flash"
SAMPLE_RATE = 16_000
MAX_SECONDS = 61.0

Pcm = npt.NDArray[np.int16]
"""PCM s16le mono, shape (n,), 16 kHz."""


def told_by_length(pcm: Pcm) -> str:
    """The transcript if the test does not choose another one: how long the speech is."""
    return f"{len(pcm) / SAMPLE_RATE:.1f} seconds of speech"


def marked(text: str, language: str) -> str:
    """The translation if the test does not choose another one: the text, marked with the language."""
    return f"{text} [{language}]"


@dataclass(frozen=True)
class Call:
    """One received call."""

    model: str
    pcm: Pcm
    languages: list[str]
    body: dict[str, Any]
    path: str
    at: float
    """``time.monotonic`` when it was received."""

    @property
    def seconds(self) -> float:
        return len(self.pcm) / SAMPLE_RATE

    @property
    def said_with_it(self) -> str:
        """The text parts of the request: context and hints beside the audio."""
        return "\n".join(part["text"] for part in self.body["contents"][0]["parts"] if "text" in part)

    @property
    def instruction(self) -> str:
        """The system instruction."""
        return "".join(part["text"] for part in self.body["systemInstruction"]["parts"])


class InvalidRequest(Exception):
    """The real service would refuse this request."""


@dataclass
class GeminiServer:
    """``async with GeminiServer() as gemini``: listens on loopback. GOOGLE_GEMINI_BASE_URL must be ``gemini.url``."""

    mishaps: deque[str] = field(default_factory=deque)
    """Mishaps of the next calls, in order."""
    spoil: Callable[[Call], str] = lambda call: ""
    """The mishap of a call (a name of ``MISHAPS``); empty: the call succeeds."""
    hear: Callable[[Pcm], str] = told_by_length
    """Makes the transcript of the audio."""
    translate: Callable[[str, str], str] = marked
    """Makes the translation of a transcript into a language."""
    latency_seconds: float = 0.0
    calls: list[Call] = field(default_factory=list)
    """The calls that were answered."""
    refused: int = 0
    """How many requests had a wrong key or token."""
    most_at_once: int = 0
    """The most calls that were in progress at the same time."""
    url: str = ""
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Batches by name, as the API shows them."""
    is_batch_over: bool = True
    """Whether batches are complete when a client asks for their state."""
    batch_mishap: Callable[[str], str] = lambda step: ""
    """The mishap at a step of a batch (upload, create, created, get, download), as in ``spoil``."""
    _files: dict[str, bytes] = field(default_factory=dict)
    _in_progress: int = 0
    _tokens: set[str] = field(default_factory=set)
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> GeminiServer:
        app = web.Application(client_max_size=64 * 2**20)
        model = "models/{model}:generateContent"
        place = "projects/{project}/locations/{location}/publishers/google"
        app.router.add_post(f"/{{version:v1|v1beta}}/{model}", self._on_ai_studio)
        app.router.add_post(f"/{{version:v1|v1beta1}}/{place}/{model}", self._on_vertex)
        app.router.add_post("/token", self._on_token)
        self._add_batch_routes(app)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def service_account(self, path: Path) -> Path:
        """Writes a Google credentials file whose tokens this server issues."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        account = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": f"recorder@{PROJECT}.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(account), encoding="utf-8")
        return path

    async def _on_token(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        if form.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" or not form.get(
            "assertion"
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        token = "stand-in-token-" + secrets.token_hex(16)
        self._tokens.add(token)
        return web.json_response({"access_token": token, "expires_in": 3600, "token_type": "Bearer"})

    async def _on_ai_studio(self, request: web.Request) -> web.StreamResponse:
        if "key=" in str(request.url) or request.headers.get("x-goog-api-key") != KEY:
            self.refused += 1
            return error(400, "INVALID_ARGUMENT", "API key not valid.", [{"reason": "API_KEY_INVALID"}])
        return await self._on_call(request)

    async def _on_vertex(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self._tokens or "x-goog-api-key" in request.headers:
            self.refused += 1
            return error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        if (request.match_info["project"], request.match_info["location"]) != (PROJECT, LOCATION):
            return error(403, "PERMISSION_DENIED", "Permission denied on resource project.")
        return await self._on_call(request)

    async def _on_call(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["model"] != MODEL:
            return error(404, "NOT_FOUND", f"models/{request.match_info['model']} is not found.")
        try:
            call = _parsed(request.match_info["model"], await request.json(), request.path)
        except (InvalidRequest, KeyError, TypeError, ValueError) as invalid:
            return error(400, "INVALID_ARGUMENT", f"Request contains an invalid argument: {invalid!r}")
        self._in_progress += 1
        self.most_at_once = max(self.most_at_once, self._in_progress)
        try:
            return await self._answer(call, request)
        finally:
            self._in_progress -= 1

    async def _answer(self, call: Call, request: web.Request) -> web.StreamResponse:
        mishap = self.mishaps.popleft() if self.mishaps else self.spoil(call)
        if mishap:
            return await MISHAPS[mishap](request)
        await asyncio.sleep(self.latency_seconds)
        return web.json_response(await self._response(call))

    async def _response(self, call: Call) -> dict[str, Any]:
        self.calls.append(call)
        transcript = await asyncio.to_thread(
            self.hear, call.pcm
        )  # a speaker in this event loop must not be delayed
        answer: dict[str, Any] = {"spoken_language": "en", "transcript": transcript}
        if call.languages:
            answer["translations"] = {
                language: self.translate(transcript, language) for language in call.languages
            }
        return candidate(json.dumps(answer))

    # Batches: the client uploads a file of requests, creates a batch from it, and downloads a file of answers.

    def _add_batch_routes(self, app: web.Application) -> None:
        routes = (
            ("POST", "/upload/{version:v1|v1beta}/files", self._on_upload_started, ""),
            ("POST", "/upload/session/{id}", self._on_uploaded, "upload"),
            ("POST", "/{version:v1|v1beta}/models/{model}:batchGenerateContent", self._on_batch, "create"),
            ("GET", "/{version:v1|v1beta}/batches", self._on_batch_list, "get"),
            ("GET", "/{version:v1|v1beta}/batches/{id}", self._on_batch_get, "get"),
            ("GET", "/{version:v1|v1beta}/files/{id}:download", self._on_download, "download"),
        )
        for method, path, handler, step in routes:
            app.router.add_route(method, path, self._with_key(handler, step))

    def _with_key(self, handler: Mishap, step: str) -> Mishap:
        async def answer(request: web.Request) -> web.StreamResponse:
            if "session" not in request.path and request.headers.get("x-goog-api-key") != KEY:
                self.refused += 1
                return error(400, "INVALID_ARGUMENT", "API key not valid.", [{"reason": "API_KEY_INVALID"}])
            if mishap := self.batch_mishap(step):
                return await MISHAPS[mishap](request)
            response = await handler(request)
            if step == "create" and (mishap := self.batch_mishap("created")):
                return await MISHAPS[mishap](request)
            return response

        return answer

    async def _on_upload_started(self, request: web.Request) -> web.StreamResponse:
        if request.headers["X-Goog-Upload-Command"] != "start":
            return error(400, "INVALID_ARGUMENT", "Not the start of an upload")
        id_ = secrets.token_hex(6)
        self._files[id_] = b""
        return web.json_response({}, headers={"X-Goog-Upload-URL": f"{self.url}/upload/session/{id_}"})

    async def _on_uploaded(self, request: web.Request) -> web.StreamResponse:
        id_ = request.match_info["id"]
        if int(request.headers["X-Goog-Upload-Offset"]) != len(self._files[id_]):
            return error(400, "INVALID_ARGUMENT", "Wrong offset")
        self._files[id_] += await request.read()
        is_last = "finalize" in request.headers["X-Goog-Upload-Command"]
        headers = {"X-Goog-Upload-Status": "final" if is_last else "active"}
        size = str(len(self._files[id_]))
        return web.json_response({"file": {"name": f"files/{id_}", "sizeBytes": size}}, headers=headers)

    async def _on_batch(self, request: web.Request) -> web.StreamResponse:
        model = request.match_info["model"]
        if model != MODEL:
            return error(404, "NOT_FOUND", f"models/{model} is not found.")
        batch = (await request.json())["batch"]
        file = batch["inputConfig"]["fileName"].removeprefix("files/")
        answers = [
            await self._batch_answer(model, line, request.path) for line in self._files[file].splitlines()
        ]
        results = secrets.token_hex(6)
        self._files[results] = b"".join(json.dumps(answer).encode() + b"\n" for answer in answers)
        name = f"batches/{secrets.token_hex(6)}"
        self.batches[name] = {
            "name": name,
            "metadata": {
                "displayName": batch["displayName"],
                "model": f"models/{model}",
                "state": "BATCH_STATE_PENDING",
                "output": {"responsesFile": f"files/{results}"},
            },
        }
        return web.json_response(self._batch_as_shown(name))

    async def _batch_answer(self, model: str, line: bytes, path: str) -> dict[str, Any]:
        entry = json.loads(line)
        try:
            call = _parsed(model, entry["request"], path)
        except (InvalidRequest, KeyError, TypeError, ValueError) as invalid:
            return {"key": entry["key"], "error": {"code": 400, "message": repr(invalid)}}
        if self.spoil(call):
            return {"key": entry["key"], "error": {"code": 500, "message": "Internal error"}}
        return {"key": entry["key"], "response": await self._response(call)}

    def _batch_as_shown(self, name: str) -> dict[str, Any]:
        """The batch as the API shows it: without its answers until it is complete."""
        batch = self.batches[name]
        if self.is_batch_over:
            return {**batch, "metadata": {**batch["metadata"], "state": "BATCH_STATE_SUCCEEDED"}}
        return {
            **batch,
            "metadata": {key: value for key, value in batch["metadata"].items() if key != "output"},
        }

    async def _on_batch_list(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"operations": [self._batch_as_shown(name) for name in self.batches]})

    async def _on_batch_get(self, request: web.Request) -> web.StreamResponse:
        name = f"batches/{request.match_info['id']}"
        if name not in self.batches:
            return error(404, "NOT_FOUND", f"{name} is not found.")
        return web.json_response(self._batch_as_shown(name))

    async def _on_download(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._files[request.match_info["id"]])


def _parsed(model: str, body: dict[str, Any], path: str) -> Call:
    """The call in a request body.

    Raises:
        InvalidRequest, KeyError, TypeError, ValueError: the real service would refuse this request.
    """
    config = body["generationConfig"]
    schema = config["responseJsonSchema"]
    parts = body["contents"][0]["parts"]
    audio = next(part["inlineData"] for part in parts if "inlineData" in part)
    data = base64.b64decode(audio["data"].replace("-", "+").replace("_", "/"), validate=True)
    pcm, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    thinking = config.get("thinkingConfig", {})
    level = thinking.get("thinkingLevel", thinking.get("thinking_level", "MEDIUM"))
    for holds, demand in (
        (config["responseMimeType"] == "application/json", "JSON"),
        ({"spoken_language", "transcript"} <= set(schema["required"]), "a schema"),
        (
            audio.get("mimeType", audio.get("mime_type")) == "audio/flac",
            "audio/flac",
        ),  # protobuf's JSON takes both
        (data[:4] == b"fLaC", "FLAC"),
        (rate == SAMPLE_RATE and pcm.ndim == 1, "16 kHz mono"),
        (0 < len(pcm) <= MAX_SECONDS * SAMPLE_RATE, "a segment's length"),
        (level.upper() in ("LOW", "MEDIUM", "HIGH"), "a thinking level of this model"),
        (
            not {"topP", "topK"} & config.keys()
            and ("temperature" not in config or "Said before" not in str(parts)),
            "no sampling parameters, except in a request that is repeated, without context",
        ),
        (body["systemInstruction"]["parts"][0]["text"], "an instruction"),
    ):
        if not holds:
            raise InvalidRequest(f"not {demand}")
    languages = list(schema["properties"].get("translations", {}).get("properties", {}))
    return Call(model, pcm, languages, body, path, time.monotonic())
