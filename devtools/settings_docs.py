"""Writes the documents of the settings from ``config.py``: ``docs/settings.md`` and ``.env.example``.

python -m devtools.settings_docs
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from config import Settings

ROOT = Path(__file__).parent.parent
SETTINGS_PAGE = ROOT / "docs" / "settings.md"
ENV_EXAMPLE = ROOT / ".env.example"

PAGE_HEAD = """# Settings

Settings are read from the environment, `.env.local` and `.env`, in this order: the first that names a setting
counts. An empty value means the default. Only the first three settings are required; the others have defaults.
A wrong value stops the start with one line that names it. `python agent.py check` tries them against the server,
the disk and Gemini.

This page and `.env.example` are written by `python -m devtools.settings_docs`; change `config.py` instead.
"""


class Group(NamedTuple):
    """A heading in the documents, and who needs the settings below it."""

    heading: str
    first: str
    """Its first setting. The group ends where the next begins."""
    needed_by: str


GROUPS = (
    Group("Start here", "livekit_url", "For every installation."),
    Group(
        "Text and captions",
        "target_languages",
        "For those who want transcripts, translations or live captions ([translation.md](translation.md)).",
    ),
    Group(
        "Who is recorded",
        "record",
        "For those whose roles, rooms or numbers of participants differ from the defaults ([setup.md](setup.md)).",
    ),
    Group("Files and disk", "timezone", "For those who process the files further."),
    Group(
        "Delivery and retention",
        "retention_days",
        "For those who keep recordings in a bucket or a database, or delete them after a time "
        "([delivery.md](delivery.md)).",
    ),
    Group(
        "Operation",
        "max_rooms",
        "For those who run the worker on a server ([operations.md](operations.md)).",
    ),
    Group(
        "Speech detection",
        "vad_runtime",
        "For those who want speech cut differently ([segmentation.md](segmentation.md)).",
    ),
)
"""In the order of the settings."""

EXAMPLE_HEAD = """\
# Copy this file to .env and fill in the first three settings. All others have defaults.
# docs/settings.md explains the groups.
"""


def settings_page() -> str:
    """The text of ``docs/settings.md``: one table for each group."""
    parts = [PAGE_HEAD]
    for group, fields in _groups():
        rows = [table_row(field) for field in fields]
        table = "\n".join(["| setting | default | allowed | what it does |", "|---|---|---|---|", *rows])
        parts.append(f"## {group.heading}\n\n{group.needed_by}\n\n{table}\n")
    return "\n".join(parts)


def table_row(field: dataclasses.Field[Any]) -> str:
    """One setting as a row of a Markdown table."""
    kind = field.metadata["kind"]
    default = f"`{_shown(field.default)}`".replace("``", "")
    default = "**required**" if _is_to_fill_in(field) else default
    return f"| `{field.name.upper()}` | {default} | {kind.allowed} | {kind.help} |"


def env_example() -> str:
    """The text of ``.env.example``: required settings to fill in, the others commented out with their defaults."""
    lines = EXAMPLE_HEAD.splitlines()
    for group, fields in _groups():
        lines += ["", f"# --- {group.heading} ---"]
        for field in fields:
            kind = field.metadata["kind"]
            lines.append(f"# {kind.help} [{kind.allowed}]")
            lines.append(
                f"{'' if _is_to_fill_in(field) else '#'}{field.name.upper()}={_shown(field.default)}"
            )
    return "\n".join(lines) + "\n"


def _groups() -> Iterator[tuple[Group, list[dataclasses.Field[Any]]]]:
    """Yields each group with its settings."""
    fields = dataclasses.fields(Settings)
    names = [field.name for field in fields]
    starts = [*(names.index(group.first) for group in GROUPS), len(fields)]
    for group, (start, end) in zip(GROUPS, itertools.pairwise(starts), strict=True):
        yield group, list(fields[start:end])


def _is_to_fill_in(field: dataclasses.Field[Any]) -> bool:
    return bool(field.metadata["kind"].required)


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def main() -> None:
    """Writes both documents."""
    SETTINGS_PAGE.write_text(settings_page(), encoding="utf-8", newline="\n")
    ENV_EXAMPLE.write_text(env_example(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
