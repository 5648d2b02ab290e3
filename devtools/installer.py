"""Installs pinned packages with a pinned uv, which pip installs from the same registry, or with pip if there is no uv.

Standard library only: this runs before the environment exists.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from devtools.programs import ROOT, Failed, run_quietly

UV_REQUIREMENTS = ROOT / "devtools" / "requirements-uv.txt"

PIP_SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}
"""Pip's settings that say where packages come from, and their names in uv, which does not read pip's."""
INDEXES_OF_UV = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")

NO_CONNECTION = re.compile(
    r"connection error|failed to establish a new connection|connection (?:refused|reset|aborted)|timed? ?out"
    r"|dns error|name or service not known|name resolution|getaddrinfo|no such host|client error \(connect\)"
    r"|network is unreachable|no route to host|dial tcp|max retries exceeded|cannot connect to proxy",
    re.IGNORECASE,
)
ADDRESSES = (r"https?://(?:[^/@\s\"'`]+@)?([^/\s\"'`)]+)", r"host='([^']+)'")
TAIL_LINES = 15


def install(python: Path, requirements: Path, *options: str, keep_open: Sequence[int] = ()) -> None:
    """Installs what a requirements file pins into the environment of ``python``; options are those of uv and pip alike.

    Raises:
        Failed: the registry cannot be reached, or both installers failed.
    """
    arguments = ["install", "--quiet", *options, "-r", str(requirements)]
    if fetch_uv(python, keep_open=keep_open):
        command = [str(python), "-m", "uv", "pip", *arguments, "--python", str(python)]
        code, said = run_quietly(command, _uv_environment(python), keep_open)
        if not code:
            return
        _raise_if_unreachable("uv", said)
        print("uv could not install the packages, trying pip (about 1 minute) ...", flush=True)
    code, said = _pip(python, arguments, keep_open)
    if code:
        print("\n".join(said.splitlines()[-TAIL_LINES:]), flush=True)
        raise Failed(f"pip could not install {requirements.name}, see above.")


def fetch_uv(python: Path, *options: str, keep_open: Sequence[int] = ()) -> bool:
    """Installs the pinned uv as ``python -m uv``. False if the registry has none for this machine.

    Raises:
        Failed: the registry cannot be reached.
    """
    pinned = ["--require-hashes", "--only-binary=:all:", "-r", str(UV_REQUIREMENTS)]
    code, _ = _pip(python, ["install", "--quiet", *options, *pinned], keep_open)
    return not code


def fetch_python(uv: Path, version: str, folder: Path) -> None:
    """Downloads a Python into its own folder, with the uv that was installed into the folder ``uv``.

    Raises:
        Failed: it could not be downloaded.
    """
    command = [
        sys.executable,
        "-m",
        "uv",
        "python",
        "install",
        "--no-bin",
        "--install-dir",
        str(folder),
        version,
    ]
    code, said = run_quietly(command, {"UV_HTTP_RETRIES": "1", **os.environ, "PYTHONPATH": str(uv)})
    if code:
        _raise_if_unreachable("uv", said, "UV_PYTHON_INSTALL_MIRROR names another source of Pythons.")
        raise Failed(f"uv could not fetch Python {version}: {' '.join(said.split())}")


def unreachable(said: str) -> str | None:
    """The host that a program could not connect to, by its output; None: something else has failed."""
    if not NO_CONNECTION.search(said):
        return None
    return next((match[1] for address in ADDRESSES if (match := re.search(address, said))), "the network")


def _raise_if_unreachable(
    tool: str, said: str, hint: str = "PIP_INDEX_URL sets another registry, PIP_PROXY a proxy."
) -> None:
    host = unreachable(said)
    if host:
        raise Failed(f"{tool} cannot reach {host}: is this machine online? ({hint})")


def _pip(python: Path, arguments: Iterable[str], keep_open: Sequence[int]) -> tuple[int, str]:
    """Runs pip; returns its exit code and output. A host that it cannot reach is only named in its log."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "pip.log"
        command = [str(python), "-m", "pip", "--disable-pip-version-check", "--log", str(log), *arguments]
        code, said = run_quietly(command, {"PIP_RETRIES": "1", **os.environ}, keep_open)
        if code:
            troubles = [line for line in _lines(log) if NO_CONNECTION.search(line)]
            _raise_if_unreachable("pip", "\n".join(troubles))
        return code, said


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _uv_environment(python: Path) -> dict[str, str]:
    """Environment variables for uv with pip's registry, unless the user has set one for uv."""
    _, said = run_quietly([str(python), "-m", "pip", "--disable-pip-version-check", "config", "list"])
    from_pip = as_uv_settings(said)
    if any(name in os.environ for name in INDEXES_OF_UV):
        from_pip = {name: value for name, value in from_pip.items() if name not in INDEXES_OF_UV}
    return {"UV_HTTP_RETRIES": "1", "UV_INDEX_STRATEGY": "unsafe-best-match", **from_pip, **os.environ}


def as_uv_settings(pip_config: str) -> Mapping[str, str]:
    """The output of `pip config list`, as environment variables of uv."""
    found: dict[str, str] = {}
    for section in ("global", "install", ":env:"):  # the later one wins
        for line in pip_config.splitlines():
            key, _, value = line.partition("=")
            name = PIP_SETTINGS.get(key.removeprefix(f"{section}.").replace("_", "-"))
            if name and key.startswith(f"{section}."):
                found[name] = _in_uv_form(name, str(ast.literal_eval(value)))
    return {name: value for name, value in found.items() if value}


def _in_uv_form(name: str, value: str) -> str:
    """Converts a value: pip separates by white space, and treats a missing folder of wheels as an empty one."""
    if name == "UV_FIND_LINKS":
        return ",".join(link for link in value.split() if "://" in link or Path(link).is_dir())
    return " ".join(value.split()) if name in ("UV_INDEX", "UV_INSECURE_HOST") else value
