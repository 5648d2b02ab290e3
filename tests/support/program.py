"""The program's own sources, for tests that read them all, or run a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import cache_from_source
from pathlib import Path

from support import ROOT

PACKAGES = ("archive", "core", "delivery", "lesson_tools", "recording", "search", "text", "worker")


def sources() -> Iterator[Path]:
    """Every module of the program: those of the root, and those of its packages."""
    yield from sorted(ROOT.glob("*.py"))
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def copy_program(folder: Path) -> None:
    """Puts the program into a folder, without any .env of the developer's.

    What Python has compiled is copied, too: it fits by its time stamp, and compiling it again takes a second.
    """
    for path in sources():
        copy = folder / path.relative_to(ROOT)
        for source, target in ((path, copy), (_compiled(path), _compiled(copy))):
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)


def _compiled(path: Path) -> Path:
    return Path(cache_from_source(str(path)))
