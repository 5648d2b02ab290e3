"""``python dev.py faults``: the page is written by a run, and by nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import dev
from support import ROOT

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "faults.md"


def test_a_run_finds_its_tests_where_there_is_a_page_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that only lists the faults does not change the page. One file of faults is enough to be listed."""
    before = PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(dev, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(dev, "prepare_environment", lambda _: None)
    monkeypatch.setattr(dev, "_livekit_server", lambda: "")
    assert dev.faults(["--collect-only", "--override-ini=testpaths=tests/faults/test_clocks.py"]) == 0
    assert PAGE.read_text(encoding="utf-8") == before
