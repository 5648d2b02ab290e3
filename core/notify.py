"""Tells others in this process that a file has grown, so that they need not wait for their next look at it.

A ring is a hint and never the truth: who did not hear it finds the same in the file. Another worker's files ring
nowhere here, so whoever follows a file also looks at it now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Listener = Callable[[Path], None]


@dataclass(frozen=True)
class _Subscription:
    name: str
    loop: asyncio.AbstractEventLoop
    listener: Listener


_subscriptions: list[_Subscription] = []
_lock = threading.Lock()


def listen(name: str, listener: Listener) -> Callable[[], None]:
    """Calls ``listener`` on this event loop with the path of every file of this name that rings (such as
    ``segments.jsonl``), in any folder. Returns what ends that."""
    subscription = _Subscription(name, asyncio.get_running_loop(), listener)
    with _lock:
        _subscriptions.append(subscription)

    def stop() -> None:
        with _lock, contextlib.suppress(ValueError):
            _subscriptions.remove(subscription)

    return stop


def notify(path: Path) -> None:
    """Says that a file has grown. From any thread; never waits, never raises."""
    with _lock:
        subscriptions = [subscription for subscription in _subscriptions if subscription.name == path.name]
    for subscription in subscriptions:
        with contextlib.suppress(RuntimeError):  # its loop is closed
            subscription.loop.call_soon_threadsafe(subscription.listener, path)
