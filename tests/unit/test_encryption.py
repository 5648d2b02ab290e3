"""The first audio of an encrypted track waits until the client says whether it can be decrypted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from unittest.mock import MagicMock

import numpy as np
import pytest
from livekit import rtc

from core.records import SAMPLE_RATE
from recording.encryption import HELD_SECONDS, Encryption

FRAME_SAMPLES = SAMPLE_RATE // 10
HELD_FRAMES = round(HELD_SECONDS * 10)

OK, FAILED = rtc.EncryptionState.OK, rtc.EncryptionState.DECRYPTION_FAILED


class Frames:
    """Numbered frames; at some of them the client reports a state."""

    def __init__(self, count: int, states: dict[int, rtc.EncryptionState.ValueType]) -> None:
        self._count = count
        self._states = states
        anna = MagicMock(spec=rtc.RemoteParticipant, identity="anna", sid="PA_1")
        room = MagicMock(spec=rtc.Room, remote_participants={"anna": anna})
        self._anna = anna
        self.encryption = Encryption(room, "secret", MagicMock(), MagicMock())
        self.given = 0
        self.is_closed = False

    async def aclose(self) -> None:
        self.is_closed = True

    async def __aiter__(self) -> AsyncIterator[rtc.AudioFrameEvent]:
        for number in range(self._count):
            if number in self._states:
                self.encryption.on_state_changed(self._anna, self._states[number])
            self.given = number
            samples = np.full(FRAME_SAMPLES, number, np.int16)
            yield rtc.AudioFrameEvent(rtc.AudioFrame(samples.tobytes(), SAMPLE_RATE, 1, FRAME_SAMPLES))

    async def passed_on(self) -> list[tuple[int, int]]:
        """Each frame that is passed on, and the last that had arrived by then."""
        return [
            (int(np.frombuffer(event.frame.data, np.int16)[0]), self.given)
            async for event in self.encryption.held_back(self, "anna")
        ]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({5: OK}, [*((number, 5) for number in range(6)), *((number, number) for number in range(6, 50))]),
        ({0: OK, 20: FAILED}, [(number, number) for number in range(50)]),
        ({20: FAILED}, [(number, number) for number in range(21, 50)]),
        ({20: FAILED, 40: OK}, [(number, number) for number in range(21, 50)]),
        (
            {},
            [
                *((number, HELD_FRAMES) for number in range(HELD_FRAMES + 1)),
                *((number, number) for number in range(HELD_FRAMES + 1, 50)),
            ],
        ),
    ],
    ids=["decrypted", "decrypted and then not", "noise", "noise until the key is right", "not said"],
)
async def test_frames_wait_until_it_is_known_whether_they_are_noise(
    states: dict[int, rtc.EncryptionState.ValueType], expected: list[tuple[int, int]]
) -> None:
    assert await Frames(50, states).passed_on() == expected


async def test_what_is_held_when_the_track_ends_is_passed_on() -> None:
    assert [number for number, _ in await Frames(8, {}).passed_on()] == list(range(8))
    assert await Frames(8, {7: FAILED}).passed_on() == []


async def test_closing_closes_the_stream() -> None:
    frames = Frames(0, {})
    await frames.encryption.held_back(frames, "anna").aclose()
    assert frames.is_closed
