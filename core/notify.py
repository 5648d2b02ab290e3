"""Notifications within this process that a file has grown, so that its readers need not wait for their next poll.

A notification is only a hint: a reader that misses one finds the same lines at its next poll. What another process
writes causes no notification, so every reader polls its file as well.
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
    """Calls ``listener`` on this event loop with the path of every file of this name (such as ``segments.jsonl``), in
    any folder, that has grown. Returns a function that ends the subscription."""
    subscription = _Subscription(name, asyncio.get_running_loop(), listener)
    with _lock:
        _subscriptions.append(subscription)

    def stop() -> None:
        with _lock, contextlib.suppress(ValueError):
            _subscriptions.remove(subscription)

    return stop


def notify(path: Path) -> None:
    """Notifies the listeners that a file has grown. From any thread; never waits, never raises."""
    with _lock:
        subscriptions = [subscription for subscription in _subscriptions if subscription.name == path.name]
    for subscription in subscriptions:
        with contextlib.suppress(RuntimeError):  # the event loop of this listener is closed
            subscription.loop.call_soon_threadsafe(subscription.listener, path)
