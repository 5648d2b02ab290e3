"""Reads the roles of a participant from its metadata and attributes, which may be anything (fact 27). Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

MAX_METADATA_CHARACTERS = 1_000_000
"""Longer metadata is not parsed; LiveKit itself allows 512 KiB."""


class Roles(NamedTuple):
    """The roles that were found, and the problem if the metadata cannot be read."""

    names: tuple[str, ...] = ()
    problem: str | None = None


def roles_of(metadata: str, attributes: Mapping[str, str], key: str, attribute: str) -> Roles:
    """The roles of a participant: in the attribute ``attribute``; if that is empty, under ``key`` in the metadata or,
    if the metadata has no role, in the attribute of the key's name.
    """
    if attribute:
        return Roles(_texts(attributes.get(attribute)))
    found = roles_in_metadata(metadata, key)
    in_attribute = () if found.names else _texts(_member(attributes, key))
    return Roles(in_attribute) if in_attribute else found


def roles_in_metadata(metadata: str, key: str) -> Roles:
    """The roles in a participant's metadata: in a JSON object under ``key``, or in a JSON list of roles."""
    if not metadata:
        return Roles()
    if len(metadata) > MAX_METADATA_CHARACTERS:
        return Roles(problem=f"has metadata of {len(metadata)} characters, too long to be read: no role")
    try:
        value = json.loads(metadata)
    except (ValueError, RecursionError):
        return Roles(problem="has metadata that is not JSON: no role")
    if isinstance(value, dict):
        return _roles_under(value, key)
    if isinstance(value, list) and (roles := _texts(value)):
        return Roles(roles)
    return Roles(problem=f"has metadata that is JSON but no object ({type(value).__name__}): no role")


def value_at(found: Mapping[str, Any], key: str) -> Any:
    """The value under a key or, if no key has this name, at a path such as ``user.role``; None if there is none.

    A key in other case counts if there is none in this case, and keys on the way may have dots themselves.
    """
    value = _member(found, key)
    dots = (at for at, character in enumerate(key) if character == ".")
    while value is None and (at := next(dots, None)) is not None:
        if isinstance(inner := _member(found, key[:at]), dict):
            value = value_at(inner, key[at + 1 :])
    return value


def _roles_under(found: Mapping[str, Any], key: str) -> Roles:
    value = value_at(found, key)
    roles = _texts(value)
    if roles or value is None or value in ("", []):
        return Roles(roles)
    return Roles(problem=f"has a {key!r} in its metadata that is no text ({type(value).__name__}): no role")


def _texts(value: Any) -> tuple[str, ...]:
    """A text, or all texts of a list. Empty ones do not count."""
    values = value if isinstance(value, list) else [value]
    return tuple(one for one in values if isinstance(one, str) and one)


def _member(found: Mapping[str, Any], name: str) -> Any:
    if name in found:
        return found[name]
    return next((value for key, value in found.items() if key.casefold() == name.casefold()), None)
