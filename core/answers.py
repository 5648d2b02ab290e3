"""Answers with a segment's text, as JSON: the schema that is asked for, and the checks of what comes back. Pure."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from typing import Any

from core.language_tags import is_same_language, language_tag
from core.records import Translation

MAX_TEXT_CHARACTERS = 4000
"""A minute of the fastest speech is some 2000 characters; far more is not a transcript."""


def answer_schema(languages: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an answer."""
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
    """The answer as a translation, if it is what was asked for.

    A language that was asked for and is the one spoken needs no translation: it names the transcript.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: it is not.
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
    """One paragraph of plain text: no control or direction characters, bounded in length.

    Raises:
        TypeError: it is not text.
    """
    if not isinstance(text, str):
        raise TypeError
    kept = (" " if character.isspace() else character for character in text)
    visible = "".join(
        character
        for character in kept
        if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn")
    )
    return " ".join(visible.split())[:MAX_TEXT_CHARACTERS]
