"""Converts errors of an object store into errors that say who must act."""

from __future__ import annotations

import re
from typing import Any

from core.errors import ConfigError, RecorderError, Refused, RetryLater

_OPERATOR = {
    "InvalidAccessKeyId": "S3_KEY_ID is not known there",
    "SignatureDoesNotMatch": "S3_KEY_SECRET is wrong",
    "Unauthorized": "S3_KEY_ID or S3_KEY_SECRET is wrong",
    "InvalidToken": "S3_KEY_ID or S3_KEY_SECRET is wrong",
    "ExpiredToken": "the key has expired",
    "NoSuchBucket": "there is no such bucket (S3_BUCKET)",
    "InvalidBucketName": "S3_BUCKET is not a valid bucket name",
    "RequestTimeTooSkewed": "this machine's clock is wrong by more than 15 minutes",
    "AuthorizationHeaderMalformed": "S3_REGION is wrong",
    "InvalidRegionName": "S3_REGION is wrong",
    "PermanentRedirect": "the bucket is elsewhere (S3_REGION, S3_ENDPOINT)",
    "QuotaExceeded": "the store is full (quota)",
    "XMinioStorageFull": "the store is full",
    "InsufficientStorage": "the store is full",
    "AccountProblem": "the account cannot be used",
    "AllAccessDisabled": "the account cannot be used",
}
"""What only the operator can fix, by S3's error code."""

_ITSELF = {
    "EntityTooLarge": "too large",
    "AccessDenied": "forbidden",
    "KeyTooLongError": "its name is too long",
    "InvalidObjectName": "its name is refused",
    "MetadataTooLarge": "its metadata is too large",
}
"""What is wrong with one object, if the store accepts others, by S3's error code."""


class Unconditional(Exception):
    """The store has no conditional writes: the caller must read the object first."""


def knows_no_checksums(error: Exception, mode: Any) -> bool:
    """Whether the store refuses the header with the checksum."""
    said = str(error).partition("\n\n")[0].casefold()
    is_about_it = "checksum" in said and "contentsha256" not in said and "baddigest" not in said
    return (is_about_it and "status code: 4" in said) or (
        mode == "overwrite" and "501 not implemented" in said
    )


def has_no_conditional_writes(error: Exception) -> bool:
    """Whether the store has no conditional writes."""
    return isinstance(error, NotImplementedError) or "501 Not Implemented" in str(error)


def knows_no_batches(error: Exception) -> bool:
    """Whether the store cannot delete several objects with one call."""
    said = str(error)
    return isinstance(error, NotImplementedError) or any(
        sign in said
        for sign in ("NotImplemented", "501 Not Implemented", "MethodNotAllowed", "status code: 405")
    )


def classify_error(error: Exception) -> RecorderError:
    """Converts an error of obstore into one that says who must act. Its text never contains keys: they are not sent."""
    text = str(error)
    code = _found(r"<Code>([A-Za-z0-9.]{1,60})</Code>", text)
    status = int(_found(r"status code: (\d{3})", text) or 0)
    if code in _OPERATOR or status in (401, 507):
        return ConfigError(
            f"{_OPERATOR.get(code) or _OPERATOR['Unauthorized' if status == 401 else 'QuotaExceeded']}"
        )
    if code in _ITSELF or status in (403, 413):
        return Refused(_ITSELF.get(code) or ("forbidden" if status == 403 else "too large"))
    if status in (404, 301, 307):
        return ConfigError("there is no such bucket (S3_BUCKET, S3_ENDPOINT)")
    if 400 <= status < 500 and status not in (408, 409, 412, 425, 429) and code not in _ON_THE_WAY:
        return Refused(f"the store answers {status} {code}".strip())
    if status:
        return RetryLater(f"the store answers {status} {code}".strip())
    return RetryLater(f"the store cannot be reached ({_reason(text)})")


_ON_THE_WAY = ("BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "RequestTimeout", "InvalidDigest")
"""Error codes for data that was damaged or cut off in transit: the next attempt may succeed."""


def _reason(text: str) -> str:
    kind = _found(r"kind: (\w+)", text)
    known = {"Connect": "no connection", "Timeout": "no answer in time", "Request": "the connection broke"}
    return known.get(kind) or first_line(text)[:120]


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def first_line(error: object) -> str:
    """The first line of an error's text, at most 200 characters."""
    return str(error).partition("\n")[0][:200]
