"""Finds the language that a name in words means, as models write it: ``English (US)``, ``Brazilian Portuguese``."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

from core.language_names import OWN_NAMES
from core.language_tags import ISO_639_1, in_region, in_script, is_same_language, usual_script_of
from core.spelling import normalized

MAX_NAME_CHARACTERS = 100
"""Longer texts name no language."""
MIN_LETTERS_AMONG_WORDS = 4
"""Shorter names in Latin letters count only if nothing is beside them."""

_ENGLISH_NAMES = (
    "af Afrikaans, ak Akan, am Amharic, ar Arabic, as Assamese, ay Aymara, az Azerbaijani, az Azeri, ba Bashkir, "
    "be Belarusian, bg Bulgarian, bho Bhojpuri, bm Bambara, bn Bengali, bn Bangla, bo Tibetan, br Breton, "
    "bs Bosnian, ca Catalan, ca Valencian, ceb Cebuano, ckb Sorani, ckb Central Kurdish, cs Czech, cy Welsh, "
    "da Danish, de German, dv Dhivehi, dz Dzongkha, ee Ewe, el Greek, en English, eo Esperanto, es Spanish, "
    "es Castilian, es-419 Latin American Spanish, et Estonian, eu Basque, fa Persian, fa Farsi, fa Dari, ff Fulani, "
    "fi Finnish, fil Filipino, fil Tagalog, fo Faroese, fr French, ga Irish, gd Scottish Gaelic, gl Galician, "
    "gn Guarani, gsw Swiss German, gu Gujarati, ha Hausa, haw Hawaiian, he Hebrew, hi Hindi, hi-Latn Hinglish, "
    "hmn Hmong, hr Croatian, ht Haitian Creole, ht Haitian, hu Hungarian, hy Armenian, id Indonesian, ig Igbo, "
    "is Icelandic, it Italian, ja Japanese, jv Javanese, ka Georgian, kk Kazakh, km Khmer, km Cambodian, kmr Kurmanji, "
    "kn Kannada, ko Korean, kok Konkani, ks Kashmiri, ku Kurdish, ky Kyrgyz, ky Kirghiz, la Latin, lb Luxembourgish, "
    "lg Luganda, ln Lingala, lo Lao, lt Lithuanian, lv Latvian, mai Maithili, mg Malagasy, mi Maori, mk Macedonian, "
    "ml Malayalam, mn Mongolian, mr Marathi, ms Malay, mt Maltese, my Burmese, my Myanmar, nan Hokkien, nb Bokmål, "
    "nb Norwegian Bokmål, ne Nepali, nl Dutch, nl Flemish, nn Nynorsk, nn Norwegian Nynorsk, no Norwegian, "
    "ny Chichewa, oc Occitan, om Oromo, or Odia, or Oriya, pa Punjabi, pl Polish, ps Pashto, pt Portuguese, "
    "pt-PT European Portuguese, qu Quechua, ro Romanian, ro Moldavian, ru Russian, rw Kinyarwanda, sa Sanskrit, "
    "sd Sindhi, si Sinhala, si Sinhalese, sk Slovak, sl Slovenian, sm Samoan, sn Shona, so Somali, sq Albanian, "
    "sr Serbian, st Sesotho, su Sundanese, sv Swedish, sw Swahili, ta Tamil, te Telugu, tg Tajik, th Thai, "
    "ti Tigrinya, tk Turkmen, tn Tswana, tn Setswana, tr Turkish, tt Tatar, tw Twi, ug Uyghur, uk Ukrainian, "
    "ur Urdu, uz Uzbek, vi Vietnamese, wo Wolof, xh Xhosa, yi Yiddish, yo Yoruba, yue Cantonese, zgh Tamazight, "
    "zh Chinese, zh Mandarin, zu Zulu, "
    "ja jp, el gr, zh cn, cs cz, da dk, uk ua, vi vn, es esp, ja jap"  # countries, which are no languages
)
_MORE_PRECISE = (
    "Hans simplified, Hans 简体, Hant traditional, Hant 繁體, Latn latin, Latn roman, Cyrl cyrillic, "
    "Arab perso-arabic, CN china, HK hong kong, TW taiwan, TW taiwanese, BR brazil, BR brazilian, PT portugal, "
    "ES spain, MX mexico, MX mexican, 419 latin america, GB uk, GB british, GB united kingdom, US us, US american, "
    "US united states"
)
"""Words beside a language's name, and the script or region that they mean: of those that people translate into."""

_BETWEEN_WORDS = re.compile(r"[\s_()（）\[\]<>{},;:./|=\"'“”?!*~`–—]+")


def language_named(name: str, *, in_sentence: bool = False) -> str:
    """The tag of the language with this name, in English or in the language itself; empty if none is clear.

    Words beside it may make it more precise, and any words in brackets may follow it: ``Brazilian Portuguese``,
    ``Serbian (Latin)``, ``Arabic (spoken in Egypt)``.

    Args:
        in_sentence: any other words may stand beside it: ``The language is French``.
    """
    words = _words(name) if len(name) <= MAX_NAME_CHARACTERS else ()
    if not words:
        return ""
    if exactly := _tags_by_name().get(words):
        return exactly
    before_brackets = _words(re.split("[(（]", name)[0])
    found = list(_named_among(words))
    if len(found) > 1:
        found = list(_named_among(before_brackets)) or found
    if not found or any(not is_same_language(found[0], one) for one in found):
        return ""
    if not in_sentence and any(word not in _known_words() for word in before_brackets):
        return ""
    return _more_precise(found[-1], words)


def _words(name: str) -> tuple[str, ...]:
    words = map(normalized, _BETWEEN_WORDS.split(name))
    return tuple(word for word in words if word not in ("", "-", "language", "script"))


def _named_among(words: Sequence[str]) -> Iterator[str]:
    """Yields the tags of the languages that are named in some words. The name of a script is no language there."""
    known, position = _tags_by_name(), 0
    while position < len(words):
        for end in range(min(len(words), position + 3), position, -1):
            tag, text = known.get(tuple(words[position:end])), "".join(words[position:end])
            is_short = text.isascii() and len(text) < MIN_LETTERS_AMONG_WORDS
            if tag and not is_short and tag != "la":
                yield tag
                position = end
                break
        else:
            position += 1


def _more_precise(tag: str, words: Sequence[str]) -> str:
    known = _parts_by_word()
    pairs = (*((word,) for word in words), *zip(words, words[1:], strict=False))
    for part in (known[pair] for pair in pairs if pair in known):
        if len(part) == 4:
            tag = in_script(tag, part) if usual_script_of(tag) else tag
        else:
            tag = in_region(tag, part)
    return tag


@functools.cache
def _tags_by_name() -> dict[tuple[str, ...], str]:
    return {**{_words(name): tag for tag, name in OWN_NAMES.items()}, **_table(_ENGLISH_NAMES)}


@functools.cache
def _known_words() -> frozenset[str]:
    return frozenset(word for name in (*_tags_by_name(), *_parts_by_word()) for word in name) | ISO_639_1


@functools.cache
def _parts_by_word() -> dict[tuple[str, ...], str]:
    return _table(_MORE_PRECISE)


def _table(entries: str) -> dict[tuple[str, ...], str]:
    pairs = (entry.partition(" ") for entry in entries.split(", "))
    return {_words(name): tag for tag, _, name in pairs}
