"""The caption languages that the participants of a room ask for, and those that are offered. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from config import Settings
from core.language_names import KNOWN_LANGUAGES
from core.language_tags import is_same_language, language_tag_or_empty

MAX_LANGUAGES = 10
"""The most languages that one room gets at once, as each one costs: those that most people ask for."""


def wanted_languages(requested: Iterable[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """The languages to translate into, from untrusted attributes.

    ``allowed``: BCP 47 tags, empty for all. A request for ``es-MX`` is met by ``es`` where only that is allowed. At
    most :data:`MAX_LANGUAGES`, those of most people first.
    """
    counts = Counter(
        tag for request in requested if (tag := _allowed(language_tag_or_empty(request), allowed))
    )
    return tuple(sorted(counts, key=lambda tag: (-counts[tag], tag))[:MAX_LANGUAGES])


def _allowed(request: str, allowed: Sequence[str]) -> str | None:
    if not request or not allowed or request in allowed:
        return request or None
    return next((tag for tag in allowed if is_same_language(tag, request)), None)


def allowed_languages(settings: Settings) -> tuple[str, ...]:
    """The languages that students may ask for; empty: any."""
    return settings.caption_languages and _each_once(settings.target_languages, settings.caption_languages)


def offered_languages(settings: Settings) -> tuple[str, ...]:
    """The languages that an app is told to offer: if any is allowed, all whose names are known."""
    return allowed_languages(settings) or _each_once(settings.target_languages, KNOWN_LANGUAGES)


def _each_once(first: Iterable[str], more: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *more)))
