"""A folder as a target of delivery (``STORE_URL=file:///...``): where it is, and whether it is the one that was set up.

The folder has to exist and to have a marker that ``lessons.py deliver --set-up`` has written once. So nothing is
delivered to the empty place where a network disk is not mounted, and then removed here. Everything here blocks.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from archive.files import write_private
from core.errors import ConfigError, RetryLater
from core.records import format_utc, utc_now

SCHEME = "file://"
MARKER = ".voice-segmenter-target"
PROBE = ".delivery-check"
"""An empty object that every target gets when a worker starts."""

SET_UP = "`python lessons.py deliver --set-up`"


def folder_in(url: str, *, is_windows: bool = sys.platform == "win32") -> str:
    """The path in a URL such as ``file:///mnt/nas/lessons`` or ``file:///C:/lessons``; escapes are resolved.

    Raises:
        ValueError: it names no folder of this machine.
    """
    parts = urlsplit(url)
    path = unquote(parts.path, errors="surrogateescape")
    host = "" if parts.netloc.casefold() == "localhost" else parts.netloc
    if parts.query or parts.fragment or ":" in host or "\0" in path or not path.strip("/\\"):
        raise ValueError(url)
    if not is_windows:
        if host:
            raise ValueError(url)
        return path
    if host:
        return f"//{host}{path}"
    if not re.match(r"/[A-Za-z]:[/\\]", path):
        raise ValueError(url)
    return path[1:]


def set_up(folder: Path) -> None:
    """Marks a folder as a target. It can be repeated.

    Raises:
        ConfigError: the folder does not exist, or cannot be written.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not there: make the folder, or mount it, and set it up again")
    try:
        if not (folder / MARKER).exists():
            note = {"made_by": "voice-segmenter", "at": format_utc(utc_now())}
            write_private(folder / MARKER, json.dumps(note).encode() + b"\n")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}") from None


def prove_set_up(folder: Path) -> None:
    """Checks that the folder is there, and is the one that was set up.

    What the folder contains proves nothing: an older version, which had no marker, also filled the empty place where a
    disk was not mounted.

    Raises:
        ConfigError: it is not.
        RetryLater: it cannot be read now.
    """
    try:
        os.stat(folder / MARKER)
    except (FileNotFoundError, NotADirectoryError):
        if not folder.is_dir():
            raise ConfigError(
                f"{folder} is not there: mount it; if it is new, make it and run {SET_UP}"
            ) from None
        raise ConfigError(
            f"{folder} is not mounted, or not set up yet: mount it, or run {SET_UP} once"
        ) from None
    except OSError as error:
        raise RetryLater(f"{folder} cannot be read: {error.strerror or error}") from None
