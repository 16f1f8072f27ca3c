"""The audio of an AM station in a stream of IQ, demodulated along its own carrier.

The carrier's frequency is followed, so Doppler shift and an oscillator that is some Hz off do not matter. Tones are
looked at twice: `Bands` has the whole minute in narrow bands at 250 Hz, cheap enough for every minute; `follow`
gives the audio itself at the full rate, for the few places where time is read to a fraction of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.stream.samples import Samples

Complex = npt.NDArray[np.complex64]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Stretch = Complex | Samples

BAND_RATE_HZ = 250
# A filter of four blocks (16 ms) lets through 108 Hz and takes no part of a tone 200 Hz away.
TAPS = 4
NOISE_WIDTH = 1.73  # of a Blackman window, in units of one over its length
# 20 ms of carrier: wide enough for any Doppler shift, and WWV's 100 Hz code averages out.
CARRIER_SMOOTHING = 5
# Samples that are decoded and filtered together: they fit into a processor's cache.
AT_ONCE = 1 << 16
# Samples of the bands over which a carrier's frequency is taken: a second.
FOLLOWED = 250
# An oscillator 10 ppm off at 15 MHz.
CARRIER_REACH_HZ = 150
CARRIER_STEP_HZ = 4
CARRIER_LOOKS = 6


@dataclass(frozen=True, slots=True)
class Bands:
    """Narrow bands of a stretch of samples.

    Sample k of each band is centred at `(k + 2) * block - 0.5` of the stretch. `audio[hz]` has a row a sideband,
    upper and lower (conjugated), each along the carrier, so that a tone has the same phase in both; |iq| = 1 is
    full scale. They are kept apart since a second station's carrier is not the one that is followed: its tone turns
    slowly, one way in one sideband and the other way in the other. `valid` is False where a sample that was not
    received takes part, and the bands are zero there. `phase` (rad) is what is followed: the carrier's, smooth, so
    that it goes on where two stations' carriers cancel for a moment.
    """

    rate_hz: int
    block: int
    carrier_hz: float
    carrier: Complex
    phase: Floats
    audio: Mapping[int, Complex]
    valid: Flags

    @property
    def band_rate_hz(self) -> float:
        """Samples per second of the bands."""
        return self.rate_hz / self.block

    @property
    def noise_hz(self) -> float:
        """The bands' width for white noise."""
        return NOISE_WIDTH * self.band_rate_hz / TAPS

    def index(self, k: float) -> float:
        """Where in the stretch sample `k` of a band lies."""
        return (k + TAPS / 2) * self.block - 0.5


def block_of(rate_hz: int) -> int:
    """Samples of the stream per sample of a band."""
    return max(1, round(rate_hz / BAND_RATE_HZ))


def find_carrier(iq: Stretch, rate_hz: int) -> float:
    """Offset of the strongest carrier within 150 Hz of the centre, Hz, to 4 Hz; 0 when none stands out."""
    length = rate_hz // CARRIER_STEP_HZ
    starts = np.linspace(0, len(iq) - length, CARRIER_LOOKS).astype(int)
    looks = np.stack([iq[start : start + length] for start in starts]) * np.hanning(length).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        power = np.square(np.abs(np.fft.fft(looks, axis=1))).mean(axis=0)
    reach = CARRIER_REACH_HZ // CARRIER_STEP_HZ
    near = np.roll(power, reach)[: 2 * reach + 1]
    best = int(np.argmax(near))
    return float((best - reach) * CARRIER_STEP_HZ) if near[best] > 4 * np.median(near) else 0.0


@lru_cache(maxsize=8)
def _filters(rate_hz: int, frequencies: tuple[float, ...]) -> Complex:
    """Shape (block, frequencies * TAPS): each filter in pieces of one block."""
    block = block_of(rate_hz)
    window = np.blackman(TAPS * block + 2)[1:-1]
    window /= window.sum()
    n = np.arange(TAPS * block)
    rows = [(window * np.exp((-2j * np.pi * hz / rate_hz) * n)).reshape(TAPS, block) for hz in frequencies]
    return np.ascontiguousarray(np.concatenate(rows).T, np.complex64)


def _filtered(iq: Stretch, rate_hz: int, frequencies: tuple[float, ...]) -> tuple[list[Complex], Flags]:
    """Each frequency shifted to zero (phase 0 at iq[0]) and low-pass filtered, one sample a block.

    And whether all samples that each one is made of were received.
    """
    block, filters = block_of(rate_hz), _filters(rate_hz, frequencies)
    blocks = len(iq) // block
    count = blocks - TAPS + 1
    parts, absent = np.empty((blocks, filters.shape[1]), np.complex64), np.empty(blocks, np.bool_)
    step = max(1, AT_ONCE // block)
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, blocks, step):
            stop = min(first + step, blocks)
            rows = np.asarray(iq[first * block : stop * block]).reshape(-1, block)
            parts[first:stop], absent[first:stop] = rows @ filters, _absent(rows)
    found = []
    for number, hz in enumerate(frequencies):
        columns = parts[:, number * TAPS : (number + 1) * TAPS]
        total = sum((columns[tap : tap + count, tap] for tap in range(1, TAPS)), columns[:count, 0])
        turns = (hz * block / rate_hz) * np.arange(count)
        found.append((total * np.exp(-2j * np.pi * np.remainder(turns, 1.0))).astype(np.complex64))
    touched = absent[:count].copy()
    for tap in range(1, TAPS):
        touched |= absent[tap : tap + count]
    return found, np.logical_not(touched)


def _absent(rows: Complex) -> Flags:
    """Which blocks have samples that were not received."""
    # Gaps are whole packets: three looks a block cannot miss one.
    first, middle, last = (rows[:, column] == 0 for column in (0, rows.shape[1] // 2, -1))
    absent: Flags = first & middle | middle & last
    return absent


def bands(iq: Stretch, rate_hz: int, carrier_hz: float, tones: Sequence[int], upper_only: bool) -> Bands:
    """Demodulate `tones` (Hz of audio); with `upper_only` the lower sideband is noise (CHU) and left out."""
    sides = (1,) if upper_only else (1, -1)
    wanted = [carrier_hz, *(carrier_hz + side * hz for hz in tones for side in sides)]
    found, valid = _filtered(iq, rate_hz, tuple(wanted))
    kernel = np.full(CARRIER_SMOOTHING, 1 / CARRIER_SMOOTHING, np.float32)
    carrier = np.convolve(found[0], kernel, "same").astype(np.complex64)
    phase = _smooth_phase(carrier)
    along = np.exp(-1j * phase).astype(np.complex64)
    audio = {}
    for number, hz in enumerate(tones):
        rows = [found[1 + number * len(sides)] * along]
        if not upper_only:
            rows.append(np.conj(found[2 + number * 2] * along))
        audio[hz] = np.stack(rows) * valid
    return Bands(rate_hz, block_of(rate_hz), carrier_hz, carrier, phase, audio, valid)


def _smooth_phase(carrier: Complex) -> Floats:
    """The integral of the carrier's frequency, which is that of a second around: rad, 0 at the first sample."""
    lag = CARRIER_SMOOTHING
    if len(carrier) <= lag:
        return np.zeros(len(carrier))
    steps = carrier[lag:].astype(np.complex128) * np.conj(carrier[:-lag])
    sums = np.concatenate(([0.0], np.cumsum(steps)))
    at = np.arange(len(carrier)) - lag // 2
    low, high = (np.clip(at + reach, 0, len(steps)) for reach in (-FOLLOWED // 2, FOLLOWED // 2))
    advance = np.angle(sums[high] - sums[low]) / lag
    return np.concatenate(([0.0], np.cumsum(advance[:-1])))


def _interpolated(of: Bands, indices: npt.NDArray[np.int64]) -> tuple[Complex, Floats]:
    """The carrier and the phase that is followed, at samples of the stretch."""
    centres = of.index(0) + of.block * np.arange(len(of.carrier))
    carrier = np.interp(indices, centres, of.carrier.real) + 1j * np.interp(indices, centres, of.carrier.imag)
    turns = 2 * np.pi * np.remainder((of.carrier_hz / of.rate_hz) * indices, 1.0)
    return carrier * np.exp(1j * turns), np.interp(indices, centres, of.phase) + turns


def follow(samples: Complex, of: Bands, indices: npt.NDArray[np.int64]) -> Complex:
    """Both sidebands of `samples` along the carrier; they are at `indices` (any shape) of the stretch that `of` is of.

    The mean of it against exp(2j pi hz t) is the upper row of `Bands.audio`, that of its conjugate the lower one.
    """
    carrier, phase = _interpolated(of, indices)
    # Without the carrier itself: cut off anywhere it would be a tone's equal at any frequency.
    along: Complex = ((samples - carrier) * np.exp(-1j * phase)).astype(np.complex64)
    return along


def demodulated(iq: Complex, of: Bands, indices: npt.NDArray[np.int64]) -> Floats:
    """The audio at samples `indices`, as a synchronous AM detector gives it, in units of the mean carrier."""
    carrier, _ = _interpolated(of, indices)
    size = np.abs(carrier)
    along = (iq[indices] - carrier) * np.conj(carrier / np.where(size > 0, size, 1))
    return (along.real / (float(np.abs(of.carrier).mean()) or 1.0)).astype(np.float64)
