"""Keeps the native client from passing its log records to Python, where nearly all of them would be dropped.

It passes on every record of any level, each by itself: about 1,500 for each room that is joined, and some ten a second
for each that is recorded [measured with livekit 1.1.21]. Each takes the interpreter from the rooms for a moment: ten
rooms take 5 % less CPU without. The client then prints its errors to the standard error output by itself, in lines that
RUST_LOG chooses.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from typing import Any

from livekit.rtc import _ffi_client

NATIVE_LOG = "error,livekit::rtc_engine::rtc_session=off"
"""RUST_LOG, if it is not set: errors, without those of sessions, which come at every ordinary end of a room."""


class _QuietStart:
    """Takes the place of the library's function that starts the client: it turns the passing on of records off."""

    argtypes: list[Any]

    def __init__(self, start: Any) -> None:
        self._start = start

    def __call__(self, callback: Any, _passes_on_logs: bool, *rest: Any) -> None:
        self._start.argtypes = self.argtypes
        self._start(callback, False, *rest)


def drop_native_logs() -> None:
    """Call it before the client is created. Does nothing if the log shows more than warnings of the client."""
    if not logging.getLogger("livekit").isEnabledFor(logging.INFO):
        os.environ.setdefault("RUST_LOG", NATIVE_LOG)
        _ffi_client.get_ffi_lib = _quiet(_ffi_client.get_ffi_lib)


def _quiet(load: Callable[[], ctypes.CDLL]) -> Callable[[], ctypes.CDLL]:
    def load_quiet() -> ctypes.CDLL:
        library = load()
        start = _QuietStart(library.livekit_ffi_initialize)
        library.livekit_ffi_initialize = start  # type: ignore[attr-defined]
        return library

    return load_quiet
