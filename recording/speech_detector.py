"""Silero VAD for one track: the model, its state, and the level of what it hears.

The model alone misses speech in three cases, and both runtimes are corrected here. A model without history misses the
beginning of speech: each one first hears silence. After a long time without speech it misses speech: its state is
renewed. It gives low probabilities for a quiet voice: its input is amplified. What is saved is not changed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np

from audio_processor import WINDOW_SAMPLES
from core.records import SAMPLE_RATE, Pcm

logger = logging.getLogger("recorder")

PRIMING_WINDOWS = 8
"""A model without history first hears a quarter of a second of digital silence: a stream may begin in mid-word."""

SILENT_PROBABILITY = 0.1
RENEW_WINDOWS = 312
"""After ten seconds in which every window is below that probability, the state of the model is renewed."""
REPEATED_WINDOWS = 31
"""A renewed model hears the latest second again, so that it does not take the noise of the room for speech."""

VOICE_DB = -15.0
"""The loud parts of a voice are amplified to this level."""
MAX_GAIN_DB = 24.0
SURE_PROBABILITY = 0.5
"""The level is learned only from windows above this probability, so that noise does not change the gain."""
RISE_SHARE = 0.3
"""Share of the difference to a higher level that each window adds."""
FALL_DB = 0.064
"""Largest decrease of the level with each quieter window of speech: two decibels a second."""

_FULL_SCALE = 32768.0


class SpeechDetector(Protocol):
    """A voice activity model with the state of one stream."""

    def probability(self, window: Pcm) -> float:
        """Speech probability (0 to 1) of the next window, shape (512,)."""
        ...


DetectorFactory = Callable[[], SpeechDetector]
"""Returns a new detector for one stream."""


class VoiceLevel:
    """Amplifies the input of the model, slowly and within bounds. Levels are dB of full scale (root mean square).

    The gain follows the level of the loud parts of the voice. It is at least 1, and does not change without speech.
    """

    def __init__(self) -> None:
        self._voice_db = VOICE_DB

    @property
    def gain(self) -> float:
        """The factor by which the next window is amplified."""
        return float(10 ** ((VOICE_DB - self._voice_db) / 20))

    def amplified(self, window: Pcm) -> Pcm:
        """The window as input of the model."""
        if self._voice_db == VOICE_DB:
            return window
        louder = np.clip(window * np.float32(self.gain), -_FULL_SCALE, _FULL_SCALE - 1)
        amplified: Pcm = louder.astype(np.int16)
        return amplified

    def learn(self, window: Pcm, probability: float) -> None:
        """Adapts the level to a window as it was recorded, with its speech probability (0 to 1)."""
        weight = (probability - SURE_PROBABILITY) / (1 - SURE_PROBABILITY)
        if weight <= 0:
            return
        above = _level_db(window) - self._voice_db
        voice_db = self._voice_db + weight * (RISE_SHARE * above if above > 0 else max(above, -FALL_DB))
        self._voice_db = min(max(voice_db, VOICE_DB - MAX_GAIN_DB), VOICE_DB)


def _level_db(window: Pcm) -> float:
    samples = window.astype(np.float32)
    return 10 * float(np.log10(np.dot(samples, samples) / len(samples) / _FULL_SCALE**2 + 1e-12))


class _Model(Protocol):
    """Silero with the state of one stream."""

    def predict(self, window: Pcm) -> float: ...

    def reset(self) -> None: ...


class _SileroDetector:
    """A model that is primed, renewed in silence, and fed with a voice of a steady level."""

    def __init__(self, model: _Model) -> None:
        self._model = model
        self._level = VoiceLevel()
        self._silent_windows = 0
        self._latest: deque[Pcm] = deque(maxlen=REPEATED_WINDOWS)
        self._prime()

    def probability(self, window: Pcm) -> float:
        probability = self._model.predict(self._level.amplified(window))
        self._level.learn(window, probability)
        self._latest.append(window)
        self._silent_windows = self._silent_windows + 1 if probability < SILENT_PROBABILITY else 0
        if self._silent_windows == RENEW_WINDOWS:
            self._renew()
        return probability

    def _renew(self) -> None:
        self._silent_windows = 0
        self._model.reset()
        self._prime()
        for window in self._latest:
            self._model.predict(self._level.amplified(window))

    def _prime(self) -> None:
        silence = np.zeros(WINDOW_SAMPLES, np.int16)
        for _ in range(PRIMING_WINDOWS):
            self._model.predict(silence)


class NativeDetector(_SileroDetector):
    """Silero's weights in native code, shipped with livekit-agents (fact 10: a sixth of the ONNX model's CPU)."""

    def __init__(self) -> None:
        from livekit.local_inference import VAD

        super().__init__(VAD())


class OnnxDetector(_SileroDetector):
    """The same weights as the Silero plugin's ONNX model, for platforms without the native library."""

    def __init__(self) -> None:
        super().__init__(_OnnxModel())


class _OnnxModel:
    _session: object | None = None

    def __init__(self) -> None:
        from livekit.plugins.silero import onnx_model

        # One session serves every stream of the process; the recurrent state lives in OnnxModel.
        if _OnnxModel._session is None:
            _OnnxModel._session = onnx_model.new_inference_session(force_cpu=True)
        self._model = onnx_model.OnnxModel(onnx_session=_OnnxModel._session, sample_rate=SAMPLE_RATE)

    def predict(self, window: Pcm) -> float:
        return float(self._model(window.astype(np.float32) / _FULL_SCALE))

    def reset(self) -> None:
        self._model.reset()


def load_detector(runtime: str) -> DetectorFactory:
    """Loads Silero VAD once for this process and returns a factory of detectors, one for each stream.

    ``runtime`` is ``native`` or ``onnx``. Where the native library is missing, ``native`` falls back to ONNX and logs a
    warning.
    """
    if runtime == "native":
        try:
            NativeDetector()
            return NativeDetector
        except ImportError as error:
            logger.warning("No native Silero VAD on this platform (%s): using the ONNX model", error)
    OnnxDetector()
    return OnnxDetector
