"""The tables of log lines in docs/operations.md agree with the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from support import ROOT
from support.program import sources

GAP = "…"
"""Stands for what differs from line to line."""

SHOWN_LEVELS = {"warning", "error", "critical"}
COMMANDS = {"lesson_tools", "lessons.py", "dev.py"}
"""Their output is no log of the worker."""


def quoted() -> list[str]:
    """The lines that the first column of the tables quotes."""
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = guide.partition("## What the log says")[2].partition("\n## ")[0]
    rows = [row.split(" | ")[0] for row in section.splitlines() if row.startswith("| `")]
    return [line for row in rows for line in re.findall("`([^`]+)`", row)]


def parts_of(line: str) -> list[str]:
    return [part for part in (part.strip() for part in line.split(GAP)) if part]


def logged() -> Iterator[str]:
    """The worker's messages from WARNING on that stand where they are logged."""
    for path in sources():
        if path.relative_to(ROOT).parts[0] in COMMANDS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            message = node.args[0] if node.func.attr in SHOWN_LEVELS else None
            if node.func.attr == "_log" and ast.unparse(node.args[0]) in ("logging.WARNING", "logging.ERROR"):
                message = node.args[1]
            if isinstance(message, ast.Constant):
                yield re.sub(r"%[-+.\d]*[a-z]", GAP, str(message.value))
            elif isinstance(message, ast.JoinedStr):
                yield "".join(
                    str(piece.value) if isinstance(piece, ast.Constant) else GAP for piece in message.values
                )


def is_quoted_by(message: str, line: str) -> bool:
    return bool(re.search(".*".join(map(re.escape, parts_of(line))), message))


def test_the_guide_quotes_only_lines_that_exist() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in sources())
    lines = quoted()
    assert len(lines) > 60
    for line in lines:
        assert parts_of(line), f"{line} fits every line of the log"
        for part in parts_of(line):
            assert part in source, f"no line of the log says {part!r}"


def test_the_guide_has_every_line_from_warning_on() -> None:
    messages = [message for message in logged() if message.strip(GAP)]
    assert len(messages) > 50
    lines = quoted()
    missing = [message for message in messages if not any(is_quoted_by(message, line) for line in lines)]
    assert not missing
