"""Draws docs/segmentation.svg from the shipped lecture: waveform, Silero's probability, and where segments begin and
end. Run it again after a change of the speech rules: ``python docs/draw_segment.py``."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
import soundfile  # noqa: E402

from audio_processor import WINDOW_SAMPLES, Closed, Segmenter, SegmenterOptions  # noqa: E402
from core.records import SAMPLE_RATE, EndReason, Pcm, SpeechSegment  # noqa: E402
from recording.speech_detector import NativeDetector  # noqa: E402

FROM_SECONDS, TO_SECONDS = 0.0, 48.0
WIDTH, WAVE_HEIGHT, LINE_HEIGHT, LEFT = 1180, 130, 90, 10
COLOURS = {EndReason.PAUSE: "#2f81f7", EndReason.MAX_LENGTH: "#d29922"}


def main() -> None:
    pcm, _ = soundfile.read(HERE.parent / "devtools" / "speech" / "lecture.flac", dtype="int16")
    probabilities, segments = segment(pcm)
    picture = svg(
        pcm, probabilities, [one for one in segments if one.start_sample < TO_SECONDS * SAMPLE_RATE]
    )
    (HERE / "segmentation.svg").write_text(picture, encoding="utf-8", newline="\n")


def segment(pcm: Pcm) -> tuple[list[float], list[SpeechSegment]]:
    detector, segmenter = NativeDetector(), Segmenter()
    probabilities, updates = [], []
    for start in range(0, len(pcm) - WINDOW_SAMPLES + 1, WINDOW_SAMPLES):
        window = pcm[start : start + WINDOW_SAMPLES]
        probabilities.append(detector.probability(window))
        updates += segmenter.push(window, probabilities[-1])
    updates += segmenter.finish(EndReason.SHUTDOWN)
    return probabilities, [update.segment for update in updates if isinstance(update, Closed)]


def x(seconds: float) -> float:
    return LEFT + (seconds - FROM_SECONDS) / (TO_SECONDS - FROM_SECONDS) * (WIDTH - 2 * LEFT)


def svg(pcm: Pcm, probabilities: list[float], segments: list[SpeechSegment]) -> str:
    height = 46 + WAVE_HEIGHT + 30 + LINE_HEIGHT + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12" fill="#57606a"><rect width="100%" height="100%" fill="#ffffff"/>',
        *(box(one, height) for one in segments),
        waveform(pcm, 46),
        curve(probabilities, 46 + WAVE_HEIGHT + 30),
        *axis(height - 12),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def box(segment: SpeechSegment, height: int) -> str:
    start, end = segment.start_sample / SAMPLE_RATE, min(segment.end_sample / SAMPLE_RATE, TO_SECONDS)
    colour = COLOURS.get(segment.end_reason, "#57606a")
    return (
        f'<rect x="{x(start):.1f}" y="20" width="{x(end) - x(start):.1f}" height="{height - 60}" '
        f'fill="{colour}" fill-opacity="0.13" stroke="{colour}" stroke-width="1"/>'
        f'<text x="{x(start) + 4:.1f}" y="36" fill="{colour}">{segment.duration_seconds:.1f} s</text>'
        f'<text x="{x(start) + 4:.1f}" y="50" fill="{colour}">{segment.end_reason.value}</text>'
    )


def waveform(pcm: Pcm, top: int) -> str:
    columns = np.array_split(
        pcm[int(FROM_SECONDS * SAMPLE_RATE) : int(TO_SECONDS * SAMPLE_RATE)], WIDTH - 2 * LEFT
    )
    middle, scale = top + WAVE_HEIGHT / 2, WAVE_HEIGHT / 2 / 32768
    lines = (
        f"M{LEFT + index} {middle - int(column.max()) * scale:.1f}V{middle - int(column.min()) * scale + 0.5:.1f}"
        for index, column in enumerate(columns)
    )
    return f'<path d="{"".join(lines)}" stroke="#1f2328" stroke-width="1"/>'


def curve(probabilities: list[float], top: int) -> str:
    step = WINDOW_SAMPLES / SAMPLE_RATE
    points = (
        f"{x(index * step):.1f},{top + (1 - probability) * LINE_HEIGHT:.1f}"
        for index, probability in enumerate(probabilities)
        if index * step < TO_SECONDS
    )
    options = SegmenterOptions()
    thresholds = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#cf222e" stroke-dasharray="4 4" '
        f'stroke-width="0.7"/><text x="{LEFT + 2}" y="{y - 3:.1f}" fill="#cf222e">{name} {level:g}</text>'
        for name, level in (("start", options.start_probability), ("end", options.end_probability))
        for y in [top + (1 - level) * LINE_HEIGHT]
    )
    return (
        f'{thresholds}<polyline points="{" ".join(points)}" fill="none" stroke="#1a7f37" stroke-width="1.2"/>'
    )


def axis(y: int) -> list[str]:
    seconds = range(int(FROM_SECONDS), int(TO_SECONDS) + 1, 4)
    return [f'<text x="{x(second):.1f}" y="{y}" text-anchor="middle">{second} s</text>' for second in seconds]


if __name__ == "__main__":
    main()
