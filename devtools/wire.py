"""Simulates a link to another network namespace, with delay, jitter, packet loss and outages. Needs root on Linux.

Many kernels lack ``tc netem``, so this uses only a network namespace and TUN devices, which every container runtime
needs. A packet that is sent into one device arrives at the other later, or never.
"""

from __future__ import annotations

import atexit
import contextlib
import heapq
import ipaddress
import itertools
import os
import random
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from devtools.machine import found_or_installed, is_root, on_path
from devtools.server import Server

if sys.platform == "linux":
    import fcntl

ADDRESSES = ipaddress.ip_network("198.18.0.0/15")
"""Reserved for network measurements (RFC 2544), so it is used by no real network."""

TUN = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
LARGEST_PACKET = 65_535
MAX_WAIT_SECONDS = 0.2

_numbers: Iterator[int] = itertools.count()


class NoWire(Exception):
    """This user or this system cannot create one; the message says why, in one line."""


@dataclass(frozen=True)
class Quality:
    """What happens to packets, in both directions."""

    delay_seconds: float = 0.0
    jitter_seconds: float = 0.0
    """At most this much more or less delay, uniformly distributed, so packets are reordered."""
    loss: float = 0.0
    """Share of the packets, 0 to 1."""


PERFECT = Quality()
BROKEN = Quality(loss=1.0)


class Wire(Server):
    """``with Wire() as wire:`` this machine is the near end; commands after ``wire.far_end`` run at the far end."""

    def __init__(self) -> None:
        self.quality = PERFECT
        """May be changed at any time."""
        self.lost = 0
        """Number of packets lost so far."""
        self._sent = 0
        name = f"{os.getpid()}-{next(_numbers)}"
        first = random.Random(name).randrange(ADDRESSES.num_addresses // 4) * 4
        self.near_address, self.far_address = str(ADDRESSES[first + 1]), str(ADDRESSES[first + 2])
        self._space = f"wire-{name}"
        self.far_end = ("ip", "netns", "exec", self._space)
        """The prefix for the command of a program that is to run at the far end."""
        # WebRTC ignores interfaces whose name begins with "vnic" (rtc_base/network.cc). With any other name, calls that
        # have nothing to do with this link may use it, and break when it is removed.
        self._device_names = f"vnic-{name}", f"far-{name}"
        self._random = random.Random(1)
        self._devices: list[int] = []
        self._in_transit: list[tuple[float, int, int, bytes]] = []
        self._is_cut = threading.Event()
        self._carrier = threading.Thread(target=self._carry, name=f"wire {name}", daemon=True)

    def start(self) -> None:
        """Creates the link.

        Raises:
            NoWire: this user or this system cannot.
            ProgramUnavailable: a program is missing.
        """
        _check()
        near, far = self._device_names
        there = "-n", self._space
        atexit.register(self.stop)
        _ip("netns", "add", self._space)
        for device in (near, far):
            self._devices.append(_device(device))
        _ip("link", "set", far, "netns", self._space)
        _ip("address", "add", self.near_address, "peer", self.far_address, "dev", near)
        _ip(*there, "address", "add", self.far_address, "peer", self.near_address, "dev", far)
        _ip("link", "set", near, "up")
        for device in ("lo", far):
            _ip(*there, "link", "set", device, "up")
        _ip(*there, "route", "add", "default", "dev", far)  # for answers to this machine's other addresses
        self._carrier.start()

    def stop(self) -> None:
        """Removes the link. Idempotent; programs at the far end lose their network."""
        atexit.unregister(self.stop)
        self._is_cut.set()
        if self._carrier.is_alive():
            self._carrier.join()
        while self._devices:
            os.close(self._devices.pop())
        with contextlib.suppress(FileNotFoundError):  # no ip: nothing was created
            subprocess.run(["ip", "netns", "delete", self._space], capture_output=True)

    def _carry(self) -> None:
        near, far = self._devices
        way = {near: far, far: near}
        while not self._is_cut.is_set():
            arrived, _, _ = select.select([near, far], [], [], self._seconds_to_next())
            for device in arrived:
                self._schedule(os.read(device, LARGEST_PACKET), way[device])
            self._deliver()

    def _seconds_to_next(self) -> float:
        until_due = self._in_transit[0][0] - time.monotonic() if self._in_transit else MAX_WAIT_SECONDS
        return min(max(until_due, 0.0), MAX_WAIT_SECONDS)

    def _schedule(self, packet: bytes, target: int) -> None:
        quality = self.quality
        if self._random.random() < quality.loss:
            self.lost += 1
            return
        seconds = quality.delay_seconds + self._random.uniform(-1, 1) * quality.jitter_seconds
        self._sent += 1
        heapq.heappush(self._in_transit, (time.monotonic() + seconds, self._sent, target, packet))

    def _deliver(self) -> None:
        while self._in_transit and self._in_transit[0][0] <= time.monotonic():
            _, _, target, packet = heapq.heappop(self._in_transit)
            with contextlib.suppress(OSError):  # that end has just been removed
                os.write(target, packet)


def _check() -> None:
    if sys.platform != "linux" or not is_root():
        raise NoWire("only root on Linux can create a link to another network namespace")
    found_or_installed(lambda: on_path("ip"), "ip", "iproute2")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, encoding="utf-8")
    if done.returncode:
        raise NoWire(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _device(name: str) -> int:
    """A new network device: reading returns packets that the system sends into it, writing delivers a packet."""
    assert sys.platform == "linux"
    try:
        device = os.open(TUN, os.O_RDWR)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    except OSError as error:
        raise NoWire(f"{TUN}: {error.strerror}") from error
    return device
