"""The errors that the recorder raises on purpose. The class says who must act."""

from __future__ import annotations


class RecorderError(Exception):
    """Base of every error this project raises on purpose. The subclass says who must act."""


class ConfigError(RecorderError):
    """The operator must act: a setting is missing or wrong. One line of text per problem."""


class InputError(RecorderError):
    """The user of a command must act: what an argument names does not exist, or is not of the right kind."""


class StorageError(RecorderError):
    """The disk must act: a folder or file cannot be read or written at the moment."""


class RetryLater(RecorderError):
    """The other side must act: retry after ``after_seconds`` (None: after the caller's own backoff)."""

    def __init__(self, message: str, after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds


class Refused(RecorderError):
    """Nobody can act: the other side will never accept this item. The text says why."""
