"""The native client passes no log records to Python, unless they are to be seen."""

from __future__ import annotations

import atexit
import logging
import os
from types import SimpleNamespace
from typing import cast
from unittest.mock import MagicMock

import pytest
from livekit.rtc import _ffi_client
from livekit.rtc._ffi_client import FfiClient

from recording.native_logs import drop_native_logs


@pytest.mark.parametrize(("level", "passes_on_logs"), [(logging.WARNING, False), (logging.INFO, True)])
def test_log_records_are_passed_on_only_if_they_are_seen(
    monkeypatch: pytest.MonkeyPatch, level: int, *, passes_on_logs: bool
) -> None:
    start = MagicMock()
    library = SimpleNamespace(**{name: MagicMock() for name in NATIVE}, livekit_ffi_initialize=start)
    monkeypatch.setattr(_ffi_client, "get_ffi_lib", lambda: library)
    monkeypatch.setattr(atexit, "register", lambda function: function)
    monkeypatch.setattr(FfiClient, "_ffi_disposed", False)
    monkeypatch.delenv("RUST_LOG", raising=False)
    logger = logging.getLogger("livekit")
    before = logger.level
    logger.setLevel(level)
    try:
        drop_native_logs()
    finally:
        logger.setLevel(before)
    FfiClient()
    assert ("RUST_LOG" in os.environ) is not passes_on_logs
    callback, are_passed_on, name, _ = start.call_args.args
    assert (callback, are_passed_on, name) == (_ffi_client.ffi_event_callback, passes_on_logs, b"python")
    assert len(cast("list[object]", start.argtypes)) == 4


NATIVE = ("livekit_ffi_request", "livekit_ffi_drop_handle", "livekit_ffi_dispose")
