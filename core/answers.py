"""The answer of a text engine: the schema that is sent to it, and what is taken from what it returns. No I/O.

A good transcript is never given up for something beside it: a wrapper around the JSON, a translation that is missing, a
language that is not named by a tag. What is missing is named, so that it can be asked for again.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from core.language_by_name import language_named
from core.language_detection import UNKNOWN, detected_language, is_in_latin_script, may_be_in
from core.language_tags import (
    best_match,
    in_script,
    is_same_apart_from_region,
    is_same_language,
    language_of,
    language_tag,
    script_of,
    usual_script_of,
)
from core.loose_json import cut_off_string, objects_in
from core.plain_text import one_line
from core.scripts import script_of_text
from core.text_records import Translation

MAX_TEXT_CHARACTERS = 4000
"""Longer texts are cut. A minute of the fastest speech has about 2000 characters."""

MAX_OBJECTS = 100
"""At most this many objects of an answer are read."""
MAX_PAIRS = 500
"""How many keys of an object are looked at for translations."""
MAX_STATED_CHARACTERS = 200
"""How much of what an answer states as the language is looked at."""

CUT_OFF = "the answer is cut off"
"""The doubt about a transcript of which only the beginning is there."""

_TRANSCRIPT = (
    *("transcript", "transcription", "transcribed_text", "transcript_text"),
    *("original_text", "original", "source_text"),
)
_SPOKEN = ("spoken_language", "language", "lang", "source_language", "detected_language", "language_code")
_TRANSLATIONS = ("translations", "translation", "translated_texts")
_LANGUAGE_OF_TRANSLATION = ("target_language", "target_lang", "target", *_SPOKEN, "code", "locale", "key")
_TEXT = ("text", "translation", "translated_text", "transcript", "value", "content")
"""The keys that models use; first the one of the schema."""

_AROUND_LANGUAGE = re.compile(
    r"^(?:translation|translated|text)[_ -]+|[_ -]+(?:translation|text)$", re.IGNORECASE
)
"""What stands before or behind the language in a key, such as ``translation_es``."""

_ESCAPED_LETTERS = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")

NO_LANGUAGES = ("und", "mul", "mis", "zxx")
"""Tags that name no language: undetermined, several, without a code, no words."""

_NO_STATED_LANGUAGES = ("unk", "mix", "nan", "nil", "non", "n/a")
"""What models and programs write for no language, though some of it could be a tag."""

_SCRIPTS_OF_LANGUAGES = {
    **dict.fromkeys(("zh", "yue"), ("Hans", "Hant")),
    **dict.fromkeys(("sr", "bs", "mn", "tg", "tk", "tt", "ky"), ("Cyrl", "Latn")),
    **dict.fromkeys(("az", "uz", "kk", "ug"), ("Cyrl", "Latn", "Arab")),
    "pa": ("Guru", "Arab"),
    "ku": ("Latn", "Arab"),
    "ms": ("Latn", "Arab"),
    "sd": ("Arab", "Deva"),
    "hi": ("Deva", "Latn"),
    "ur": ("Arab", "Latn"),
}
"""Languages that are written in several scripts, which models confuse."""


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


def checked(
    answer: str,
    languages: Sequence[str],
    names: Sequence[str] | None = None,
    hint: str = "",
    known: str = "",
) -> Translation:
    """Takes the transcript and the translations from an answer, as plain text.

    Args:
        languages: the BCP 47 tags of the translations that were asked for.
        names: the tags that a language is to be named by, if it is one of them; ``languages`` if not given.
        hint: the tag of the language that is probably spoken; empty: not known.
        known: the transcript if it was sent with the request, for an answer that leaves it out; empty: not known.

    Raises:
        ValueError: there is no transcript in it. The text says what there is instead.
    """
    try:
        found = _answer_in(answer, languages)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    texts = _translations_in(found, languages)
    stated = _stated_language(_value(found, _SPOKEN))
    transcript = _transcript_in(found) or known
    if not transcript:
        stated, transcript = _said_among_translations(stated, found, languages)
    doubt = ""
    if not transcript and (beginning := cut_off_string(answer, _TRANSCRIPT[0])):
        transcript, doubt = cleaned_text(beginning), CUT_OFF
    if not transcript:
        if any(texts.values()):
            raise ValueError("it has translations without a transcript")
        return Translation("", "", {})
    names = languages if names is None else names
    spoken = stated or _language_of_text(transcript, texts, hint, names)
    return replace(translation_of(spoken, transcript, texts, languages, names), doubt=doubt)


def translation_of(
    spoken: str, transcript: str, texts: Mapping[str, str], languages: Sequence[str], names: Sequence[str]
) -> Translation:
    """A transcript with the translations that it needs, each under the language and script that it is in.

    A tag without a script stands for the usual one, for what is spoken as for a translation: who asks for ``zh`` gets
    Simplified characters, and of a teacher whose transcript is in Traditional ones both, ``zh-Hant`` and ``zh``.
    """
    language = name_of(spoken, transcript, names)
    if language not in names:  # the region that a model states differs from sentence to sentence
        near = (one for one in names if one not in languages and is_same_apart_from_region(one, language))
        language = next(near, language)
    placed = _placed(texts, languages)
    translations = {one: text for one, text in placed.items() if not _is_written(one, language)}
    wanted = [one for one in languages if not _is_written(one, language)]
    missing = tuple(one for one in wanted if one not in translations)
    return Translation(language, transcript, translations, missing=missing)


def _placed(texts: Mapping[str, str], languages: Sequence[str]) -> dict[str, str]:
    """The texts by the tags that they truly have: of two scripts that are exchanged each comes to its own place."""
    tagged = [(one, _true_tag(one, text), text) for one, text in texts.items() if text]
    placed = {one: text for one, tag, text in tagged if tag == one}
    for one, tag, text in tagged:
        if tag != one:
            free = (place for place in languages if place not in placed and _is_written(place, tag))
            placed.setdefault(next(free, tag), text)
    return placed


def completed(translation: Translation, more: Translation) -> Translation:
    """A translation with the texts that another answer about the same speech has in addition."""
    new = {tag: text for tag, text in more.translations.items() if tag in translation.missing}
    others = {tag: text for tag, text in translation.translations.items() if tag not in new}
    return Translation(
        translation.language,
        translation.transcript,
        {**others, **new},
        missing=tuple(tag for tag in translation.missing if tag not in new),
        doubt=translation.doubt,
    )


def name_of(spoken: str, transcript: str, names: Iterable[str]) -> str:
    """The tag by which a language is named: the one of ``names`` that fits, in the script in which it is written.

    A name without a script stands for the usual one: Traditional characters are never ``zh``.
    """
    names = list(names)
    script = script_of_text(transcript)
    if script not in _SCRIPTS_OF_LANGUAGES.get(language_of(spoken), ()):
        return best_match(spoken, names) or spoken
    precise = in_script(spoken, script)
    others = [one for one in names if language_of(one) == language_of(spoken)]
    if fitting := best_match(precise, [one for one in names if usual_script_of(one) == script]):
        return fitting
    is_plain = usual_script_of(spoken) == script and (script_of(spoken) or not others)
    return spoken if is_plain else precise


def cleaned_text(text: object) -> str:
    """Returns one line of plain text of at most :data:`MAX_TEXT_CHARACTERS`.

    Raises:
        TypeError: ``text`` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError
    return one_line(text)[:MAX_TEXT_CHARACTERS]


def _is_written(wanted: str, language: str) -> bool:
    """Whether a text in ``language`` is one in the wanted language, so that no translation is needed."""
    return is_same_language(wanted, language) and is_same_apart_from_region(wanted, language)


def _true_tag(tag: str, text: str) -> str:
    """The tag of a translation: with the script that it is in, if that is another one than the tag's."""
    script = script_of_text(text)
    is_confused = script in _SCRIPTS_OF_LANGUAGES.get(language_of(tag), ()) and usual_script_of(tag) != script
    return in_script(tag, script) if is_confused else tag


# --- reading ---


def _answer_in(answer: str, languages: Sequence[str]) -> dict[str, Any]:
    """The object with the transcript; of several the one with most of what was asked for.

    Raises:
        ValueError: there is none.
    """
    objects = list(itertools.islice(objects_in(answer), MAX_OBJECTS))
    groups = ([one for one in objects if _has(one, keys)] for keys in (_TRANSCRIPT, _TEXT[:1], _TRANSLATIONS))
    candidates = next(filter(None, groups), []) or [one for one in objects if _count(one, languages)]
    if not candidates:
        if cut_off_string(answer, _TRANSCRIPT[0]):
            return objects[0] if objects else {}
        raise ValueError("it is no JSON object" if not objects else "it has no transcript")
    return max(candidates, key=lambda one: (bool(_transcript_in(one)), _count(one, languages)))


def _count(found: Mapping[str, Any], languages: Sequence[str]) -> int:
    return sum(map(bool, _translations_in(found, languages).values()))


def _transcript_in(found: Mapping[str, Any]) -> str:
    texts = (_text_in(_value(found, (key,))) for key in (*_TRANSCRIPT, *_TEXT[:1]))
    return next(filter(None, texts), "")


def _has(found: Mapping[str, Any], keys: Iterable[str]) -> bool:
    return any(_plain_key(key) in keys for key in found)


def _value(found: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """The value under the first of these keys that has one; None if there is none."""
    by_key = {_plain_key(key): value for key, value in found.items() if value is not None}
    return next((by_key[key] for key in keys if key in by_key), None)


def _plain_key(key: str) -> str:
    return (
        key.strip()
        .casefold()
        .replace(" ", "_")
        .replace("-", "_")
        .replace("spokenlanguage", "spoken_language")
    )


def _text_in(value: Any) -> str:
    """The text in a value: a string or number, or those in a list or an object; empty if there is none."""
    if isinstance(value, list):
        return cleaned_text(" ".join(_text_in(one) for one in value if not isinstance(one, list)))
    if isinstance(value, dict):
        return _single_text_in(_value(value, _TEXT))
    return _single_text_in(value)


def _single_text_in(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    return cleaned_text(_unescaped(value)) if isinstance(value, str) else ""


def _unescaped(text: str) -> str:
    """A text with the letters that were escaped twice, and the backslashes that were not (``\\frac``)."""
    text = _ESCAPED_LETTERS.sub(_letters, text)
    return text if text.isprintable() else re.sub(r"[\b\f](?=[a-z])", _backslash, text)


def _letters(found: re.Match[str]) -> str:
    letters = str(json.loads(f'"{found[0]}"'))
    return found[0] if letters.isascii() else letters


def _backslash(found: re.Match[str]) -> str:
    return r"\b" if found[0] == "\b" else r"\f"


def _translations_in(found: Mapping[str, Any], languages: Sequence[str]) -> dict[str, str]:
    """The translations by the tags that were asked for."""
    texts: dict[str, str] = {}
    pairs = list(_texts_by_tag(found, languages))
    for tag, text in pairs:
        if tag in languages:
            texts.setdefault(tag, text)
    for tag, text in pairs:
        free = [one for one in languages if one not in texts]
        near = [one for one in free if tag not in languages and is_same_apart_from_region(one, tag)]
        fitting = None if tag in languages else best_match(tag, free) or (near[0] if len(near) == 1 else None)
        if fitting:
            texts[fitting] = text
    return texts


def _texts_by_tag(found: Mapping[str, Any], languages: Sequence[str]) -> Iterator[tuple[str, str]]:
    for key, value in itertools.islice(_pairs_in(found, languages), MAX_PAIRS):
        tag = _tag_in(key) or _tag_in(_AROUND_LANGUAGE.sub("", key))
        if tag and (text := _text_in(value)):
            yield tag, text


def _pairs_in(found: Mapping[str, Any], languages: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yields the keys and values of what may be translations, in whatever form they are."""
    value = _value(found, _TRANSLATIONS)
    if isinstance(value, str):
        value = next(objects_in(value), value)
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, str) and len(languages) == 1:
        yield languages[0], value
    for one in value if isinstance(value, list) else ():
        if isinstance(one, dict):
            language = _value(one, _LANGUAGE_OF_TRANSLATION)
            yield from [(language, _value(one, _TEXT))] if isinstance(language, str) else one.items()
        elif isinstance(one, str) and len(languages) == len(value) == 1:
            yield languages[0], one
    yield from ((key, value) for key, value in found.items() if isinstance(value, (str, list, dict)))


def _tag_in(text: str, *, in_sentence: bool = False) -> str:
    """The tag that a text names, by the language's name or as a tag; empty if it names none."""
    if named := language_named(text, in_sentence=in_sentence):
        return named
    try:
        tag = language_tag(text)
    except ValueError:
        return ""
    return "" if language_of(tag) in NO_LANGUAGES else tag


def _stated_language(value: Any) -> str:
    """The language that the answer states: the first that can be understood; empty if there is none."""
    if isinstance(value, dict):
        value = list(value.values())
    stated = value if isinstance(value, list) else [value]
    texts = [text[:MAX_STATED_CHARACTERS] for text in stated[:MAX_PAIRS] if isinstance(text, str)]
    words = [word for text in texts for separator in ",;/|(:=" for word in text.split(separator)]
    named = [word.strip(" \t\r\n\"'`.)") for word in (*texts, *words)]
    tags = (_tag_in(word, in_sentence=True) for word in named if word.lower() not in _NO_STATED_LANGUAGES)
    return next(filter(None, tags), "")


def _said_among_translations(
    stated: str, found: Mapping[str, Any], languages: Sequence[str]
) -> tuple[str, str]:
    """The language spoken, and the text that stands under it among the translations; empty if there is none.

    If no language is stated, but all texts stand under their languages, it is the one that was not asked for.
    """
    texts = list(_texts_by_tag(found, languages))
    if stated:
        return stated, next((text for tag, text in texts if is_same_language(tag, stated)), "")
    others = [(tag, text) for tag, text in texts if best_match(tag, languages) is None]
    return others[0] if len(others) == 1 and all(map(_tag_in, found)) else ("", "")


def _language_of_text(transcript: str, texts: Mapping[str, str], hint: str, names: Sequence[str]) -> str:
    """The language of a transcript: by the hint if the writing allows it, else by what the writing shows.

    If that is not clear: by a translation that is the same text, or by the only name with this script that is known.
    """
    found = detected_language(transcript)
    is_clear = found != UNKNOWN and is_in_latin_script(transcript) and language_of(found) != language_of(hint)
    if hint and not is_clear and may_be_in(hint, transcript):
        return hint
    if found != UNKNOWN:
        return found
    same = [tag for tag, text in texts.items() if text == transcript]
    near = [] if is_in_latin_script(transcript) else [one for one in names if may_be_in(one, transcript)]
    return same[0] if same else near[0] if len(set(map(language_of, near))) == 1 else UNKNOWN
