"""Language tags: checks them and puts them into their usual spelling.

Follows BCP 47 (RFC 5646): language, script, region, variants. Parts that no spoken language needs (private use,
extensions, grandfathered tags) are refused. So are two-letter languages that are not in ISO 639-1, as they are nearly
always countries ("jp" for Japanese, "gr" for Greek). A tag that has been checked is safe in a file name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_TAG_CHARACTERS = 35
"""Longer tags are refused. RFC 5646 requires every program to support this length."""

_TAG = re.compile(
    r"(?P<language>[a-z]{2,3})(-(?P<script>[a-z]{4}))?(-(?P<region>[a-z]{2}|[0-9]{3}))?"
    r"(?P<variants>(-([a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*)",
    re.IGNORECASE | re.ASCII,
)

_ISO_639_1 = frozenset(
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo "
    "es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka "
    "kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng "
    "nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su "
    "sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu".split()
)


_REPLACED = {"iw": "he", "in": "id", "ji": "yi", "jw": "jv", "mo": "ro"}
"""Withdrawn codes that Java, old Android versions and Whisper still send, and the codes that replace them."""


def language_tag(text: str) -> str:
    """``text`` as a language tag in its usual spelling, such as ``es``, ``pt-BR``, ``zh-Hant``.

    Raises:
        ValueError: ``text`` is not a language tag.
    """
    found = _TAG.fullmatch(text.strip().replace("_", "-")) if len(text) <= MAX_TAG_CHARACTERS else None
    if found is None:
        raise ValueError(f"no language tag: {text[:MAX_TAG_CHARACTERS]!r}")
    language = _REPLACED.get(found["language"].lower(), found["language"].lower())
    if len(language) == 2 and language not in _ISO_639_1:
        raise ValueError(f"no language of ISO 639-1: {language!r}")
    parts = [language, (found["script"] or "").title(), (found["region"] or "").upper()]
    return "-".join(part for part in parts if part) + found["variants"].lower()


def language_tag_or_empty(text: str) -> str:
    """:func:`language_tag` for untrusted input: returns an empty string instead of raising."""
    try:
        return language_tag(text)
    except ValueError:
        return ""


def language_tags(texts: Iterable[str]) -> tuple[str, ...]:
    """``texts`` as language tags without duplicates, in their order.

    Raises:
        ValueError: one of them is not a language tag.
    """
    return tuple(dict.fromkeys(language_tag(text) for text in texts))


def is_same_language(one: str, other: str) -> bool:
    """Whether one tag is equal to or a prefix of the other: ``ar`` and ``ar-EG``, not ``pt-PT`` and ``pt-BR``."""
    shorter, longer = sorted((one.casefold().split("-"), other.casefold().split("-")), key=len)
    return longer[: len(shorter)] == shorter
