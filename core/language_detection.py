"""Which language a text is in, as far as its writing shows it: for the rare text whose language is not stated.

A script of one language names it. Among languages that share a script, letters that only one of them has decide, if the
text has none that this language lacks, and in Latin script the commonest words. Where nothing is clear, no language is
named.
"""

from __future__ import annotations

import re
from collections.abc import Set

from core.language_tags import language_of, script_of
from core.scripts import script_of_letter, script_of_text

UNKNOWN = "und"
"""BCP 47: the language is not known."""

_LANGUAGES_OF_SCRIPT = {
    "Grek": "el",
    "Hebr": "he yi",
    "Thai": "th",
    "Kore": "ko",
    "Jpan": "ja",
    "Armn": "hy",
    "Geor": "ka",
    "Khmr": "km",
    "Laoo": "lo",
    "Mymr": "my shn mnw",
    "Sinh": "si",
    "Taml": "ta",
    "Telu": "te",
    "Knda": "kn",
    "Mlym": "ml",
    "Gujr": "gu",
    "Guru": "pa",
    "Orya": "or",
    "Beng": "bn as mni",
    "Tibt": "bo dz",
    "Thaa": "dv",
    "Cher": "chr",
    "Mong": "mn mnc",
    "Syrc": "syr aii",
    "Tfng": "zgh kab",
    "Ethi": "am ti",
    "Hani": "zh yue nan wuu hak gan hsn ja",
    "Hans": "zh yue nan wuu hak gan hsn ja",
    "Hant": "zh yue nan wuu hak gan hsn ja",
    "Deva": "hi mr ne kok mai bho sa doi sd awa new",
    "Arab": "ar fa ur ps ckb ku ug sd ks pa az uz kk ms ha bal arz ary apc",
    "Cyrl": "ru uk be bg mk sr bs kk ky mn tg tk tt ba uz az cv os ce sah",
}
"""By script: the languages that are written in it. Those in no row are written in Latin letters."""
_ALSO_LATIN = "sr bs mn tg tk tt ky az uz kk ug ku ms sd hi ur ha nan".split()

_LETTERS = {
    "Hebr": (("װױײ", "", "yi"), ("אהוילמ", "", "he")),
    "Beng": (("ৰৱ", "", "as"), ("র", "", "bn")),
    "Mymr": (("ၵၼႁ", "", "shn"), ("ါာိုေ", "", "my")),
    "Hani": (("", "", "zh"),),
    "Hans": (("", "", "zh-Hans"),),
    "Hant": (("", "", "zh-Hant"),),
    "Arab": (
        ("ٹڈڑںے", "ءآأؤئابپتثجچحخدذرزژسشصضطظعغفقکگلمنوهھہۂۃیە", "ur"),
        ("پچژگ", "ءآأؤئابتةثجحخدذرزسشصضطظعغفقکكلمنوهىيیۀ", "fa"),
        ("ةىأإ", "ءآؤئابتثجحخدذرزسشصضطظعغفقكلمنوهي", "ar"),
    ),
    "Cyrl": (
        ("ђћ", "абвгдежзиклмнопрстуфхцчшјљњџ", "sr"),
        ("ѓќ", "абвгдежзиклмнопрстуфхцчшѕјљњџ", "mk"),
        ("ў", "абвгдеёжзійклмнопрстуфхцчшыьэюя", "be"),
        ("іїєґ", "абвгдежзийклмнопрстуфхцчшщьюя", "uk"),
        ("ұ", "абвгдеёжзийклмнопрстуфхцчшщъыьэюяәғқңөүһі", "kk"),
        ("ыэё", "абвгдежзийклмнопрстуфхцчшщъьюя", "ru"),
    ),
}
"""By script: letters of which one must be there, the others that may be there (empty: all), and the language."""

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
    if script == "Latn":
        return _by_common_words(text)
    if script in _LETTERS:
        letters = {letter for letter in text.lower() if script_of_letter(letter) == script}
        return next((tag for own, others, tag in _LETTERS[script] if _fit(letters, own, others)), UNKNOWN)
    languages = _LANGUAGES_OF_SCRIPT.get(script, "").split()
    return languages[0] if len(languages) == 1 else UNKNOWN


def may_be_in(tag: str, text: str) -> bool:
    """Whether a text can be in the language of a tag, as far as its script shows it."""
    script, language = script_of_text(text), language_of(tag)
    is_listed = any(language in row.split() for row in _LANGUAGES_OF_SCRIPT.values())
    if script == "Latn":
        return not is_listed or language in _ALSO_LATIN or script_of(tag) == script
    return not script or language in _LANGUAGES_OF_SCRIPT.get(script, language).split()


def is_in_latin_script(text: str) -> bool:
    """Whether a text is in the script that too many languages share to conclude anything from it."""
    return script_of_text(text) == "Latn"


def _fit(letters: Set[str], own: str, others: str) -> bool:
    has_own = not own or not letters.isdisjoint(own)
    return has_own and (not others or all(letter in own + others for letter in letters if letter.isalpha()))


def _by_common_words(text: str) -> str:
    words = re.findall(r"[^\W\d_]+", text.lower())
    counts = {tag: sum(word in known.split() for word in words) for tag, known in _COMMON_WORDS.items()}
    best, *others = sorted(counts, key=lambda tag: -counts[tag])
    is_clear = counts[best] >= MIN_COMMON_WORDS and counts[best] > counts[others[0]]
    return best if is_clear else UNKNOWN
