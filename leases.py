"""Work that several machines share: each part is one machine's at a time, agreed on through one object a part.

Whoever has a part renews its lease; whoever sees a lease unchanged for LEASE_SECONDS takes it over. Nobody's clock is
asked for the time, so clocks may differ. Every write replaces exactly what was read: of several machines that take the
same lease one gets it, and one that was away for too long learns at its next renewal that it has lost its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from deadline import within
from segments import RecorderError, RetryLater

LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0
SPARE_SECONDS = 10.0
"""So long before others may take a lease its holder gives up, if it could not renew it."""

T = TypeVar("T")


class LeaseLost(RecorderError):
    """Somebody else has it now."""


class Store(Protocol):
    """Objects that are replaced only if nobody else has done so."""

    async def read(self, key: str) -> tuple[bytes | None, str | None]:
        """An object and its version; (None, None) if there is none."""
        ...

    async def write_if(self, key: str, data: bytes, version: str | None) -> str | None:
        """Writes an object if it is still of this version (None: not there). Its new version; None: it was not."""
        ...


class Leases:
    """The leases that this process takes, and what it has seen of others'."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._seen: dict[str, tuple[str | None, float]] = {}
        """The version of others' leases, and when it was first seen."""

    async def take(self, key: str) -> Lease | None:
        """A part's lease; None while somebody else has it.

        Raises:
            RetryLater, ConfigError: the store cannot be asked.
        """
        data, version = await self._store.read(key)
        if _holder(data) not in ("", self._holder) and not self._is_dead(key, version):
            return None
        self._seen.pop(key, None)
        lease = Lease(self._store, key, self._holder, notes_in(data), version)
        try:
            await lease.renew()
        except LeaseLost:
            return None
        return lease

    def _is_dead(self, key: str, version: str | None) -> bool:
        """Whether its holder has not renewed it for as long as we have been looking."""
        now = time.monotonic()
        known, since = self._seen.get(key, (None, now))
        if known != version:
            self._seen[key] = (version, now)
            return False
        return now - since >= LEASE_SECONDS


class Lease:
    """One that this process has. ``notes`` are kept in it for whoever has the part next."""

    def __init__(
        self, store: Store, key: str, holder: str, notes: dict[str, Any], version: str | None
    ) -> None:
        self.notes = notes
        self._store = store
        self._key = key
        self._holder = holder
        self._version = version
        self._renewed_at = time.monotonic()
        self._lock = asyncio.Lock()

    async def renew(self) -> None:
        """Shows that we are alive, and writes the notes.

        Raises:
            LeaseLost: somebody else has it.
        """
        await self._write(self._holder)

    async def release(self) -> None:
        """Lets others have it at once."""
        await self._write("")

    async def hold(self, work: Coroutine[Any, Any, T]) -> T:
        """Does the work while we have the lease.

        Raises:
            LeaseLost: the work has been cancelled, somebody else may be doing it.
        """
        return await guarded(work, self._keep_renewing())

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            left = self._renewed_at + LEASE_SECONDS - SPARE_SECONDS - time.monotonic()
            try:
                await within(left, self.renew())
            except asyncio.TimeoutError:
                raise LeaseLost(f"{self._key} could not be renewed in time") from None
            except RetryLater:
                continue  # there is time for another attempt

    async def _write(self, holder: str) -> None:
        async with self._lock:
            began = time.monotonic()
            # What is written is never the same twice: versions are digests in many stores.
            content = {"holder": holder, "write": secrets.token_hex(8), "notes": self.notes}
            data = json.dumps(content).encode()
            version = await self._store.write_if(self._key, data, self._version)
            if version is None and await self._is_still_ours():
                version = await self._store.write_if(self._key, data, self._version)
            if version is None:
                raise LeaseLost(f"{self._key} has been taken over")
            self._version, self._renewed_at = version, began

    async def _is_still_ours(self) -> bool:
        """Whether it was our own last write that we do not know of: its answer was lost."""
        data, version = await self._store.read(self._key)
        is_ours = _holder(data) == self._holder
        if is_ours:
            self._version = version
        return is_ours


async def guarded(work: Coroutine[Any, Any, T], guard: Coroutine[Any, Any, None]) -> T:
    """Does the work; it is cancelled if the guard, which never ends by itself, fails, and fails for the same reason."""
    working, guarding = asyncio.ensure_future(work), asyncio.ensure_future(guard)
    try:
        await asyncio.wait({working, guarding}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            guarding.result()
        return await working
    finally:
        for task in (working, guarding):
            task.cancel()
        await asyncio.gather(working, guarding, return_exceptions=True)


def notes_in(data: bytes | None) -> dict[str, Any]:
    """The notes that a lease keeps, whoever has it."""
    notes = _content(data).get("notes")
    return notes if isinstance(notes, dict) else {}


def _holder(data: bytes | None) -> str:
    return str(_content(data).get("holder") or "")


def _content(data: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
