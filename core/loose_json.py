"""Reads the JSON objects in the answer of a language model, also where the answer is not quite JSON. No I/O.

Seen in answers: a fence of Markdown around the JSON, sentences before and behind it, the object twice, in a list, in
another object, or as a string; raw line ends in strings; an end that is cut off; a quotation mark that is not escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

MAX_CHARACTERS = 200_000
"""What is behind them is not read. An answer has a few thousand."""
MAX_BEGINNINGS = 20
"""At so many opening braces it is tried to read an object."""
MAX_PARTS = 100
"""So many objects of a list are joined."""
MAX_DEPTH = 5
"""How deep in others an object is looked for."""

_DECODER = json.JSONDecoder(strict=False)
_END = r"\s*(?:[}\]:]|$|,\s*(?:[\"}\]]|$))"
"""What stands behind the quotation mark that ends a string."""
_PAIR = re.compile(rf'"([^"\\]{{1,60}})"\s*:\s*"((?:[^"\\]|\\.|"(?!{_END}))*)"(?={_END})', re.DOTALL)
"""A key with a string, also one with quotation marks in it that are not escaped."""
_ESCAPE = re.compile(r'\\(?!["\\/bfnrt]|u[0-9a-fA-F]{4})|(?<!\\)"')


def objects_in(text: str) -> Iterator[dict[str, Any]]:
    """Yields the objects in a text, outer ones before those in them; at last the pairs of what is broken as an object.

    Of a list, one object with the values of all comes first.

    Raises:
        RecursionError: they are nested too deep.
    """
    text = text[:MAX_CHARACTERS]
    for value in _values_in(text):
        yield from _objects(value, MAX_DEPTH)
    pairs: dict[str, Any] = {}
    for key, string in _PAIR.findall(text):
        pairs.setdefault(key, _unescaped(string))
    if pairs:
        yield pairs


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
            value, position = _DECODER.raw_decode(text, found.start())
            yield value
        except (ValueError, RecursionError):
            position = found.start() + 1


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
    return "\\" + found[0]
