"""The JSON answer of a text engine: the schema that is sent to it, and the checks of what it returns. No I/O."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from core.language_tags import is_same_language, language_tag
from core.plain_text import one_line
from core.records import Translation

MAX_TEXT_CHARACTERS = 4000
"""Longer texts are cut. A minute of the fastest speech has about 2000 characters."""


def answer_schema(languages: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an answer with a transcript and translations into ``languages`` (BCP 47 tags)."""
    text = {"type": "string"}
    properties: dict[str, Any] = {"spoken_language": text, "transcript": text}
    if languages:
        properties["translations"] = {
            "type": "object",
            "properties": dict.fromkeys(languages, text),
            "required": list(languages),
        }
    return {"type": "object", "properties": properties, "required": list(properties)}


def checked(answer: str, languages: Sequence[str]) -> Translation:
    """Parses an answer, checks it and cleans its texts.

    If the language spoken is one of ``languages``, the transcript has that tag, and no translation into it is kept.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: the answer does not fit the schema.
    """
    found = json.loads(answer)
    transcript = cleaned_text(found["transcript"])
    translations = found["translations"] if languages else {}
    texts = {language: cleaned_text(translations[language]) for language in languages}
    if not transcript:
        return Translation("", "", {})
    spoken = language_tag(found["spoken_language"])
    language = next((one for one in languages if is_same_language(one, spoken)), spoken)
    return Translation(
        language, transcript, {one: text for one, text in texts.items() if text and one != language}
    )


def cleaned_text(text: object) -> str:
    """Returns one line of plain text of at most :data:`MAX_TEXT_CHARACTERS`.

    Raises:
        TypeError: ``text`` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError
    return one_line(text)[:MAX_TEXT_CHARACTERS]
