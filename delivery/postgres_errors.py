"""Converts errors of Postgres into errors that say who must act."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import ConfigError, RecorderError, Refused, RetryLater

if TYPE_CHECKING:
    import psycopg

_CONNECTING = {
    "password authentication failed": "user or password is wrong",
    "no password supplied": "the password is missing",
    "does not exist": "there is no such database or user",
    "Tenant or user not found": "user or project is wrong (Supabase's pooler wants postgres.PROJECT as user)",
    "no pg_hba.conf entry": "the server does not accept connections from this address",
    "SSL": "the encryption is not what the server wants (sslmode)",
}
"""Phrases in the errors of refused connections, and what they mean."""


def classify_error(error: psycopg.Error) -> RecorderError:
    """Converts an error of psycopg into one that says who must act. The server's text is left out: it may quote what
    was said."""
    from psycopg import DataError, IntegrityError

    state = error.sqlstate or ""
    if state in ("42P01", "42703"):
        return ConfigError("its tables are missing or old: run `python lessons.py migrate`")
    if state == "42501":
        return Refused("the user may not do this (see docs/delivery.md for the rights it needs)")
    if state == "25006":
        return ConfigError("the database is read-only (is it full?)")
    if state[:2] == "28" or state == "3D000":
        return ConfigError("user, password or database is wrong")
    if isinstance(error, (DataError, IntegrityError)) or state[:2] in ("22", "23", "54"):
        return Refused(f"Postgres refuses it ({state or 'what it holds'} {type(error).__name__})")
    if state:
        return RetryLater(f"the database answers {state} {type(error).__name__}")
    return _not_connected(str(error))


def _not_connected(text: str) -> RecorderError:
    for phrase, meaning in _CONNECTING.items():
        if phrase in text:
            return ConfigError(meaning)
    reason = "no such host" if "resolve" in text or "getaddrinfo" in text else "no connection"
    return RetryLater(f"the database cannot be reached ({reason})")
