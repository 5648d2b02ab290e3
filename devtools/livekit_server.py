"""Finds or builds a livekit-server for the demo, the tests and the benchmarks, and runs it for this machine only.

Standard library only: this runs before the environment exists.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from devtools.go_programs import BuildFailed, GoProgram, built, in_go_mod
from devtools.machine import free_port
from devtools.progress import Report
from devtools.server import Server

MODULE = Path(__file__).resolve().parent / "livekit-server"
_PROGRAM = GoProgram(
    "livekit-server",
    in_go_mod(MODULE, r"livekit/livekit-server (v\S+)"),
    MODULE,
    "github.com/livekit/livekit-server/cmd/server",
    "2 to 6 minutes",
)
INSTALL_YOURSELF = "Install livekit-server (https://docs.livekit.io) and set LIVEKIT_SERVER to its path."

NEW_PROCESS_GROUP: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
"""Windows' start_new_session: a Ctrl-C in the terminal reaches only this process, which ends its children."""

LOOPBACK = "127.0.0.1"

START_SECONDS = 15.0
STOP_SECONDS = 3.0
ROOM_TIMEOUTS = {"empty_timeout": 10, "departure_timeout": 2}
"""Seconds after which the server closes a room that nobody joins, or that everybody has left."""


class ServerUnavailable(Exception):
    """There is no livekit-server, or it does not start; the message says why, in one line."""


# --- finding or building it ----------------------------------------------------------------------------------------


def find_or_build(report: Report) -> Path:
    """The path of a livekit-server: from ``LIVEKIT_SERVER``, ``PATH`` or the cache, otherwise built into the cache.

    Raises:
        ServerUnavailable: there is none and it cannot be built.
    """
    named = os.environ.get("LIVEKIT_SERVER")
    if named:
        return _checked(Path(named))
    on_path = shutil.which("livekit-server")
    if on_path:
        return Path(on_path)
    try:
        return built(_PROGRAM, report)
    except BuildFailed as error:
        raise ServerUnavailable(f"{error} {INSTALL_YOURSELF}") from error


def _checked(path: Path) -> Path:
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ServerUnavailable(f"LIVEKIT_SERVER={path} is wrong: there is no program there.")
    return path.resolve()


# --- running it ----------------------------------------------------------------------------------------------------


class LiveKitServer(Server):
    """One livekit-server with its own keys; by default only this machine can reach it.

    ``within`` is put before its command, for a server in another network namespace.
    """

    def __init__(
        self,
        binary: Path,
        *,
        log: Path | None = None,
        address: str = LOOPBACK,
        within: Sequence[str] = (),
    ) -> None:
        self.api_key = f"local{secrets.token_hex(4)}"
        self.api_secret = secrets.token_urlsafe(32)
        self._binary = binary
        self._address = address
        self._within = within
        self._log_path = log
        self._ports = (0, 0)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"ws://{self._address}:{self._ports[0]}"

    @property
    def pid(self) -> int:
        assert self._process, "the server is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def environment(self) -> dict[str, str]:
        """What a client of this server finds in its environment."""
        return {
            "LIVEKIT_URL": self.url,
            "LIVEKIT_API_KEY": self.api_key,
            "LIVEKIT_API_SECRET": self.api_secret,
        }

    def start(self) -> None:
        """Returns when the server answers. The first start chooses the ports; later ones keep them.

        Raises:
            ServerUnavailable: it ended, or did not answer in time; the message says why.
        """
        choosing = self._ports == (0, 0)
        for attempts_left in (2, 1, 0):
            if choosing:
                self._ports = (free_port(), free_port(socket.SOCK_DGRAM))
            try:
                return self._start_on(*self._ports)
            except _PortTaken as error:  # by another program, after free_port found it
                if not choosing or not attempts_left:
                    raise ServerUnavailable(str(error)) from error

    def stop(self) -> None:
        """Asks the server to end, then kills it. Participants are informed that it shuts down."""
        process = self._process
        if process and process.poll() is None:
            deadline = time.monotonic() + STOP_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                process.terminate()  # the first signal waits until all participants have left, the second does not
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
        self.kill()

    def kill(self) -> None:
        """Ends the server as a crash would."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
        atexit.unregister(self.kill)

    def restart(self) -> None:
        """Stops and starts on the same ports, with the same keys; all rooms are forgotten."""
        self.stop()
        self.start()

    def _start_on(self, http_port: int, udp_port: int) -> None:
        with contextlib.ExitStack() as files:
            log: IO[bytes] = files.enter_context(
                open(self._log_path, "ab") if self._log_path else tempfile.TemporaryFile()
            )
            log_start = log.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                [*self._within, str(self._binary)],
                # Not as an argument: those are readable by every user of the machine.
                env={**os.environ, "LIVEKIT_CONFIG": self._config(http_port, udp_port)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                creationflags=NEW_PROCESS_GROUP,
            )
            atexit.register(self.kill)
            try:
                self._wait_until_it_answers(http_port, log, log_start)
            except BaseException:
                self.kill()
                raise

    def _config(self, http_port: int, udp_port: int) -> str:
        """JSON, which is YAML. No TCP port for media: the server would open it to the whole network. And a STUN server
        that does not answer: without one, clients would use public ones.
        """
        return json.dumps(
            {
                "port": http_port,
                "bind_addresses": [self._address],
                "keys": {self.api_key: self.api_secret},
                "room": {"auto_create": True, **ROOM_TIMEOUTS},
                "rtc": {
                    "udp_port": udp_port,
                    "tcp_port": 0,
                    "node_ip": self._address,
                    "use_external_ip": False,
                    "enable_loopback_candidate": True,
                    "ips": {"includes": [f"{self._address}/32"]},
                    "stun_servers": [f"{self._address}:9"],
                },
            }
        )

    def _wait_until_it_answers(self, http_port: int, log: IO[bytes], log_start: int) -> None:
        assert self._process
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self._address, http_port):
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                reason = "ended at once" if ended else f"did not answer within {START_SECONDS:.0f} s"
                said = _last_line(self._log_path, log, log_start)
                error = _PortTaken if "address already in use" in said else ServerUnavailable
                raise error(f"{self._binary} {reason}: {said}")
            time.sleep(0.05)


class _PortTaken(ServerUnavailable):
    pass


def _answers(address: str, port: int) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=1)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_line(path: Path | None, log: IO[bytes], start: int) -> str:
    if path:
        said = path.read_bytes()[start:]
    else:
        log.seek(start)
        said = log.read()
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else "it logged nothing"


def main() -> int:
    """Prints the server's path; progress goes to standard error."""
    try:
        print(find_or_build(lambda line: print(line, file=sys.stderr, flush=True)))
    except ServerUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
