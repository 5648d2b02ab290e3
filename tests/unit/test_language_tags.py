"""Language tags: what is one, how it is written, and that it is safe in a file name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.language_tags import (
    best_match,
    is_same_language,
    language_tag,
    language_tag_or_empty,
    language_tags,
)
from core.scripts import script_of_text


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
        ("ji", "yi"),
        ("zh_TW_#Hant", "zh-Hant-TW"),
        ("zh__#Hans", "zh-Hans"),
        ("sr_RS@latin", "sr-Latn-RS"),
        ("en_US.UTF-8", "en-US"),
        ("b+sr+Latn", "sr-Latn"),
        ("pt-rBR", "pt-BR"),
        ("eng-USA", "en"),
        ("zh-rTW", "zh-TW"),
        ("zh-rCN", "zh-CN"),
        ("zho_TWN", "zh-TW"),
        ("zho-CHN", "zh-CN"),
        ("ara-EGY", "ar"),
        ("msa-MYS", "ms-MY"),
        ("swa-KEN", "sw"),
        ("rus-RUS", "ru"),
        ("zh-CHS", "zh-Hans"),
        ("zh-CHT", "zh-Hant"),
        ("zh-TW-#Hant", "zh-Hant-TW"),
        ("sr-Latn-RS-#x", "sr-Latn-RS"),
        ("ar-ARZ", "arz"),
        ("zh-min", "nan"),
        ("zh-nan-TW", "nan-TW"),
        ("ger", "de"),
        ("ar-EG-u-nu-latn", "ar-EG"),
        ("th_TH_TH_#u-nu-thai", "th-TH"),
        ("zh-cmn-Hans-CN", "zh-Hans-CN"),
        ("zh-yue-HK", "yue-HK"),
        ("en-US-x-mine", "en-US"),
        ("tl-PH", "fil-PH"),
        ("sl-ROZAJ-biske-1994", "sl-rozaj-biske-1994"),
        ("en#US", "en-US"),
        ("zh_TW#Hant", "zh-Hant-TW"),
        ("en_US_", "en-US"),
        ("en-Zzzz-ZZ", "en"),
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
        ("no", "nb-NO", True),
        ("zh-TW", "zh-Hant", True),
        ("zh-TW", "zh-CN", False),
        ("zh-Hant", "zh-Hans", False),
        ("sr-Latn", "sr-Cyrl", False),
        ("zh-Hant-HK", "zh-Hant-TW", False),
    ],
)
def test_whether_one_tag_only_says_more(one: str, other: str, same: bool) -> None:
    assert is_same_language(one, other) is same


@pytest.mark.parametrize(
    ("tag", "among", "match"),
    [
        ("zh-TW", ("zh", "zh-Hans", "zh-Hant"), "zh-Hant"),
        ("zh", ("zh-Hant", "zh-Hans"), "zh-Hant"),
        ("en-US", ("es", "en"), "en"),
        ("zh-Hans", ("zh-Hant",), None),
    ],
)
def test_the_tag_that_fits_best_has_the_same_script(
    tag: str, among: tuple[str, ...], match: str | None
) -> None:
    assert best_match(tag, among) == match


def test_what_is_no_language_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "recorder"):
        assert [language_tag_or_empty("jp-JP\n"), language_tag_or_empty("jp-JP\n")] == ["", ""]
    assert [record.getMessage() for record in caplog.records] == [
        r"This is not understood as a language, and is ignored: 'jp-JP\n'"
    ]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("葉子是綠色的。", "Hant"),
        ("叶子是绿色的。", "Hans"),
        ("你好", "Hani"),
        ("葉は緑です。", "Jpan"),
        ("Lišće je zeleno.", "Latn"),
        ("Лишће је зелено.", "Cyrl"),
        ("صفحه ۱", "Arab"),
        ("12:30", ""),
        ("da и", ""),
    ],
)
def test_the_script_of_a_text_is_that_of_most_letters(text: str, script: str) -> None:
    assert script_of_text(text) == script
