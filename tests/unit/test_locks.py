"""The lock files: an older pip installs the pinned versions despite newer releases, and every requirement is met."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from devtools.installer import install
from devtools.machine import cache_folder
from devtools.programs import ROOT

pytestmark = pytest.mark.slow

LOCKS = ["requirements.txt", "requirements-dev.txt"]
ALONE = [
    "devtools/livekit-server/requirements-go.txt",
    "devtools/requirements-pip.txt",
    "devtools/requirements-uv.txt",
]
"""Installed into folders of their own."""
OLD_PIP = ROOT / "devtools" / "requirements-pip.txt"


@dataclass(frozen=True)
class Pin:
    name: str
    version: str
    extras: frozenset[str]

    @property
    def line(self) -> str:
        extras = f"[{','.join(sorted(self.extras))}]" if self.extras else ""
        return f"{self.name}{extras}=={self.version}"

    @property
    def requires(self) -> list[Requirement]:
        """What it needs on this machine, with its extras."""
        said = importlib.metadata.requires(self.name) or []
        return [one for one in map(Requirement, said) if self._concerns(one)]

    def _concerns(self, requirement: Requirement) -> bool:
        marker = requirement.marker
        return marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *self.extras})


def pins(lock: str) -> dict[str, Pin]:
    """The lines of a lock that count on this machine."""
    found: dict[str, Pin] = {}
    for line in (ROOT / lock).read_text(encoding="utf-8").splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            requirement = Requirement(line.rstrip("\\ "))
            if requirement.marker is None or requirement.marker.evaluate():
                (specifier,) = requirement.specifier
                assert specifier.operator == "=="
                name = canonicalize_name(requirement.name)
                found[name] = Pin(name, specifier.version, frozenset(requirement.extras))
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_of_every_locked_package_is_met_by_a_line(lock: str) -> None:
    locked = pins(lock)
    unmet = []
    for pin in locked.values():
        assert importlib.metadata.version(pin.name) == pin.version
        for requirement in pin.requires:
            line = locked.get(canonicalize_name(requirement.name))
            if (
                line is None
                or not requirement.specifier.contains(line.version, prereleases=True)
                or not requirement.extras <= line.extras
            ):
                unmet.append(
                    f"{pin.line} requires {requirement}, and there is {line.line if line else 'no line'}"
                )
    assert not unmet


@pytest.mark.parametrize("lock", [*LOCKS, *ALONE])
def test_every_line_has_a_version_and_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert lines
    assert [line for line in lines if not re.search(r"==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


# --- an older pip --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old_pip() -> Path:
    """A folder with the pip that an older system has."""
    digest = hashlib.sha256(OLD_PIP.read_bytes()).hexdigest()[:12]
    folder = cache_folder() / f"old-pip-{digest}-{sys.version_info.minor}"
    if not (folder / "pip").exists():
        install(Path(sys.executable), OLD_PIP, "--no-deps", "--target", str(folder))
    return folder


@pytest.mark.parametrize("lock", LOCKS)
def test_an_older_pip_takes_the_pins_whatever_is_released_later(
    lock: str, old_pip: Path, tmp_path: Path
) -> None:
    done = resolved(pins(lock).values(), old_pip, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"-\d\S*\.post9", done.stdout)


def test_without_extras_in_the_lock_it_would_not(old_pip: Path, tmp_path: Path) -> None:
    bare = [Pin(pin.name, pin.version, frozenset()) for pin in pins("requirements.txt").values()]
    done = resolved(bare, old_pip, tmp_path)
    assert done.returncode
    assert "all requirements must have their versions pinned" in done.stderr


def resolved(locked: Iterable[Pin], pip: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """What pip says when it would install the pins from an index that also has newer releases.

    The index is a folder of empty wheels. Of each package that another asks for with an extra there is a newer one.
    """
    index = folder / "index"
    lines = []
    for pin in locked:
        hashed = hashlib.sha256(_wheel(index, pin, pin.version).read_bytes()).hexdigest()
        lines.append(f"{pin.line} --hash=sha256:{hashed}")
        for requirement in pin.requires:
            if requirement.extras:
                name = canonicalize_name(requirement.name)
                version = importlib.metadata.version(name)
                _wheel(index, Pin(name, version, frozenset(requirement.extras)), f"{version}.post9")
    for project in index.iterdir():
        page = "".join(f'<a href="{wheel.name}">{wheel.name}</a>' for wheel in project.iterdir())
        (project / "index.html").write_text(f"<!DOCTYPE html>{page}", encoding="utf-8")
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join(lines), encoding="utf-8")
    own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--dry-run", "--ignore-installed"]
    options = ["--index-url", index.as_uri(), "--require-hashes", "-r", str(requirements)]
    return subprocess.run(
        [*command, *options],
        env={**own, "PYTHONPATH": str(pip)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=100,
    )


def _wheel(index: Path, pin: Pin, version: str) -> Path:
    """An empty wheel that requires what the installed package does, in the folder of its project."""
    stem = f"{pin.name.replace('-', '_')}-{version}"
    path = index / pin.name / f"{stem}-py3-none-any.whl"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    extras = importlib.metadata.metadata(pin.name).get_all("Provides-Extra") or []
    requires = importlib.metadata.requires(pin.name) or []
    metadata = ["Metadata-Version: 2.1", f"Name: {pin.name}", f"Version: {version}"]
    metadata += [f"Provides-Extra: {extra}" for extra in extras]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    files = {
        "METADATA": "\n".join(metadata) + "\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        record = []
        for name, text in files.items():
            inside = f"{stem}.dist-info/{name}"
            wheel.writestr(inside, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record.append(f"{inside},sha256={digest},{len(text.encode())}")
        wheel.writestr(f"{stem}.dist-info/RECORD", "\n".join([*record, f"{stem}.dist-info/RECORD,,"]))
    return path
