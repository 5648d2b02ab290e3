"""Language tags: checks them and puts them into their usual spelling.

Follows BCP 47 (RFC 5646): language, script, region, variants. Parts that no spoken language needs (extensions, private
use) are left out. Two-letter languages that are not in ISO 639-1 are refused, as they are nearly always countries ("jp"
for Japanese, "gr" for Greek). Locales as telephones and systems write them are understood: ``pt_BR``, ``zh_TW_#Hant``,
``b+sr+Latn``, ``eng-USA``, ``sr_RS@latin``. A tag that has been checked is safe in a file name.

A library would do the same: langcodes was measured, and is not used for the memory that its data takes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

logger = logging.getLogger("recorder")

MAX_TAG_CHARACTERS = 35
"""Longer tags are refused. RFC 5646 requires every program to support this length."""
MAX_LOCALE_CHARACTERS = 100
"""Longer texts are no tags, whatever extensions they have."""
MAX_REMEMBERED = 100
"""How many texts that are no tags are remembered, so that each is logged once."""

UNKNOWN_SCRIPT, UNKNOWN_REGION = "Zzzz", "ZZ"

ISO_639_1 = frozenset(
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo "
    "es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka "
    "kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng "
    "nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su "
    "sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu".split()
)

_ISO_639_2 = {
    pair[:3]: pair[3:]
    for pair in (
        "aaraa abkab afraf akaak albsq amham araar argan armhy asmas avaav aveae aymay azeaz bakba bambm baqeu belbe "
        "benbn bisbi bodbo bosbs brebr bulbg burmy catca cescs chach chece chizh chucu chvcv corkw cosco crecr cymcy "
        "czecs danda deude divdv dutnl dzodz ellel engen epoeo estet euseu eweee faofo fasfa fijfj finfi frafr frefr "
        "fryfy fulff geoka gerde glagd glega glggl glvgv greel grngn gujgu hatht hauha hebhe herhz hinhi hmoho hrvhr "
        "hunhu hyehy iboig iceis idoio iiiii ikuiu ileie inaia indid ipkik islis itait javjv jpnja kalkl kankn kasks "
        "katka kaukr kazkk khmkm kikki kinrw kirky komkv konkg korko kuakj kurku laolo latla lavlv limli linln litlt "
        "ltzlb lublu luglg macmk mahmh malml maomi marmr mayms mkdmk mlgmg mltmt monmn mrimi msams myamy nauna navnv "
        "nblnr ndend ndong nepne nldnl nnonn nobnb norno nyany ocioc ojioj orior ormom ossos panpa perfa plipi polpl "
        "porpt pusps quequ rohrm ronro rumro runrn rusru sagsg sansa sinsi slksk slosk slvsl smese smosm snasn sndsd "
        "somso sotst spaes sqisq srdsc srpsr sswss sunsu swasw swesv tahty tamta tattt telte tgktg tgltl thath tibbo "
        "tirti tonto tsntn tsots tuktk turtr twitw uigug ukruk urdur uzbuz venve vievi volvo welcy wlnwa wolwo xhoxh "
        "yidyi yoryo zhaza zhozh zulzu "
    ).split()
}
"""Three-letter codes (ISO 639-2, both forms) and the two-letter codes that stand for them in tags."""

_REPLACED = {
    "iw": "he",
    "in": "id",
    "ji": "yi",
    "jw": "jv",
    "mo": "ro",
    "sh": "sr-Latn",
    "tl": "fil",
    "cmn": "zh",
    "arb": "ar",
    "pes": "fa",
    "swh": "sw",
    "zsm": "ms",
    "ekk": "et",
    "lvs": "lv",
    "khk": "mn",
    "azj": "az",
    "uzn": "uz",
    "npi": "ne",
    "ory": "or",
    "als": "sq",
    "plt": "mg",
    "ydd": "yi",
    "pnb": "pa-Arab",
}
"""Withdrawn codes that Java, old Android versions and Whisper still send, single languages that stand for the group
with a code of its own (Unicode CLDR), and the codes that replace them."""

_IRREGULAR = {
    "i-klingon": "tlh",
    "i-lux": "lb",
    "i-navajo": "nv",
    "i-hak": "hak",
    "art-lojban": "jbo",
    "en-gb-oed": "en-GB",
    "zh-min-nan": "nan",
    "zh-min": "nan",
    "zh-guoyu": "zh",
    "zh-hakka": "hak",
    "zh-xiang": "hsn",
    "no-bok": "nb",
    "no-nyn": "nn",
    "no-no-ny": "nn-NO",
    "zh-chs": "zh-Hans",
    "zh-cht": "zh-Hant",
    "chs": "zh-Hans",
    "cht": "zh-Hant",
}
_EXTENDED_LANGUAGES = {
    "zh": "cdo cjy cmn cnp cpx csp czh czo gan hak hsn lzh mnp nan wuu yue".split(),
    "ar": "abv acm acq acw acx aeb afb ajp apc apd arb arq ars ary arz ayl ayn pga shu".split(),
    "ms": "bjn btj bve jak kvr max meo mfa min mui zlm zmi zsm".split(),
    "sw": "swc swh".split(),
}
"""By the language whose tag they may follow: ``zh-yue`` for ``yue``. Other parts of three letters are countries."""
_COUNTRIES = {
    "TWN": "TW",
    "HKG": "HK",
    "MAC": "MO",
    "CHN": "CN",
    "SGP": "SG",
    "MYS": "MY",
    "PAK": "PK",
    "IND": "IN",
}
"""Three-letter codes of the regions that imply a script. Those of other regions are left out."""

_SCRIPT_OF_MODIFIER = {"latin": "Latn", "cyrillic": "Cyrl", "arabic": "Arab", "devanagari": "Deva"}
_SCRIPT_OF_REGION = {
    "zh": {"TW": "Hant", "HK": "Hant", "MO": "Hant", "CN": "Hans", "SG": "Hans", "MY": "Hans"},
    "pa": {"PK": "Arab", "IN": "Guru"},
}
_USUAL_SCRIPT = {
    "zh": "Hans",
    "yue": "Hant",
    "sr": "Cyrl",
    "bs": "Latn",
    "uz": "Latn",
    "az": "Latn",
    "kk": "Cyrl",
    "ky": "Cyrl",
    "mn": "Cyrl",
    "pa": "Guru",
    "ku": "Latn",
    "ms": "Latn",
    "tg": "Cyrl",
    "tk": "Latn",
    "tt": "Cyrl",
    "ug": "Arab",
    "sd": "Arab",
    "ks": "Arab",
    "hi": "Deva",
    "ur": "Arab",
    "ckb": "Arab",
    "ha": "Latn",
}
"""Languages that are written in several scripts, with the one that a tag without a script nearly always means."""

_not_understood: set[str] = set()


def language_tag(text: str) -> str:
    """``text`` as a language tag in its usual spelling, such as ``es``, ``pt-BR``, ``zh-Hant``.

    Raises:
        ValueError: ``text`` is not a language tag.
    """
    parts = _parts_of_locale(text)
    return str(_parsed(text, parts))


@dataclass(frozen=True)
class _Tag:
    """The parts of a tag, each empty if there is none."""

    language: str
    script: str = ""
    region: str = ""
    variants: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "-".join(part for part in (self.language, self.script, self.region, *self.variants) if part)

    @property
    def script_meant(self) -> str:
        """The script that it names, or that its region implies; empty: none in particular."""
        return self.script or _SCRIPT_OF_REGION.get(self.language, {}).get(self.region, "")

    @property
    def usual_script(self) -> str:
        return self.script_meant or _USUAL_SCRIPT.get(self.language, "")


def _no_tag(text: str) -> ValueError:
    return ValueError(f"no language tag: {text[:MAX_TAG_CHARACTERS]!r}")


def _parts_of_locale(text: str) -> list[str]:
    """The parts of a tag or locale, without its encoding and extensions.

    Raises:
        ValueError: it is none.
    """
    text = text if len(text) <= MAX_LOCALE_CHARACTERS else ""
    locale, _, modifier = text.strip().partition("@")
    locale = re.sub("[_-]*#|_+-?", "-", locale.partition(".")[0].rstrip("_"))
    if locale.lower().startswith("b+"):
        locale = locale[2:].replace("+", "-")
    locale = _IRREGULAR.get(locale.lower(), locale)
    if not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*", locale, re.ASCII):
        raise _no_tag(text)
    parts = locale.split("-")
    for index, part in enumerate(parts):
        if len(part) == 1:  # an extension or private use begins
            parts = parts[:index]
            break
    script = _SCRIPT_OF_MODIFIER.get(modifier.lower())
    return [parts[0], script, *parts[1:]] if script else parts


def _parsed(text: str, parts: Sequence[str]) -> _Tag:
    language, *more = parts
    language = _usual_language(language.lower())
    if more and more[0].lower() in _EXTENDED_LANGUAGES.get(language, ()):
        language = _usual_language(more.pop(0).lower())
    language, _, script = language.partition("-")
    region, variants = "", []
    for part in more:
        if len(part) == 4 and part.isalpha():  # Java writes it after the region
            script = script or part.title().replace(UNKNOWN_SCRIPT, "")
        elif (len(part) == 2 and part.isalpha()) or (len(part) == 3 and part.isdecimal()):
            region = region or part.upper().replace(UNKNOWN_REGION, "")
        elif re.fullmatch("r[A-Z]{2}", part):
            region = region or part[1:]  # Android's folders: pt-rBR
        elif part.upper() in _COUNTRIES:
            region = region or _COUNTRIES[part.upper()]
        elif len(part) >= 5 or (len(part) == 4 and part[0].isdecimal()):
            variants.append(part.lower())
    tag = _Tag(language, script, region, tuple(variants))
    if len(str(tag)) > MAX_TAG_CHARACTERS:
        raise _no_tag(text)
    return tag


def _usual_language(code: str) -> str:
    """The usual code of a language, possibly with a script.

    Raises:
        ValueError: it is no code.
    """
    code = _REPLACED.get(code) or _ISO_639_2.get(code, code)
    code = _REPLACED.get(code, code)
    if len(code) == 2 and code not in ISO_639_1:
        raise ValueError(f"no language of ISO 639-1: {code!r}")
    return code


def language_tag_or_empty(text: str) -> str:
    """:func:`language_tag` for untrusted input: returns an empty string instead of raising, and logs each text once."""
    try:
        return language_tag(text) if text else ""
    except ValueError:
        if text not in _not_understood and len(_not_understood) < MAX_REMEMBERED:
            _not_understood.add(text[:MAX_LOCALE_CHARACTERS])
            logger.info(
                "This is not understood as a language, and is ignored: %a", text[:MAX_LOCALE_CHARACTERS]
            )
        return ""


def language_tags(texts: Iterable[str]) -> tuple[str, ...]:
    """``texts`` as language tags without duplicates, in their order.

    Raises:
        ValueError: one of them is not a language tag.
    """
    return tuple(dict.fromkeys(language_tag(text) for text in texts))


# --- comparing ---


def is_same_language(one: str, other: str) -> bool:
    """Whether two tags differ at most in what one of them leaves open.

    ``ar`` and ``ar-EG`` are the same, ``pt-PT`` and ``pt-BR`` are not. The script is part of the language: ``zh-TW``
    is ``zh-Hant``, and not ``zh-Hans``.
    """
    first, second = _tag_of(one), _tag_of(other)
    pairs = (
        (first.script_meant, second.script_meant),
        (first.region, second.region),
        (first.variants, second.variants),
    )
    return first.language == second.language and all(not a or not b or a == b for a, b in pairs)


def is_same_apart_from_region(one: str, other: str) -> bool:
    """Whether two tags name one language in one script, such as ``en-US`` and ``en-GB``, not ``sr-Latn`` and ``sr``."""
    first, second = _tag_of(one), _tag_of(other)
    return (first.language, first.usual_script) == (second.language, second.usual_script)


def best_match(tag: str, among: Iterable[str]) -> str | None:
    """The one of ``among`` that names the same language: itself, else one in the same script, else the first one."""
    same = [one for one in among if is_same_language(one, tag)]
    script = _tag_of(tag).script_meant
    return min(
        same, key=lambda one: (one != tag, script not in ("", _tag_of(one).usual_script)), default=None
    )


def script_of(tag: str) -> str:
    """The script (ISO 15924) that a tag names or that its region implies; empty if it leaves that open."""
    return _tag_of(tag).script_meant


def usual_script_of(tag: str) -> str:
    """The script that a tag names, or that is usual for a language of several scripts; empty for other languages."""
    return _tag_of(tag).usual_script


def language_of(tag: str) -> str:
    """The language in a tag, without script and region."""
    return _tag_of(tag).language


def in_script(tag: str, script: str) -> str:
    """The tag with this script in place of its own, without a region that implies another one."""
    found = _tag_of(tag)
    implied = _SCRIPT_OF_REGION.get(found.language, {}).get(found.region, script)
    region = found.region if implied == script else ""
    return str(_Tag(found.language, script, region, found.variants))


def in_region(tag: str, region: str) -> str:
    """The tag with this region in place of its own."""
    return str(replace(_tag_of(tag), region=region))


def _tag_of(text: str) -> _Tag:
    try:
        tag = _parsed(text, _parts_of_locale(text))
    except ValueError:
        return _Tag(text.casefold())
    return _Tag("nb", tag.script, tag.region, tag.variants) if tag.language == "no" else tag
