"""File locks, and writing small files completely or not at all. Everything here blocks."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO

from archive.names import PART_SUFFIX
from core.errors import InputError, StorageError

LOCK_FILE = ".lock"
PROOF = ".proof-"
"""How the names of the files begin that :func:`prove_disk` writes."""
OLD_PROOF_SECONDS = 3600.0
"""A proof that is older was left by a killed process."""

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def try_lock(file: IO[bytes]) -> bool:
    """Locks an open file for this handle; False if another handle holds the lock. A crash releases it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            # A lock on Windows prevents reading, so a byte far beyond the end of any file is locked.
            position = file.tell()
            file.seek(0x7FFF_FFFF)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(position)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


class FolderLock:
    """``with FolderLock(folder):`` excludes other processes and threads from the folder's names and lists."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._file: IO[bytes] | None = None

    def __enter__(self) -> None:
        file = self._open()
        try:
            while not try_lock(file):
                time.sleep(0.005)
        except BaseException:
            file.close()
            raise
        self._file = file

    def _open(self) -> IO[bytes]:
        try:
            return open_private(self._path, os.O_RDWR | os.O_CREAT)
        except PermissionError:
            # Of another owner: root has run a command here. Who may change the folder may replace the file.
            if self._path.is_dir() and not self._path.is_symlink():
                self._path.rename(self._path.with_name(f"{LOCK_FILE}-{secrets.token_hex(4)}"))
            else:
                self._path.unlink()
            return open_private(self._path, os.O_RDWR | os.O_CREAT)

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()


class Reservation:
    """``with Reservation(folder, "FILE_1"):`` reserves a piece of work for this process.

    Raises:
        InputError: another process has reserved it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f".{name}.lock"
        self._file: IO[bytes] | None = None

    def __enter__(self) -> None:
        while self._file is None:
            file = open_private(self._path, os.O_RDWR | os.O_CREAT)
            if not try_lock(file):
                file.close()
                raise InputError(
                    f"{self._path.parent.name}: the same is being done by another process right now"
                )
            if is_still_at(file, self._path):
                self._file = file
            else:  # the process that held it has just finished and removed the file
                file.close()

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # Windows cannot remove an open file
                self._path.unlink()
            self._file.close()


def is_still_at(file: IO[bytes], path: Path) -> bool:
    """Whether ``path`` still names this open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def open_private(path: Path, flags: int) -> IO[bytes]:
    """Opens an unbuffered binary file; a new one gets the mode 0600. Follows no symbolic link.

    Raises:
        PermissionError: the system does not permit it, or there is something else than a regular file.
    """
    if not is_ordinary_or_none(path):
        raise PermissionError(errno.EACCES, "it is no regular file", str(path))
    descriptor = os.open(
        path, flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0), PRIVATE_FILE
    )
    return os.fdopen(descriptor, "r+b", buffering=0)


def is_ordinary_or_none(path: Path) -> bool:
    """Whether there is a regular file or nothing at ``path``. Opening anything else, such as a pipe, may block."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True


def write_all(file: IO[bytes], data: bytes) -> None:
    """Writes all of ``data``: one write to a nearly full disk may take only a part of it, without an error."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def sync_file(path: Path) -> None:
    """Makes a file's content durable."""
    with open_private(path, os.O_RDWR) as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes renames and new names in ``folder`` durable. Does nothing on Windows and on disks without this."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def prepare_output_dir(path: Path) -> None:
    """Creates the output folder if necessary, and checks that it can be written.

    Raises:
        StorageError: it cannot be written; the reason in one line.
    """
    try:
        path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        with FolderLock(path):
            list(path.iterdir())
    except OSError as error:
        raise StorageError(f"OUTPUT_DIR={path} cannot be used: {error.strerror or error}") from error


def prove_disk(folder: Path) -> int:
    """Tests a folder with the operations that a segment needs: write, sync, rename. Returns its disk's free bytes.

    Raises:
        OSError: one of these failed.
    """
    name = f"{PROOF}{secrets.token_hex(4)}"  # workers on other machines may use the same disk
    part, proof = folder / f"{name}{PART_SUFFIX}", folder / name
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    try:
        write_whole(part, bytes(65_536))
        os.replace(part, proof)
        sync_folder(folder)
    finally:
        for path in (part, proof):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    _remove_old_proofs(folder)
    return shutil.disk_usage(folder).free


def _remove_old_proofs(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{PROOF}*"):
            if time.time() - path.stat().st_mtime > OLD_PROOF_SECONDS:
                path.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Writes a file, and syncs it unless ``sync`` is False. A crash may leave it incomplete; see
    :func:`write_private`."""
    file = open_private(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    with file:
        write_all(file, data)
        if sync:
            os.fsync(file.fileno())


def write_private(path: Path, data: bytes) -> None:
    """Writes a small durable file, 0600, completely or not at all. Root gives it to the folder's owner, who may be a
    recorder that has to read it."""
    write_pieces(path, (data,))


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Does the same with a file whose content comes in pieces."""
    whole = path.with_name(f".{path.name}.new")
    with open_private(whole, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as file:
        for piece in pieces:
            write_all(file, piece)
        os.fsync(file.fileno())
    if sys.platform != "win32" and os.geteuid() == 0:
        folder = os.stat(path.parent)
        with contextlib.suppress(OSError):
            os.chown(whole, folder.st_uid, folder.st_gid)
    os.replace(whole, path)
    sync_folder(path.parent)


def state_of(path: Path) -> tuple[int, ...]:
    """What changes with the content of a file; empty: there is none.

    Raises:
        OSError: the disk refuses.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def is_abandoned(path: Path) -> bool:
    """Whether no recorder, in this process or another, is writing the file."""
    with open_private(path, os.O_RDWR) as file:
        return try_lock(file)
