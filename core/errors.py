"""The errors that the recorder raises on purpose. The class says who must act."""

from __future__ import annotations


class RecorderError(Exception):
    """Base class of all of them."""


class ConfigError(RecorderError):
    """The operator must act: a setting is missing or wrong. One line of text per problem."""


class InputError(RecorderError):
    """The user of a command must act: an argument names something that does not exist or is of the wrong kind."""


class StorageError(RecorderError):
    """The disk is at fault: a folder or file cannot be read or written at the moment."""


class RetryLater(RecorderError):
    """The other side cannot answer now: retry after ``after_seconds`` (None: after the caller's own backoff)."""

    def __init__(self, message: str, after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds


class Refused(RecorderError):
    """The other side will never accept this item, so a retry is useless. The text says why."""
