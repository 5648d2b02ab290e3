"""Normalised cross-correlation of a recording with many templates: where in it something like a template is.

Everywhere: samples as float32, shape (n,), -1 to 1, 16 kHz; positions and lengths in samples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
AnyFloats = npt.NDArray[np.float32] | npt.NDArray[np.float64]
EnergyArray = npt.NDArray[np.float64]
Positions = npt.NDArray[np.intp]
ComplexArray = npt.NDArray[np.complex64]

FAINTEST = 1e-4
"""What is 40 dB quieter than the template is not the template, whatever its shape: -40 dB as a ratio of energies."""

ROUNDING = 1e-3
"""Bounds that only save work leave this much room for rounding."""

CHUNK = 2**17
"""Samples per Fourier transform."""
OVERLAP = 2**15
"""Samples that chunks share, so that a template across their border is found: 2 s, the longest template."""

COARSE = 4
"""Places are first sought at a quarter of the sample rate: nearly all energy of speech lies below 2 kHz."""
COARSE_SHARE = 0.6
"""The share of its score that a place keeps at least at the coarse rate: markers keep 0.74, where rounding is worst."""
MAX_CANDIDATES = 2**12
"""For more places than this, one transform of the whole recording is cheaper than a product for each."""


class Recording:
    """A recording that is searched many times: its spectra and energy are computed once.

    Padded with OVERLAP zeros at both sides, for templates that are cut off at an end.
    """

    def __init__(self, samples: FloatArray) -> None:
        self._padded = np.pad(samples, OVERLAP)
        self._fine = _Correlator(self._padded, CHUNK, OVERLAP)
        self._coarse = _Correlator(_coarse(self._padded), CHUNK // COARSE, OVERLAP // COARSE)

    @property
    def size(self) -> int:
        return int(self._padded.size)

    def samples(self, start: int, end: int) -> FloatArray:
        """Samples start <= i < end of the recording, zeros where there are none."""
        wanted = np.arange(start, end) + OVERLAP
        inside = (wanted >= 0) & (wanted < self._padded.size)
        samples: FloatArray = self._padded.take(wanted, mode="clip") * inside
        return samples

    def scores(self, template: FloatArray) -> FloatArray:
        """Normalised cross-correlation, -1 to 1; at i is the score of a template that starts at i - OVERLAP."""
        return normalised(self._fine.correlation(template), self._fine.energy, template)

    def places(self, template: FloatArray, threshold: float) -> tuple[Positions, FloatArray]:
        """Where the score is higher than a positive threshold, and the scores there, as in :meth:`scores`."""
        likely, _ = self._coarse.places(_coarse(template), COARSE_SHARE * threshold)
        around = np.arange(1 - COARSE, COARSE)
        candidates = np.unique((likely[:, None] * COARSE + around).ravel())
        candidates = candidates[(candidates >= 0) & (candidates <= self._padded.size - template.size)]
        if candidates.size > MAX_CANDIDATES:
            return self._fine.places(template, threshold)
        return self._fine.places_among(candidates, template, threshold)


class _Correlator:
    """Correlates samples with templates by Fourier transforms of overlapping chunks."""

    def __init__(self, samples: FloatArray, chunk: int, overlap: int) -> None:
        self._samples = samples
        self._chunk, self._overlap, self._step = chunk, overlap, chunk - overlap
        self.energy = running_energy(samples)
        self._spectra: list[ComplexArray] = []

    def correlation(self, template: FloatArray) -> FloatArray:
        if template.size > self._overlap:
            raise ValueError(f"a template has at most {self._overlap} samples, this one has {template.size}")
        if not self._spectra:
            starts = range(0, self._samples.size, self._step)
            self._spectra = [self._spectrum(self._samples[at : at + self._chunk]) for at in starts]
        reversed_spectrum = np.conj(self._spectrum(template))
        parts = [
            np.fft.irfft(spectrum * reversed_spectrum, self._chunk)[: self._step]
            for spectrum in self._spectra
        ]
        correlation = np.concatenate(parts)[: self._samples.size - template.size + 1]
        return correlation.astype(np.float32)

    def places(self, template: FloatArray, threshold: float) -> tuple[Positions, FloatArray]:
        correlation = self.correlation(template)
        own, local = _energies(self.energy, template)
        # Compares squares, without a root and a quotient for every sample; only the few that remain get an exact score.
        least = (threshold * (1 - ROUNDING)) ** 2 * own
        likely = np.flatnonzero(correlation * np.abs(correlation) > least * local)
        scores = (correlation[likely] / np.sqrt(local[likely] * own)).astype(np.float32)
        is_higher = scores > threshold
        return likely[is_higher], scores[is_higher]

    def places_among(
        self, candidates: Positions, template: FloatArray, threshold: float
    ) -> tuple[Positions, FloatArray]:
        """The same for these positions only, without a transform."""
        own = _energy(template)
        local = self.energy[candidates + template.size] - self.energy[candidates]
        products = np.fromiter(
            (np.dot(self._samples[at : at + template.size], template) for at in candidates),
            np.float64,
            candidates.size,
        )
        scores = (products / np.sqrt(np.maximum(local, FAINTEST * own) * own)).astype(np.float32)
        is_higher = scores > threshold
        return candidates[is_higher], scores[is_higher]

    def _spectrum(self, samples: FloatArray) -> ComplexArray:
        """With zeros after the last; single precision is fast and plenty."""
        return np.fft.rfft(samples, self._chunk).astype(np.complex64)


def correlated(samples: AnyFloats, template: AnyFloats) -> FloatArray:
    """``np.correlate(samples, template, "valid")``, many times faster."""
    size = 1 << (samples.size - 1).bit_length()
    product = np.fft.rfft(samples, size) * np.conj(np.fft.rfft(template, size))
    correlation: FloatArray = np.fft.irfft(product, size).astype(np.float32)
    return correlation[: samples.size - template.size + 1]


def normalised(correlation: FloatArray, energy: EnergyArray, template: FloatArray) -> FloatArray:
    """The correlation, divided by the energies of the template and of the part of the recording that it covers."""
    own, local = _energies(energy, template)
    scores: FloatArray = (correlation / np.sqrt(local * own)).astype(np.float32)
    return scores


def running_energy(samples: FloatArray) -> EnergyArray:
    """Shape (n + 1,): the energy of samples a <= i < b is the difference of elements b and a."""
    return np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])


def _energies(energy: EnergyArray, template: FloatArray) -> tuple[float, EnergyArray]:
    """The energy of the template and of each part that it may cover, the latter at least FAINTEST of the former."""
    own = _energy(template)
    local = energy[template.size :] - energy[: -template.size]
    return own, np.maximum(local, FAINTEST * own)


def _energy(samples: FloatArray) -> float:
    return float(np.square(samples, dtype=np.float64).sum())


def _coarse(samples: FloatArray) -> FloatArray:
    """Means of COARSE samples each: shape (n // COARSE,)."""
    whole = samples[: samples.size // COARSE * COARSE]
    means: FloatArray = whole.reshape(-1, COARSE).mean(axis=1, dtype=np.float32)
    return means
