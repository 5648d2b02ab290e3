"""A PostgreSQL server for tests: the distribution's own, in a new folder, on loopback, gone when it is stopped.

Found on the PATH or where distributions put it; on a CI machine (CI=true) without one it is installed with apt-get.
PostgreSQL refuses to run as root, so there it runs as a user who may nothing else.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

START_SECONDS = 60.0
STOP_SECONDS = 15.0
UNPRIVILEGED = ("postgres", "nobody")
"""Users that we become where we are root, the first that exists."""


class PostgresUnavailable(Exception):
    """There is no PostgreSQL, or it does not start; the message says why, in one line."""


def find_or_install() -> Path:
    """The folder that holds ``initdb`` and ``postgres``.

    Raises:
        PostgresUnavailable: there is none.
    """
    found = _find("postgres")
    if found is None and os.environ.get("CI") == "true":
        apt_install("postgresql")
        found = _find("postgres")
    if found is None:
        raise PostgresUnavailable(
            "There is no PostgreSQL server here: install it (Debian: apt install postgresql)"
        )
    return found.parent


def find_pooler() -> Path:
    """PgBouncer's path.

    Raises:
        PostgresUnavailable: there is none.
    """
    found = _find("pgbouncer")
    if found is None and os.environ.get("CI") == "true":
        apt_install("pgbouncer")
        found = _find("pgbouncer")
    if found is None:
        raise PostgresUnavailable("There is no PgBouncer here: install it (Debian: apt install pgbouncer)")
    return found


def apt_install(package: str) -> None:
    """Installs a package of the distribution, if we may."""
    if not shutil.which("apt-get"):
        return
    become_root = [] if _is_root() else ["sudo", "-n", "-E"]
    if become_root and not shutil.which("sudo"):
        return
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package],
    ):
        subprocess.run(
            [*become_root, *command], env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=600
        )


def _find(program: str) -> Path | None:
    on_path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if on_path:
        return Path(on_path).resolve()
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=_version)
    return installed[-1] if installed else None


def _version(path: Path) -> int:
    return int(re.sub(r"\D", "", path.parts[-3]) or 0)


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


class PostgresServer:
    """``with PostgresServer() as server:`` a database that only this machine can reach, with a password of its own."""

    def __init__(self) -> None:
        self.port = _free_port()
        self.password = secrets.token_hex(8)
        self._programs = find_or_install()
        self._account = _account() if _is_root() else None
        self._folder: Path | None = None
        self._processes: list[subprocess.Popen[bytes]] = []

    def url(self, user: str = "postgres", password: str | None = None, port: int | None = None) -> str:
        """``postgresql://...`` for this user, by default the owner."""
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{port or self.port}/postgres"

    def start(self) -> None:
        """Returns when it takes connections.

        Raises:
            PostgresUnavailable: it does not start.
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
            raise PostgresUnavailable(f"initdb failed: {done.stderr.strip().splitlines()[-1:]}")
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
        self._launch(
            [str(self._programs / "postgres"), "-D", str(self._folder / "data"), *arguments], self.port
        )
        self._processes.insert(0, self._processes.pop())  # the first is the one that pause() ends

    def start_pooler(self) -> int:
        """A PgBouncer in transaction mode with two connections before the database; returns its port."""
        assert self._folder
        port = _free_port()
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
        self._launch([str(find_pooler()), str(settings)], port)
        return port

    def stop(self) -> None:
        """Ends it and removes its folder."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        atexit.unregister(self.stop)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def pause(self) -> None:
        """Ends the server at once, as an outage does; :meth:`run` brings it back with everything it had."""
        process = self._processes.pop(0)
        process.send_signal(signal.SIGQUIT)
        process.wait(STOP_SECONDS)

    def _launch(self, command: Sequence[str], port: int) -> None:
        process = subprocess.Popen(
            [*self._as_account(), *command],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._processes.append(process)
        atexit.register(self.stop)
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise PostgresUnavailable(f"{Path(command[0]).name} did not start")
            time.sleep(0.05)

    def _as_account(self) -> list[str]:
        if self._account is None:
            return []
        user, group = self._account
        return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]

    def __enter__(self) -> PostgresServer:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _account() -> tuple[int, int]:
    """User and group of somebody who may nothing."""
    if sys.platform == "win32":
        raise PostgresUnavailable("PostgreSQL is not run for tests here")
    import pwd

    for name in UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise PostgresUnavailable("PostgreSQL does not run as root, and there is nobody else here")


def _short_folder() -> str | None:
    """Somewhere that the other user may enter."""
    return "/tmp" if os.path.isdir("/tmp") else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> int:
    """Finds or installs what the tests of delivery need, and says where it is; without it they are skipped."""
    for find in (find_or_install, find_pooler):
        try:
            print(find())
        except PostgresUnavailable as error:
            print(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
