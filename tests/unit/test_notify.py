"""Notifications: across threads, by file name, until a listener stops."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from core import notify
from devtools.room_folders import until


async def test_a_notification_from_any_thread_arrives_on_the_listeners_loop(tmp_path: Path) -> None:
    received: list[tuple[Path, threading.Thread]] = []
    stop = notify.listen("a.jsonl", lambda path: received.append((path, threading.current_thread())))
    thread = threading.Thread(target=notify.notify, args=(tmp_path / "a.jsonl",))
    thread.start()
    thread.join()
    notify.notify(tmp_path / "b.jsonl")
    await until(lambda: received, "the notification arrives")
    assert received == [(tmp_path / "a.jsonl", threading.current_thread())]
    stop()
    stop()
    notify.notify(tmp_path / "a.jsonl")
    await asyncio.sleep(0)
    assert len(received) == 1


async def test_a_listener_whose_event_loop_has_ended_does_not_disturb_others(tmp_path: Path) -> None:
    async def listen() -> None:
        notify.listen("gone.jsonl", lambda path: None)

    await asyncio.to_thread(asyncio.run, listen())
    received: list[Path] = []
    stop = notify.listen("gone.jsonl", received.append)
    notify.notify(tmp_path / "gone.jsonl")
    await until(lambda: received, "the notification arrives")
    stop()
