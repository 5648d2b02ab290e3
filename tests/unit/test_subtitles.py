"""Subtitles that people can read, in files that players take."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.plain_text import one_line
from lesson_tools.export.subtitles import (
    LINE_WIDTH,
    MAX_SECONDS,
    MIN_SECONDS,
    RIGHT_TO_LEFT_MARK,
    SHORTEST_SECONDS,
    WORD_JOINER,
    Cue,
    Spoken,
    clock,
    cues,
    is_right_to_left,
    plain_text,
    srt,
    webvtt,
    width,
)

LONG = (
    "Now imagine a ray of sunlight that travels for eight minutes through empty space and then meets the air above "
    "our heads where it strikes countless tiny molecules that throw the short blue waves about in every direction."
)
ARABIC = (
    "هذا هو السبب في أن السماء كلها تضيء، وفي المساء؟ ثم يكون للضوء طريق أطول عبر الهواء، ويضيع معظم الأزرق."
)
JAPANESE = "だから、どこを見ても青い光があなたに向かってきています。そのため、空全体が輝いています。夕方は？"


def letters(text: str) -> str:
    return re.sub(r"\s", "", text)


# --- what a cue looks like ---


def test_a_short_sentence_is_one_line_at_its_time() -> None:
    assert cues([Spoken(2.0, 4.5, "Good morning.")]) == [Cue(2.0, 4.5, ("Good morning.",))]


@pytest.mark.parametrize("text", [LONG, ARABIC, JAPANESE], ids=["latin", "arabic", "japanese"])
def test_lines_are_short_and_two_at_most(text: str) -> None:
    for cue in cues([Spoken(0.0, 14.0, text)]):
        assert 1 <= len(cue.lines) <= 2
        assert all(width(line) <= LINE_WIDTH for line in cue.lines)


def test_long_speech_is_split_at_a_sentence() -> None:
    text = "This sentence has quite a few words in it, as you can see. And here is another, which is about as long."
    assert [cue.text for cue in cues([Spoken(0, 8, text)])] == [
        "This sentence has quite a few words in it, as you can see.",
        "And here is another, which is about as long.",
    ]


def test_long_speech_without_sentences_is_split_at_a_clause_or_between_words() -> None:
    with_clause = (
        "a word and a word and some more of the words that go on, and words and a word and yet other words"
    )
    first, second = cues([Spoken(0, 8, with_clause)])
    assert first.text.endswith("go on,") and second.text.startswith("and words")
    for cue in cues([Spoken(0, 8, with_clause.replace(",", ""))]):
        assert set(cue.text.split()) <= set(with_clause.replace(",", "").split()), "a word was cut"


def test_each_part_gets_its_share_of_the_time() -> None:
    parts = cues([Spoken(10.0, 24.0, LONG)])
    assert parts[0].start == 10.0 and parts[-1].end == pytest.approx(24.0)
    for before, after in pairwise(parts):
        assert before.end == pytest.approx(after.start)
    speeds = [width(cue.text) / (cue.end - cue.start) for cue in parts]
    assert max(speeds) < 1.1 * min(speeds)


def test_slow_speech_is_split_into_several_cues() -> None:
    parts = cues([Spoken(0.0, 20.0, "Think about it for a while, and then tell me what you see, everyone.")])
    assert max(cue.end - cue.start for cue in parts) <= MAX_SECONDS + 0.5


def test_a_cue_stays_until_it_is_read_if_there_is_a_pause() -> None:
    fast = "A sentence of sixty letters that was said in a great hurry."
    (alone,) = cues([Spoken(0.0, 1.0, fast)])
    assert alone.end == pytest.approx(width(fast) / 20)
    before, _ = cues([Spoken(0.0, 1.0, fast), Spoken(1.5, 3.0, "Next.")])
    assert before.end == 1.5


def test_interrupted_speech_ends_where_the_next_begins() -> None:
    first, second = cues([Spoken(0, 4, "What I wanted", "A"), Spoken(3, 5, "Yes?", "B")])
    assert (first.end, second.start, second.speaker) == (3, 3, "B")


def test_japanese_lines_do_not_begin_with_a_full_stop() -> None:
    for cue in cues([Spoken(0, 14, JAPANESE)]):
        assert all(line[0] not in "。、？" for line in cue.lines)


def test_marks_stay_on_their_letters() -> None:
    text = "é" * 60  # decomposed: a letter and its accent
    assert all(not line.startswith("\u0301") for cue in cues([Spoken(0, 5, text)]) for line in cue.lines)


@pytest.mark.parametrize("before", [*"\u17d2\u1039\u200d", *"เแโใไ", *"ເແໂໃໄ"])
def test_no_line_ends_between_a_sign_and_its_letter(before: str) -> None:
    text = f"กข{before}ค" * 50
    assert len(cues([Spoken(0, 9, text)])) > 1
    assert not any(line.endswith(before) for cue in cues([Spoken(0, 9, text)]) for line in cue.lines)


@pytest.mark.parametrize("after", [*"ะาำๆ", *"ະາຳໆ"])
def test_no_line_begins_with_what_belongs_to_the_letter_before_it(after: str) -> None:
    text = f"ก{after}" * 50
    assert not any(line.startswith(after) for cue in cues([Spoken(0, 9, text)]) for line in cue.lines)


def test_nothing_said_is_no_cue() -> None:
    assert cues([Spoken(0, 1, " \n\u200e ")]) == []


spoken_lists = st.lists(
    st.builds(
        lambda start, length, text: Spoken(start, start + length, text),
        st.floats(0, 100),
        st.floats(0, 30),
        st.text(alphabet=st.sampled_from("ab ,.<>&-\n،ع؟。の語\u0301\u202e{\\"), max_size=200),
    ),
    max_size=8,
)


@given(spoken_lists)
def test_whatever_is_said_cues_are_in_order_and_whole(spoken: list[Spoken]) -> None:
    made = cues(spoken)
    for before, after in pairwise(made):
        assert before.end <= after.start
    assert all(cue.end > cue.start for cue in made)
    lates = sorted(max(one.end, one.start + MIN_SECONDS) for one in spoken)
    assert all(cue.start <= lates[-1] + len(made) * SHORTEST_SECONDS for cue in made)
    assert all(width(line) <= LINE_WIDTH and line.strip() for cue in made for line in cue.lines)
    said = "".join(one_line(one.text) for one in spoken)
    assert sorted(letters("".join(cue.text for cue in made))) == sorted(letters(said))


def test_too_much_text_for_one_sentence_moves_nothing_after_it() -> None:
    """A model in a loop writes thousands of characters for a few seconds."""
    loop = Spoken(10.0, 14.0, "and so on, " * 900)
    others = [
        Spoken(15.0 + 5 * index, 18.0 + 5 * index, f"This is sentence number {index}.") for index in range(5)
    ]
    made = cues([Spoken(5.0, 8.0, "Before."), loop, *others])
    assert [cue.start for cue in made if "number" in cue.text] == [one.start for one in others]
    assert all(10.0 <= cue.start < 14.0 and cue.end <= 15.0 for cue in made if "so on" in cue.text)
    assert all(cue.end - cue.start >= MIN_SECONDS for cue in made if "number" in cue.text)


def test_quick_short_answers_stay_near_their_times() -> None:
    answers = [Spoken(index * 0.2, index * 0.2 + 0.1, "Yes.", str(index % 2)) for index in range(50)]
    assert all(
        cue.start <= one.start + MIN_SECONDS + 0.5 for cue, one in zip(cues(answers), answers, strict=True)
    )


# --- the files ---


def test_webvtt_escapes_what_would_be_markup() -> None:
    file = webvtt([Spoken(0, 3, "if a<b && b-->c", "<Ann> & Bob")], "en", "Room --> 1\nWEBVTT")
    assert file == (
        "WEBVTT\n\nNOTE Room --&gt; 1 WEBVTT en\n\n"
        "1\n00:00:00.000 --> 00:00:03.000\n<v &lt;Ann&gt; &amp; Bob>if a&lt;b &amp;&amp; b--&gt;c\n"
    )


def test_right_to_left_lines_keep_their_punctuation_at_the_end() -> None:
    file = webvtt([Spoken(0, 2, "مرحبا!")], "ar")
    assert f"مرحبا!{RIGHT_TO_LEFT_MARK}\n" in file
    assert f"{RIGHT_TO_LEFT_MARK}HTML هي لغة سهلة" in webvtt([Spoken(0, 2, "HTML هي لغة سهلة")], "ar")


def test_a_long_lesson_has_hours() -> None:
    assert "27:46:40.000 --> 27:46:42.000" in webvtt([Spoken(100_000, 100_002, "Still here.")], "en")


def test_srt_names_who_speaks_when_that_changes() -> None:
    spoken = [Spoken(0, 1, "One.", "Ann"), Spoken(2, 3, "Two.", "Ann"), Spoken(4, 5, "Three.", "Bob")]
    assert srt(spoken).splitlines()[2::4] == ["Ann: One.", "Two.", "Bob: Three."]
    assert "Ann" not in srt(spoken[:2])


def test_what_looks_like_a_tag_is_broken_up_where_nothing_can_escape_it() -> None:
    file = srt([Spoken(0, 3, r"A <b> tag, {\an8} and -->")])
    assert WORD_JOINER in file and not re.search(r"<b>|\{\\|\\a|-->$", file, re.MULTILINE)


# --- text to read ---


def test_plain_text_has_a_paragraph_for_each_turn_and_pause() -> None:
    spoken = [
        Spoken(0, 2, "One.", "Ann"),
        Spoken(3, 4, "Two.", "Ann"),
        Spoken(65, 66, "Three.", "Ann"),
        Spoken(66, 67, "Four.", "Bob"),
    ]
    assert plain_text(spoken) == "[0:00] Ann: One. Two.\n\n[1:05] Ann: Three.\n\n[1:06] Bob: Four.\n"


def test_formatting_of_times_and_text() -> None:
    assert (clock(59.9), clock(3725)) == ("0:59", "1:02:05")
    assert is_right_to_left("שלום") and not is_right_to_left("The word سلام is Arabic")
