"""The soak test: its plan, its script, its check of wrong recordings, and its report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.soak import picture, report, run
from benchmarks.soak.gauges import Reading
from benchmarks.soak.lecture import BREATHLESS_MARKERS, Word, script
from benchmarks.soak.outcome import Done, Outcome
from benchmarks.soak.plan import ENDS_A_WORKER, Fault, plan
from benchmarks.soak.word_check import Sound, Span, WordCheck, compare, find_words
from devtools import sound
from devtools.sound import SAMPLE_RATE

pytestmark = pytest.mark.slow

MARKERS = sound.markers()
BEGAN = 1_800_000_000.0
LATE = 0.1
"""The delay of the path, in seconds."""


# --- the plan ---


def test_two_minutes_have_the_faults_that_matter_most() -> None:
    assert [planned.fault for planned in plan(2)] == [
        Fault.MUTE,
        Fault.ROLLING_RESTART,
        Fault.REJOIN,
        Fault.WORKER_KILLED,
    ]


def test_an_hour_has_every_fault_at_least_twice_and_one_worker_that_runs_for_half_of_it() -> None:
    planned = plan(60)
    faults = [one.fault for one in planned]
    assert min(faults.count(fault) for fault in Fault) >= 2
    ends = [one.at_seconds for one in planned if one.fault in ENDS_A_WORKER]
    assert max(after - before for before, after in pairwise(ends)) > 30 * 60


@pytest.mark.parametrize("minutes", [1, 2, 5, 17.5, 60, 300])
def test_faults_are_apart_and_leave_out_both_ends_of_the_lecture(minutes: float) -> None:
    times = [one.at_seconds for one in plan(minutes)]
    assert times[0] >= 15
    assert times[-1] <= minutes * 60 - 30
    assert all(after - before >= 24.99 for before, after in pairwise(times))


def test_what_a_machine_cannot_do_is_left_out() -> None:
    possible = [fault for fault in Fault if fault is not Fault.DISK_FULL]
    assert {one.fault for one in plan(60, possible)} == set(possible)


# --- the script ---


def test_the_lecture_is_the_same_every_time_and_says_the_markers_in_turn() -> None:
    first, second = (list(islice(script(40), 200)) for _ in range(2))
    assert first == second
    said = [marker for utterance in first for marker in utterance.markers]
    assert said == [number % 40 for number in range(len(said))]


def test_the_lecture_has_short_pauses_and_a_minute_without_one() -> None:
    utterances = list(islice(script(40), 100))
    assert min(utterance.pause_seconds for utterance in utterances) == 0.4
    longest = max(utterances, key=lambda utterance: len(utterance.markers))
    pcm, placed = longest.sound(MARKERS)
    assert len(placed) == BREATHLESS_MARKERS
    assert len(pcm) > 58 * SAMPLE_RATE
    assert all(before.end_sample == after.start_sample for before, after in pairwise(placed))


# --- the check of the words ---


def said(count: int = 6, gap: float = 0.3) -> tuple[list[Word], sound.IntArray]:
    """Some words and the sound of all of them, which begins at BEGAN."""
    pcm, placed = sound.sequence(MARKERS[:count], gap)
    words = [
        Word(
            one.marker_index,
            BEGAN + one.start_sample / SAMPLE_RATE,
            MARKERS[one.marker_index].pcm.size / SAMPLE_RATE,
        )
        for one in placed
    ]
    return words, pcm


def at(second: float) -> int:
    return round(second * SAMPLE_RATE)


def account(
    words: Sequence[Word],
    pieces: Sequence[tuple[float, sound.IntArray]],
    gaps: Sequence[tuple[float, float]] = (),
) -> WordCheck:
    """The check of files that begin so many seconds after BEGAN, with the times that the recorder would write."""
    sounds = [Sound(BEGAN + LATE + start, pcm) for start, pcm in pieces]
    gap_spans = [Span(BEGAN + LATE + start, BEGAN + LATE + end) for start, end in gaps]
    return compare(words, sounds, find_words(sounds, MARKERS), gap_spans)


def test_a_word_whose_beginning_is_in_a_gap_has_the_time_of_its_own_file() -> None:
    words, pcm = said()
    lost_from, lost_to = words[3].start - BEGAN - 1.4, words[3].start - BEGAN + 0.26
    pieces = [(0, pcm[: at(lost_from)]), (lost_to, pcm[at(lost_to) :])]
    found = account(words, pieces, [(lost_from, lost_to)])
    assert not found.misdated and not found.misplaced
    assert found.results[3].received_at == pytest.approx(words[3].start + LATE, abs=0.05)


def test_what_is_all_there_is_saved_and_its_times_are_known() -> None:
    words, pcm = said()
    found = account(words, [(0, pcm)])
    assert found.is_good
    assert found.lost_seconds == 0
    assert found.saved_seconds == pytest.approx(sum(word.seconds for word in words))
    assert [offset for _, offset in found.offsets()] == pytest.approx([LATE] * 6, abs=0.001)


def test_a_word_that_is_split_between_two_files_is_whole() -> None:
    words, pcm = said()
    cut = (words[2].start + words[2].seconds / 2) - BEGAN
    found = account(words, [(0, pcm[: at(cut)]), (at(cut) / SAMPLE_RATE, pcm[at(cut) :])])
    assert found.is_good
    assert found.lost_seconds == 0


def test_a_missing_word_outside_all_gaps_is_an_unexplained_loss() -> None:
    words, pcm = said()
    begin, end = words[2].start - BEGAN - 0.1, words[2].end - BEGAN + 0.1
    found = account(words, [(0, pcm[: at(begin)]), (end, pcm[at(end) :])])
    assert not found.is_good
    assert [result.word for result in found.unexplained] == [words[2]]
    assert found.lost_seconds == pytest.approx(words[2].seconds)


def test_a_missing_word_within_a_gap_is_an_explained_loss() -> None:
    words, pcm = said()
    begin, end = words[2].start - BEGAN - 0.1, words[2].end - BEGAN + 0.1
    found = account(words, [(0, pcm[: at(begin)]), (end, pcm[at(end) :])], [(begin, end)])
    assert found.is_good
    assert found.lost_seconds == pytest.approx(words[2].seconds)


def test_a_gap_at_another_time_explains_nothing() -> None:
    words, pcm = said()
    begin, end = words[2].start - BEGAN - 0.1, words[2].end - BEGAN + 0.1
    found = account(
        words, [(0, pcm[: at(begin)]), (end, pcm[at(end) :])], [(0, begin - 0.3), (end + 0.3, 60)]
    )
    assert [result.word for result in found.unexplained] == [words[2]]


def test_half_a_word_is_half_lost() -> None:
    words, pcm = said()
    begin = words[2].start - BEGAN + words[2].seconds * 0.4
    end = words[3].start - BEGAN - 0.1
    found = account(words, [(0, pcm[: at(begin)]), (end, pcm[at(end) :])])
    assert [result.word for result in found.unexplained] == [words[2]]
    assert found.lost_seconds == pytest.approx(0.6 * words[2].seconds, abs=0.01)


@pytest.mark.parametrize("lateness", [0.0, 0.5])
def test_both_ends_of_a_word_with_a_hole_are_found(lateness: float) -> None:
    """A hand-over in mid-word, on a machine that is late by half a second or not."""
    words, pcm = said()
    middle = words[2].start + words[2].seconds / 2 - BEGAN
    hole = Span(middle - 0.2, middle + 0.2)
    late = sound.near_silence(lateness + 0.001)[: round(lateness * SAMPLE_RATE)]
    pcm = np.concatenate([late, pcm])
    begin, end = at(hole.start + lateness), at(hole.end + lateness)
    files = [(0, pcm[:begin]), (end / SAMPLE_RATE, pcm[end:])]
    gap_spans = Span(begin / SAMPLE_RATE, end / SAMPLE_RATE)
    found = account(words, files, [gap_spans])
    assert found.is_good
    assert found.lost_seconds == pytest.approx(0.4, abs=0.2)
    (result,) = account(words, files).unexplained
    assert result.word == words[2]


CUT_SECONDS = (0.12, 0.4, 0.7)
"""How much of a word lies in the gap before its file."""


def with_beginning_in_gap(word: Word, pcm: sound.IntArray, cut: float) -> tuple[Span, sound.IntArray]:
    """The gap, and the file after it."""
    gap = Span(word.start - BEGAN - 1.2, word.start - BEGAN + cut)
    return gap, pcm[at(gap.end) :].copy()


@pytest.mark.parametrize("cut", CUT_SECONDS)
@pytest.mark.parametrize("number", range(4, 20, 3))
def test_a_jitter_buffer_may_shorten_what_comes_after_a_gap(number: int, cut: float) -> None:
    """After a gap it holds much, and plays faster: 10 ms are left out here and there."""
    words, pcm = said(number + 4)
    gap, after = with_beginning_in_gap(words[number], pcm, cut)
    for place in (0.15, 0.35):
        after = np.delete(after, np.arange(at(place), at(place + 0.01)))
    found = account(words, [(0, pcm[: at(gap.start)]), (gap.end, after)], [gap])
    assert not found.unexplained
    assert found.results[number].lost_seconds == pytest.approx(cut, abs=0.25)


@pytest.mark.parametrize("cut", CUT_SECONDS)
@pytest.mark.parametrize("number", range(4, 20, 3))
def test_a_hole_after_a_gap_is_an_unexplained_loss(number: int, cut: float) -> None:
    words, pcm = said(number + 4)
    gap, after = with_beginning_in_gap(words[number], pcm, cut)
    after[: at(0.45)] = 0
    found = account(words, [(0, pcm[: at(gap.start)]), (gap.end, after)], [gap])
    assert [result.word for result in found.unexplained] == [words[number]]


def test_a_word_in_two_files_is_doubled() -> None:
    words, pcm = said()
    begin, end = words[3].start - BEGAN - 0.1, words[3].end - BEGAN + 0.1
    found = account(words, [(0, pcm), (begin, pcm[at(begin) : at(end)])])
    assert not found.is_good
    assert found.doubled_seconds == pytest.approx(words[3].seconds)


def test_a_word_that_was_not_said_then_is_doubled() -> None:
    words, pcm = said()
    found = account(words, [(0, pcm), (30, sound.sequence([MARKERS[2]], [])[0])])
    assert not found.is_good
    assert [extra.marker for extra in found.extras] == [2]
    assert found.doubled_seconds == pytest.approx(words[2].seconds)


def test_words_in_another_order_are_misplaced() -> None:
    words, pcm = said()
    border = at((words[2].end + words[3].start) / 2 - BEGAN)
    found = account(words, [(0, np.concatenate([pcm[border:], pcm[:border]]))])
    assert found.misplaced
    assert not found.is_good


def test_words_at_another_time_are_misdated() -> None:
    words, pcm = said()
    found = account(words, [(3, pcm)])
    assert [result.word for result in found.misdated] == words
    assert not found.is_good


def test_silence_where_a_word_should_be_is_a_loss_although_there_is_a_file() -> None:
    words, pcm = said()
    mute = pcm.copy()
    mute[at(words[1].start - BEGAN) : at(words[1].end - BEGAN)] = 0
    assert [result.word for result in account(words, [(0, mute)]).unexplained] == [words[1]]


# --- the report ---


def outcome(checked: WordCheck, *, problem: str = "") -> Outcome:
    readings = [
        Reading(worker, BEGAN + second, 130.0 + worker, second / 10)
        for worker, seconds in ((1, range(0, 60, 5)), (2, range(40, 120, 5)))
        for second in seconds
    ]
    faults = [
        Done(Fault.MUTE, BEGAN + 15, BEGAN + 20),
        Done(Fault.WORKER_KILLED, BEGAN + 40, BEGAN + 50, problem),
    ]
    return Outcome(BEGAN, BEGAN + 120, faults, readings, 0, checked)


def test_the_report_says_what_is_wrong() -> None:
    words, pcm = said()
    begin, end = words[2].start - BEGAN - 0.1, words[2].end - BEGAN + 0.1
    bad = outcome(account(words, [(0, pcm[: at(begin)]), (end, pcm[at(end) :])]), problem="no worker came")
    assert not bad.is_well
    assert "lost outside all gaps" in report.page(bad)
    assert "no worker came" in report.page(bad)
    good = outcome(account(words, [(0, pcm)]))
    assert good.is_well
    assert report.ALL_WELL in report.page(good)


def test_a_loss_is_counted_for_the_last_fault_before_it() -> None:
    words = [Word(0, BEGAN + 20, 1.0), Word(1, BEGAN + 45, 1.7)]
    checked = compare(words, [], [], [Span(BEGAN + 44, BEGAN + 48)])
    costs = [(row.lost_seconds, row.gap_seconds) for row in report.rows(outcome(checked))]
    assert costs == [pytest.approx((1, 0)), pytest.approx((1.7, 4))]


def test_the_picture_has_both_workers_and_both_faults() -> None:
    words, pcm = said()
    drawn = ElementTree.fromstring(picture.svg(outcome(account(words, [(0, pcm)]))))
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"mute", "worker killed"} <= set(texts)
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}polyline"))) == 4


def test_a_picture_of_nothing_can_be_drawn() -> None:
    nothing = Outcome(BEGAN, BEGAN, [], [], 0, compare([], [], [], []), was_stopped=True)
    ElementTree.fromstring(picture.svg(nothing))
    assert "stopped before its time" in report.page(nothing)


# --- the command ---


@pytest.mark.parametrize("minutes", ["0", "301", "nan", "an hour", "-5"])
def test_a_length_that_cannot_be_is_refused_in_one_line(
    minutes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([f"--minutes={minutes}"]) == 2
    assert capsys.readouterr().err.splitlines() == [f"--minutes {minutes}: from 1 to 300"]


def test_a_folder_with_something_in_it_is_not_written_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious").touch()
    assert run.main(["--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines() == [f"--output {tmp_path} is not empty"]
