"""Language tags: what is one, how it is written, and that it is safe in a file name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.language_tags import is_same_language, language_tag, language_tag_or_empty, language_tags


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("es", "es"),
        (" ES ", "es"),
        ("pt-br", "pt-BR"),
        ("pt_BR", "pt-BR"),
        ("zh-hant-tw", "zh-Hant-TW"),
        ("es-419", "es-419"),
        ("ckb", "ckb"),
        ("sr-latn", "sr-Latn"),
        ("zh-HANS", "zh-Hans"),
        ("he", "he"),
        ("iw", "he"),
        ("in-ID", "id-ID"),
        ("jw", "jv"),
        ("sl-ROZAJ-biske-1994", "sl-rozaj-biske-1994"),
    ],
)
def test_a_tag_gets_its_usual_spelling(text: str, tag: str) -> None:
    assert language_tag(text) == tag


@pytest.mark.parametrize(
    "text",
    [
        "",
        "e",
        "spanish",
        "jp",
        "gr",
        "es-",
        "es--MX",
        "../es",
        "e\u0455",
        "x-mine",
        "es-" + "a1234-" * 9,
        "ar\u202e",
    ],
)
def test_what_is_no_tag_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no language"):
        language_tag(text)
    assert language_tag_or_empty(text) == ""


@given(st.text(max_size=40) | st.from_regex(r"[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8}){0,4}", fullmatch=True))
def test_a_checked_tag_is_a_fixed_point_and_safe_in_a_name(text: str) -> None:
    tag = language_tag_or_empty(text)
    if tag:
        assert language_tag(tag) == tag
        assert re.fullmatch(r"[A-Za-z0-9-]{2,35}", tag)


def test_each_language_counts_once() -> None:
    assert language_tags(["ES", "ar", "es"]) == ("es", "ar")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("ar", "ar-EG", True),
        ("AR-eg", "ar", True),
        ("pt-PT", "pt-BR", False),
        ("a", "ar", False),
        ("es", "es", True),
    ],
)
def test_whether_one_tag_only_says_more(one: str, other: str, same: bool) -> None:
    assert is_same_language(one, other) is same
