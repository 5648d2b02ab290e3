"""Reads and writes an archive in a bucket, under the keys that delivery uses.

A request that the store cannot answer now is retried for MAX_RETRY_SECONDS, so that a long run survives a short outage.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from archive.files import open_private, write_all, write_private
from archive.names import is_plain_name
from config import Settings
from core.backoff import Backoff
from core.errors import ConfigError, InputError, RetryLater
from delivery.items import Item
from delivery.object_errors import classify_error
from delivery.object_store import ObjectTarget
from delivery.targets import problems_of

logger = logging.getLogger("recorder")

SCHEME = "s3://"

MAX_RETRY_SECONDS = 120.0
KEYS_A_PAGE = 1_000
"""Keys that one request lists."""

T = TypeVar("T")


async def with_retries(step: Callable[[], Awaitable[T]]) -> T:
    """Runs ``step``, and retries it after RetryLater for MAX_RETRY_SECONDS; then raises that."""
    began, failures = time.monotonic(), 0
    while True:
        try:
            return await step()
        except RetryLater as trouble:
            failures += 1
            if failures == 1:
                logger.warning("%s; it is retried", trouble)
            pause = trouble.after_seconds or Backoff().pause(failures)
            if time.monotonic() + pause - began > MAX_RETRY_SECONDS:
                raise
            await asyncio.sleep(pause)


class Bucket(ObjectTarget):
    """The rooms below a prefix. Every method may raise RetryLater, ConfigError or Refused."""

    @classmethod
    def at(cls, url: str, settings: Settings) -> Bucket:
        """Opens the archive at this URL, with the endpoint and the key of the settings.

        Raises:
            InputError: it is not the URL of a bucket.
            ConfigError: the settings for the store are wrong.
        """
        name, _, prefix = url.removeprefix(SCHEME).partition("/")
        if not name or not url.startswith(SCHEME):
            raise InputError(f"{url!r} is not the URL of an archive, such as s3://lessons/school-a")
        settings = replace(settings, s3_bucket=name, s3_prefix=prefix)
        problems = [line for line in problems_of(settings) if "S3_" in line]
        if problems:
            raise ConfigError("\n".join(problems))
        return cls.s3(settings)

    # Listing.

    async def rooms(self) -> AsyncIterator[tuple[str, list[str]]]:
        """Yields every folder directly below the prefix with the names in it. Only one folder's names are in memory.

        Raises:
            InputError: a key there is not a valid path.
        """
        folder = ""
        names: list[str] = []
        async for key in self._keys(None):
            room, _, name = key.partition("/")
            if not is_plain_name(room) or not is_plain_name(name):
                continue
            if room != folder:
                if names:
                    yield folder, names
                folder, names = room, []
            names.append(name)
        if names:
            yield folder, names

    async def names_in(self, folder: str) -> list[str]:
        """Lists the names of all objects of a folder."""
        names = [key.partition("/")[2] async for key in self._keys(f"{folder}/")]
        return [name for name in names if is_plain_name(name)]

    async def _keys(self, prefix: str | None) -> AsyncIterator[str]:
        last: str | None = None
        while True:
            page = await with_retries(functools.partial(self._page, prefix, last))
            for key in page:
                yield key
            if len(page) < KEYS_A_PAGE:
                return
            last = page[-1]

    async def _page(self, prefix: str | None, after: str | None) -> list[str]:
        from obstore import list as list_objects
        from obstore.exceptions import BaseError, InvalidPathError

        try:
            async for page in list_objects(self.objects.store, prefix, offset=after, chunk_size=KEYS_A_PAGE):
                return [str(found["path"]) for found in page]
            return []
        except InvalidPathError as error:
            said = str(error).partition("\n")[0].rpartition(": ")[2]
            raise InputError(
                f"{self.name} contains a key that is not a valid path, so it cannot be listed: {said}"
            ) from None
        except (BaseError, OSError, ValueError) as error:
            trouble = classify_error(error)
            if isinstance(trouble, RetryLater):
                raise RetryLater(f"{self.name}: {trouble}") from None
            raise ConfigError(f"{self.name} cannot be listed: {trouble}") from None

    # Reading and writing.

    async def fetch(self, key: str, path: Path, most_bytes: int | None = None) -> bool:
        """Copies an object into a file; False if there is none.

        Raises:
            Unusable: it is larger than ``most_bytes``.
        """
        data, _ = await (self.objects.read(key) if most_bytes is None else self.objects.read(key, most_bytes))
        if data is not None:
            await asyncio.to_thread(write_private, path, data)
        return data is not None

    async def put_with_retries(self, item: Item) -> None:
        """Delivers an item; see :func:`with_retries`."""
        await with_retries(lambda: self.put(item))

    async def fetch_list(self, folder: str, file: str, path: Path) -> None:
        """Copies a list into one file, with retries; there is no file if it has no line."""
        await with_retries(lambda: self._fetch_list(folder, file, path))

    async def _fetch_list(self, folder: str, file: str, path: Path) -> None:
        size = 0
        with open_private(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as copy:
            async for line in self.list_of(folder, file).lines():
                write_all(copy, line)
                size += len(line)
        if not size:
            await asyncio.to_thread(path.unlink)

    async def last_part(self, folder: str, file: str) -> int:
        """The number of a list's last part, with retries."""
        return max(await with_retries(lambda: self.list_of(folder, file).parts()))

    async def add_lines(self, folder: str, file: str, lines: list[bytes], part: int) -> int:
        """Adds lines to a list from this part on, with retries; leaves out those that it has already. Returns the
        number of the part that is now the last."""
        return (await with_retries(lambda: self.list_of(folder, file).add(lines, part))).part

    async def read(self, key: str) -> tuple[bytes | None, str | None]:
        """Reads an object and its version; (None, None) if there is none."""
        return await self.objects.read(key)

    async def write(self, key: str, data: bytes) -> None:
        """Writes an object, whole or not at all; replaces what was there."""
        await self.objects.write(key, data, mode="overwrite")
