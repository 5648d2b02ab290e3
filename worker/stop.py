"""Stop requests: the signals that end the worker, and whether the native client has failed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from livekit.rtc import _ffi_client

STOP_TIMEOUT_SECONDS = 15.0
"""How long closing the server may take after the rooms have ended or were handed over."""

SERVICES_STOP_SECONDS = 3.0
"""How long text, delivery and other services may take to stop. What is left of their work is in the outbox."""

SAME_STOP_SECONDS = 2.0

PANIC_SIGNAL = signal.SIGABRT
"""The signal that the library sends to its own process when the native client panics. By default it sends SIGTERM, and
a panic looks like an ordinary stop (fact 23).
"""
_ffi_client.__dict__["signal"] = SimpleNamespace(SIGTERM=PANIC_SIGNAL)


@dataclass
class StopRequest:
    """Whether the worker has to stop, and why."""

    requested: asyncio.Event = field(default_factory=asyncio.Event)
    has_panicked: bool = False


def stop_on_signals(loop: asyncio.AbstractEventLoop, stop: StopRequest) -> None:
    """Makes the first signal request a stop, and the second exit at once: files on disk are valid at every moment.

    A signal of another kind right after the first is from the same stop: programs that run others pass on SIGTERM when
    the terminal has sent SIGINT to all of them.
    """
    first: tuple[int, float] | None = None

    def on_signal(number: int, _: Any) -> None:
        nonlocal first
        if first is None:
            first = number, time.monotonic()
            stop.has_panicked = number == PANIC_SIGNAL
            loop.call_soon_threadsafe(stop.requested.set)
        elif number == first[0] or time.monotonic() - first[1] > SAME_STOP_SECONDS:
            os._exit(1)

    names = ("SIGINT", "SIGTERM", "SIGBREAK", PANIC_SIGNAL.name)
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        signal.signal(number, on_signal)
