"""The name of each language in that language, and a flag, for the language menu of an app.

A flag only helps to find a line of the menu. For a language of no country or of several it is the usual one.

This is a table because libraries take too much of a worker's 512 MB. To name eight languages, langcodes with
language_data takes 295 MB of memory and 22 MB of disk, and Babel 17 MB of memory and 36 MB of disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

GLOBE = "\N{GLOBE WITH MERIDIANS}"
_REGIONAL_A = ord("\N{REGIONAL INDICATOR SYMBOL LETTER A}")


class LanguageChoice(TypedDict):
    """One line of a menu, as LiveKit's captioning example reads it."""

    code: str
    """BCP 47 tag: the value for the attribute ``captions_language``."""
    name: str
    flag: str


_NAMES = {
    "af": ("Afrikaans", "ZA"),
    "am": ("አማርኛ", "ET"),
    "ar": ("العربية", "SA"),
    "az": ("Azərbaycanca", "AZ"),
    "bg": ("Български", "BG"),
    "bn": ("বাংলা", "BD"),
    "ca": ("Català", "AD"),
    "cs": ("Čeština", "CZ"),
    "cy": ("Cymraeg", "GB"),
    "da": ("Dansk", "DK"),
    "de": ("Deutsch", "DE"),
    "el": ("Ελληνικά", "GR"),
    "en": ("English", "GB"),
    "es": ("Español", "ES"),
    "et": ("Eesti", "EE"),
    "fa": ("فارسی", "IR"),
    "fi": ("Suomi", "FI"),
    "fil": ("Filipino", "PH"),
    "fr": ("Français", "FR"),
    "ga": ("Gaeilge", "IE"),
    "gu": ("ગુજરાતી", "IN"),
    "ha": ("Hausa", "NG"),
    "he": ("עברית", "IL"),
    "hi": ("हिन्दी", "IN"),
    "hr": ("Hrvatski", "HR"),
    "hu": ("Magyar", "HU"),
    "hy": ("Հայերեն", "AM"),
    "id": ("Bahasa Indonesia", "ID"),
    "is": ("Íslenska", "IS"),
    "it": ("Italiano", "IT"),
    "ja": ("日本語", "JP"),
    "ka": ("ქართული", "GE"),
    "kk": ("Қазақша", "KZ"),
    "km": ("ខ្មែរ", "KH"),
    "ko": ("한국어", "KR"),
    "lt": ("Lietuvių", "LT"),
    "lv": ("Latviešu", "LV"),
    "mk": ("Македонски", "MK"),
    "mn": ("Монгол", "MN"),
    "mr": ("मराठी", "IN"),
    "ms": ("Bahasa Melayu", "MY"),
    "my": ("မြန်မာ", "MM"),
    "nb": ("Norsk bokmål", "NO"),
    "ne": ("नेपाली", "NP"),
    "nl": ("Nederlands", "NL"),
    "no": ("Norsk", "NO"),
    "pa": ("ਪੰਜਾਬੀ", "IN"),
    "pl": ("Polski", "PL"),
    "ps": ("پښتو", "AF"),
    "pt": ("Português", "PT"),
    "ro": ("Română", "RO"),
    "ru": ("Русский", "RU"),
    "si": ("සිංහල", "LK"),
    "sk": ("Slovenčina", "SK"),
    "sl": ("Slovenščina", "SI"),
    "so": ("Soomaali", "SO"),
    "sq": ("Shqip", "AL"),
    "sr": ("Српски", "RS"),
    "sv": ("Svenska", "SE"),
    "sw": ("Kiswahili", "KE"),
    "ta": ("தமிழ்", "IN"),
    "te": ("తెలుగు", "IN"),
    "th": ("ไทย", "TH"),
    "tr": ("Türkçe", "TR"),
    "uk": ("Українська", "UA"),
    "ur": ("اردو", "PK"),
    "uz": ("Oʻzbekcha", "UZ"),
    "vi": ("Tiếng Việt", "VN"),
    "yo": ("Yorùbá", "NG"),
    "zh": ("中文", "CN"),
    "zh-Hans": ("简体中文", "CN"),
    "zh-Hant": ("繁體中文", "TW"),
    "zu": ("isiZulu", "ZA"),
}
"""By BCP 47 tag: the language's own name, and the country of its flag."""

KNOWN_LANGUAGES = tuple(_NAMES)
OWN_NAMES = {tag: name for tag, (name, _) in _NAMES.items()}


def language_choices(tags: Iterable[str]) -> list[LanguageChoice]:
    """The menu for these tags, in their order."""
    return [_choice(tag) for tag in tags]


def _choice(tag: str) -> LanguageChoice:
    known = next((part for part in _shortened(tag) if part in _NAMES), None)
    name, country = _NAMES[known] if known else (tag, "")
    rest = tag[len(known) + 1 :] if known else ""
    region = next((part for part in rest.split("-") if len(part) == 2), country)
    return {"code": tag, "name": f"{name} ({rest})" if rest else name, "flag": _flag(region)}


def _shortened(tag: str) -> Iterable[str]:
    """The tag and its shorter forms: ``zh-Hant-HK``, ``zh-Hant``, ``zh``."""
    while tag:
        yield tag
        tag = tag.rpartition("-")[0]


def _flag(country: str) -> str:
    """The flag emoji of a two-letter country code (a regional indicator for each letter); a globe if it is empty."""
    return "".join(chr(_REGIONAL_A + ord(letter) - ord("A")) for letter in country) or GLOBE
