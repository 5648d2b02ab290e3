"""Renders the speech of the demo and the tests: python devtools/speech/make_speech.py

For maintainers. Its output is part of the repository, so using or testing the project does not require it.
 It needs two free speech synthesisers on the PATH, flite 2.2 and espeak-ng 1.51 (Debian and Ubuntu:
apt-get install flite espeak-ng), besides the project's own numpy and soundfile. The same versions render the
same samples. The sentences were written for this project, and no human voice was recorded for it.

    lecture.flac, .json   a teacher tells why the sky is blue: pauses of 0.3 to 2.5 s, one sentence of 15 s
    student.flac, .json   another voice asks about it
    markers/              40 short sentences, listed in markers.json, that tests say and find again

All of it is mono, 16 kHz, 16-bit. Every sentence is cut to where it sounds, so the times in the JSON files
are those of the sound itself, without the silence that synthesisers add. Lecture and student lie on faint
noise, as in a room; markers are bare. Afterwards run `pytest tests/unit/test_sound.py`: it checks that the voice
detector takes each marker for speech and that no two markers resemble each other. A sentence that fails
there needs another voice or other words; voices of the same pitch are the likeliest to resemble each other.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

FloatArray = npt.NDArray[np.float64]

FOLDER = Path(__file__).resolve().parent
SAMPLE_RATE = 16_000
PEAK = 10 ** (-3 / 20)
"""Loudest sample of every file, of full scale: -3 dBFS."""
NOISE_RMS = 10 ** (-65 / 20)
"""Background of lecture and student, of full scale: -65 dBFS."""
SOUNDING = 10 ** (-35 / 20)
"""A sentence starts and ends where 5 ms of it are within 35 dB of its loudest 5 ms."""
FADE_SECONDS = 0.010
FRAME_SECONDS = 0.005


@dataclass(frozen=True)
class Voice:
    """A synthesiser and the arguments that choose and tune one of its voices."""

    program: str
    arguments: tuple[str, ...]

    def command(self, text: str, wav: Path) -> list[str]:
        if self.program == "flite":
            return ["flite", *self.arguments, "-t", text, "-o", str(wav)]
        return ["espeak-ng", *self.arguments, "-w", str(wav), text]


VOICES = {
    "slt": Voice("flite", ("-voice", "slt")),
    "slt-high": Voice("flite", ("-voice", "slt", "--setf", "f0_shift=1.18")),
    "slt-low": Voice("flite", ("-voice", "slt", "--setf", "f0_shift=0.86")),
    "slt-deep": Voice("flite", ("-voice", "slt", "--setf", "f0_shift=0.8")),
    "rms": Voice("flite", ("-voice", "rms")),
    "rms-high": Voice("flite", ("-voice", "rms", "--setf", "f0_shift=1.2")),
    "rms-low": Voice("flite", ("-voice", "rms", "--setf", "f0_shift=0.85")),
    "awb": Voice("flite", ("-voice", "awb")),
    "awb-low": Voice("flite", ("-voice", "awb", "--setf", "f0_shift=0.8")),
    "kal16": Voice("flite", ("-voice", "kal16")),
    "espeak-american": Voice("espeak-ng", ("-v", "en-us+m3", "-s", "160")),
    "espeak-british": Voice("espeak-ng", ("-v", "en-gb+f3", "-s", "165")),
    "espeak-scottish": Voice("espeak-ng", ("-v", "en-gb-scotland+f4", "-s", "165", "-p", "60")),
    "espeak-spanish": Voice("espeak-ng", ("-v", "es+f2", "-s", "160")),
    "espeak-arabic": Voice("espeak-ng", ("-v", "ar+m3", "-s", "150")),
}

Script = Sequence[tuple[str, float]]
"""Sentences, each with the pause in seconds that follows it."""

LEAD_SECONDS = 0.8
LECTURE_VOICE = "slt"
LECTURE: Script = (
    ("Good morning, everyone.", 0.6),
    ("Okay.", 0.9),
    ("Today we ask a question that every child asks sooner or later.", 0.4),
    ("Why is the sky blue?", 2.2),
    ("Sunlight looks white, but it is a mixture of all the colours of the rainbow.", 0.5),
    ("Each colour is a wave, and blue waves are shorter than red ones.", 1.1),
    ("Good.", 0.7),
    (
        "Now imagine a ray of sunlight that travels for eight minutes through empty space and then meets "
        "the air above our heads where it strikes countless tiny molecules that throw the short blue waves "
        "about in every direction while the long red waves pass straight through almost as if the air were "
        "not there at all.",
        2.5,
    ),
    ("So wherever you look, some blue light is coming towards you.", 0.3),
    ("That is why the whole sky shines.", 1.4),
    ("And in the evening?", 0.8),
    (
        "Then the light has a longer way through the air, and most of the blue is lost before it reaches us.",
        0.5,
    ),
    ("What is left is orange and red.", 1.8),
    ("Okay.", 0.5),
    ("Write that down in your own words, and tomorrow we will look at the clouds.", 1.2),
)

STUDENT_VOICE = "rms"
STUDENT: Script = (
    ("Excuse me, may I ask something?", 0.7),
    ("If violet waves are even shorter than blue ones, why do we not see a violet sky?", 1.5),
    ("Ah, our eyes.", 0.9),
    ("And on Mars my book says that the sunset is blue.", 0.4),
    ("Is it the dust?", 2.0),
    ("Thank you, now I understand it.", 1.0),
)

MARKERS = (
    ("slt-low", "The kettle is boiling."),
    ("rms-high", "Seven geese flew south."),
    ("awb-low", "Open the third window."),
    ("kal16", "My bicycle has a bell."),
    ("espeak-american", "Chalk dust makes me sneeze."),
    ("slt-deep", "Please fetch a ladder."),
    ("espeak-british", "Every puzzle has an answer."),
    ("rms-high", "Draw a perfect circle."),
    ("awb-low", "Tigers swim very well."),
    ("espeak-spanish", "La ventana está abierta."),
    ("slt-deep", "Fractions are easy."),
    ("kal16", "Jump over the puddle."),
    ("rms-low", "Water turns to steam."),
    ("espeak-scottish", "The ferry leaves at noon."),
    ("awb-low", "Count backwards from nine."),
    ("slt-high", "Who broke the compass?"),
    ("espeak-arabic", "السماء زرقاء اليوم."),
    ("rms-high", "Thunder woke the village."),
    ("kal16", "Velvet curtains are heavy."),
    ("slt-low", "Zebras graze at dawn."),
    ("espeak-american", "Iron rusts in damp air."),
    ("awb", "Fold the paper twice."),
    ("rms", "Our map shows a castle."),
    ("espeak-british", "Good shoes last for years."),
    ("slt-deep", "Nobody saw the comet."),
    ("kal16", "Unplug the old machine."),
    ("awb", "Lemons taste sour."),
    ("espeak-spanish", "Mañana leemos otro cuento."),
    ("rms", "Whales sing to each other."),
    ("slt-high", "Green apples are cheaper."),
    ("espeak-scottish", "Bring your own pencil."),
    ("awb-low", "Snow covered the valley."),
    ("kal16", "Quick foxes hide well."),
    ("rms-low", "Eight planets circle the sun."),
    ("espeak-american", "Under the bridge is a boat."),
    ("slt-deep", "Just add a little salt."),
    ("espeak-british", "Robins build tiny nests."),
    ("awb", "The drum beats faster."),
    ("rms", "Keep the answer short."),
    ("slt-high", "Volcanoes shape islands."),
)


def main() -> None:
    require_synthesisers()
    write_script("lecture", LECTURE_VOICE, LECTURE)
    write_script("student", STUDENT_VOICE, STUDENT)
    write_markers(FOLDER / "markers")


def require_synthesisers() -> None:
    missing = [program for program in ("flite", "espeak-ng") if shutil.which(program) is None]
    if missing:
        sys.exit(
            f"make_speech.py needs {' and '.join(missing)} on the PATH (apt-get install flite espeak-ng)"
        )


def write_script(name: str, voice: str, script: Script) -> None:
    """Write <name>.flac, and <name>.json with where each sentence sounds, in seconds."""
    spoken = [say(voice, text) for text, _ in script]
    loudness = PEAK / max(np.abs(sound).max() for sound in spoken)
    pieces = [silence(LEAD_SECONDS)]
    sentences: list[dict[str, object]] = []
    position = pieces[0].size
    for (text, pause_seconds), sound in zip(script, spoken, strict=True):
        sentences.append({"text": text, "start": seconds(position), "end": seconds(position + sound.size)})
        pieces += [loudness * sound, silence(pause_seconds)]
        position += sound.size + pieces[-1].size
    write_flac(FOLDER / f"{name}.flac", with_room_noise(np.concatenate(pieces)))
    write_json(FOLDER / f"{name}.json", {"sample_rate": SAMPLE_RATE, "sentences": sentences})


def write_markers(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    listed: list[dict[str, object]] = []
    for index, (voice, text) in enumerate(MARKERS):
        sound = say(voice, text)
        file = f"marker_{index:02}.flac"
        write_flac(folder / file, sound * PEAK / np.abs(sound).max())
        listed.append({"file": file, "text": text, "voice": voice, "seconds": seconds(sound.size)})
    write_json(folder / "markers.json", listed)


def say(voice: str, text: str) -> FloatArray:
    """The sentence at 16 kHz, from its first sound to its last, faded in and out."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "sentence.wav"
        subprocess.run(VOICES[voice].command(text, wav), check=True)
        sound, rate = soundfile.read(wav)
    return faded(trimmed(resampled(sound, rate)))


def resampled(sound: FloatArray, rate: int) -> FloatArray:
    """The whole sentence in one Fourier transform: exact, and the sentences are short."""
    if rate == SAMPLE_RATE:
        return sound
    count = round(sound.size * SAMPLE_RATE / rate)
    spectrum = np.fft.rfft(sound)[: count // 2 + 1]
    return np.fft.irfft(spectrum, count) * count / sound.size


def trimmed(sound: FloatArray) -> FloatArray:
    frame = round(FRAME_SECONDS * SAMPLE_RATE)
    frames = sound[: sound.size // frame * frame].reshape(-1, frame)
    levels = np.sqrt(np.mean(frames**2, axis=1))
    sounding = np.flatnonzero(levels > SOUNDING * levels.max())
    return sound[sounding[0] * frame : (sounding[-1] + 1) * frame]


def faded(sound: FloatArray) -> FloatArray:
    """A cut through a wave clicks; ten milliseconds of ramp do not."""
    ramp = np.linspace(0, 1, round(FADE_SECONDS * SAMPLE_RATE))
    envelope = np.ones(sound.size)
    envelope[: ramp.size] = ramp
    envelope[-ramp.size :] = ramp[::-1]
    return sound * envelope


def silence(length_seconds: float) -> FloatArray:
    return np.zeros(round(length_seconds * SAMPLE_RATE))


def with_room_noise(sound: FloatArray) -> FloatArray:
    return sound + np.random.default_rng(seed=1).normal(scale=NOISE_RMS, size=sound.size)


def seconds(samples: int) -> float:
    return round(samples / SAMPLE_RATE, 4)


def write_flac(path: Path, sound: FloatArray) -> None:
    soundfile.write(path, np.round(sound * 32767).astype(np.int16), SAMPLE_RATE, subtype="PCM_16")


def write_json(path: Path, content: object) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
