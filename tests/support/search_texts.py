"""Segments with texts in many scripts, for tests of the search, which has an index on disk and one in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from archive import jsonl
from archive.names import TEXTS as TEXTS_FILE
from core.records import SegmentRecord, StreamClock
from devtools.sample_room import ANNA, noise, segment_of
from lesson_tools.search import Hit
from storage import RoomFolder

TEXTS = [
    {"en": "Photosynthesis turns light into sugar.", "es": "La fotosíntesis convierte la luz en azúcar."},
    {"en": "The school opens at eight.", "ar": "تُفتَحُ المَدْرَسَةُ في الساعة الثامنة إلى الأبد"},
    {"en": "I am going to Tokyo Tower.", "ja": "私は東京タワーに行きます", "zh": "我要去东京塔"},
    {"th": "วันนี้เราเรียนภาษาไทย", "de": "Die Straße über den Fluß"},
    {"en": "Light is light, and light again.", "ko": "빛은 빛이다"},
    {"en": "Don't say NOT or AND; it's \"quoted\".", "hi": "आज हम हिन्दी सीखते हैं"},
]
"""One dictionary a segment: the language spoken first, then translations."""

KINDS = {
    "Korean": (
        "ko",
        "오늘은 고등학교에서 수학을 배웁니다. 물은 맑다.",
        ["학교", "수학", "학교 수학", "학교에서", "고등학교에서", "배웁니", "물", "오늘", "고등"],
        ["학수", "교수"],
    ),
    "Thai": (
        "th",
        "ครูสอนเรื่องน้ำและการสังเคราะห์ด้วยแสงในห้องเรียน",
        ["น้ำ", "น\u0e4d\u0e49\u0e32", "แสง", "เเสง", "สังเคราะห์", "ห้องเรียน", "ครู แสง", "ส"],
        ["รถไฟ"],
    ),
    "Khmer": (
        "km",
        "ខ្ញុំ\u200bទៅ\u200bសាលារៀន\u200bរាល់ថ្ងៃ",
        ["សាលារៀន", "សាលា", "ទៅសាលា", "ទៅ\u200bសាលារៀន", "រាល់ ថ្ងៃ"],
        ["ឡាន"],
    ),
    "Lao": ("lo", "ພວກເຮົາຮຽນພາສາລາວຢູ່ໂຮງຮຽນ", ["ພາສາ", "ພາສາລາວ", "ໂຮງຮຽນ", "ຮຽນ"], ["ລົດໄຟ"]),
    "Burmese": ("my", "ကျောင်းသားများသည်စာဖတ်ကြသည်", ["ကျောင်း", "ကျောင်းသား", "စာဖတ်"], ["ရထား"]),
    "Tibetan": ("bo", "སློབ་ཕྲུག་རྣམས་བོད་ཡིག་སྦྱོང་", ["བོད་ཡིག", "སློབ་ཕྲུག"], ["ཡིག་བོད་པ"]),
    "Javanese": ("jv", "ꦱꦶꦤꦲꦸꦧꦱꦗꦮ", ["ꦧꦱ", "ꦧꦱꦗꦮ"], ["ꦗꦧ"]),
    "Chinese": (
        "zh", "今天我们学习光合作用，水和二氧化碳。",
        ["光合作用", "光合", "水", "学习", "作用 水", "二氧化碳"],
        ["合光", "火"],
    ),
    "Japanese": (
        "ja",
        "コンピュータで量子力学を学び、リンゴの実験をします。ドナルド・トランプ",
        ["力学", "量子力学", "ｺﾝﾋﾟｭｰﾀ", "りんご", "学", "実験", "ドナルドトランプ", "トランプ"],
        ["学力"],
    ),
    "Arabic": (
        "ar",
        "وبالمدرسةِ كِتابٌ قرأناه، وشمسُنا تَسطَعُ لمعلّمين في مدرستنا ٱلصَّلَوٰةَ",
        ["مدرسة", "المدرسة", "كتاب", "الكتاب", "شمس", "معلم", "معلمين", "كِتَاب", "الصلوة", "مدرسه كتاب"],
        ["قطار"],
    ),
    "Persian": ("fa", "من می‌خواهم کتاب‌ها را بخوانم", ["می‌خواهم", "میخواهم", "خواهم", "كتاب", "کتابها"], ["خواهر"]),
    "Hebrew": (
        "he", "הילדים הלכו לבית־הספר של צה״ל ושלום לכם",
        ["ילדים", "ילד", "בית", "ספר", "צה\"ל", "צהל", "שלום", "בית ספר", "בית-הספר"],
        ["רכבת"],
    ),
    "Amharic": ("am", "የትምህርት ቤት ተማሪዎች በቤታቸው ያነባሉ", ["ትምህርት", "ተማሪ", "ቤት", "ትምህርት ቤት"], ["መኪና"]),
    "Hindi": (
        "hi",
        "आज हम हिन्दी और अंग्रेज़ी में चाँद, सम्बन्ध और गङ्गा के बारे में पढ़ेंगे",
        ["हिंदी", "हिन्दी", "अंग्रेजी", "अङ्ग्रेज़ी", "चांद", "चाँद", "संबंध", "गंगा", "पढेंगे", "पढ़", "हिंदी चांद"],
        ["चिंता"],
    ),
    "Bengali": ("bn", "চাঁদ এবং গঙ্গা নদী, ভবিষ্যৎ", ["চাংদ", "গংগা", "নদী", "ভবিষ্যত্"], ["পাহাড়"]),
    "Malayalam": ("ml", "അവൻ വന്നു", ["അവന്\u200d", "അവന്"], ["മഴ"]),
    "German": (
        "de",
        "Die Grundschullehrerin fährt mit dem Fahrrad über die Hauptstraße zum Mathe-Unterricht.",
        ["lehrerin", "Lehrer", "schul", "rad", "strasse", "STRASSE", "haupt", "Matheunterricht",
         "mathe unterricht", "fahr stras", "unterr fahr"],
        ["Schulbus"],
    ),
    "English": (
        "en",
        "The teacher's e-mail isn't well\u2010known; photosynthesis at 10–12 o’clock.",
        ["email", "e-mail", "E\u2011Mail", "teacher", "teachers", "teacher's", "isnt",
         "isn’t", "well-known", "wellknown",
         "synthesis", "photo teach", "tea pho", "oclock", "e-mail isn't", "clock"],
        ["mailbox", "emails", "syn tax"],
    ),
    "email": (
        "en", "Send me an email or a letter",
        ["e-mail", "E-Mail", "email", "ema lett", "e-mail letter"],
        ["emailing"],
    ),
    "French": (
        "fr", "L’école de l'été n'est qu’à côté",
        ["ecole", "école", "l'ecole", "été", "cote", "est"],
        ["hiver"],
    ),
    "Turkish": (
        "tr", "İstanbul'da öğrenciler ışığı görüyor",
        ["istanbul", "İSTANBUL", "ogrenci", "ışığı", "isigi"],
        ["ankara"],
    ),
    "Russian": ("ru", "Ёлка и учебники. Мы ещё учим физику", ["елка", "ёлка", "учеб", "еще", "ФИЗИК"], ["химия"]),
    "Ukrainian": ("uk", "П’ять об'єктів", ["п'ять", "пять", "обєкт", "П\u02bcЯТЬ"], ["шість"]),
    "Greek": (
        "el", "Ο δάσκαλος μιλά για τους ΝΌΜΟΥΣ",
        ["δασκαλος", "ΔΑΣΚΑΛΟΣ", "νομους", "νόμους", "δασκαλ"],
        ["ήλιος"],
    ),
    "Catalan": ("ca", "La col·lecció d'art", ["col·leccio", "colleccio", "art"], ["musica"]),
    "Uzbek": ("uz", "oʻzbek maktabi", ["o'zbek", "ozbek", "o‘zbek", "maktab"], ["rus"]),
}  # fmt: skip
"""A language, a text, queries that find it, and queries that do not."""


def speak(folder: RoomFolder, at_seconds: float, texts: dict[str, str]) -> SegmentRecord:
    """Saves a segment of 0.1 s with these texts."""
    start = round(at_seconds * 16_000)
    clock = StreamClock(folder.room.started_at)
    record = folder.begin(ANNA, clock, start, start).commit(segment_of(noise(1_600, start), start))
    note(folder, record, texts)
    return record


def note(folder: RoomFolder, record: SegmentRecord, texts: dict[str, str]) -> None:
    """Adds the segment's line to texts.jsonl."""
    (spoken, transcript), *others = texts.items()
    line = {
        "number": record.number,
        "file": record.file,
        "language": spoken,
        "transcript": transcript,
        "translations": dict(others),
        "files": [],
    }
    jsonl.append(folder.path / TEXTS_FILE, line, sync=False)


def numbers(hits: Sequence[Hit]) -> list[int]:
    return [hit.segment.number for hit in hits]
