"""Whose fault a failure is: that of the segment, or of the service."""

from __future__ import annotations

import pytest

from text.failures import Failures, Verdict

A, B, C = ("math101", "a.wav"), ("math101", "b.wav"), ("math101", "c.wav")


@pytest.fixture
def failures() -> Failures:
    return Failures()


def test_a_segment_that_fails_while_others_succeed_is_at_fault(failures: Failures) -> None:
    assert failures.failed(A, 1.0, 2.0, most=3) is Verdict.AGAIN
    failures.succeeded(B, 3.0)
    assert failures.failed(A, 4.0, 5.0, most=3) is Verdict.AGAIN
    assert failures.failed(A, 6.0, 7.0, most=3) is Verdict.FINAL
    assert failures.count(A) == 3


def test_a_success_that_comes_during_the_first_attempt_counts(failures: Failures) -> None:
    failures.succeeded(B, 3.0)
    assert failures.failed(A, 2.0, 4.0, most=1) is Verdict.FINAL


def test_a_segment_that_fails_alone_is_not_at_fault_as_long_as_nothing_succeeds(failures: Failures) -> None:
    failures.succeeded(B, 0.0)
    verdicts = {failures.failed(A, float(time), time + 0.5, most=2) for time in range(1, 9)}
    assert verdicts == {Verdict.AGAIN}


def test_if_several_fail_and_none_succeeds_nothing_is_counted(failures: Failures) -> None:
    failures.failed(A, 1.0, 2.0, most=2)
    assert failures.failed(B, 1.5, 2.5, most=2) is Verdict.OUTAGE
    assert failures.failed(A, 3.0, 4.0, most=2) is Verdict.OUTAGE
    failures.succeeded(C, 5.0)
    assert failures.failed(A, 6.0, 7.0, most=2) is Verdict.AGAIN
    assert failures.failed(A, 8.0, 9.0, most=2) is Verdict.FINAL


def test_two_segments_that_always_fail_are_both_at_fault(failures: Failures) -> None:
    for key in (A, B):
        failures.failed(key, 1.0, 2.0, most=2)
    failures.succeeded(C, 3.0)
    assert failures.failed(A, 4.0, 5.0, most=2) is Verdict.AGAIN
    assert failures.failed(B, 4.0, 5.0, most=2) is Verdict.AGAIN
    assert failures.failed(A, 6.0, 7.0, most=2) is Verdict.FINAL


def test_a_segment_that_is_done_is_forgotten(failures: Failures) -> None:
    failures.failed(A, 1.0, 2.0, most=2)
    failures.forget(A)
    assert failures.count(A) == 0
    assert failures.failed(B, 3.0, 4.0, most=2) is Verdict.AGAIN
