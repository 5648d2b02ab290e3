"""The objects of one bucket, container or folder: S3 and its kin, and what else obstore speaks to.

An object is written whole or not at all. S3 gets a SHA-256 with every object and checks it before it says yes; a store
that cannot check, or has no conditional writes, is noticed at its first refusal and used without.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from config import Settings
from core.errors import ConfigError, Refused, RetryLater
from delivery.items import CALL_TIMEOUT_SECONDS, Unusable
from delivery.object_errors import (
    Unconditional,
    classify_error,
    first_line,
    has_no_conditional_writes,
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
"""Another worker may write the same list at the same moment; so often it is read again at once."""

CONNECT_SECONDS = 10


class Objects:
    """The objects below a prefix, by their keys without it.

    Every method raises RetryLater, ConfigError or Refused, by who must act.
    """

    def __init__(
        self, store: ObjectStore, name: str, *, plain: ObjectStore | None = None, keeps_types: bool = True
    ) -> None:
        self.name = name
        """The URL, without secrets."""
        self.store = store
        self._plain = plain
        """The same without a checksum's header, for servers that do not know it: the signature covers SHA-256, too."""
        self._keeps_types = keeps_types
        self._is_conditional = True
        """Whether the store can create without overwriting, and replace only what has been read."""

    # Reading and writing.

    async def create(self, key: str, data: bytes) -> None:
        """Writes what must not be there yet, or be the same."""
        from obstore.exceptions import AlreadyExistsError

        if self._is_conditional:
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

    async def replace_lines(self, key: str, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """Changes an object that is a list of lines, and begins anew if another worker does so at the same time."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        for _ in range(MAX_MERGES):
            there, version, forbidden = await self._seen(key)
            before = whole_lines(there or b"")
            after = change(before)
            if after == before and there is not None:
                return
            mode: Any = "overwrite"
            if self._is_conditional:
                mode = "create" if there is None else {"e_tag": version}
            try:
                await self.write(key, b"".join(after), mode=mode)
                return
            except (AlreadyExistsError, PreconditionError, Unconditional):
                if forbidden is not None:
                    raise forbidden from None
        raise RetryLater(f"{key} is being written by others")

    async def _seen(self, key: str) -> tuple[bytes | None, str | None, Refused | None]:
        """An object, its version, and why it may not be read.

        To a key that may not list its bucket S3 forbids also what is not there; whether it is, creating it tells.
        """
        try:
            return *(await self.read(key)), None
        except Refused as refusal:
            if not self._is_conditional:
                raise
            return None, None, refusal

    async def write(self, key: str, data: bytes, *, mode: Any) -> str | None:
        """One object, whole or not at all; its version. Lets AlreadyExistsError and PreconditionError through."""
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
                self.store, self._plain = self._plain, None
                return await self.write(key, data, mode=mode)
            if mode != "overwrite" and has_no_conditional_writes(error):
                self._is_conditional = False
                raise Unconditional from None
            raise classify_error(error) from None

    async def read(self, key: str, max_bytes: int = sys.maxsize) -> tuple[bytes | None, str | None]:
        """An object and its version; (None, None) if there is none.

        Raises:
            Unusable: it is larger than that.
        """
        from obstore import get_async
        from obstore.exceptions import BaseError

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

    # Looking and removing.

    async def link(self, key: str, seconds: float) -> str:
        """A URL that lets whoever has it read one object for so long.

        Raises:
            Refused: there is no such object, or the store has no such links.
        """
        from obstore import head_async, sign_async
        from obstore.exceptions import BaseError

        try:
            await head_async(self.store, key)
            return await sign_async(cast(Any, self.store), "GET", key, timedelta(seconds=seconds))
        except FileNotFoundError:
            raise Refused(f"{key} is not in {self.name}") from None
        except (TypeError, NotImplementedError):
            raise Refused(f"{self.name} has no links") from None
        except (BaseError, OSError, ValueError) as error:
            raise classify_error(error) from None

    async def folders(self) -> list[str]:
        """The names of all folders."""
        from obstore import list_with_delimiter_async
        from obstore.exceptions import BaseError

        try:
            found = await list_with_delimiter_async(self.store)
        except (BaseError, OSError, ValueError) as error:
            raise classify_error(error) from None
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"])

    async def names_in(self, folder: str) -> list[str]:
        """The names of all objects of a folder."""
        from obstore import list as list_objects
        from obstore.exceptions import BaseError

        try:
            return [
                str(found["path"]).rpartition("/")[2]
                async for page in list_objects(self.store, f"{folder}/")
                for found in page
            ]
        except (BaseError, OSError, ValueError) as error:
            raise classify_error(error) from None

    async def delete(self, keys: Iterable[str]) -> None:
        """Deletes these objects; those that are not there count as deleted."""
        from obstore import delete_async
        from obstore.exceptions import BaseError

        for key in list(keys):
            try:
                await delete_async(self.store, key)
            except FileNotFoundError:
                continue
            except (BaseError, OSError, ValueError) as error:
                raise classify_error(error) from None


def open_s3(settings: Settings) -> Objects:
    """The bucket in the settings.

    Raises:
        ConfigError: the settings make no store.
    """
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    endpoint = settings.s3_endpoint.rstrip("/")
    prefix = settings.s3_prefix.strip("/")
    key = {"access_key_id": settings.s3_key_id, "secret_access_key": settings.s3_key_secret}
    options: dict[str, Any] = {
        "prefix": prefix or None,
        "region": settings.s3_region,
        # Neither credentials nor an address that the environment may hold for other programs.
        "credential_provider": lambda: {**key, "token": None, "expires_at": None},
        **({"aws_endpoint_url_s3": endpoint} if endpoint else {}),
        "client_options": {
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "timeout": timedelta(seconds=CALL_TIMEOUT_SECONDS),
        },
        "retry_config": {"max_retries": 0},  # waiting is the caller's business
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
    """The store of a URL; credentials come from the variables that its maker has named.

    Raises:
        ConfigError: there is no such store.
    """
    from obstore.exceptions import BaseError
    from obstore.store import LocalStore, from_url

    is_folder = url.startswith("file://")
    try:
        if is_folder:
            folder = Path(urlsplit(url).path)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return Objects(LocalStore(folder), url.rstrip("/"), keeps_types=False)
        store = from_url(url, retry_config={"max_retries": 0})
    except (BaseError, ValueError, OSError) as error:
        raise ConfigError(f"STORE_URL is wrong: {first_line(error)}") from None
    return Objects(store, url.rstrip("/"))


def whole_lines(data: bytes) -> list[bytes]:
    """The lines of a list that end; a torn last one is left out."""
    whole, newline, _ = data.rpartition(b"\n")
    return (whole + newline).splitlines(keepends=True)
