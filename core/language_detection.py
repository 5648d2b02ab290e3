"""Which language a text is in, as far as its writing shows it: for the rare text whose language is not stated.

A script of one language names it. Among languages that share a script, letters that only one of them has decide, and in
Latin script the commonest words. Where nothing is clear, no language is named.
"""

from __future__ import annotations

import re

from core.scripts import script_of_text

UNKNOWN = "und"
"""BCP 47: the language is not known."""

_LANGUAGE_OF_SCRIPT = {
    "Grek": "el",
    "Hebr": "he",
    "Thai": "th",
    "Kore": "ko",
    "Jpan": "ja",
    "Armn": "hy",
    "Geor": "ka",
    "Khmr": "km",
    "Laoo": "lo",
    "Mymr": "my",
    "Sinh": "si",
    "Taml": "ta",
    "Telu": "te",
    "Knda": "kn",
    "Mlym": "ml",
    "Gujr": "gu",
    "Guru": "pa",
    "Orya": "or",
    "Beng": "bn",
    "Tibt": "bo",
    "Thaa": "dv",
    "Ethi": "am",
    "Hani": "zh",
    "Hans": "zh-Hans",
    "Hant": "zh-Hant",
    "Deva": "hi",
}
_LANGUAGE_OF_LETTERS = {
    "Arab": (("ٹڈڑںے", "ur"), ("پچژگ", "fa"), ("ةىأإ", "ar")),
    "Cyrl": (("љњђћј", "sr"), ("ѓќ", "mk"), ("ў", "be"), ("іїєґ", "uk"), ("қңғұһ", "kk"), ("ыэё", "ru")),
}
"""By script: letters, and the language that has them; the first that is found counts."""

_COMMON_WORDS = {
    "en": "the and is are of to in that it this you we for with what",
    "es": "el la los las es de que en y un una por con para no",
    "fr": "le la les est de et que en un une des pour dans nous vous",
    "de": "der die das ist und nicht ein eine wir sie zu mit den auf es",
    "it": "il la le è di che e un una per non sono gli con questo",
    "pt": "o a os as é de que e um uma para não com em são",
    "nl": "de het een is en van niet dat we zijn op met voor je",
    "pl": "jest nie się w na to że i do są jak co ale",
    "tr": "bir ve bu için ne da de çok ile var değil mi",
    "id": "yang dan di ini itu adalah dengan untuk tidak kita ke dari",
    "sv": "det är och en ett att som inte på vi för av med",
    "vi": "là và của có không một này các cho được những",
}
MIN_COMMON_WORDS = 2


def detected_language(text: str) -> str:
    """The BCP 47 tag of a text's language, or :data:`UNKNOWN`."""
    script = script_of_text(text)
    if script in _LANGUAGE_OF_SCRIPT:
        return _LANGUAGE_OF_SCRIPT[script]
    if script == "Latn":
        return _by_common_words(text)
    letters = _LANGUAGE_OF_LETTERS.get(script, ())
    return next((tag for distinct, tag in letters if any(sign in text.lower() for sign in distinct)), UNKNOWN)


def _by_common_words(text: str) -> str:
    words = re.findall(r"[^\W\d_]+", text.lower())
    counts = {tag: sum(word in known.split() for word in words) for tag, known in _COMMON_WORDS.items()}
    best, *others = sorted(counts, key=lambda tag: -counts[tag])
    is_clear = counts[best] >= MIN_COMMON_WORDS and counts[best] > counts[others[0]]
    return best if is_clear else UNKNOWN
