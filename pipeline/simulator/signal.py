"""What the simulated receiver hears: int16 IQ as a pure function of a channel and a frame number.

Every sample depends only on the timeline's constants and its own number, never on when or in which
portions it is asked for, so that a checker can compute any stretch again and compare bits. (The wwv
programme uses sine and noise of numpy: the same bits on the same machine and numpy version.)

`counter` writes each sample's RTP timestamp into the sample; `wwv` is worth looking at: a carrier on two
paths with different slow Doppler shifts, ticks, minute tones, 500/600 Hz and a 100 Hz subcarrier, noise.
The second path's ticks are late by its delay; the first path's delay is zero, ticks begin on the UTC second.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

Iq = npt.NDArray[np.int16]
"""Shape (frames, 2): I and Q in units of 1/32768 of full scale."""

_COUNTER_BITS = 30
_COUNTER_MASK = (1 << _COUNTER_BITS) - 1
_HALF_MASK = 0x7FFF
_CLIP = 32767  # radiod never sends -32768 (ka9q-radio import.h)
_NOISE_SAMPLES = 1 << 17
_PHASE_POINTS = 21

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]


class Source(Protocol):
    """A programme on one timeline."""

    def samples(self, first: int, count: int) -> Iq:
        """`count` frames from frame number `first` >= 0 of the timeline on, shape (count, 2)."""


def counter_key(ssrc: int, timeline: int) -> int:
    """What `counter` adds to the timestamp, so that channels and restarts cannot be mistaken for one another."""
    return (ssrc * 2_654_435_761 + timeline * 40_503_001) & _COUNTER_MASK


def counter_iq(rtp: int, count: int, key: int = 0) -> Iq:
    """Samples of the counter programme for timestamps rtp, rtp + 1, ...

    With k = (timestamp + key) mod 2^30: I = k mod 2^15, Q = -(k // 2^15). The sign of Q shows swapped
    or conjugated samples; (0, 0) appears once in 2^30, so no packet is all zero.
    """
    k = (np.arange(count, dtype=np.int64) + (rtp + key)) & _COUNTER_MASK
    iq = np.empty((count, 2), np.int16)
    iq[:, 0] = k & _HALF_MASK
    iq[:, 1] = -(k >> 15)
    return iq


def counter_value(iq: Iq) -> npt.NDArray[np.int64]:
    """The inverse: (timestamp + key) mod 2^30 of every sample, shape (frames,)."""
    return (-iq[:, 1].astype(np.int64) << 15) | (iq[:, 0].astype(np.int64) & _HALF_MASK)


@dataclass(frozen=True, slots=True)
class CounterSource:
    """`counter_iq` along a timeline that begins at `start_rtp`."""

    start_rtp: int
    key: int

    def samples(self, first: int, count: int) -> Iq:
        """As `Source.samples`."""
        return counter_iq(self.start_rtp + first, count, self.key)


@dataclass(frozen=True, slots=True)
class Pulse:
    """Audio within one second: from `start_s` for `length_s`, `hz` at modulation depth `depth`."""

    start_s: float
    length_s: float
    hz: float
    depth: float


def wwv_pulses(minute: int, second: int) -> Iterator[Pulse]:
    """WWV's audio in one second of a minute since the epoch (NIST SP 432, simplified).

    Ticks of 5 ms at 1000 Hz save at :29 and :59, 800 ms at :00; 500 or 600 Hz for 45 s of most minutes,
    kept off the tick; a 100 Hz subcarrier with position markers, without the code's digits.
    """
    if second == 0:
        yield Pulse(0.0, 0.8, 1000.0, 0.9)
    elif second not in (29, 59):
        yield Pulse(0.0, 0.005, 1000.0, 0.9)
    if minute % 60 not in (0, 8, 9, 10, 30) and 1 <= second <= 44:
        yield Pulse(0.03, 0.96, 600.0 if minute % 2 else 500.0, 0.45)
    if second:
        yield Pulse(0.03, 0.77 if second % 10 == 9 else 0.17, 100.0, 0.15)


def chu_pulses(minute: int, second: int) -> Iterator[Pulse]:
    """CHU's audio in one second of a minute since the epoch (NRC, simplified).

    1000 Hz for 500 ms at :00, on the hour 1 s and then silence until :10; 300 ms at the other seconds but :29 (none),
    :31 to :39 (10 ms, then the code's carrier) and :50 to :59 (10 ms, for the voice, which is left out).
    """
    on_the_hour = minute % 60 == 0
    if second == 0:
        yield Pulse(0.0, 1.0 if on_the_hour else 0.5, 1000.0, 0.8)
    elif second == 29 or (on_the_hour and second < 10):
        return
    elif 31 <= second <= 39:
        yield Pulse(0.0, 0.01, 1000.0, 0.8)
        yield Pulse(0.133, 0.367, 2125.0, 0.3)
    else:
        yield Pulse(0.0, 0.01 if second >= 50 else 0.3, 1000.0, 0.8)


@dataclass(frozen=True, slots=True)
class Path:
    """One way through the ionosphere: amplitude in LSB, delay, and two slow swings of its Doppler shift."""

    amplitude: float
    delay_s: float
    swings: tuple[tuple[float, float, float], ...]  # (peak Hz, period s, phase rad)

    def phase(self, utc_s: F64) -> F64:
        """Carrier phase in radians: the integral of the Doppler shift."""
        total = np.zeros_like(utc_s)
        for peak_hz, period_s, phase in self.swings:
            total -= peak_hz * period_s * np.cos(2 * np.pi * utc_s / period_s + phase)
        return total


def _paths(frequency_hz: float, seed: int) -> tuple[tuple[Path, ...], float]:
    """The two paths of a channel and its noise in LSB: different for each channel, the same for each run."""
    rng = random.Random(f"{seed} {round(frequency_hz)}")
    scale_hz = 0.1 + 0.5 * min(frequency_hz, 25e6) / 25e6  # Doppler shift grows with frequency
    carrier = rng.uniform(2500.0, 6500.0)

    def swings() -> tuple[tuple[float, float, float], ...]:
        return tuple(
            (scale_hz * share * rng.uniform(0.6, 1.0), period_s * rng.uniform(0.7, 1.4), rng.uniform(0, 6.28))
            for share, period_s in ((1.0, 170.0), (0.25, 31.0))
        )

    direct = Path(carrier, 0.0, swings())
    late = Path(carrier * rng.uniform(0.25, 0.5), rng.uniform(0.001, 0.006), swings())
    return (direct, late), rng.uniform(60.0, 500.0)


@lru_cache(maxsize=4)
def _noise(seed: int, length: int) -> F32:
    return np.random.default_rng(seed).standard_normal((length, 2), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class WwvSource:
    """A time signal station as a receiver tuned to its carrier hears it, AM.

    `start_utc_ns` is the UTC of frame 0, `ppm` the error of the sample clock. Computed in chunks of one
    second of frames; the last ones are kept.
    """

    chu: bool
    frequency_hz: float
    rate_hz: int
    ppm: float
    start_utc_ns: int
    seed: int

    def samples(self, first: int, count: int) -> Iq:
        """As `Source.samples`."""
        rate, parts = self.rate_hz, []
        while count > 0:
            chunk, skip = divmod(first, rate)
            part = _wwv_chunk(self, chunk)[skip : skip + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty((0, 2), np.int16)

    def noise_lsb(self) -> float:
        """Standard deviation of the noise in I and in Q."""
        return _paths(self.frequency_hz, self.seed)[1]


def _envelope(source: WwvSource, minute_ns: int, second_0: float, count: int, true_rate: float) -> F32:
    """1 + audio for `count` frames whose first is `second_0` seconds after `minute_ns` (may be negative)."""
    envelope = np.ones(count, np.float32)
    pulses = chu_pulses if source.chu else wwv_pulses
    for second in range(int(np.floor(second_0)), int(second_0 + count / true_rate) + 1):
        minute = minute_ns // 60_000_000_000 + second // 60
        for pulse in pulses(minute, second % 60):
            begin = second + pulse.start_s
            low = max(0, int(np.ceil((begin - second_0) * true_rate)))
            high = min(count, int(np.ceil((begin + pulse.length_s - second_0) * true_rate)))
            if low < high:
                since = np.arange(low, high) / true_rate + (second_0 - second)
                envelope[low:high] += pulse.depth * np.sin((2 * np.pi * pulse.hz) * since)
    return envelope


@lru_cache(maxsize=32)
def _wwv_chunk(source: WwvSource, chunk: int) -> Iq:
    rate = source.rate_hz
    true_rate = rate * (1 + source.ppm * 1e-6)
    utc_ns = source.start_utc_ns + round(chunk * rate * 1e9 / true_rate)
    minute_ns = utc_ns - utc_ns % 60_000_000_000
    paths, noise_lsb = _paths(source.frequency_hz, source.seed)
    delays = [round(path.delay_s * true_rate) for path in paths]
    pad = max(delays)
    envelope = _envelope(source, minute_ns, (utc_ns - minute_ns) / 1e9 - pad / true_rate, rate + pad, true_rate)
    coarse = np.linspace(0.0, rate, _PHASE_POINTS)
    frames = np.arange(rate, dtype=np.float64)
    i, q = np.zeros(rate, np.float32), np.zeros(rate, np.float32)
    for path, delay in zip(paths, delays, strict=True):
        level = envelope[pad - delay : pad - delay + rate] * np.float32(path.amplitude)
        phase = np.interp(frames, coarse, path.phase(utc_ns / 1e9 + coarse / true_rate)).astype(np.float32)
        i += level * np.cos(phase)
        q += level * np.sin(phase)
    noise = _noise(source.seed, max(_NOISE_SAMPLES, 4 * rate))
    offset = random.Random(f"{source.seed} {source.frequency_hz} {utc_ns} {chunk}").randrange(len(noise) - rate)
    iq = np.stack((i, q), axis=1) + noise[offset : offset + rate] * np.float32(noise_lsb)
    np.clip(np.rint(iq, out=iq), -_CLIP, _CLIP, out=iq)
    return iq.astype(np.int16)
