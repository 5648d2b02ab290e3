"""Reads the JSON objects in the answer of a language model, also where the answer is not quite JSON. No I/O.

Seen in answers: a fence of Markdown around the JSON, sentences before and after it, the object twice, in a list, in
another object, or as a string; in two halves; raw line ends in strings; an end that is cut off; a quotation mark that
is not escaped; everything escaped, for JSON or for HTML; the quotation marks of Python or of print; keys without any;
comments; a comma that is missing.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

MAX_CHARACTERS = 200_000
"""Maximum length of an answer that is read. An answer has a few thousand characters."""
MAX_BEGINNINGS = 20
"""At how many opening braces an object is looked for."""
MAX_PARTS = 100
"""How many objects of a list are joined."""
MAX_ESCAPES = 3
"""How many times over a text may be escaped."""
MAX_DEPTH = 5
"""How deep within others an object is looked for."""

_DECODER = json.JSONDecoder(strict=False)
_END = r"\s*(?:[}\]:]|$|,\s*(?:[\"}\]]|$)|\s\"\w{1,60}\"\s*:)"
"""What follows the quotation mark that ends a string."""
_PAIR = re.compile(rf'"([^"\\]{{1,60}})"\s*:\s*"((?:[^"\\]|\\.|"(?!{_END}))*)"(?={_END})', re.DOTALL)
"""A key with a string, also one with quotation marks in it that are not escaped."""
_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*(?:"|\\?\Z))|'(?P<single>(?:[^'\\]|\\.)*)(?:'|\\?\Z)|//[^\n]*|/\*.*?(?:\*/|\Z)"""
    r"""|(?P<constant>\b(?:None|True|False)\b)|(?P<key>\b[A-Za-z_]\w*)(?=\s*:)""",
    re.DOTALL,
)
"""Tokens that JavaScript and Python write differently from JSON; and JSON's strings, to skip them.

A token without an end reaches to the end of the text, so that the time is linear in the text's length."""
_CONSTANTS = {"None": "null", "True": "true", "False": "false"}
_NEXT_OBJECT = re.compile(r"\s*(?=\{)")
_ESCAPE = re.compile(r"""(?P<known>\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))|\\'|\\|\"""")


def objects_in(text: str) -> Iterator[dict[str, Any]]:
    """Yields the objects in a text, outer ones before inner ones; last, the pairs of broken ones as an object.

    Of a list, one object with the values of all comes first.

    Raises:
        RecursionError: they are nested too deep.
    """
    text = text[:MAX_CHARACTERS]
    for reading in dict.fromkeys((text, _repaired(text))):
        for value in _values_in(reading):
            yield from _objects(value, MAX_DEPTH)
        pairs: dict[str, Any] = {}
        for key, string in _PAIR.findall(reading):
            pairs.setdefault(key, _unescaped(string))
        if pairs:
            yield pairs


def _repaired(text: str) -> str:
    """A text in the notation of JSON, as far as single characters can be corrected."""
    if re.search(r"&(?:quot|#34|#x22);\s*:", text):
        text = html.unescape(text)
    for _ in range(MAX_ESCAPES):
        if re.search(r'\{(?:\s|\\[nrt])*\\+"', text):
            text = _unescaped(text)
    if re.search(r"[“”„]\s*:", text):
        text = re.sub("[“”„]", '"', text)
    begin = re.search(r"[{\[]", text)
    return _TOKEN.sub(_token_of_json, text[begin.start() :]) if begin else ""


def _token_of_json(found: re.Match[str]) -> str:
    if found["string"] or found["constant"]:
        return _CONSTANTS.get(found[0], found[0])
    if found["key"]:
        return f'"{found[0]}"'
    if found["single"] is None:
        return ""  # a comment
    return '"' + re.sub(r'(?<!\\)"', r"\"", found["single"].replace(r"\'", "'")) + '"'


def cut_off_string(text: str, key: str) -> str:
    """The beginning of the string under ``key``, if the text ends in it; empty if it does not."""
    found = re.search(rf'"{re.escape(key)}"\s*:\s*"((?:[^"\\]|\\.)*)\\?$', text[:MAX_CHARACTERS], re.DOTALL)
    return _unescaped(found[1]) if found else ""


def _values_in(text: str) -> Iterator[Any]:
    """Yields the values that begin at a brace or bracket and can be read to their end."""
    position = 0
    for _ in range(MAX_BEGINNINGS):
        found = re.compile(r'[{\[]|"\s*\{').search(text, position)
        if found is None:
            return
        try:
            value, position = _value_at(text, found.start())
            yield value
        except (ValueError, RecursionError):
            position = found.start() + 1


def _value_at(text: str, position: int) -> tuple[Any, int]:
    """The value at a position, and its end; objects directly after one another that differ as a list.

    Raises:
        ValueError, RecursionError: there is none.
    """
    value, end = _DECODER.raw_decode(text, position)
    row = [value]
    while isinstance(row[-1], dict) and len(row) < MAX_PARTS and (space := _NEXT_OBJECT.match(text, end)):
        try:
            value, after = _DECODER.raw_decode(text, space.end())
        except (ValueError, RecursionError):
            break
        if _strings_in(value) in map(_strings_in, row):
            break
        row.append(value)
        end = after
    return row if len(row) > 1 else row[0], end


def _strings_in(value: dict[str, Any]) -> dict[str, str]:
    return {key: string for key, string in value.items() if isinstance(string, str)}


def _objects(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    if not depth:
        return
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _objects(inner, depth - 1)
    elif isinstance(value, list):
        parts = [inner for inner in value if isinstance(inner, dict)][:MAX_PARTS]
        if len(parts) > 1:
            yield _joined(parts)
        for inner in value:
            yield from _objects(inner, depth - 1)
    elif isinstance(value, str) and "{" in value:
        for inner in _values_in(value):
            yield from _objects(inner, depth - 1)


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One object with the values of several: speech may come in parts. What they have twice is there once."""
    joined: dict[str, Any] = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        values = [part[key] for part in parts if key in part]
        if all(isinstance(value, dict) for value in values):
            joined[key] = _joined(values)
        else:
            joined[key] = [value for index, value in enumerate(values) if value not in values[:index]]
    return joined


def _unescaped(string: str) -> str:
    try:
        return str(_DECODER.decode(f'"{_ESCAPE.sub(_escaped, string)}"'))
    except ValueError:
        return string


def _escaped(found: re.Match[str]) -> str:
    if found["known"]:
        return found[0]
    return "'" if found[0] == r"\'" else "\\" + found[0]
