"""The benchmarks that need no server, in a few seconds: they give figures, and the targets for speech are met."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import soundfile

from benchmarks import age, bell, corpus, delivery, detector, disk, lessons, offline, speech, text, vad
from benchmarks.figures import Figure, Options, Outcome, markdown_table, table
from benchmarks.noises import NOISES
from benchmarks.soak.lecture import Word
from devtools import sound
from devtools.speakers import resampled

pytestmark = pytest.mark.slow

QUICK = Options(runs=1, quick=True, say=lambda line: None)


def values(outcome: Outcome, what: str) -> list[float]:
    """Our values of all figures whose name contains this."""
    found = [figure.value for figure in outcome.figures if what in figure.what]
    assert found, f"no figure about {what!r}"
    return found


def test_no_word_is_lost_none_is_doubled_and_no_file_is_too_long() -> None:
    outcome = speech.measure(QUICK)
    assert len(outcome.figures) == 5 * len(speech.CONDITIONS)
    assert max(values(outcome, "lost")) <= 0.5
    assert max(values(outcome, "doubled")) == 0
    assert 0 < max(values(outcome, "longest")) <= 10


def test_the_stock_recipe_loses_what_is_cut_off() -> None:
    (cut_off,) = (condition for condition in speech.CONDITIONS if not condition.ends_by_itself)
    clips = cut_off.make(corpus.shipped(), 0, 20)
    assert speech.score(clips, offline.stock).lost_percent > 10


def test_recordings_of_your_own_are_labelled_by_their_energy(tmp_path: Path) -> None:
    made = corpus.recording(corpus.shipped(), seed=0, seconds=20, pause=lambda _: 1.0)
    soundfile.write(tmp_path / "talk.wav", made.pcm, corpus.RATE)
    found = corpus.from_folder(tmp_path)
    labelled = sum(int(one.labels.sum()) for one in found) / corpus.RATE
    assert labelled == pytest.approx(made.speech_seconds, rel=0.1)


def test_the_detector_is_measured_at_levels_in_noises_after_cuts_and_after_a_while() -> None:
    outcome = detector.measure(QUICK)
    assert len(outcome.figures) == 2 * len(detector.LEVELS_DB) + 4 * len(NOISES) + 2 + 1
    assert max(values(outcome, "0 dB: speech lost")) <= 0.35
    assert max(values(outcome, "cut in mid-speech: speech lost")) <= 0.2


def test_a_second_of_speech_has_its_size_on_disk() -> None:
    (figure,) = disk.measure(QUICK).figures
    assert 32 < figure.value < 35
    assert figure.other_value == pytest.approx(96, rel=0.01)


def test_a_backlog_is_delivered_and_measured() -> None:
    seconds, megabytes = delivery.measure(QUICK).figures
    assert 0 < seconds.value
    assert megabytes.other_value is not None and megabytes.other_value > 10


def test_the_voice_detector_path_gives_figures() -> None:
    native, onnx = vad.measure(QUICK).figures
    assert 0 < native.value < onnx.value
    assert native.ratio is not None


def test_the_wait_for_text_gives_figures() -> None:
    figures = text.measure(QUICK).figures
    assert len(figures) == 2
    assert all(figure.value > 0 for figure in figures)


@pytest.mark.parametrize(
    ("figure", "passed"),
    [
        (Figure("a", "MB", [1, 2, 9], at_most=2), True),
        (Figure("a", "MB", [1, 2, 9], at_most=2, judged_by_worst=True), False),
        (Figure("a", "rooms", [10, 9, 10], at_least=10, judged_by_worst=True), False),
        (Figure("a", "s", [1, 2], [4, 4], ratio_at_most=0.4), True),
        (Figure("a", "s", [1, 2], [4, 4], ratio_at_most=0.3), False),
        (Figure("a", "s", [0], [0], ratio_at_most=1), True),
        (Figure("a", "s", [1]), None),
    ],
)
def test_a_figure_is_held_to_its_target(figure: Figure, passed: bool | None) -> None:
    assert figure.passed is passed


def test_an_outcome_is_the_same_after_it_was_kept(tmp_path: Path) -> None:
    outcome = Outcome("disk", [Figure("a", "MB", [1.0], [2.0], at_most=3)], ["said"])
    outcome.save(tmp_path)
    assert Outcome.load(tmp_path, "disk") == outcome
    assert Outcome.load(tmp_path, "vad") is None
    assert _lines(table(outcome.figures)) == 2
    assert _lines(markdown_table(outcome.figures)) == 3


def _lines(text: str) -> int:
    lines: Sequence[str] = text.splitlines()
    return len(lines)


def test_the_commands_for_lessons_are_measured() -> None:
    outcome = lessons.measure(QUICK)
    assert min(values(outcome, "segment: times faster")) > 1
    assert all(figure.value > 0 for figure in outcome.figures)


# --- bell ---


def words(*seconds: float) -> list[Word]:
    """Words of these lengths, one every two seconds."""
    return [Word(number, 2.0 * number, length) for number, length in enumerate(seconds)]


@pytest.mark.parametrize(
    ("lost", "result"),
    [
        ((0, 0, 0), bell.RoomResult(0.0)),
        ((1, 1, 1), bell.RoomResult(None)),
        ((1, 0.5, 0), bell.RoomResult(2.5)),
        ((1, 0.9, 0), bell.RoomResult(4.0)),
        ((0, 1, 0.5), bell.RoomResult(0.0, 1.5)),
        ((0, 0.2, 0.2), bell.RoomResult(0.0)),
    ],
    ids=["all", "nothing", "from a word on", "hardly of it", "a loss later", "less than can be measured"],
)
def test_a_bell_is_judged_by_what_is_lost_of_each_word(
    lost: tuple[float, ...], result: bell.RoomResult
) -> None:
    found = bell.result(words(1, 1, 1), lost)
    assert found == result
    assert found.is_in_time(2.5) == (result.recorded_after in (0.0, 2.5) and not result.lost_seconds)


def test_the_lecture_of_the_publishers_is_opus_in_packets_of_20_ms(tmp_path: Path) -> None:
    lecture = bell.lecture_in(tmp_path, quick=True)
    pages = lecture.file.read_bytes().split(b"OggS")[1:]
    assert len(pages) - 2 == pytest.approx(lecture.seconds / 0.02, abs=3)  # less the two with the headers
    pcm, rate = soundfile.read(lecture.file, dtype="int16")
    heard = sound.heard(resampled(pcm, rate, sound.SAMPLE_RATE), sound.markers())
    assert heard == [word.marker for word in lecture.words]


# --- age ---


def test_what_a_segment_costs_is_measured_in_rooms_of_several_ages() -> None:
    outcome = age.measure(QUICK)
    assert [figure.what for figure in outcome.figures if "a segment" in figure.what] == [
        "10 segments: a segment",
        "100 segments: a segment",
        "10 rooms: a segment",
    ]
    assert all(figure.value > 0 for figure in outcome.figures)
