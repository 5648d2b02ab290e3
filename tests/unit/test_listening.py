"""The recognition of sentences for the demo: one that is missing from the files is not found, one that is there is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from devtools import sound
from devtools.listening import share_heard

pytestmark = pytest.mark.slow


def _sentences() -> list[tuple[int, int]]:
    spoken = json.loads((sound.SPEECH / "lecture.json").read_text(encoding="utf-8"))["sentences"]
    return [(round(one["start"] * 16_000), round(one["end"] * 16_000)) for one in spoken]


def _share(recording: sound.IntArray, sentence: tuple[int, int]) -> float:
    start, end = sentence
    return share_heard(recording, sound.load("lecture")[start:end], start)


@pytest.mark.parametrize("late_samples", [0, 2_000, 16_000])
def test_every_sentence_is_found_though_it_comes_late_and_noisy(late_samples: int) -> None:
    lecture = sound.load("lecture")
    noise = np.random.default_rng(1).integers(-100, 100, len(lecture) + late_samples).astype(np.int16)
    noise[late_samples:] += lecture
    assert min(_share(noise, sentence) for sentence in _sentences()) == 1.0


@pytest.mark.parametrize("sentence", _sentences())
def test_a_sentence_that_was_cut_out_is_missed(sentence: tuple[int, int]) -> None:
    recording = sound.load("lecture").copy()
    recording[slice(*sentence)] = 0
    assert _share(recording, sentence) <= 0.5
