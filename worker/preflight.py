"""``python agent.py check``: tests everything a lesson will need, before the lesson, and prints a line about each.

    ok     disk      /data/segments: written, synced and renamed in 4 ms; 11.2 GB free, 97 hours of speech
    WRONG  key       the server refuses LIVEKIT_API_KEY with LIVEKIT_API_SECRET: copy both again from the server's ...

A probe returns what it found, or raises :class:`Wrong`, which says what to do. The caller adds probes for the
delivery targets.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp
import numpy as np
from livekit import api

from archive.files import prove_disk
from audio_processor import WINDOW_SAMPLES
from config import Settings
from core.errors import ConfigError, RecorderError
from core.logs import printable
from core.records import BYTES_PER_SAMPLE, SAMPLE_RATE
from recording.speech_detector import NativeDetector, load_detector

TIMEOUT_SECONDS = 10.0
GEMINI_TIMEOUT_SECONDS = 20.0
TARGET_TIMEOUT_SECONDS = 30.0

MAX_CLOCK_ERROR_SECONDS = 5.0
"""A larger error makes tokens invalid and times in manifests wrong. A smaller one cannot be measured well: a Date
header has whole seconds."""

MIN_FREE_BYTES = 500 * 2**20
"""About four hours of speech."""


class Wrong(Exception):
    """A problem that must be fixed before a lesson; the text says what to do, in one line."""


@dataclass(frozen=True)
class Probe:
    """One test and its name in the output."""

    name: str
    run: Callable[[], Awaitable[str]]
    """Returns what it found, or raises Wrong. Any other exception is printed as well."""


class Target(Protocol):
    """A place where recordings are delivered to."""

    @property
    def name(self) -> str: ...

    async def check(self) -> None:
        """Raises a RecorderError if the target would not accept a recording now."""
        ...

    async def aclose(self) -> None: ...


def probes_of_targets(targets: Sequence[Target], problems: Sequence[str]) -> list[Probe]:
    """A probe for each target, and a failing one for each line that says why a target cannot be used."""

    async def is_wrong(problem: str) -> str:
        raise Wrong(problem)

    return [
        *(Probe("delivery", functools.partial(is_wrong, problem)) for problem in problems),
        *(Probe("delivery", functools.partial(_target, target)) for target in targets),
    ]


async def check(settings: Settings, problem: ConfigError | None, more: Sequence[Probe] = ()) -> int:
    """Runs all probes and prints their results. Returns the exit code: 0 if all is well, 1 if a probe failed, 2 if the
    settings are wrong, in which case no probe is run."""
    if problem is not None:
        for line in str(problem).splitlines():
            _say("WRONG", "settings", line)
        return 2
    _say("ok", "settings", "complete, and all values allowed")
    results = [await _try(probe) for probe in [*probes(settings), *more]]
    return 0 if all(results) else 1


def probes(settings: Settings) -> list[Probe]:
    """The probes for what every worker needs, and for what these settings need in addition."""
    found = [
        Probe("disk", lambda: _disk(settings)),
        Probe("VAD", lambda: _vad(settings)),
        Probe("server", lambda: _server(settings)),
        Probe("clock", lambda: _clock(settings)),
        Probe("key", lambda: _key(settings)),
    ]
    if settings.has_gemini:
        found.append(Probe("Gemini", lambda: _gemini(settings)))
    return found


async def _try(probe: Probe) -> bool:
    try:
        found = await probe.run()
    except Wrong as wrong:
        _say("WRONG", probe.name, str(wrong))
    except Exception as error:  # the other probes still run, and no traceback is printed
        _say("WRONG", probe.name, f"{type(error).__name__}: {error}")
    else:
        _say("ok", probe.name, found)
        return True
    return False


def _say(verdict: str, name: str, text: str) -> None:
    sys.stdout.write(f"{verdict:<6} {name:<9} {printable(text)}\n")
    sys.stdout.flush()


async def _target(target: Target) -> str:
    try:
        async with asyncio.timeout(TARGET_TIMEOUT_SECONDS):
            await target.check()
    except TimeoutError:
        raise Wrong(f"{target.name} does not answer within {TARGET_TIMEOUT_SECONDS:.0f} s") from None
    except RecorderError as error:
        raise Wrong(f"{target.name}: {error}") from None
    finally:
        await target.aclose()
    return f"{target.name} accepts recordings"


# --- this machine ---


async def _disk(settings: Settings) -> str:
    folder = Path(os.path.abspath(settings.output_dir))  # noqa: ASYNC240  (asks no disk)
    started = time.monotonic()
    # Not the default executor: a disk that hangs must not delay the exit.
    thread = ThreadPoolExecutor(max_workers=1)
    try:
        proof = asyncio.get_running_loop().run_in_executor(thread, prove_disk, folder)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            free = await proof
    except TimeoutError:
        raise Wrong(f"{folder} does not answer within {TIMEOUT_SECONDS:.0f} s: check the disk") from None
    except OSError as error:
        raise Wrong(
            f"{folder} cannot be written: {error.strerror or error}. Set OUTPUT_DIR to a folder with room that this "
            "user may write"
        ) from None
    finally:
        thread.shutdown(wait=False)
    took = (time.monotonic() - started) * 1000
    hours = free / (SAMPLE_RATE * BYTES_PER_SAMPLE * 3600)
    space = f"{free / 1e9:.1f} GB free, {hours:.0f} hours of speech"
    if free < MIN_FREE_BYTES:
        raise Wrong(f"{folder} has only {space}: make room, or set OUTPUT_DIR to a larger disk")
    return f"{folder}: written, synced and renamed in {took:.0f} ms; {space}"


async def _vad(settings: Settings) -> str:
    started = time.monotonic()
    try:
        detector = load_detector(settings.vad_runtime)()
    except Exception as error:
        raise Wrong(
            f"Silero VAD cannot be loaded ({type(error).__name__}: {error}): install requirements.txt again"
        ) from None
    silence = np.zeros(WINDOW_SAMPLES, np.int16)
    probability = max(detector.probability(silence) for _ in range(SAMPLE_RATE // WINDOW_SAMPLES))
    if not probability < settings.speech_start_probability:
        raise Wrong(
            f"Silero VAD takes silence for speech ({probability:.2f}): install requirements.txt again"
        )
    runtime = "native" if isinstance(detector, NativeDetector) else "ONNX, which costs more CPU than native"
    return f"Silero is ready after {time.monotonic() - started:.1f} s ({runtime})"


# --- the server ---


async def _server(settings: Settings) -> str:
    answer = await _ask(settings)
    if answer.status >= 500:
        raise Wrong(
            f"{settings.livekit_url} answers {answer.status}: the server is reachable but fails, see its log"
        )
    return f"{settings.livekit_url} answers in {answer.seconds * 1000:.0f} ms"


async def _clock(settings: Settings) -> str:
    answer = await _ask(settings)
    if answer.date is None:
        raise Wrong(f"{settings.livekit_url} does not send the time: check this machine's clock yourself")
    # The header is truncated to whole seconds: on average it is half a second old.
    error = answer.at - (answer.date.timestamp() + 0.5)
    if abs(error) > MAX_CLOCK_ERROR_SECONDS:
        direction = "ahead of" if error > 0 else "behind"
        raise Wrong(
            f"this machine's clock is {abs(error):.0f} s {direction} the server's: set it by NTP, or tokens are "
            "refused and all recorded times are off"
        )
    return f"within {abs(error) + 0.5:.1f} s of the server's"


@dataclass(frozen=True)
class _Answer:
    status: int
    date: datetime | None
    at: float
    """Midpoint of the request by this machine's clock, in seconds since the epoch."""
    seconds: float


async def _ask(settings: Settings) -> _Answer:
    """Requests the server's front page, which LiveKit answers without a key."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    before = time.time()
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(_http(settings.livekit_url), allow_redirects=False) as response:
                header = response.headers.get("Date", "")
                after = time.time()
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise Wrong(f"{settings.livekit_url} cannot be reached: {_why(error)}") from None
    date = None
    with contextlib.suppress(ValueError, TypeError):
        date = parsedate_to_datetime(header)
    return _Answer(response.status, date, (before + after) / 2, after - before)


def _http(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(scheme={"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)).geturl()


def _why(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return (
            f"no answer within {TIMEOUT_SECONDS:.0f} s. Is LIVEKIT_URL right, and does the firewall allow outgoing "
            "connections?"
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "there is no such name. Is LIVEKIT_URL right?"
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        return f"its certificate is not accepted ({error}). A server without one is ws://, not wss://"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{error.strerror or error}. Is the server running, and is LIVEKIT_URL right?"
    return str(error) or type(error).__name__


async def _key(settings: Settings) -> str:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with api.LiveKitAPI(
        settings.livekit_url, settings.livekit_api_key, settings.livekit_api_secret, timeout=timeout
    ) as livekit:
        try:
            rooms = (await livekit.room.list_rooms(api.ListRoomsRequest())).rooms
        except api.TwirpError as error:
            raise Wrong(_why_not(error)) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Wrong(f"cannot be tried, the server cannot be reached: {_why(error)}") from None
    return f"accepted; {len(rooms)} room{'' if len(rooms) == 1 else 's'} open now"


def _why_not(error: api.TwirpError) -> str:
    if error.status not in (401, 403):
        return f"the server answers {error.status} {error.code}: see its log"
    return (
        "the server refuses LIVEKIT_API_KEY with LIVEKIT_API_SECRET: copy both again from the server's project or "
        "configuration (a clock that is wrong has the same effect)"
    )


# --- Gemini ---


async def _gemini(settings: Settings) -> str:
    from google.auth.exceptions import GoogleAuthError
    from google.genai import errors

    from translator import GeminiTranslator

    try:
        translator = GeminiTranslator(settings)
    except ConfigError as error:
        raise Wrong(str(error)) from None
    try:
        async with asyncio.timeout(GEMINI_TIMEOUT_SECONDS):
            await translator.find_model()
    except errors.APIError as error:
        raise Wrong(_gemini_says(error, settings.gemini_model)) from None
    except GoogleAuthError:
        raise Wrong(
            "Vertex AI refuses the credentials: set GOOGLE_APPLICATION_CREDENTIALS, or GEMINI_API_KEY for AI Studio"
        ) from None
    except Exception as error:  # each transport has its own exceptions
        raise Wrong(
            f"cannot be reached ({type(error).__name__}): does the firewall allow outgoing connections?"
        ) from None
    finally:
        with contextlib.suppress(Exception):
            await translator.aclose()
    return f"accepts the key and has {settings.gemini_model}"


def _gemini_says(error: object, model: str) -> str:
    code, message = getattr(error, "code", None), str(getattr(error, "message", "") or error)
    if code in (401, 403) or "api key" in message.casefold():
        return "GEMINI_API_KEY (or the project) is refused: make a key at https://aistudio.google.com/apikey"
    if code == 404:
        return f"there is no model {model}: set GEMINI_MODEL to one that this key may use"
    if code == 429:
        return "accepts the key, but its quota is used up: check its limits"
    return f"answers {code}: {message}"
