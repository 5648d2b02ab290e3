"""Runs a PostgreSQL server for tests: the distribution's program, on loopback, in a folder that is deleted at the end.

Found on the PATH or where distributions put it; on a CI machine (CI=true) without one it is installed with apt-get.
PostgreSQL refuses to run as root; if this process is root, the server runs as a user without other rights.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg

from devtools.machine import ProgramUnavailable, found_or_installed, free_port, is_root, on_path
from devtools.server import Server

START_SECONDS = 60.0
STOP_SECONDS = 15.0
UNPRIVILEGED = ("postgres", "nobody")
"""Users that run the server if this process is root: the first that exists."""


def find_or_install() -> Path:
    """The folder that holds ``initdb`` and ``postgres``.

    Raises:
        ProgramUnavailable: there is none.
    """
    return found_or_installed(_find_postgres, "PostgreSQL server", "postgresql").parent


def find_pooler() -> Path:
    """PgBouncer's path.

    Raises:
        ProgramUnavailable: there is none.
    """
    return found_or_installed(lambda: on_path("pgbouncer"), "PgBouncer", "pgbouncer")


def _find_postgres() -> Path | None:
    """On the PATH, or where Debian keeps them: the newest."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_version)
    return on_path("postgres") or (installed[-1] if installed else None)


def _version(path: Path) -> int:
    return int(re.sub(r"\D", "", path.parts[-3]) or 0)


class PostgresServer(Server):
    """``with PostgresServer() as server:`` a database with its own password that only this machine can reach."""

    def __init__(self) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(8)
        self._programs = find_or_install()
        self._account = _account() if is_root() else None
        self._folder: Path | None = None
        self._database: subprocess.Popen[bytes] | None = None
        self._pooler: subprocess.Popen[bytes] | None = None

    def url(self, user: str = "postgres", password: str | None = None, port: int | None = None) -> str:
        """``postgresql://...`` for this user, by default the owner."""
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{port or self.port}/postgres"

    def start(self) -> None:
        """Returns when it accepts connections.

        Raises:
            ProgramUnavailable: it does not start.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=_short_folder()))
        if self._account is not None:
            shutil.chown(self._folder, *self._account)
        secret = self._folder / "password"
        secret.write_text(self.password, encoding="ascii")
        secret.chmod(0o644)
        data = str(self._folder / "data")
        done = subprocess.run(
            [*self._as_account(), str(self._programs / "initdb"), "-D", data, "-U", "postgres", "-E", "UTF8"]
            + ["--locale=C", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync"],
            capture_output=True,
            cwd=self._folder,
            encoding="utf-8",
        )
        if done.returncode:
            raise ProgramUnavailable(f"initdb failed: {done.stderr.strip().splitlines()[-1:]}")
        self.run()

    def run(self) -> None:
        """Starts the server on its folder, also after :meth:`pause`."""
        assert self._folder
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self._folder / "data"), *arguments]
        self._database = self._launched(command)
        self._wait_until_ready(self._database, self.port)

    def reset(self) -> None:
        """Makes it like new: running, and without tables."""
        if self._database is None:
            self.run()
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")

    def start_pooler(self) -> int:
        """Starts a PgBouncer in transaction mode, with two connections to the database; returns its port."""
        assert self._folder
        port = free_port()
        users = self._folder / "users.txt"
        users.write_text(f'"postgres" "{self.password}"\n', encoding="ascii")
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nauth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\n"
            "default_pool_size = 2\nunix_socket_dir =\nserver_reset_query_always = 1\n"
            "server_reset_query = DISCARD ALL\n",
            encoding="ascii",
        )
        for path in (users, settings):
            path.chmod(0o644)
        self._pooler = self._launched([str(find_pooler()), str(settings)])
        self._wait_until_ready(self._pooler, port)
        return port

    def stop(self) -> None:
        """Ends it and removes its folder."""
        for process in (self._pooler, self._database):
            if process is not None:
                _end(process, signal.SIGINT)
        self._pooler = self._database = None
        atexit.unregister(self.stop)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def pause(self) -> None:
        """Ends the server at once, as an outage does; :meth:`run` starts it again with its data."""
        assert self._database
        _end(self._database, signal.SIGQUIT)
        self._database = None

    def _launched(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        atexit.register(self.stop)
        return subprocess.Popen(
            [*self._as_account(), *command],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait_until_ready(self, process: subprocess.Popen[bytes], port: int) -> None:
        """Waits until it accepts a query: it listens earlier than that."""
        deadline = time.monotonic() + START_SECONDS
        while not self._accepts_connections(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ProgramUnavailable(f"The server on port {port} does not accept connections")
            time.sleep(0.05)

    def _accepts_connections(self, port: int) -> bool:
        try:
            psycopg.connect(self.url(port=port), connect_timeout=10).close()
        except psycopg.OperationalError:
            return False
        return True

    def _as_account(self) -> list[str]:
        if self._account is None:
            return []
        user, group = self._account
        return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]


def _end(process: subprocess.Popen[bytes], how: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(how)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _account() -> tuple[int, int]:
    """User and group ids of a user without rights."""
    if sys.platform == "win32":
        raise ProgramUnavailable("PostgreSQL is not run for tests here")
    import pwd

    for name in UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise ProgramUnavailable("PostgreSQL does not run as root, and this system has no other user for it")


def _short_folder() -> str | None:
    """The parent of the server's folder: one that the other user may enter; None: the default."""
    return "/tmp" if os.path.isdir("/tmp") else None


def main() -> int:
    """Finds or installs PostgreSQL for the tests of delivery, and prints where it is; without it they are skipped."""
    for find in (find_or_install, find_pooler):
        try:
            print(find())
        except ProgramUnavailable as error:
            print(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
