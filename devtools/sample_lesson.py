"""Makes lessons as the recorder saves them, for tests of the later steps: real speech, texts in three languages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from archive import jsonl
from core.records import RoomInfo, SegmentRecord, StreamClock, TrackInfo
from devtools import sound
from devtools.correlation import FloatArray
from devtools.sample_room import ANNA, CLOCK, ROOM, open_room, segment_of
from devtools.sound import SAMPLE_RATE
from lesson_tools.export.alignment import Sound

STUDENT = TrackInfo("sam", "Sam", "TR_S", "microphone")

TRANSLATIONS = {
    "Good morning, everyone.": ("Buenos días a todos.", "صباح الخير جميعًا."),
    "Okay.": ("Bien.", "حسنًا."),
    "Today we ask a question that every child asks sooner or later.": (
        "Hoy hacemos una pregunta que todo niño hace tarde o temprano.",
        "نطرح اليومَ سؤالًا يطرحه كل طفل عاجلًا أم آجلًا.",
    ),
    "Why is the sky blue?": ("¿Por qué el cielo es azul?", "لماذا السماء زرقاء؟"),
    "Sunlight looks white, but it is a mixture of all the colours of the rainbow.": (
        "La luz del sol parece blanca, pero es una mezcla de todos los colores del arcoíris.",
        "يبدو ضوء الشمس أبيض، لكنه مزيج من كل ألوان قوس قزح.",
    ),
    "Each colour is a wave, and blue waves are shorter than red ones.": (
        "Cada color es una onda, y las ondas azules son más cortas que las rojas.",
        "كل لون موجة، والأمواج الزرقاء أقصر من الحمراء.",
    ),
    "Good.": ("Bueno.", "جيد."),
    "So wherever you look, some blue light is coming towards you.": (
        "Así que, mires donde mires, te llega algo de luz azul.",
        "لذلك أينما نظرت، يأتي إليك بعض الضوء الأزرق.",
    ),
    "That is why the whole sky shines.": ("Por eso brilla todo el cielo.", "ولهذا تضيء السماء كلها."),
    "And in the evening?": ("¿Y al atardecer?", "وفي المساء؟"),
    "Then the light has a longer way through the air, and most of the blue is lost before it reaches us.": (
        "Entonces la luz recorre un camino más largo por el aire, y casi todo el azul se pierde antes de llegar.",
        "عندها يقطع الضوء طريقًا أطول عبر الهواء، ويضيع معظم الأزرق قبل أن يصل إلينا.",
    ),
    "What is left is orange and red.": ("Lo que queda es naranja y rojo.", "وما يبقى هو البرتقالي والأحمر."),
    "Excuse me, may I ask something?": ("Disculpe, ¿puedo preguntar algo?", "عفوًا، هل لي بسؤال؟"),
    "If violet waves are even shorter than blue ones, why do we not see a violet sky?": (
        "Si las ondas violetas son aún más cortas que las azules, ¿por qué no vemos un cielo violeta?",
        "إذا كانت الأمواج البنفسجية أقصر من الزرقاء، فلماذا لا نرى سماءً بنفسجية؟",
    ),
    "Ah, our eyes.": ("Ah, nuestros ojos.", "آه، أعيننا."),
    "Is it the dust?": ("¿Es el polvo?", "هل هو الغبار؟"),
}
"""Spanish and Arabic translations of the sentences in devtools/speech/; some have none, as in real lessons."""


@dataclass(frozen=True)
class Said:
    """A sentence, where in the lesson it begins, and its sound."""

    at: float
    text: str
    pcm: sound.IntArray = field(repr=False)
    track: TrackInfo = ANNA

    @property
    def end(self) -> float:
        return self.at + len(self.pcm) / SAMPLE_RATE


@dataclass(frozen=True)
class Recorded:
    """What was said and what is on disk of it."""

    output_dir: Path
    folder: Path
    said: list[Said]
    records: list[SegmentRecord]

    def track(self, seconds: float | None = None) -> FloatArray:
        """The sound of the lesson from its beginning, -1 to 1, as a microphone in the room would have it."""
        length = round((seconds or self.said[-1].end + 2) * SAMPLE_RATE)
        heard = np.zeros(length, np.float32)
        for one in self.said:
            at = round(one.at * SAMPLE_RATE)
            heard[at : at + len(one.pcm)] += (one.pcm / np.float32(32768))[: max(0, length - at)]
        return heard


def sentences(name: str, begin: float, track: TrackInfo = ANNA) -> list[Said]:
    """The sentences of devtools/speech/<name> where they are in it, from ``begin`` on."""
    listed = json.loads((sound.SPEECH / f"{name}.json").read_text(encoding="utf-8"))["sentences"]
    pcm = sound.load(name)
    return [
        Said(
            begin + one["start"],
            one["text"],
            pcm[round(one["start"] * SAMPLE_RATE) : round(one["end"] * SAMPLE_RATE)],
            track,
        )
        for one in listed
    ]


def record(
    output_dir: Path, said: Sequence[Said], room: RoomInfo = ROOM, *, texts: bool = True, start: float = 0.0
) -> Recorded:
    """Writes a lesson through the recorder's own storage, ``start`` seconds after the session's start."""
    folder = open_room(output_dir, room)
    clock = StreamClock(room.started_at)
    records = []
    for one in said:
        begin = round((start + one.at) * SAMPLE_RATE)
        records.append(folder.begin(one.track, clock, begin, begin).commit(segment_of(one.pcm, begin)))
    if texts:
        note_texts(folder.path, list(zip(records, (one.text for one in said), strict=True)))
    return Recorded(output_dir, folder.path, list(said), records)


def note_texts(folder: Path, spoken: Sequence[tuple[SegmentRecord, str]]) -> None:
    """Appends lines to texts.jsonl: the English text, and the Spanish and Arabic translations that are known."""
    for record, text in spoken:
        entry = {
            "number": record.number,
            "file": record.file,
            "language": "en",
            "transcript": text,
            "translations": dict(zip(("es", "ar"), TRANSLATIONS.get(text, ()), strict=False)),
        }
        jsonl.append(folder / "texts.jsonl", entry, sync=False)


def made_lesson(seconds: float, seed: int) -> tuple[list[Sound], FloatArray]:
    """Makes a lesson of devtools/speech/'s sentences in random order, repeated, with random pauses: all such lessons
    resemble each other.

    Returns the segments, and the whole sound, -1 to 1.
    """
    random = np.random.default_rng(seed)
    pool = [one.pcm for one in sentences("lecture", 0)] + [marker.pcm for marker in sound.markers()]
    track = np.zeros(round((seconds + 30) * SAMPLE_RATE), np.float32)
    sounds, at = [], 2.0
    while at < seconds:
        pcm = pool[random.integers(len(pool))][: 10 * SAMPLE_RATE]
        begin = round(at * SAMPLE_RATE)
        track[begin : begin + len(pcm)] = pcm / np.float32(32768)
        sounds.append(Sound(begin / SAMPLE_RATE, len(pcm) / SAMPLE_RATE, partial(_same, pcm)))
        at += len(pcm) / SAMPLE_RATE + random.uniform(0.3, 5)
    return sounds, track[: round((at + 1) * SAMPLE_RATE)]


def _same(pcm: sound.IntArray) -> sound.IntArray:
    return pcm


def school_lesson(output_dir: Path) -> Recorded:
    """A minute and a half: a lecture, then a student's questions."""
    said = sentences("lecture", 5.0) + sentences("student", 75.0, STUDENT)
    return record(output_dir, said)


__all__ = [
    "ANNA",
    "CLOCK",
    "ROOM",
    "STUDENT",
    "Recorded",
    "Said",
    "made_lesson",
    "record",
    "school_lesson",
    "sentences",
]
