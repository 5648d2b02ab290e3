"""A pytest plugin that records how long a test's speakers stalled, for `dev.py test` (devtools/check_all.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from devtools import stalls
from devtools.check_all import STALL


@pytest.fixture(autouse=True)
def record_stalls(record_property: Callable[[str, object], None]) -> Iterator[None]:
    stalls.seconds.clear()
    yield
    if stalls.seconds:
        record_property(STALL, round(max(stalls.seconds), 2))
