"""Which caption languages the participants of a room request, and which ones are offered to them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from config import Settings
from core.language_names import KNOWN_LANGUAGES
from core.language_tags import best_match, language_tag_or_empty

MAX_LANGUAGES = 10
"""The most languages of a room at one time, as each costs money. The most requested ones are chosen."""


def wanted_languages(requested: Iterable[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """The languages to translate into, from untrusted attributes.

    ``allowed``: BCP 47 tags, empty for all. A request for ``es-MX`` is met by ``es`` where only that is allowed. At
    most :data:`MAX_LANGUAGES`, the most requested first.
    """
    counts = Counter(
        tag for request in requested if (tag := _allowed(language_tag_or_empty(request), allowed))
    )
    return tuple(sorted(counts, key=lambda tag: (-counts[tag], tag))[:MAX_LANGUAGES])


def _allowed(request: str, allowed: Sequence[str]) -> str | None:
    if not request or not allowed or request in allowed:
        return request or None
    return best_match(request, allowed)


def allowed_languages(settings: Settings) -> tuple[str, ...]:
    """The languages that students may request; empty: any."""
    return settings.caption_languages and _each_once(settings.target_languages, settings.caption_languages)


def offered_languages(settings: Settings) -> tuple[str, ...]:
    """The languages that an app offers to students. If any language is allowed, these are all whose names are known."""
    return allowed_languages(settings) or _each_once(settings.target_languages, KNOWN_LANGUAGES)


def _each_once(first: Iterable[str], more: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *more)))
