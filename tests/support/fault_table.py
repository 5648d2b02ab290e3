"""A pytest plugin that writes a table of faults: what is promised and what was measured. For ``python dev.py faults``.

A test of a fault has ``@pytest.mark.fault("what goes wrong", "what is promised")`` and may call the fixture
``seen("what was measured")``.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

Seen = Callable[[str], None]

HEAD = """# What happens when

Every fault below is done for real, by `python dev.py faults`: to the real worker, on a real LiveKit server, with a
teacher whose sentences are known by their sound. "Kept" means that the files held exactly the sentences that were
promised, in order, none twice. This page is written by a run.

"""


@dataclass
class Row:
    """One line of the table."""

    fault: str
    promised: str
    seen: str = ""
    verdict: str = ""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", metavar="FILE", help="write what was seen of each fault as a page")


def set_up_table(config: pytest.Config) -> None:
    """Called by the conftest once the options are known."""
    if config.getoption("--fault-table"):
        config.pluginmanager.register(_Table(Path(config.getoption("--fault-table"))))


@pytest.fixture
def seen(record_property: Callable[[str, object], None]) -> Seen:
    """Records what was measured, for the table."""
    return lambda what: record_property("seen", what)


class _Table:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, Row] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        faults = [item for item in items if item.get_closest_marker("fault")]
        config.hook.pytest_deselected(items=[item for item in items if item not in faults])
        items[:] = faults
        for item in items:
            mark = item.get_closest_marker("fault")
            assert mark is not None
            what, promised = mark.args
            case = getattr(item, "callspec", None)
            self._rows[item.nodeid] = Row(f"{what}: {case.id}" if case else what, promised)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        row = self._rows[report.nodeid]
        row.seen = "; ".join(str(value) for name, value in report.user_properties if name == "seen")
        if report.when == "call" or report.outcome == "skipped":
            row.verdict = {"passed": "kept", "failed": "**BROKEN**", "skipped": "not run here"}.get(
                report.outcome, row.verdict
            )

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not session.testscollected or session.config.option.collectonly:
            return
        lines = ["| fault | promised | seen |", "|---|---|---|"]
        for row in self._rows.values():
            outcome = "; ".join(part for part in (row.verdict, row.seen) if part)
            lines.append(f"| {row.fault} | {row.promised} | {outcome} |")
        kept = sum(row.verdict == "kept" for row in self._rows.values())
        run = f"{kept} of {len(self._rows)} kept, {datetime.now(UTC):%Y-%m-%d}, {platform.system()}."
        self._path.write_text(HEAD + "\n".join(lines) + f"\n\n{run}\n", encoding="utf-8", newline="\n")
