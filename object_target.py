"""Object stores: S3 and its kin, and what else obstore speaks to (Google Cloud Storage, Azure, a folder).

Objects have the names that the files have on disk, below the prefix. A WAV is created and never overwritten: where an
object of its name is already, it is read back and must be the same, byte for byte. A text file is written over. The
lists are merged line by line with what is there, so workers that recorded a room on different disks lose nothing of
each other's. S3 gets a SHA-256 with every object and checks it before it says yes.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from config import Settings
from deliverables import (
    CALL_TIMEOUT_SECONDS,
    Item,
    Lists,
    Selection,
    Sound,
    Unusable,
    Words,
    file_bytes,
    sound_bytes,
)
from manifest import gap_in, record_in
from names import GAPS, MANIFEST, TEXTS, safe_name
from segments import ConfigError, RecorderError, Refused, RetryLater, SegmentRecord

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PROBE = ".delivery-check"
"""An empty object below the prefix: that it can be written is the proof that anything can."""

CONTENT_TYPES = {
    ".wav": "audio/wav",
    ".txt": "text/plain; charset=utf-8",
    ".jsonl": "application/x-ndjson",
}
MOST_MERGES = 5
"""Somebody else may write the same list at the same moment; so often we begin anew at once."""

CONNECT_SECONDS = 10

T = TypeVar("T", bound="ObjectTarget")


class ObjectTarget:
    """One bucket, container or folder, and the prefix in it."""

    def __init__(
        self, store: ObjectStore, name: str, *, plain: ObjectStore | None = None, keeps_types: bool = True
    ) -> None:
        self.name = name
        self._store = store
        self._plain = plain
        """The same without a checksum's header, for servers that do not know it: the signature covers SHA-256, too."""
        self._keeps_types = keeps_types
        self._is_conditional = True
        """Whether the store can create without overwriting, and replace only what has been read."""

    @classmethod
    def s3(cls: type[T], settings: Settings) -> T:
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
            raise ConfigError(f"The S3 settings are wrong: {_first_line(error)}") from None
        host = urlsplit(endpoint).netloc if endpoint else f"s3.{settings.s3_region}.amazonaws.com"
        name = "/".join(part for part in (f"s3://{host}/{settings.s3_bucket}", prefix) if part)
        return cls(store, name, plain=plain)

    @classmethod
    def from_url(cls, url: str) -> ObjectTarget:
        """A store by its URL; credentials come from the variables that its maker has named.

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
                return cls(LocalStore(folder), url.rstrip("/"), keeps_types=False)
            store = from_url(url, retry_config={"max_retries": 0})
        except (BaseError, ValueError, OSError) as error:
            raise ConfigError(f"STORE_URL is wrong: {_first_line(error)}") from None
        return cls(store, url.rstrip("/"))

    async def aclose(self) -> None:
        """Connections are obstore's own."""

    # Delivering.

    async def check(self) -> None:
        """Writes the probe."""
        await self._write(PROBE, b"", mode="overwrite")

    async def put(self, item: Item) -> None:
        """See :class:`~deliverables.Target`."""
        folder = item.folder.name
        if isinstance(item, Sound):
            data = await asyncio.to_thread(sound_bytes, item)
            await self._create(f"{folder}/{item.record.file}", data)
        elif isinstance(item, Words):
            for file in item.text.files:
                data = await asyncio.to_thread(file_bytes, item.folder / file)
                await self._write(f"{folder}/{file}", data, mode="overwrite")
        else:
            await self._put_lists(item)

    async def _create(self, key: str, data: bytes) -> None:
        """Writes what must not be there yet, or be the same."""
        from obstore.exceptions import AlreadyExistsError

        if self._is_conditional:
            try:
                await self._write(key, data, mode="create")
                return
            except (AlreadyExistsError, Unconditional):
                pass
        there, _ = await self._read(key)
        if there is None:
            await self._write(key, data, mode="overwrite")
        elif there != data:
            raise Refused("another object of this name is there; it is not overwritten")

    async def _put_lists(self, item: Lists) -> None:
        for file, size in (
            (TEXTS, item.texts_bytes),
            (GAPS, item.gaps_bytes),
            (MANIFEST, item.manifest_bytes),
        ):
            if size:
                ours = _whole_lines((await asyncio.to_thread(file_bytes, item.folder / file))[:size])
                await self._replace(f"{item.folder.name}/{file}", functools.partial(merged, ours))

    async def _replace(self, key: str, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """Changes a list of lines, and begins anew if somebody else does so at the same time."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        for _ in range(MOST_MERGES):
            there, version, forbidden = await self._seen(key)
            before = _whole_lines(there or b"")
            after = change(before)
            if after == before and there is not None:
                return
            mode: Any = "overwrite"
            if self._is_conditional:
                mode = "create" if there is None else {"e_tag": version}
            try:
                await self._write(key, b"".join(after), mode=mode)
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
            return *(await self._read(key)), None
        except Refused as refusal:
            if not self._is_conditional:
                raise
            return None, None, refusal

    async def _write(self, key: str, data: bytes, *, mode: Any) -> str | None:
        """One object, whole or not at all; its version. Lets AlreadyExistsError and PreconditionError through."""
        from obstore import put_async
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        suffix = PurePosixPath(key).suffix
        content_type = CONTENT_TYPES.get(suffix, "application/octet-stream")
        attributes = {"Content-Type": content_type} if self._keeps_types else None
        try:
            done = await put_async(
                self._store, key, data, mode=mode, attributes=cast(Any, attributes), use_multipart=False
            )
            return done["e_tag"]
        except (AlreadyExistsError, PreconditionError):
            raise
        except (BaseError, OSError, ValueError, NotImplementedError) as error:
            if self._plain is not None and _knows_no_checksums(error, mode):
                self._store, self._plain = self._plain, None
                return await self._write(key, data, mode=mode)
            if mode != "overwrite" and _cannot_do_that(error):
                self._is_conditional = False
                raise Unconditional from None
            raise sorted_out(error) from None

    async def _read(self, key: str, most_bytes: int = sys.maxsize) -> tuple[bytes | None, str | None]:
        """An object and its version; (None, None) if there is none.

        Raises:
            Unusable: it is larger than that.
        """
        from obstore import get_async
        from obstore.exceptions import BaseError

        try:
            found = await get_async(self._store, key)
            if found.meta["size"] > most_bytes:
                raise Unusable("it is far too large")
            return bytes(await found.bytes_async()), found.meta["e_tag"]
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise sorted_out(error) from None
            return None, None
        except (BaseError, OSError, ValueError) as error:
            raise sorted_out(error) from None

    # Looking and removing.

    async def link(self, key: str, seconds: float) -> str:
        """A URL that lets whoever has it read one object for so long.

        Raises:
            Refused: there is no such object, or the store has no such links.
        """
        from obstore import head_async, sign_async
        from obstore.exceptions import BaseError

        try:
            await head_async(self._store, key)
            return await sign_async(cast(Any, self._store), "GET", key, timedelta(seconds=seconds))
        except FileNotFoundError:
            raise Refused(f"{key} is not in {self.name}") from None
        except (TypeError, NotImplementedError):
            raise Refused(f"{self.name} has no links") from None
        except (BaseError, OSError, ValueError) as error:
            raise sorted_out(error) from None

    async def remove(
        self, selection: Selection, known: Mapping[str, Sequence[SegmentRecord]], *, only_count: bool = False
    ) -> int:
        """See :class:`~deliverables.Target`."""
        count = 0
        for folder in await self._folders():
            count += await self._remove_in(folder, selection, known.get(folder, ()), only_count)
        return count

    async def _remove_in(
        self, folder: str, selection: Selection, known: Sequence[SegmentRecord], only_count: bool
    ) -> int:
        manifest, _ = await self._read(f"{folder}/{MANIFEST}")
        listed = [record for line in _whole_lines(manifest or b"") if (record := record_in(line)) is not None]
        there = set(await self._names_in(folder))
        chosen = {record.file for record in listed if selection.has(folder, record)}
        chosen |= {record.file for record in known if record.file in there}
        is_room = not selection.participant and selection.before is None
        if is_room and (chosen or folder in (selection.room, safe_name(selection.room))):
            chosen |= {name for name in there if name.endswith(".wav")}  # also what no list names yet
        if not chosen or only_count:
            return len(chosen)
        is_empty_then = is_room or chosen >= {record.file for record in listed}
        await self._delete(
            f"{folder}/{name}"
            for name in there
            if _belongs_to(name, chosen) or (is_empty_then and name in _LISTS)
        )
        if not is_empty_then:
            await self._strike_out(folder, chosen, selection)
        return len(chosen)

    async def _strike_out(self, folder: str, chosen: Container[str], selection: Selection) -> None:
        def is_chosen(file: str, line: bytes) -> bool:
            if file != GAPS:
                return _file_of(line) in chosen
            gap = gap_in(line)
            return gap is not None and selection.has(folder, gap)

        for file in _LISTS:
            data, _ = await self._read(f"{folder}/{file}")
            if data is not None:
                keep = functools.partial(_without, functools.partial(is_chosen, file))
                await self._replace(f"{folder}/{file}", keep)

    async def _folders(self) -> list[str]:
        from obstore import list_with_delimiter_async
        from obstore.exceptions import BaseError

        try:
            found = await list_with_delimiter_async(self._store)
        except (BaseError, OSError, ValueError) as error:
            raise sorted_out(error) from None
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"])

    async def _names_in(self, folder: str) -> list[str]:
        """The names of all objects of a folder."""
        from obstore import list as list_objects
        from obstore.exceptions import BaseError

        try:
            return [
                str(found["path"]).rpartition("/")[2]
                async for page in list_objects(self._store, f"{folder}/")
                for found in page
            ]
        except (BaseError, OSError, ValueError) as error:
            raise sorted_out(error) from None

    async def _delete(self, keys: Iterable[str]) -> None:
        from obstore import delete_async
        from obstore.exceptions import BaseError

        for key in list(keys):
            try:
                await delete_async(self._store, key)
            except FileNotFoundError:
                continue
            except (BaseError, OSError, ValueError) as error:
                raise sorted_out(error) from None


# --- lists ---

_LISTS = (MANIFEST, TEXTS, GAPS)


def _whole_lines(data: bytes) -> list[bytes]:
    whole, newline, _ = data.rpartition(b"\n")
    return (whole + newline).splitlines(keepends=True)


def merged(ours: list[bytes], there: list[bytes]) -> list[bytes]:
    """What is there, in its order, and behind it what is new. A list's last word about a segment counts."""
    known = set(there)
    return there + [line for line in ours if line not in known]


def _without(is_chosen: Callable[[bytes], bool], lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if not is_chosen(line)]


def _file_of(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["file"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _belongs_to(name: str, chosen: Container[str]) -> bool:
    """Whether an object is a chosen segment's WAV, or one of its texts."""
    stem = name.removesuffix(".txt").rpartition("_")[0]
    return name in chosen or (name.endswith(".txt") and f"{stem}.wav" in chosen)


# --- errors ---

_OPERATOR = {
    "InvalidAccessKeyId": "S3_KEY_ID is not known there",
    "SignatureDoesNotMatch": "S3_KEY_SECRET is wrong",
    "Unauthorized": "S3_KEY_ID or S3_KEY_SECRET is wrong",
    "InvalidToken": "S3_KEY_ID or S3_KEY_SECRET is wrong",
    "ExpiredToken": "the key has expired",
    "NoSuchBucket": "there is no such bucket (S3_BUCKET)",
    "InvalidBucketName": "S3_BUCKET is no bucket's name",
    "RequestTimeTooSkewed": "this machine's clock is wrong by more than 15 minutes",
    "AuthorizationHeaderMalformed": "S3_REGION is wrong",
    "InvalidRegionName": "S3_REGION is wrong",
    "PermanentRedirect": "the bucket is elsewhere (S3_REGION, S3_ENDPOINT)",
    "QuotaExceeded": "the store is full (quota)",
    "XMinioStorageFull": "the store is full",
    "InsufficientStorage": "the store is full",
    "AccountProblem": "the account cannot be used",
    "AllAccessDisabled": "the account cannot be used",
}
"""What only the operator can mend, by S3's error code."""

_ITSELF = {
    "EntityTooLarge": "too large",
    "AccessDenied": "forbidden",
    "KeyTooLongError": "its name is too long",
    "InvalidObjectName": "its name is refused",
    "MetadataTooLarge": "its metadata is too large",
}
"""What is wrong with one object, if the store takes others."""


class Unconditional(Exception):
    """The store has no conditional writes: whoever wants one must look first."""


def _knows_no_checksums(error: Exception, mode: Any) -> bool:
    said = str(error).partition("\n\n")[0].casefold()
    is_about_it = "checksum" in said and "contentsha256" not in said and "baddigest" not in said
    return (is_about_it and "status code: 4" in said) or (
        mode == "overwrite" and "501 not implemented" in said
    )


def _cannot_do_that(error: Exception) -> bool:
    """Whether the store has no conditional writes."""
    return isinstance(error, NotImplementedError) or "501 Not Implemented" in str(error)


def sorted_out(error: Exception) -> RecorderError:
    """Who must act. Keys are never in the text: they do not travel."""
    text = str(error)
    code = _found(r"<Code>([A-Za-z0-9.]{1,60})</Code>", text)
    status = int(_found(r"status code: (\d{3})", text) or 0)
    if code in _OPERATOR or status in (401, 507):
        return ConfigError(
            f"{_OPERATOR.get(code) or _OPERATOR['Unauthorized' if status == 401 else 'QuotaExceeded']}"
        )
    if code in _ITSELF or status in (403, 413):
        return Refused(_ITSELF.get(code) or ("forbidden" if status == 403 else "too large"))
    if status in (404, 301, 307):
        return ConfigError("there is no such bucket (S3_BUCKET, S3_ENDPOINT)")
    if 400 <= status < 500 and status not in (408, 409, 412, 425, 429) and code not in _ON_THE_WAY:
        return Refused(f"the store answers {status} {code}".strip())
    if status:
        return RetryLater(f"the store answers {status} {code}".strip())
    return RetryLater(f"the store cannot be reached ({_reason(text)})")


_ON_THE_WAY = ("BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "RequestTimeout", "InvalidDigest")
"""Spoilt in transit: the next attempt brings it whole."""


def _reason(text: str) -> str:
    kind = _found(r"kind: (\w+)", text)
    known = {"Connect": "no connection", "Timeout": "no answer in time", "Request": "the connection broke"}
    return known.get(kind) or _first_line(text)[:120]


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def _first_line(error: object) -> str:
    return str(error).partition("\n")[0][:200]
