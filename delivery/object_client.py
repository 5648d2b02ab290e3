"""Reads and writes the objects of one bucket, container or folder: S3, compatible stores, and others that obstore has.

An object is written completely or not at all. S3 gets a SHA-256 with every object and checks it before it confirms the
write. A store without this check, or without conditional writes, is detected at its first refusal and used without.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from config import Settings
from core.errors import ConfigError, Refused, RetryLater
from delivery.folder_store import SCHEME, folder_in, prove_set_up
from delivery.items import CALL_TIMEOUT_SECONDS, Unusable
from delivery.object_errors import (
    Unconditional,
    classify_error,
    first_line,
    has_no_conditional_writes,
    knows_no_batches,
    knows_no_checksums,
)

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CONTENT_TYPES = {
    ".wav": "audio/wav",
    ".txt": "text/plain; charset=utf-8",
    ".jsonl": "application/x-ndjson",
}
MAX_MERGES = 5
"""How often a list is read and merged again at once, if another worker writes it at the same moment."""

CONNECT_SECONDS = 10
PIECE_BYTES = 1 << 18
"""How much of an object is read at once for its lines."""
KEYS_AT_ONCE = 1_000
"""Objects that are deleted with one call."""


class Objects:
    """The objects below a prefix. Keys are without the prefix.

    Every method raises RetryLater, ConfigError or Refused, by who must act.
    """

    def __init__(
        self,
        store: ObjectStore | None,
        name: str,
        *,
        plain: ObjectStore | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        """The URL, without secrets."""
        self._store = store
        self._folder = folder
        """The folder that takes the place of a store; it may be there only later."""
        self._plain = plain
        """The same store without a checksum header, for servers that reject it. The signature covers the SHA-256."""
        self._keeps_types = folder is None
        self.is_conditional = True
        """Whether the store has conditional writes: create only if absent, replace only the version that was read."""

    @property
    def store(self) -> ObjectStore:
        """The store itself. Of a folder: after :meth:`_prepare`."""
        assert self._store is not None
        return self._store

    async def _prepare(self) -> None:
        """Checks that a folder is there and is the one that was set up; before every access, as it may be unmounted."""
        if self._folder is None:
            return
        await asyncio.to_thread(prove_set_up, self._folder)
        if self._store is None:
            from obstore.store import LocalStore

            self._store = LocalStore(self._folder)

    # Reading and writing.

    async def create(self, key: str, data: bytes) -> None:
        """Writes an object that must not exist yet, or must be the same.

        Raises:
            Refused: another object has this key.
        """
        from obstore.exceptions import AlreadyExistsError

        if self.is_conditional:
            try:
                await self.write(key, data, mode="create")
                return
            except (AlreadyExistsError, Unconditional):
                pass
        there, _ = await self.read(key)
        if there is None:
            await self.write(key, data, mode="overwrite")
        elif there != data:
            raise Refused("another object of this name is there; it is not overwritten")

    async def replace(
        self, key: str, change: Callable[[bytes | None], bytes], max_bytes: int = sys.maxsize
    ) -> None:
        """Changes the complete lines of an object; repeated if another worker changes it at the same time.

        Args:
            change: makes the new content of the present one; None: there is no object. Nothing is written if it
                returns the same, or nothing for no object.

        Raises:
            Unusable: it is larger than ``max_bytes``.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        for _ in range(MAX_MERGES):
            there, version, forbidden = await self._seen(key, max_bytes)
            before = None if there is None else complete_lines(there)
            after = await asyncio.to_thread(change, before)
            if after == (before or b""):
                return
            mode: Any = "overwrite"
            if self.is_conditional:
                mode = "create" if there is None else {"e_tag": version}
            try:
                await self.write(key, after, mode=mode)
                return
            except (AlreadyExistsError, PreconditionError, Unconditional):
                if forbidden is not None:
                    raise forbidden from None
        raise RetryLater(f"{key} is being written by others")

    async def _seen(self, key: str, max_bytes: int) -> tuple[bytes | None, str | None, Refused | None]:
        """Reads an object: its content, its version, and the refusal if it may not be read.

        If the key may not list the bucket, S3 also answers "forbidden" for an object that does not exist. Creating it
        then shows whether it exists.
        """
        try:
            return *(await self.read(key, max_bytes)), None
        except Unusable:
            raise
        except Refused as refusal:
            if not self.is_conditional:
                raise
            return None, None, refusal

    async def write_all(self, contents: Mapping[str, bytes]) -> None:
        """Writes several objects, each completely or not at all, and replaces what was there."""
        await self._prepare()
        for key, data in contents.items():
            await self._write(key, data, "overwrite")

    async def write(self, key: str, data: bytes, *, mode: Any) -> str | None:
        """Writes one object completely or not at all, and returns its version.

        Raises:
            AlreadyExistsError, PreconditionError: of obstore, for conditional writes.
            Unconditional: the store has no conditional writes.
        """
        await self._prepare()
        return await self._write(key, data, mode)

    async def _write(self, key: str, data: bytes, mode: Any) -> str | None:
        from obstore import put_async
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        suffix = PurePosixPath(key).suffix
        content_type = CONTENT_TYPES.get(suffix, "application/octet-stream")
        attributes = {"Content-Type": content_type} if self._keeps_types else None
        try:
            done = await put_async(
                self.store, key, data, mode=mode, attributes=cast(Any, attributes), use_multipart=False
            )
            return done["e_tag"]
        except (AlreadyExistsError, PreconditionError):
            raise
        except (BaseError, OSError, ValueError, NotImplementedError) as error:
            if self._plain is not None and knows_no_checksums(error, mode):
                self._store, self._plain = self._plain, None
                return await self._write(key, data, mode)
            if mode != "overwrite" and has_no_conditional_writes(error):
                self.is_conditional = False
                raise Unconditional from None
            raise classify_error(error) from None

    async def read(self, key: str, max_bytes: int = sys.maxsize) -> tuple[bytes | None, str | None]:
        """Reads an object: its content and its version; (None, None) if it does not exist.

        Raises:
            Unusable: it is larger than ``max_bytes``.
        """
        from obstore import get_async
        from obstore.exceptions import BaseError

        await self._prepare()
        try:
            found = await get_async(self.store, key)
            if found.meta["size"] > max_bytes:
                raise Unusable("it is far too large")
            return bytes(await found.bytes_async()), found.meta["e_tag"]
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise classify_error(error) from None
            return None, None
        except (BaseError, OSError, ValueError) as error:
            raise classify_error(error) from None

    async def lines(self, key: str) -> AsyncIterator[bytes]:
        """Yields the complete lines of an object; none if it does not exist. Only a piece of it is in memory."""
        from obstore import get_async
        from obstore.exceptions import BaseError

        await self._prepare()
        rest = b""
        try:
            found = await get_async(self.store, key)
            async for piece in found.stream(min_chunk_size=PIECE_BYTES):
                lines = (rest + bytes(piece)).splitlines(keepends=True)
                rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
                for line in lines:
                    yield line
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise classify_error(error) from None
        except (BaseError, OSError, ValueError) as error:
            raise classify_error(error) from None

    # Listing and deleting.

    async def exists(self, key: str) -> bool:
        """Whether an object exists; False also if the store does not say so."""
        from obstore import head_async
        from obstore.exceptions import BaseError

        await self._prepare()
        try:
            await head_async(self.store, key)
        except FileNotFoundError:
            return False
        except (BaseError, OSError, ValueError) as error:
            trouble = classify_error(error)
            if isinstance(trouble, Refused):
                return False
            raise trouble from None
        return True

    async def link(self, key: str, seconds: float) -> str:
        """Makes a URL with which anyone can read one object for this long.

        Raises:
            Refused: there is no such object, or the store has no such URLs.
        """
        from obstore import head_async, sign_async
        from obstore.exceptions import BaseError

        await self._prepare()
        try:
            await head_async(self.store, key)
            return await sign_async(cast(Any, self.store), "GET", key, timedelta(seconds=seconds))
        except FileNotFoundError:
            raise Refused(f"{key} is not in {self.name}") from None
        except (TypeError, NotImplementedError):
            raise Refused(f"{self.name} has no links") from None
        except (BaseError, OSError, ValueError) as error:
            raise classify_error(error) from None

    async def folders(self, prefix: str | None = None) -> list[str]:
        """Lists the names of all folders, or of those right below ``prefix``."""
        from obstore import list_with_delimiter_async
        from obstore.exceptions import BaseError

        await self._prepare()
        try:
            found = await list_with_delimiter_async(self.store, prefix)
        except (BaseError, OSError, ValueError) as error:
            raise classify_error(error) from None
        return sorted(one.rstrip("/").rpartition("/")[2] for one in found["common_prefixes"])

    async def names_in(self, folder: str) -> dict[str, datetime]:
        """Lists the names of all objects right in a folder, with the times of their last change."""
        from obstore import list as list_objects
        from obstore.exceptions import BaseError

        await self._prepare()
        try:
            return {
                name: found["last_modified"]
                async for page in list_objects(self.store, f"{folder}/")
                for found in page
                if "/" not in (name := str(found["path"]).removeprefix(f"{folder}/"))
            }
        except (BaseError, OSError, ValueError) as error:
            raise classify_error(error) from None

    async def delete(self, keys: Iterable[str]) -> None:
        """Deletes these objects, many with one call; one that does not exist counts as deleted."""
        from obstore import delete_async
        from obstore.exceptions import BaseError

        await self._prepare()
        waiting = sorted(keys)
        for start in range(0, len(waiting), KEYS_AT_ONCE):
            try:
                await delete_async(self.store, waiting[start : start + KEYS_AT_ONCE])
            except FileNotFoundError:
                await self._delete_each(waiting[start : start + KEYS_AT_ONCE])
            except (BaseError, OSError, ValueError, NotImplementedError) as error:
                if not knows_no_batches(error):
                    raise classify_error(error) from None
                await self._delete_each(waiting[start : start + KEYS_AT_ONCE])

    async def remove_empty(self, folder: str) -> None:
        """Removes a folder's name where the store is a folder itself; elsewhere there are no empty folders."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                await asyncio.to_thread((self._folder / folder).rmdir)

    async def _delete_each(self, keys: Iterable[str]) -> None:
        """Deletes these objects one by one: a folder stops at one that is gone, and some stores take no batches."""
        from obstore import delete_async
        from obstore.exceptions import BaseError

        for key in keys:
            try:
                await delete_async(self.store, key)
            except FileNotFoundError:
                continue
            except (BaseError, OSError, ValueError) as error:
                raise classify_error(error) from None


def complete_lines(data: bytes) -> bytes:
    """The content without an incomplete last line."""
    return data[: data.rfind(b"\n") + 1]


def open_s3(settings: Settings) -> Objects:
    """Opens the bucket in the settings.

    Raises:
        ConfigError: the settings are not valid.
    """
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    endpoint = settings.s3_endpoint.rstrip("/")
    prefix = settings.s3_prefix.strip("/")
    key = {"access_key_id": settings.s3_key_id, "secret_access_key": settings.s3_key_secret}
    options: dict[str, Any] = {
        "prefix": prefix or None,
        "region": settings.s3_region,
        # The environment may have credentials and an address for other programs; they are not used.
        "credential_provider": lambda: {**key, "token": None, "expires_at": None},
        **({"aws_endpoint_url_s3": endpoint} if endpoint else {}),
        "client_options": {
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "timeout": timedelta(seconds=CALL_TIMEOUT_SECONDS),
        },
        "retry_config": {"max_retries": 0},  # the caller retries
    }
    try:
        store = S3Store(settings.s3_bucket, checksum_algorithm="SHA256", **options)
        plain = S3Store(settings.s3_bucket, **options)
    except (BaseError, ValueError) as error:
        raise ConfigError(f"The S3 settings are wrong: {first_line(error)}") from None
    host = urlsplit(endpoint).netloc if endpoint else f"s3.{settings.s3_region}.amazonaws.com"
    name = "/".join(part for part in (f"s3://{host}/{settings.s3_bucket}", prefix) if part)
    return Objects(store, name, plain=plain)


def open_url(url: str) -> Objects:
    """Opens the store of a URL; its credentials come from the provider's own environment variables.

    Raises:
        ConfigError: the URL does not name a store.
    """
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    try:
        if url.startswith(SCHEME):
            return Objects(None, url.rstrip("/"), folder=Path(folder_in(url)))
        store = from_url(url, retry_config={"max_retries": 0})
    except (BaseError, ValueError, OSError) as error:
        raise ConfigError(f"STORE_URL is wrong: {first_line(error)}") from None
    return Objects(store, url.rstrip("/"))
