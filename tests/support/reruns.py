"""A pytest plugin that runs a failed test again if its own speaker stalled.

Speech is sent in real time. If the speaker's process could not run while it spoke, listeners heard a gap that the test
did not intend, and a failure says nothing about the recorder. Only such a test is run again, once; the summary names
it with the length of the stall. Every other failure counts.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_timeout
from _pytest.runner import runtestprotocol

from devtools import speakers
from devtools.check_all import STALL

MIN_STALL_SECONDS = 0.05
"""A marker with a shorter gap is still recognised (devtools/sound.py, STRETCH)."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    speakers.stalls.clear()
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    stall = max(speakers.stalls, default=0.0)
    if stall >= MIN_STALL_SECONDS and any(report.failed for report in reports):
        _log(item, [_as_rerun(report, stall) for report in reports if report.failed])
        _as_new(item, stall)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    _log(item, reports)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _as_rerun(report: pytest.TestReport, stall: float) -> pytest.TestReport:
    report.outcome = "rerun"  # type: ignore[assignment]
    report.user_properties = [(STALL, stall)]
    return report


def _as_new(item: pytest.Item, stall: float) -> None:
    """Resets what the first run measured, and the test's timeout."""
    item.user_properties[:] = [(STALL, stall)]
    item.ihook.pytest_timeout_cancel_timer(item=item)
    settings = pytest_timeout._get_item_settings(item)
    if settings.timeout:
        item.ihook.pytest_timeout_set_timer(item=item, settings=settings)


def _log(item: pytest.Item, reports: list[pytest.TestReport]) -> None:
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, Any] | None:
    if report.outcome == "rerun":  # type: ignore[comparison-overlap]
        return "rerun", "R", ("RERUN", {"yellow": True})
    return None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for report in terminalreporter.stats.get("rerun", ()):
        stall = dict(report.user_properties)[STALL]
        terminalreporter.write_line(f"RERUN {report.nodeid}: its speaker stalled for {stall:.2f} s")
