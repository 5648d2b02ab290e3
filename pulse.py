"""Keeps :data:`vitals.vitals` true about event loops: a heart for each room and one for the worker.

A room that is a process of its own (JOB_EXECUTOR=process) has vitals of its own. The framework has no way to hand
anything to the worker's process, so each beat sends all of it there as one small datagram over the loopback: nothing
waits, nothing is left behind, and a datagram that is lost is made good by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable

import psutil

from vitals import WORKER, Vitals, vitals

BEAT_SECONDS = 1.0

_REPORT_TO = "RECORDER_REPORT_TO"
"""``port token`` in the environment of the rooms' processes: where reports go, and what shows that they are ours."""

_LOOPBACK = "127.0.0.1"


def start_room(sid: str) -> asyncio.Task[None]:
    """Opens a room in this process's vitals, and closes it when the task is cancelled."""
    vitals.room_opened(sid)
    return asyncio.create_task(_beat_for_room(sid), name=f"pulse {sid}")


async def _beat_for_room(sid: str) -> None:
    try:
        while True:
            vitals.alive(sid)
            _report()
            await asyncio.sleep(BEAT_SECONDS)
    finally:
        vitals.room_closed(sid)
        _report()


def _report() -> None:
    """Tells the worker's process, if that is another one."""
    port, _, token = os.environ.get(_REPORT_TO, "").partition(" ")
    if port:
        message = json.dumps({"token": token, "process": os.getpid(), "report": vitals.report()})
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to_worker:
            to_worker.setblocking(False)
            to_worker.sendto(message.encode(), (_LOOPBACK, int(port)))


async def beat_for_worker(is_connected: Callable[[], bool]) -> None:
    """The worker's own heart. Runs until cancelled."""
    vitals.room_opened(WORKER)
    try:
        while True:
            vitals.alive(WORKER)
            if is_connected():
                vitals.server_found()
            else:
                vitals.server_lost()
            vitals.forget_processes(psutil.pid_exists)
            await asyncio.sleep(BEAT_SECONDS)
    finally:
        vitals.room_closed(WORKER)


@contextlib.asynccontextmanager
async def reports_of_rooms() -> AsyncIterator[None]:
    """Takes the reports of all processes that are started meanwhile."""
    token = secrets.token_hex(16)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Reports(token, vitals), local_addr=(_LOOPBACK, 0)
    )
    os.environ[_REPORT_TO] = f"{transport.get_extra_info('sockname')[1]} {token}"
    try:
        yield
    finally:
        del os.environ[_REPORT_TO]
        transport.close()


class _Reports(asyncio.DatagramProtocol):
    """Takes what shows the token and is a report, and nothing else: anybody on this machine may send."""

    def __init__(self, token: str, into: Vitals) -> None:
        self._token = token.encode()
        self._vitals = into

    def datagram_received(self, data: bytes, _: object) -> None:
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            message = json.loads(data)
            if hmac.compare_digest(str(message["token"]).encode(), self._token):
                self._vitals.take_report(int(message["process"]), message["report"])
