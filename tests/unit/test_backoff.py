"""Pauses between attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.backoff import Backoff


@pytest.mark.parametrize(("failures", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (1_000_000, 60)])
def test_a_pause_doubles_up_to_its_limit(failures: int, seconds: float) -> None:
    assert Backoff(1.0, 60.0).doubled(failures) == seconds


@given(st.integers(0, 10_000), st.floats(0, 10), st.floats(0, 3600))
def test_a_pause_is_at_least_half_of_its_limit(failures: int, first: float, longest: float) -> None:
    backoff = Backoff(first, longest)
    assert backoff.doubled(failures) / 2 <= backoff.pause(failures) <= backoff.doubled(failures) <= longest
