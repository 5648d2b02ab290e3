"""Gets a segment's transcript and all its translations from Gemini, with one call.

:mod:`core.text_request` has the words that are sent with the sound. :mod:`core.answers` checks an answer against the
schema, bounds it and reduces it to plain text. ``google-genai`` is imported only when text is wanted.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import soundfile

from config import Settings
from core.answers import answer_schema, checked
from core.errors import ConfigError, Refused, RetryLater
from core.plausibility import doubt_about, without_loops
from core.text_records import Translation
from core.text_request import TextRequest, accompanying_text, system_instruction

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.genai import types

logger = logging.getLogger("recorder")

MAX_OUTPUT_TOKENS = 8192
"""Enough for a minute of the fastest speech in twenty languages and the model's thinking."""

MAX_FILE_CHARACTERS = 20_000
"""Maximum length of the glossary and of the prompt file. Both are sent, and paid for, with every call."""

CALL_TIMEOUT_SECONDS = 60.0
"""Time limit of one call."""

RETRY_TEMPERATURE = 0.3
"""Sent when an answer was unusable. Gemini's own is 1; a model that ignores it still answers at random."""

OPERATOR_PAUSE_SECONDS = 60.0
"""The pause after an error that only the operator can fix, such as a wrong key or model."""

MAX_HINT_SECONDS = 3600.0
"""The longest pause that is accepted from the service."""

FINAL_REASONS = ("SAFETY", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "JAILBREAK")
"""Why the service blocks a request or its answer for good. Other reasons come at random, or are new."""

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


@dataclass(frozen=True)
class Usage:
    """Tokens and time of one call. The model's thinking counts as output, as it costs the same."""

    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class TextResult:
    """A transcript with its translations, and what the call used."""

    translation: Translation
    model: str
    usage: Usage


class BadAnswer(RetryLater):
    """The answer is not usable. Models are not deterministic, so another call may succeed."""

    def __init__(self, message: str, usage: Usage) -> None:
        super().__init__(message)
        self.usage = usage


class FailedCall(RetryLater):
    """The service has failed at this call, by an internal error or without an answer: at this segment, or at all."""


class WrongSettings(RetryLater):
    """Only the operator can fix the problem: a wrong key or model. It is retried, since the operator may do so."""

    def __init__(self, message: str) -> None:
        super().__init__(message, OPERATOR_PAUSE_SECONDS)


class Rejected(WrongSettings):
    """The service rejects the request. If it accepts others, the segment is at fault, otherwise the settings are."""


class Translator(Protocol):
    """A text engine: makes text from a segment's audio."""

    async def translate(self, request: TextRequest) -> TextResult:
        """Gets the text of a WAV file.

        Raises:
            FileNotFoundError: the WAV does not exist.
            RetryLater: the service cannot answer now.
            Refused: the service will never answer this request.
        """
        ...

    async def aclose(self) -> None:
        """Closes the connections."""
        ...


# --- the request ---


def compressed(wav: Path) -> bytes:
    """Encodes a WAV as FLAC: lossless, about half the bytes.

    Raises:
        FileNotFoundError: the WAV does not exist.
        Refused: the file is not a WAV.
    """
    with open(wav, "rb") as file:
        try:
            pcm, rate = soundfile.read(file, dtype="int16")
        except soundfile.SoundFileError as error:
            raise Refused(f"its WAV cannot be read: {error}") from None
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def operators_file(setting: str, path: str) -> str:
    """Reads the text file that a setting names; empty if ``path`` is empty.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8 text, or is too long.
    """
    if not path:
        return ""
    try:
        text = Path(path).read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise ConfigError(f"{setting}={path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}={path} is not UTF-8 text: save it as UTF-8") from None
    if len(text) > MAX_FILE_CHARACTERS:
        raise ConfigError(f"{setting}={path} is too long: {len(text)} characters of {MAX_FILE_CHARACTERS}")
    return text


# --- Gemini ---


class GeminiTranslator:
    """Gemini through ``google-genai``: AI Studio if there is an API key, otherwise Vertex AI.

    Raises:
        ConfigError: a file that the settings name cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        from google import genai

        # A reason for the end of an answer that is newer than the library is handled, and is nothing to warn about.
        warnings.filterwarnings("ignore", r".* is not a valid \w*Reason", UserWarning)
        self._settings = settings
        self._instruction = system_instruction(
            operators_file("GLOSSARY_FILE", settings.glossary_file),
            operators_file("PROMPT_FILE", settings.prompt_file),
        )
        if settings.gemini_api_key:
            options = self._http_options(settings.google_gemini_base_url)
            self._client = genai.Client(vertexai=False, api_key=settings.gemini_api_key, http_options=options)
        else:
            options = self._http_options(settings.google_vertex_base_url)
            self._client = genai.Client(
                vertexai=True,
                project=settings.google_cloud_project,
                location=settings.google_cloud_location,
                credentials=credentials_from(settings.google_application_credentials),
                http_options=options,
            )

    async def translate(self, request: TextRequest) -> TextResult:
        from google.genai import types

        flac = await asyncio.to_thread(compressed, request.wav)
        parts = [types.Part.from_bytes(data=flac, mime_type="audio/flac")]
        if text := accompanying_text(request):
            parts.insert(0, types.Part.from_text(text=text))
        started = time.monotonic()
        response = await self._call(types.Content(role="user", parts=parts), request)
        usage = usage_of(response, time.monotonic() - started)
        translation = translation_in(response, request, usage, self._instruction)
        return TextResult(translation, self._settings.gemini_model, usage)

    async def find_model(self) -> None:
        """Checks key and model by requesting the model's description, which costs nothing.

        Raises:
            google.genai.errors.APIError: the service rejects the request.
        """
        await self._client.aio.models.get(model=self._settings.gemini_model)

    async def aclose(self) -> None:
        await self._client.aio.aclose()

    async def _call(self, content: types.Content, request: TextRequest) -> types.GenerateContentResponse:
        from google.auth.exceptions import DefaultCredentialsError, RefreshError
        from google.genai import errors

        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                return await self._client.aio.models.generate_content(
                    model=self._settings.gemini_model, contents=[content], config=self._config(request)
                )
        except errors.APIError as error:
            raise classify_error(error) from None
        except DefaultCredentialsError:
            raise WrongSettings(
                "Vertex AI needs credentials: set GOOGLE_APPLICATION_CREDENTIALS, or GEMINI_API_KEY for AI Studio"
            ) from None
        except RefreshError:
            raise WrongSettings("The credentials for Vertex AI are refused") from None
        except TimeoutError:
            raise FailedCall(f"Gemini did not answer within {CALL_TIMEOUT_SECONDS:g} s") from None
        except Exception as error:  # each transport has its own: no connection, no such host, invalid HTTP
            raise RetryLater(f"Gemini cannot be reached: {type(error).__name__}") from None

    def _http_options(self, base_url: str) -> types.HttpOptions:
        from google.genai import types

        return types.HttpOptions(
            base_url=base_url or None,
            timeout=int(CALL_TIMEOUT_SECONDS * 1000),
            retry_options=types.HttpRetryOptions(attempts=1),  # the caller retries
        )

    def _config(self, request: TextRequest) -> types.GenerateContentConfig:
        from google.genai import types

        thinking = self._settings.gemini_thinking
        return types.GenerateContentConfig(
            system_instruction=self._instruction,
            response_mime_type="application/json",
            response_json_schema=answer_schema(request.languages),
            temperature=RETRY_TEMPERATURE if request.attempt else None,
            max_output_tokens=MAX_OUTPUT_TOKENS,
            thinking_config=None
            if thinking == "default"
            else types.ThinkingConfig(thinking_level=types.ThinkingLevel[thinking.upper()]),
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )


def credentials_from(path: str) -> Credentials | None:
    """Reads Google credentials from a file; None without a path: the SDK then uses its default locations.

    Raises:
        ConfigError: the file does not contain credentials.
    """
    if not path:
        return None
    import google.auth

    try:
        with warnings.catch_warnings():
            # The library warns about files from untrusted sources; this one is the operator's.
            warnings.simplefilter("ignore", DeprecationWarning)
            credentials, _ = google.auth.load_credentials_from_file(path, scopes=SCOPES)  # type: ignore[no-untyped-call]
    except Exception:  # the library raises many kinds of errors for files of other content
        raise ConfigError(
            f"GOOGLE_APPLICATION_CREDENTIALS={path} cannot be used: it must be a file with Google credentials"
        ) from None
    return credentials  # type: ignore[no-any-return]


def usage_of(response: types.GenerateContentResponse, seconds: float) -> Usage:
    """The tokens that a response reports, with the call's duration."""
    found = response.usage_metadata
    if found is None:
        return Usage(seconds=seconds)
    output = (found.candidates_token_count or 0) + (found.thoughts_token_count or 0)
    return Usage(found.prompt_token_count or 0, output, seconds)


def translation_in(
    response: types.GenerateContentResponse, request: TextRequest, usage: Usage, instruction: str = ""
) -> Translation:
    """The text in a response, with what is missing and doubtful in it.

    Raises:
        Refused: the service blocks the request; this is final.
        BadAnswer: there is no transcript in the answer.
    """
    answer, problem = text_of(response)
    try:
        found = checked(answer, request.languages, request.names, request.hint, request.transcript)
    except ValueError as error:
        raise BadAnswer(problem or f"Gemini's answer does not fit the schema: {error}", usage) from None
    if not request.seconds:
        return found
    doubt = doubt_about(found.transcript, request.seconds, (instruction, *request.context))
    return replace(without_loops(found, request.seconds), doubt=doubt or found.doubt)


def text_of(response: types.GenerateContentResponse) -> tuple[str, str]:
    """The text of a response, and why it may be none; each empty if there is none.

    A reason that is not final never takes away a text that is there.

    Raises:
        Refused: the service blocks the request; this is final.
    """
    feedback, blocked = response.prompt_feedback, ""
    if feedback is not None and feedback.block_reason is not None:
        blocked = f"blocked: {feedback.block_reason.value}"
        if feedback.block_reason.value in FINAL_REASONS:
            raise Refused(blocked)
    candidate = response.candidates[0] if response.candidates else None
    reason = candidate.finish_reason.value if candidate and candidate.finish_reason else "STOP"
    if reason in FINAL_REASONS:
        raise Refused(f"no answer: {reason}")
    parts = candidate.content.parts if candidate and candidate.content else None
    text = "".join(part.text or "" for part in parts or [] if not part.thought)
    if reason == "MAX_TOKENS":
        return text, "Gemini's answer is too long"
    if reason not in ("STOP", "FINISH_REASON_UNSPECIFIED"):
        return text, f"no answer: {reason}"
    return text, blocked or ("" if text else "Gemini answered nothing")


def classify_error(error: Any) -> RetryLater | Refused:
    """Converts an API error into an error that says who must act.

    A wrong key or model can be fixed by the operator; only a fault of the segment itself is refused. The text is
    shortened, and never contains the key, which is sent as a header.
    """
    said = f"{error.code} {error.status}: {' '.join(str(error.message).split())[:200]}"
    if error.code in (401, 403) or "API_KEY_INVALID" in str(error.details):
        return WrongSettings(f"Gemini refuses the key or credentials ({said})")
    if error.code == 404:
        return WrongSettings(f"GEMINI_MODEL is not known ({said})")
    if error.status == "FAILED_PRECONDITION":
        return WrongSettings(f"Gemini is not available to this account ({said})")
    if error.code == 413:
        return Refused(said)
    if error.code == 400:
        return Rejected(said)
    if error.code in (500, 504):
        return FailedCall(said, _retry_hint(error.details))
    return RetryLater(said, _retry_hint(error.details))


def _retry_hint(details: Any) -> float | None:
    """The seconds to wait that the google.rpc.RetryInfo in an error's details states; None without one."""
    try:
        for detail in details["error"]["details"]:
            if "retryDelay" in detail:
                return max(0.0, min(float(str(detail["retryDelay"]).removesuffix("s")), MAX_HINT_SECONDS))
    except (KeyError, TypeError, ValueError):
        pass
    return None
