"""The simulated link: it delays, loses and breaks as set, and leaves nothing behind."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from devtools.wire import BROKEN, PERFECT, Quality, Wire

pytestmark = pytest.mark.slow

ECHO = """
import socket, sys
ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ear.bind((sys.argv[1], 5555))
print("listening", flush=True)
while True:
    ear.sendto(*ear.recvfrom(100))
"""


@pytest.fixture
def echo(wire: Wire) -> Iterator[socket.socket]:
    """What is sent into it comes back from the far end."""
    command = [*wire.far_end, sys.executable, "-c", ECHO, wire.far_address]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as far:
        assert far.stdout and far.stdout.readline()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
            near.connect((wire.far_address, 5555))
            near.settimeout(1)
            yield near
        far.kill()


def round_trips(echo: socket.socket, count: int) -> list[float]:
    """Seconds, of those packets that came back."""
    for number in range(count):
        echo.send(b"%d %f" % (number, time.monotonic()))
    found: list[float] = []
    while len(found) < count:
        try:
            said = echo.recv(100)
        except TimeoutError:
            break
        found.append(time.monotonic() - float(said.split()[1]))
    return found


def test_it_delays_and_loses_as_it_is_told(wire: Wire, echo: socket.socket) -> None:
    assert len(round_trips(echo, 50)) == 50
    wire.quality = Quality(delay_seconds=0.06, jitter_seconds=0.02)
    times = round_trips(echo, 50)
    assert len(times) == 50
    assert min(times) > 2 * 0.04
    assert max(times) - min(times) > 0.02
    wire.quality = Quality(loss=0.3)
    assert 10 < len(round_trips(echo, 50)) < 40, "half of them: each has two ways to go"
    wire.quality = BROKEN
    lost = wire.lost
    assert not round_trips(echo, 5)
    assert wire.lost >= lost + 5
    wire.quality = PERFECT
    assert len(round_trips(echo, 5)) == 5


def test_it_leaves_nothing_behind(wire: Wire) -> None:
    def spaces() -> str:
        return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout

    space, near = wire.far_end[-1], f"vnic-{wire.far_end[-1].removeprefix('wire-')}"
    assert space in spaces() and near in psutil.net_if_addrs()
    wire.stop()
    assert space not in spaces() and near not in psutil.net_if_addrs()
