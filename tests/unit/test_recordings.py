"""Recordings as people have them: odd channels and tracks, half downloads, wrong headers, wrong times, any damage."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn
from zoneinfo import ZoneInfo

import av
import numpy as np
import pytest

from archive.manifest import read_gaps
from core.errors import InputError
from core.records import SAMPLE_RATE, GapReason, Pcm, format_utc
from devtools import sound
from devtools.sample_room import settings_for
from lesson_tools import console, container_file, container_parts, decoding
from lesson_tools.container_parts import parts_of
from lesson_tools.decoding import Recording
from lesson_tools.export.video import Video, _video_seconds
from lesson_tools.importing import Outcome, segment_file
from lesson_tools.recorded_at import began_at
from lesson_tools.timeline import HOLE_SECONDS, LOOK_AHEAD_SECONDS, Loss, Piece, Timeline
from support.commands import run
from support.disk import manifest
from support.recordings import TRACK_CODECS, write_pieces, write_tracks

pytestmark = pytest.mark.slow

BEGAN = datetime(2025, 10, 8, 14, 0, tzinfo=UTC)


def spoken(count: int = 3, gap_seconds: float = 0.6) -> Pcm:
    return sound.sequence(sound.markers()[:count], gap_seconds)[0]


def tone(samples: int, level: float = 3000.0) -> Pcm:
    """Two sines, as music is to the detector."""
    moments = np.arange(samples) / SAMPLE_RATE
    waves = np.sin(2 * np.pi * 220 * moments) + np.sin(2 * np.pi * 330 * moments)
    return (level / 2 * waves).astype(np.int16)


def read(path: Path, track: int | None = None, channel: int | None = None) -> tuple[Pcm, Recording]:
    with Recording(path, track=track, channel=channel) as recording:
        return np.concatenate([*recording.sound(), np.empty(0, np.int16)]), recording


def words_in(pcm: Pcm, count: int = 3) -> list[int]:
    return sound.heard(pcm, sound.markers()[:count])


# --- tracks and channels ---


def silent_like(pcm: Pcm) -> Pcm:
    return np.zeros_like(pcm)


@pytest.mark.parametrize("gain", [-1.0, -0.4])
def test_a_channel_that_is_upside_down_does_not_cancel_the_voice(tmp_path: Path, gain: float) -> None:
    pcm = spoken()
    path = write_tracks(tmp_path / "a.wav", [np.stack([pcm, (gain * pcm).astype(np.int16)], axis=1)])
    heard, recording = read(path)
    assert words_in(heard) == [0, 1, 2]
    assert np.abs(heard).max() > 0.6 * np.abs(pcm).max()
    assert recording.taken == "channel 1 of 2, channel 2 of 2 (turned over)"


@pytest.mark.parametrize("rms", [2828, 7000, 10_000])
def test_a_voice_of_opposite_phase_is_heard_through_a_hum_that_the_channels_share(
    tmp_path: Path, rms: int
) -> None:
    voice = spoken() * (1500 / np.sqrt(np.square(spoken(), dtype=np.float64).mean()))
    hum = rms * np.sqrt(2) * np.sin(2 * np.pi * 50 * np.arange(len(voice)) / SAMPLE_RATE)
    both = np.stack([hum + voice, hum - voice], axis=1).clip(-32768, 32767).astype(np.int16)
    heard, _ = read(write_tracks(tmp_path / "a.wav", [both]))
    assert abs(heard[: len(voice)] @ voice) > 0.9 * (voice @ voice)


def test_channels_that_are_nearly_the_same_are_mixed_without_listening(tmp_path: Path) -> None:
    noise = np.random.default_rng(4).normal(0, 100, (len(spoken()), 2))
    both = (spoken()[:, None] + noise).astype(np.int16)

    def never() -> NoReturn:
        raise AssertionError("the detector is not needed")

    with Recording(write_tracks(tmp_path / "a.wav", [both]), new_detector=never) as recording:
        assert words_in(np.concatenate(list(recording.sound()))) == [0, 1, 2]
        assert recording.taken == ""


@pytest.mark.parametrize(("channels", "voice"), [(2, 1), (3, 2), (6, 2), (8, 6), (12, 11), (20, 0)])
def test_the_voice_is_found_on_any_of_many_channels(tmp_path: Path, channels: int, voice: int) -> None:
    pcm = spoken()
    noise = np.random.default_rng(1)
    block = noise.normal(0, 300, (len(pcm), channels)).astype(np.int16)
    block[:, voice] = pcm
    heard, recording = read(write_tracks(tmp_path / "a.mkv", [block]))
    assert words_in(heard) == [0, 1, 2]
    np.testing.assert_array_equal(heard[SAMPLE_RATE // 10 : len(pcm)], pcm[SAMPLE_RATE // 10 :])
    assert recording.taken == f"channel {voice + 1} of {channels}"


@pytest.mark.parametrize("ending", ["mkv", "mp4", "mov", "ts"])
def test_the_voice_is_found_on_any_track(tmp_path: Path, ending: str) -> None:
    pcm = spoken()
    others = [tone(len(pcm)), silent_like(pcm)]
    path = write_tracks(tmp_path / f"a.{ending}", [one[:, None] for one in (*others, pcm)])
    heard, recording = read(path)
    assert words_in(heard) == [0, 1, 2]
    assert recording.taken == "track 3 of 3"


def test_two_people_on_two_channels_are_both_heard(tmp_path: Path) -> None:
    one, two = spoken(2), sound.sequence(sound.markers()[2:4], 0.6)[0]
    left = np.concatenate([one, silent_like(two)])
    right = np.concatenate([silent_like(one), two])
    noise = np.random.default_rng(2).normal(0, 20, (len(left), 2))
    heard, recording = read(
        write_tracks(tmp_path / "a.wav", [np.stack([left, right], axis=1) + noise.astype(np.int16)])
    )
    assert words_in(heard, 4) == [0, 1, 2, 3]
    assert recording.taken == ""


def test_a_voice_that_comes_late_and_on_another_track_is_heard(tmp_path: Path) -> None:
    pcm = spoken(2)
    quiet = np.zeros(12 * SAMPLE_RATE, np.int16)
    one = np.concatenate([pcm, quiet, silent_like(pcm)])
    two = np.concatenate([silent_like(pcm), quiet, pcm])
    heard, recording = read(write_tracks(tmp_path / "a.mkv", [one[:, None], two[:, None]]))
    assert words_in(heard, 2) == [0, 1, 0, 1]


def test_dubbed_tracks_are_not_mixed(tmp_path: Path) -> None:
    one, two = spoken(3), sound.sequence(sound.markers()[4:7], 0.6)[0]
    path = write_tracks(tmp_path / "a.mkv", [one[:, None], two[:, None]], languages=["eng", "spa"])
    heard, recording = read(path)
    assert recording.taken in ("track 1 of 2", "track 2 of 2")
    assert len(sound.heard(heard, sound.markers()[:7])) == 3


def test_a_track_and_a_channel_can_be_chosen(tmp_path: Path) -> None:
    pcm = spoken(2)
    path = write_tracks(
        tmp_path / "a.mkv", [tone(len(pcm))[:, None], np.stack([tone(len(pcm), 900.0), pcm], axis=1)]
    )
    np.testing.assert_array_equal(read(path, track=2, channel=2)[0], pcm)
    np.testing.assert_array_equal(read(path, track=1)[0], tone(len(pcm)))
    for track, channel, said in (
        (3, None, "no track 3 of sound: --track from 1 to 2"),
        (1, 2, "no channel 2: --channel from 1 to 1"),
    ):
        with pytest.raises(InputError, match=said):
            Recording(path, track=track, channel=channel)
    result = run(
        "segment", str(path), "--track", "2", "--channel", "2", "--json", output_dir=tmp_path / "out"
    )
    assert json.loads(result.out)["recordings"][0]["taken"] == "track 2 of 2 channel 2 of 2"


# --- what cannot be decoded, and errors ---


def adts(pcm: Pcm, folder: Path) -> bytes:
    return write_tracks(folder / "plain.aac", [pcm[:, None]]).read_bytes()


def undecodable(folder: Path) -> Iterator[Path]:
    pcm, chance = spoken(), random.Random(4)
    whole = bytearray(write_tracks(folder / "whole.m4a", [pcm[:, None]]).read_bytes())
    at = whole.index(b"mdat")
    size = int.from_bytes(whole[at - 4 : at])
    whole[at + 4 : at - 4 + size] = chance.randbytes(size - 8)
    (folder / "encrypted.m4a").write_bytes(whole)
    yield folder / "encrypted.m4a"
    matroska = write_tracks(folder / "whole.webm", [pcm[:, None]]).read_bytes()
    (folder / "unknown.webm").write_bytes(matroska.replace(b"A_OPUS", b"A_ZZZZ"))
    yield folder / "unknown.webm"
    wav = bytearray(write_tracks(folder / "whole.wav", [pcm[:, None]]).read_bytes())
    wav[20:22] = struct.pack("<H", 0x1234)
    (folder / "unknown.wav").write_bytes(wav)
    yield folder / "unknown.wav"


def test_a_recording_of_which_nothing_can_be_decoded_is_an_error_with_its_reason(tmp_path: Path) -> None:
    files = list(undecodable(tmp_path))
    result = run("segment", *map(str, files), output_dir=tmp_path / "out")
    assert (result.code, result.out) == (1, "")
    assert [line.partition(": ")[0] for line in result.err.splitlines()] == [str(path) for path in files]
    assert all("nothing of it can be decoded: " in line for line in result.err.splitlines())
    assert [path for path in (tmp_path / "out").iterdir() if path.is_dir()] == []


def test_a_stream_that_comes_later_ends_nothing(tmp_path: Path) -> None:
    pcm = spoken()
    data = write_tracks(tmp_path / "a.flv", [pcm[:, None]]).read_bytes()
    at, tags = 13, []
    while at + 11 <= len(data):
        tags.append(at)
        at += 11 + int.from_bytes(data[at + 1 : at + 4]) + 4
    middle = tags[len(tags) // 2]
    picture = bytes([9, 0, 0, 21, *data[middle + 4 : middle + 7], 0, 0, 0, 0, 0x12, *bytes(20)])
    late = tmp_path / "late.flv"
    late.write_bytes(data[:middle] + picture + struct.pack(">I", len(picture)) + data[middle:])
    plain = write_tracks(tmp_path / "plain.wav", [pcm[:, None]])
    result = run("segment", str(late), str(plain), "--json", output_dir=tmp_path / "out")
    outcomes = json.loads(result.out)["recordings"]
    assert result.code == 0 and len(outcomes) == 2
    assert words_in(read(late)[0]) == [0, 1, 2]


def test_an_unexpected_error_ends_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lesson_tools import importing
    from lesson_tools.segment import _segmented

    plain = write_tracks(tmp_path / "plain.wav", [spoken()[:, None]])
    made: list[Path] = []

    def fails_first(settings: object, path: Path, *_: object, **__: object) -> Outcome:
        made.append(path)
        if len(made) == 1:
            raise RuntimeError("of a filter")
        return segment_file(settings_for(tmp_path / "out"), path, None, BEGAN)

    monkeypatch.setattr(importing, "segment_file", fails_first)
    outcomes = list(_segmented(settings_for(tmp_path / "out"), [plain, plain], None, BEGAN, "", None, None))
    assert len(outcomes) == 1 and len(made) == 2


# --- losses ---


PROMISING = ("mp4", "mp3", "webm", "flac", "wav", "caf", "avi", "wma")


@pytest.mark.parametrize("ending", PROMISING)
def test_half_a_download_says_what_is_missing_and_the_whole_file_continues_it(
    tmp_path: Path, ending: str
) -> None:
    pcm = spoken(3, 1.0)
    seconds = len(pcm) / SAMPLE_RATE
    whole = write_tracks(tmp_path / f"whole.{ending}", [pcm[:, None]], faststart=True).read_bytes()
    path = tmp_path / f"lecture.{ending}"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    half = segment_file(settings_for(tmp_path / "out"), path, None, BEGAN)
    room = tmp_path / "out" / "lecture"
    (loss,) = [one for one in half.losses if one.reason is GapReason.TRUNCATED]
    assert loss.end == pytest.approx(seconds, abs=0.4)
    assert 0.3 * seconds < loss.seconds < 0.65 * seconds
    gaps = list(read_gaps(room))
    assert gaps[-1].reason is GapReason.TRUNCATED
    assert (gaps[-1].end - BEGAN).total_seconds() == pytest.approx(loss.end, abs=0.01)
    segment_file(settings_for(tmp_path / "out"), path, None, BEGAN)
    assert list(read_gaps(room)) == gaps, "a second run adds nothing"

    path.write_bytes(whole)
    again = segment_file(settings_for(tmp_path / "out"), path, None, None)
    assert (again.start, again.room_sid, again.losses) == (BEGAN, half.room_sid, ())
    assert list(read_gaps(room)) == []
    assert len({line["room_sid"] for line in manifest(room)}) == 1
    assert again.new_segments < again.segments
    assert segment_file(settings_for(tmp_path / "out"), path, None, None).new_segments == 0


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_mulaw", "adpcm_ima_wav"])
@pytest.mark.parametrize("ending", ["wav", "w64"])
def test_half_a_wav_of_any_codec_lacks_its_other_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, codec: str
) -> None:
    monkeypatch.setitem(TRACK_CODECS, ending, codec)
    path = write_tracks(tmp_path / f"a.{ending}", [tone(8 * SAMPLE_RATE)[:, None]])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (loss,) = read(path)[1].losses
    assert [loss.start, loss.end] == pytest.approx([4, 8], abs=0.2)


@pytest.mark.parametrize("ending", ["avi", "wma", "wav", "w64", "au", "flac", "mp3", "mkv"])
def test_a_recording_from_a_program_that_could_not_go_back_lacks_nothing(tmp_path: Path, ending: str) -> None:
    path = write_tracks(tmp_path / f"a.{ending}", [tone(8 * SAMPLE_RATE)[:, None]], is_live=True)
    heard, recording = read(path)
    assert len(heard) / SAMPLE_RATE == pytest.approx(8, abs=0.2)
    assert recording.losses == []


@pytest.mark.parametrize("number", [0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB])
def test_a_number_in_the_place_of_a_length_is_none(tmp_path: Path, number: int) -> None:
    path = write_tracks(tmp_path / "a.wav", [tone(4 * SAMPLE_RATE)[:, None]])
    heard, recording = read(with_number(path, b"data", 0, struct.pack("<I", number)))
    assert len(heard) == 4 * SAMPLE_RATE
    assert recording.losses == []


def test_joined_mp3s_are_longer_than_the_first_says(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mp3", [tone(4 * SAMPLE_RATE)[:, None]])
    assert read(path)[1].metadata.duration_seconds == pytest.approx(4, abs=0.1)
    path.write_bytes(2 * path.read_bytes())
    assert read(path)[1].excess_seconds == pytest.approx(4, abs=0.2)


def test_another_recording_of_the_same_name_is_another_session(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "lecture.wav", [spoken(3)[:, None]])
    first = segment_file(settings_for(tmp_path / "out"), path, None, BEGAN)
    write_tracks(path, [sound.sequence(sound.markers()[5:9], 0.6)[0][:, None]])
    second = segment_file(settings_for(tmp_path / "out"), path, None, BEGAN + timedelta(days=7))
    assert first.room_sid != second.room_sid


def test_an_ogg_without_its_end_is_incomplete(tmp_path: Path) -> None:
    whole = write_tracks(tmp_path / "a.opus", [spoken(4)[:, None]])
    assert not parts_of(whole)[0].breaks_off
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    (loss,) = read(whole)[1].losses
    assert (loss.seconds, loss.reason) == (0.0, GapReason.TRUNCATED)


def fragmented(path: Path, pcm: Pcm) -> bytearray:
    """Writes an MP4 in fragments of 0.1 s."""
    options = {"movflags": "frag_every_frame+empty_moov+default_base_moof", "frag_duration": "100000"}
    with av.open(str(path), "w", options=options) as out:
        stream = out.add_stream("aac", rate=SAMPLE_RATE)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(pcm[None], "s16", "mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("after", [4, 12, 60, 110])
def test_fragments_that_break_off_are_read_up_to_there(tmp_path: Path, after: int) -> None:
    """``after``: bytes of the middle fragment that are there; its head has about 100."""
    path = tmp_path / "a.mp4"
    data = fragmented(path, tone(8 * SAMPLE_RATE))
    assert read(path)[1].losses == []
    path.write_bytes(data[: data.index(b"moof", len(data) // 2) - 4 + after])
    heard, recording = read(path)
    assert len(heard) / SAMPLE_RATE == pytest.approx(4, abs=0.3)
    assert recording.losses[-1].reason is GapReason.TRUNCATED


@pytest.mark.parametrize("damage", ["zeros", "noise", "removed"])
def test_what_is_behind_a_hole_in_fragments_is_read(tmp_path: Path, damage: str) -> None:
    path, pcm = tmp_path / "a.mp4", spoken(4)
    data = fragmented(path, pcm)
    begin = data.index(b"moof", len(data) // 3)
    length = len(data) // 10
    fill = {"zeros": bytes(length), "noise": random.Random(1).randbytes(length), "removed": b""}
    path.write_bytes(data[:begin] + fill[damage] + data[begin + length :])
    heard, recording = read(path)
    assert len(heard) == pytest.approx(len(pcm), abs=SAMPLE_RATE // 5)
    assert words_in(heard[len(pcm) // 2 :], 4) == words_in(pcm[len(pcm) // 2 :], 4)
    (loss,) = recording.losses
    assert loss.reason is GapReason.DAMAGED
    assert loss.seconds == pytest.approx(len(pcm) / SAMPLE_RATE / 10, abs=0.4)


def test_many_holes_in_fragments_end_soon(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    piece = b"\0\0\0\x10moof\0\0\0\x08mfhd" + bytes(16)
    path.write_bytes(fragmented(path, tone(SAMPLE_RATE)) + piece * 200_000)
    began = time.process_time()
    parts_of(path)
    assert time.process_time() - began < 10


class HalfDisk(io.FileIO):
    """A file of which the disk can read only the first half."""

    def read(self, count: int | None = -1) -> bytes:
        if self.tell() > os.fstat(self.fileno()).st_size // 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(count) or b""


def test_a_disk_that_cannot_be_read_is_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tracks(
        tmp_path / "a.aac", [np.random.default_rng(3).integers(-9999, 9999, (320_000, 1), np.int16)]
    )
    assert read(path)[1].losses == []
    monkeypatch.setattr(container_file, "open", HalfDisk, raising=False)
    heard, recording = read(path)
    (loss,) = recording.losses
    assert loss.reason is GapReason.TRUNCATED
    assert loss.start == pytest.approx(len(heard) / SAMPLE_RATE)
    assert loss.start < 18


@pytest.mark.parametrize("said", [0, 8000, 0xFFFFFFFF])
@pytest.mark.parametrize("ending", ["wav", "aiff", "au"])
def test_a_header_that_promises_less_than_there_is(tmp_path: Path, ending: str, said: int) -> None:
    pcm = spoken()
    path = write_tracks(tmp_path / f"a.{ending}", [pcm[:, None]])
    data = bytearray(path.read_bytes())
    if ending == "aiff" and said != 8000:
        pytest.skip("AIFF knows no unknown length")
    name, order = {"wav": (b"data", "<I"), "aiff": (b"SSND", ">I"), "au": (b".snd", ">I")}[ending]
    at = data.index(name) + (8 if ending == "au" else 4)
    data[at : at + 4] = struct.pack(order, said)
    if ending == "au" and said == 0:
        pytest.skip("an empty file for FFmpeg")
    path.write_bytes(data)
    heard, recording = read(path)
    assert len(heard) == pytest.approx(len(pcm), abs=200)
    assert bool(recording.excess_seconds) == (said == 8000)
    assert recording.losses == []


def with_number(path: Path, name: bytes, skipped: int, number: bytes) -> Path:
    """Replaces a number of a header, so many bytes behind the last place where a name is."""
    data = bytearray(path.read_bytes())
    at = data.rindex(name) + len(name) + skipped
    data[at : at + len(number)] = number
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("ending", "name", "skipped", "number"),
    [
        ("w64", b"data", 12, struct.pack("<Q", 24 + 8000)),
        ("w64", b"data", 12, struct.pack("<Q", (1 << 63) - 1)),
        ("caf", b"data", 0, struct.pack(">q", (1 << 63) - 1)),
        ("mkv", b"\x18\x53\x80\x67", 0, bytes.fromhex("01fffffffffffffe")),
        ("mkv", b"\x18\x53\x80\x67", 0, bytes.fromhex("0100ffffffffffff")),
    ],
)
def test_a_length_that_no_disk_has_makes_nothing_unreadable(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    ending: str,
    name: bytes,
    skipped: int,
    number: bytes,
) -> None:
    pcm = tone(4 * SAMPLE_RATE)
    path = with_number(write_tracks(tmp_path / f"a.{ending}", [pcm[:, None]]), name, skipped, number)
    heard, recording = read(path)
    assert len(heard) == pytest.approx(len(pcm), abs=200)
    assert recording.losses == []
    assert bool(recording.excess_seconds) == (int.from_bytes(number, "little") == 24 + 8000)
    assert capfd.readouterr().err == "", "PyAV tells of each seek that fails"


@pytest.mark.parametrize("ending", ["wav", "aiff", "flac", "mp3"])
def test_a_tag_before_the_header_hides_nothing(tmp_path: Path, ending: str) -> None:
    pcm = tone(4 * SAMPLE_RATE)
    path = write_tracks(tmp_path / f"a.{ending}", [pcm[:, None]])
    path.write_bytes(b"ID3\x04\0\0\0\0\x02\0" + bytes(256) + path.read_bytes())
    heard, recording = read(path)
    assert len(heard) == pytest.approx(len(pcm), abs=2000)
    assert recording.losses == []


def test_a_wav_with_its_sound_in_two_chunks_is_read_to_its_end(tmp_path: Path) -> None:
    pcm = tone(4 * SAMPLE_RATE)
    path = write_tracks(tmp_path / "a.wav", [pcm[:, None]])
    path.write_bytes(path.read_bytes() + struct.pack("<4sI", b"data", 2 * len(pcm)) + pcm.tobytes())
    assert len(read(path)[0]) == pytest.approx(2 * len(pcm), abs=100)


def rf64(pcm: Pcm, said: int, name: bytes = b"RF64") -> bytes:
    """A WAV of more than 4 GiB, but for its length. ``said``: its sound's bytes according to its header."""
    head = struct.pack("<4sI4s4sIQQQI", name, 0xFFFFFFFF, b"WAVE", b"ds64", 28, said + 72, said, said // 2, 0)
    head += struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    return head + struct.pack("<4sI", b"data", 0xFFFFFFFF) + pcm.tobytes()


@pytest.mark.parametrize(
    ("said", "excess", "missing"), [(0, 0, 0), (1, 3, 0), (4, 0, 0), (12, 0, 8), (1 << 40, 0, 0)]
)
@pytest.mark.parametrize("name", [b"RF64", b"BW64"])
def test_the_length_of_a_large_wav_is_believed_like_a_small_one(
    tmp_path: Path, name: bytes, said: int, excess: int, missing: int
) -> None:
    """All lengths are in seconds."""
    pcm = tone(4 * SAMPLE_RATE)
    path = tmp_path / "a.wav"
    path.write_bytes(rf64(pcm, said * 2 * SAMPLE_RATE, name))
    heard, recording = read(path)
    np.testing.assert_array_equal(heard, pcm)
    assert recording.excess_seconds == pytest.approx(excess, abs=0.1)
    assert sum(loss.seconds for loss in recording.losses) == pytest.approx(missing, abs=0.1)


def test_joined_large_wavs_follow_each_other(tmp_path: Path) -> None:
    pcm = tone(4 * SAMPLE_RATE)
    path = tmp_path / "a.wav"
    path.write_bytes(rf64(pcm, 2 * len(pcm)) + rf64(pcm, 2 * len(pcm)))
    heard, recording = read(path)
    np.testing.assert_array_equal(heard, np.concatenate([pcm, pcm]))
    assert recording.restarts == 1


@pytest.mark.parametrize("length", [0, 9000, 0x7FFFFFFF, 1 << 63])
def test_the_index_of_an_mp4_is_found_behind_sound_of_any_length(tmp_path: Path, length: int) -> None:
    pcm = spoken()
    path = write_tracks(tmp_path / "a.mp4", [pcm[:, None]])
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") - 4
    assert data[at - 4 : at] == b"free", "an empty box makes room for a length of 64 bits"
    if length < 1 << 32:
        data[at : at + 4] = struct.pack(">I", length)
    else:
        data[at - 8 : at + 8] = struct.pack(">I4sQ", 1, b"mdat", length)
    path.write_bytes(data)
    heard, recording = read(path)
    assert words_in(heard) == [0, 1, 2] and recording.losses == []


def test_a_box_of_any_length_without_an_index_is_a_bad_file_and_no_defect(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mp4", [tone(SAMPLE_RATE)[:, None]])
    data = path.read_bytes()
    at = data.index(b"mdat") - 4
    path.write_bytes(data[:at] + struct.pack(">I4sQ", 1, b"mdat", 1 << 63) + data[at + 8 : -2000])
    assert parts_of(path)[0].end == path.stat().st_size
    with pytest.raises(InputError):
        read(path)


def test_half_an_mp4_with_its_index_at_the_end_is_unreadable_and_says_how_much_is_there(
    tmp_path: Path,
) -> None:
    path = write_tracks(tmp_path / "a.mp4", [tone(4 * SAMPLE_RATE)[:, None]])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"it is incomplete, 5\d% of it is there: Invalid data"):
        read(path)


@pytest.mark.parametrize(("first", "second"), [("flac", "flac"), ("opus", "oga"), ("oga", "opus")])
def test_joined_files_may_differ_in_rate_and_codec(tmp_path: Path, first: str, second: str) -> None:
    one = write_tracks(tmp_path / f"one.{first}", [spoken(2)[:, None]])
    others = sound.sequence(sound.markers()[2:4], 0.6)[0]
    two = write_tracks(tmp_path / f"two.{second}", [np.stack([others, others], axis=1)], rate=48_000)
    path = tmp_path / f"joined.{first}"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    heard, recording = read(path)
    assert words_in(heard, 4) == [0, 1, 2, 3]
    assert (recording.restarts, recording.losses) == (1, [])


def test_very_many_joined_files_are_read_to_the_end(tmp_path: Path) -> None:
    one = write_tracks(tmp_path / "one.flac", [tone(SAMPLE_RATE // 10)[:, None]]).read_bytes()
    path = tmp_path / "joined.flac"
    path.write_bytes(one * (container_parts.MAX_PARTS + 20))
    parts = parts_of(path)
    assert len(parts) == container_parts.MAX_PARTS and parts[-1].end == path.stat().st_size


@pytest.mark.parametrize(
    "ending", ["wav", "mp4", "flac", "webm", "mp3", "aac", "opus", "flv", "avi", "ts", "wma"]
)
def test_joined_files_follow_each_other(tmp_path: Path, ending: str) -> None:
    one = write_tracks(tmp_path / f"one.{ending}", [spoken(2)[:, None]])
    two = write_tracks(tmp_path / f"two.{ending}", [sound.sequence(sound.markers()[2:4], 0.6)[0][:, None]])
    path = tmp_path / f"joined.{ending}"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    assert words_in(read(path)[0], 4) == [0, 1, 2, 3]


def test_check_tells_what_an_imported_file_lacked(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "lecture.wav", [spoken(4)[:, None]])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = run("segment", str(path), "--start", "2025-10-08T14:00Z", output_dir=tmp_path / "out")
    assert "incomplete: it ends at 0:0" in result.err and result.err.count("\n") == 1
    result = run("check", output_dir=tmp_path / "out")
    assert (
        "speech of someone may be missing from 2025-10-08T14:00:0" in result.out
        and "(truncated)" in result.out
    )


# --- timestamps ---


def pieces(times: Sequence[tuple[float, int]], seconds: float = 0.02) -> Iterator[Piece]:
    """Pieces of sound: from each (timestamp, count) on ``count`` of them follow without a hole."""
    for begin, count in times:
        for number in range(count):
            yield Piece(
                seconds, begin + number * seconds, np.ones((round(seconds * SAMPLE_RATE), 1), np.int16)
            )


def laid_out(times: Sequence[tuple[float, int]], **options: object) -> tuple[float, list[Loss]]:
    timeline = Timeline(**options)  # type: ignore[arg-type]
    samples = sum(len(pcm) for pcm in timeline.laid_out(pieces(times)))
    assert samples / SAMPLE_RATE == pytest.approx(timeline.seconds)
    return timeline.seconds, timeline.losses.all


@pytest.mark.parametrize("wrong", [10_800.0, 5.0, -5.0, 0.5, -0.5])
@pytest.mark.parametrize("count", [1, 25, 250])
def test_wrong_timestamps_leave_no_hole(wrong: float, count: int) -> None:
    if abs(wrong) < 1 and count > 200:
        pytest.skip("longer than what is read ahead for a small jump")
    before, after = 500, 3000
    times = [(0.0, before), (10.0 + wrong, count), (10.0 + 0.02 * count, after)]
    seconds, losses = laid_out(times, origin=0.0)
    assert seconds == pytest.approx(0.02 * (before + count + after))
    assert losses == []


@pytest.mark.parametrize("hole", [0.3, 5.0, 3600.0])
def test_a_real_hole_stays_a_hole(hole: float) -> None:
    seconds, losses = laid_out([(0.0, 500), (10.0 + hole, 3000)])
    assert seconds == pytest.approx(70.0 + hole, abs=0.01)
    assert [loss.reason for loss in losses] == [GapReason.DAMAGED]
    assert losses[0].seconds == pytest.approx(hole, abs=0.01)


def test_the_length_of_the_container_decides_about_the_last_timestamps() -> None:
    assert laid_out([(0.0, 500), (3610.0, 50)])[0] == pytest.approx(11.0)
    assert laid_out([(0.0, 500), (3610.0, 50)], promised_seconds=3611.0)[0] == pytest.approx(3611.0)
    assert laid_out([(0.0, 500), (3610.0, 500)], promised_seconds=20.0)[0] == pytest.approx(20.0)


def test_the_first_timestamp_may_be_wrong() -> None:
    assert laid_out([(7000.0, 25), (0.5, 3000)], origin=0.0)[0] == pytest.approx(60.5)
    assert laid_out([(7000.0, 25), (0.5, 3000)])[0] == pytest.approx(60.5)


def test_times_that_were_computed_with_another_rate_are_not_holes() -> None:
    times = [(0.0, 500), *((10.0 + number * 0.055, 1) for number in range(2000))]
    assert laid_out(times, origin=0.0)[0] == pytest.approx(50.0, abs=0.5)


def test_sound_that_begins_later_than_the_picture_is_no_loss(tmp_path: Path) -> None:
    seconds, losses = laid_out([(3.0, 500)], origin=0.0)
    assert seconds == pytest.approx(13.0) and losses == []
    assert laid_out([(0.0, 2), (0.4, 500)], origin=0.0)[1] == [], "the encoder's delay is before it"
    path = write_pieces(tmp_path / "a.mp4", [(3.0, tone(4 * SAMPLE_RATE))], video=True)
    assert read(path)[1].losses == []


def test_sound_that_ends_before_the_picture_is_not_incomplete(tmp_path: Path) -> None:
    path = write_pieces(tmp_path / "a.webm", [(0.0, tone(4 * SAMPLE_RATE))], video=True, until=12.0)
    data = path.read_bytes().replace(b"DURATION", b"XURATION")  # the length of each track
    path.write_bytes(data)
    assert read(path)[1].losses == []
    path.write_bytes(data[: len(data) // 2])
    assert [loss.reason for loss in read(path)[1].losses] == [GapReason.TRUNCATED]


def test_a_recording_whose_times_begin_late_is_as_long_as_its_sound(tmp_path: Path) -> None:
    path = write_pieces(tmp_path / "a.mkv", [(5000.0, tone(4 * SAMPLE_RATE))])
    heard, recording = read(path)
    assert (len(heard), recording.losses, recording.excess_seconds) == (4 * SAMPLE_RATE, [], 0)


def test_a_pause_of_the_codec_is_silence_and_no_loss() -> None:
    pauses = [(2.0 + 0.4 * number, 1) for number in range(50)]
    seconds, losses = laid_out([(0.0, 100), *pauses, (22.0, 500)], has_pauses=True)
    assert seconds == pytest.approx(32.0, abs=0.05)
    assert losses == []


def test_silence_descriptors_of_a_phone_are_no_damage(tmp_path: Path) -> None:
    voiced, descriptor, empty = (
        bytes([7 << 3 | 4, *bytes(31)]),
        bytes([8 << 3 | 4, *bytes(5)]),
        bytes([15 << 3 | 4]),
    )
    path = tmp_path / "phone.amr"
    path.write_bytes(b"#!AMR\n" + voiced * 100 + (descriptor + empty * 7) * 25 + voiced * 100)
    heard, recording = read(path)
    assert (recording.damaged, recording.losses) == (0, [])
    assert len(heard) / SAMPLE_RATE == pytest.approx(8.0, abs=0.1)


def test_times_at_random_end_soon() -> None:
    chance = random.Random(5)
    began = time.process_time()
    seconds, _ = laid_out([(chance.uniform(0, 90_000), 1) for _ in range(5_000)])
    assert time.process_time() - began < 20
    assert seconds < 13 * 3600
    assert HOLE_SECONDS < LOOK_AHEAD_SECONDS


def test_one_wrong_time_in_a_transport_stream(tmp_path: Path) -> None:
    pcm = spoken(6, 1.0)
    path = write_tracks(tmp_path / "a.ts", [pcm[:, None]])
    data = bytearray(path.read_bytes())
    headers = [
        at for at in range(len(data) - 14) if data[at : at + 4] == b"\0\0\1\xc0" and data[at + 7] & 0x80
    ]
    at = headers[len(headers) // 2] + 9
    data[at] |= 0x0E  # the highest bits of the presentation time
    path.write_bytes(data)
    assert len(read(path)[0]) / SAMPLE_RATE == pytest.approx(len(pcm) / SAMPLE_RATE, abs=0.2)


def test_two_phone_recordings_in_one_file_are_not_chopped(tmp_path: Path) -> None:
    one = write_tracks(tmp_path / "one.aac", [spoken(2)[:, None]], rate=16_000)
    two = write_tracks(tmp_path / "two.aac", [np.repeat(spoken(3)[:, None], 2, axis=1)], rate=44_100)
    path = tmp_path / "joined.aac"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    heard, _ = read(path)
    assert words_in(heard) == [0, 1, 0, 1, 2]
    assert len(heard) == pytest.approx(len(spoken(2)) + len(spoken(3)), abs=0.4 * SAMPLE_RATE)


# --- when it began ---


@pytest.mark.parametrize("ending", ["webm", "flac", "mp3", "aac", "opus", "ts"])
def test_a_start_is_reckoned_with_the_length_that_was_read(tmp_path: Path, ending: str) -> None:
    pcm = spoken(4)
    path = write_tracks(tmp_path / f"a.{ending}", [pcm[:, None]], is_live=True)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    outcome = segment_file(settings_for(tmp_path / "out"), path, None, None)
    assert outcome.start.timestamp() == pytest.approx(1_700_000_000 - len(pcm) / SAMPLE_RATE, abs=0.2)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"creation_time": "2024-05-06T07:08:09.5Z"}, "2024-05-06T07:08:09.500Z"),
        ({"date": "2025-10-08", "creation_time": "14:05:00"}, "2025-10-08T12:05:00.000Z"),
        ({"date": "2025:10:08", "creation_time": "14-05-00"}, "2025-10-08T12:05:00.000Z"),
        ({"date": "2025-10-08", "time_reference": "4800000"}, "2025-10-07T22:01:40.000Z"),
        (
            {
                "com.apple.quicktime.creationdate": "2025-10-08T14:05:00+0300",
                "creation_time": "1904-01-01T00:00:00Z",
            },
            "2025-10-08T11:05:00.000Z",
        ),
        ({"DATE": "2025-10-08 14:05"}, "2025-10-08T12:05:00.000Z"),
        ({"IDIT": "Wed Oct 08 14:05:00 2025"}, "2025-10-08T12:05:00.000Z"),
        ({"date": "2025"}, None),
        ({"date": "2025-10-08"}, None),
        ({"creation_time": "1904-01-01T00:00:00Z"}, None),
        ({"date": "0000-00-00", "creation_time": "00:00:00"}, None),
        ({"creation_time": "2925-13-40T99:99:99Z"}, None),
    ],
)
def test_what_tags_say_of_the_beginning(tags: dict[str, str], said: str | None) -> None:
    found = began_at(tags, ZoneInfo("Europe/Berlin"), 48_000)
    assert (format_utc(found) if found else None) == said


def test_a_broadcast_wav_says_when_it_began(tmp_path: Path) -> None:
    data = write_tracks(tmp_path / "a.wav", [spoken(2)[:, None]]).read_bytes()
    extension = bytearray(602)
    extension[320:338] = b"2025-10-0814:05:00"
    chunk = b"bext" + struct.pack("<I", 602) + extension
    path = tmp_path / "ZOOM0001.WAV"
    path.write_bytes(
        data[:4] + struct.pack("<I", len(data) + len(chunk) - 8) + data[8:12] + chunk + data[12:]
    )
    result = run("segment", str(path), "--json", output_dir=tmp_path / "out", TIMEZONE="Europe/Berlin")
    assert json.loads(result.out)["recordings"][0]["start"] == "2025-10-08T12:05:00.000Z"


# --- names ---


@pytest.mark.parametrize(
    "name", [b"lecture_\xe9t\xe9.wav", b"a\nb\x1b[31m.wav", b"\xed\xa0\x80.wav", b"-.wav", b".wav"]
)
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
def test_any_name_of_a_file(tmp_path: Path, name: bytes) -> None:
    plain = write_tracks(tmp_path / "plain.wav", [spoken(2)[:, None]])
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    plain.rename(path)
    result = run("segment", str(path), "--json", output_dir=tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    room = tmp_path / "out" / json.loads(result.out)["recordings"][0]["folder"]
    assert len(manifest(room)) >= 1
    (room / "segments.jsonl").read_bytes().decode("utf-8")
    assert run("check", output_dir=tmp_path / "out").code == 0


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    result = run("segment", "x" * 300 + ".wav", output_dir=tmp_path)
    assert result.code == 2 and result.err.count("\n") == 1 and "x" * 300 in result.err


# --- any damage ---


def peak_bytes() -> int:
    """The most memory that this process has had; 0 on Windows, which does not say it this way."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


FUZZED = "wav w64 aiff caf au mp3 aac ac3 flac opus mp4 mov mkv webm avi ts mpg flv wma".split()


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A few kinds of damage, one after the other."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at, length = chance.randrange(len(changed)), chance.choice([1, 4, 200, 3000])
        match chance.randrange(5):
            case 0:
                changed[at : at + length] = chance.randbytes(length)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length]
            case 3:
                changed[at % 200 : at % 200 + 4] = chance.choice(
                    [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"]
                )
            case _:
                changed[at : at + length] = bytes(length)
        if len(changed) < 16:
            break
    return bytes(changed)


@pytest.mark.parametrize("ending", FUZZED)
def test_no_damage_ends_in_a_traceback(tmp_path: Path, ending: str) -> None:
    """In bounded time and memory: at most what the file's times can claim."""
    whole = write_tracks(
        tmp_path / f"whole.{ending}", [np.stack([spoken(1), -spoken(1)], axis=1)]
    ).read_bytes()
    chance = random.Random(ending)
    before = peak_bytes()
    began = time.process_time()
    for number in range(8):
        path = tmp_path / f"{number}.{ending}"
        path.write_bytes(damaged(whole, chance))
        try:
            with Recording(path) as recording:
                samples = sum(map(len, recording.sound()))
                assert samples / SAMPLE_RATE <= 13 * 3600
                assert all(loss.end >= loss.start for loss in recording.losses)
                recording.metadata.began_at()
        except InputError as error:
            assert "\n" not in str(error)
    assert time.process_time() - began < 30
    assert peak_bytes() - before < 300 << 20


# --- the length of a video ---


@pytest.mark.parametrize("ending", ["mkv", "aac"])
def test_the_length_of_a_video_is_that_of_its_sound_whatever_its_header_says(
    tmp_path: Path, ending: str
) -> None:
    pcm = np.concatenate([tone(2 * SAMPLE_RATE), np.zeros(6 * SAMPLE_RATE, np.int16)])
    path = write_tracks(tmp_path / f"a.{ending}", [pcm[:, None]])
    if ending == "mkv":
        with_number(path, b"\x44\x89\x88", 0, struct.pack(">d", 2000.0))
    assert _video_seconds(Video(str(path))) == pytest.approx(8, abs=0.2)


def test_a_length_that_is_not_known_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    with console.progress("live.webm", 0.0, "s") as advance:
        advance(50.0)
    assert capsys.readouterr().err.endswith(" live.webm: 50 s\n")


def test_a_video_that_is_measured_shows_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(decoding, "PROGRESS_SECONDS", 1.0)
    path = write_tracks(tmp_path / "a.mkv", 2 * [tone(3 * SAMPLE_RATE)[:, None]])
    assert _video_seconds(Video(str(path))) == pytest.approx(3, abs=0.1)
    lines = capsys.readouterr().err.splitlines()
    assert "Measuring a.mkv: 1 of 6 s (17%)" in lines[0] and "6 of 6 s (100%)" in lines[-1]
