"""When a minute tone that was found began, from the audio at the full rate.

A quadrature matched filter: amplitude and phase of the tone are unknown, so the likelihood of a
delay is the power that a pulse beginning there explains, over the noise's. Its mean and spread over all
delays are the estimate; a gap, or a tone that begins before the first sample, widens the spread by itself.
Second ticks are timed one by one in the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from pipeline.stream.audio import Bands, Complex, Flags, Floats, Stretch, follow
from pipeline.stream.pulses import Pulse
from pipeline.stream.tonesearch import Find, Ints

FINE_S = 0.060
# What neither noise nor rounding explains: filters, and a path that is several paths.
FLOOR_S = 0.000_05
SPREADS = 2.5
TICK_REACH_S = 0.010
# Of a tick longer than this only the beginning is looked at.
TICK_LOOK_S = 0.040
# Log-likelihood against no tick at all: 30 comes by chance once in 1e13.
TICK_LIKELIHOOD = 30.0
FEWEST_TICKS = 10
ENOUGH_FOR_A_LINE = 20
LARGEST_SCATTER_S = 0.001


@dataclass(frozen=True, slots=True)
class Tone:
    """A minute tone that was heard: when it began after iq[0], and how sure that is.

    `snr_db` is the matched filter's: the tone's energy over the noise's power density.
    """

    station: str
    hz: int
    onset_s: float
    uncertainty_s: float
    snr_db: float
    power_dbfs: float


@dataclass(frozen=True, slots=True)
class Ticks:
    """Second ticks: when one at the minute's beginning would begin after iq[0], by `count` others."""

    count: int
    onset_s: float
    uncertainty_s: float


@dataclass(frozen=True, slots=True)
class _Sound:
    """A stretch of both sidebands: samples `indices` of what `of` was made of, and which of them were received."""

    samples: Complex
    received: Flags
    indices: Ints
    rate_hz: int
    upper_only: bool


def _against(samples: Complex, indices: Ints, hz: int, rate_hz: int, upper_only: bool) -> tuple[Complex, Complex]:
    """The sidebands' samples shifted by a tone's frequency, a row each in front; and the tone's own wave."""
    wave = np.exp(2j * np.pi * np.remainder(hz / rate_hz * indices, 1.0)).astype(np.complex64)
    rows = [samples * np.conj(wave)] + ([] if upper_only else [np.conj(samples * wave)])
    return np.stack(rows), wave


def time_tones(iq: Complex, of: Bands, finds: list[Find], upper_only: bool) -> list[Tone]:
    """Time each tone, with the other ones taken away; onsets are seconds after iq[0]. `of` are the bands of `iq`."""
    starts = [of.index(find.at) for find in finds]
    ends = [start + find.pulse.length_s * of.rate_hz for start, find in zip(starts, finds, strict=True)]
    fine = FINE_S * of.rate_hz
    indices = np.arange(max(0, round(min(starts) - fine)), min(len(iq), round(max(ends) + fine)))
    samples = iq[indices]
    sound = _Sound(follow(samples, of, indices), samples != 0, indices, of.rate_hz, upper_only)
    shares = [np.zeros(len(indices), np.complex64) for _ in finds]
    tones: list[Tone] = []
    # Tones of two stations overlap; two rounds leave nothing of one in the other's time.
    for _ in finds:
        tones = []
        for number, find in enumerate(finds):
            others = sum((s for n, s in enumerate(shares) if n != number), np.zeros_like(sound.samples))
            tone, shares[number] = _time(replace(sound, samples=sound.samples - others), find, starts[number])
            tones.append(tone)
    return tones


def _time(sound: _Sound, find: Find, start: float) -> tuple[Tone, Complex]:
    """One tone's time, near sample `start`; and the tone itself, as part of the sound."""
    rate, pulse = sound.rate_hz, find.pulse
    turn = np.exp((2j * np.pi * find.turn_hz / rate) * sound.indices).astype(np.complex64)
    samples = sound.samples * sound.received * np.conj(turn)
    rows, wave = _against(samples, sound.indices, pulse.hz, rate, sound.upper_only)
    reach, guess = round(FINE_S * rate), round(start) - int(sound.indices[0])
    at = np.arange(max(0, guess - reach), min(len(wave) - 1, guess + reach) + 1)
    end = np.minimum(at + round(pulse.length_s * rate), len(wave))
    sums, counts = _sums(rows), _sums(sound.received.astype(np.int64)).real
    value, heard = sums[:, end] - sums[:, at], np.maximum(counts[end] - counts[at], 1)
    likelihood = np.square(np.abs(value)).sum(axis=0) / (heard * rate * find.density)
    mean, spread = _moments(at, likelihood)
    best = int(np.argmax(likelihood))
    levels = value[:, best] / heard[best]
    tone = Tone(
        pulse.station,
        pulse.hz,
        # A pulse begins between the first sample that has it and the one before.
        (mean - 0.5 + int(sound.indices[0])) / rate,
        SPREADS * spread / rate + 0.5 / rate + FLOOR_S,
        10 * math.log10(max(float(likelihood[best]), 1e-3)),
        10 * math.log10(max(float(np.square(np.abs(levels)).sum()), 1e-30)),
    )
    share = np.zeros_like(sound.samples)
    inside = slice(int(at[best]), int(end[best]))
    share[inside] = levels[0] * wave[inside]
    if not sound.upper_only:
        share[inside] += np.conj(levels[1] * wave[inside])
    return tone, share * turn * sound.received


def _sums(values: Complex | Ints) -> Complex:
    return np.concatenate((np.zeros((*values.shape[:-1], 1), complex), np.cumsum(values, -1, complex)), -1)


def _moments(at: Ints, likelihood: Floats) -> tuple[float, float]:
    """Mean and spread of the place, given the logarithm of how likely each is."""
    weight = np.exp(likelihood - likelihood.max())
    weight /= weight.sum()
    mean = float((weight * at).sum())
    return mean, math.sqrt(max(0.0, float((weight * (at - mean) ** 2).sum())))


def time_ticks(iq: Stretch, of: Bands, pulse: Pulse, tone: Tone, first_s: float, density: float) -> Ticks | None:
    """Time the second ticks in `iq`, which begins `first_s` after the minute, where the tone says they are.

    Those before the tone are the seconds of the minute that it ends. None when too few are heard, or when they do
    not agree with one another.
    """
    rate = of.rate_hz
    reach, look = round(TICK_REACH_S * rate), min(pulse.tick_s, TICK_LOOK_S)
    width = 2 * reach + round(look * rate)
    low = math.ceil(first_s - tone.onset_s)
    seconds = np.array([s for s in range(low, low + 60) if s % 60 and pulse.ticks(s % 60)])
    starts = np.rint((seconds + tone.onset_s - first_s) * rate).astype(np.int64) - reach
    fits = (starts >= 0) & (starts + width <= len(iq))
    seconds, starts = seconds[fits], starts[fits]
    if len(seconds) < FEWEST_TICKS:
        return None
    samples = np.stack([iq[start : start + width] for start in starts.tolist()])
    whole = (samples != 0).all(axis=1)
    seconds, starts, samples = seconds[whole], starts[whole], samples[whole]
    if len(seconds) < FEWEST_TICKS:
        return None
    indices = starts[:, None] + np.arange(width)
    rows, _ = _against(follow(samples, of, indices), indices, pulse.tick_hz, rate, pulse.upper_only)
    sums = _sums(rows)
    at = np.arange(2 * reach + 1)
    # A whole tick ends in the window; of a longer one all that follows its beginning is in it.
    end = at + round(pulse.tick_s * rate) if look == pulse.tick_s else np.full(len(at), width)
    power = np.square(np.abs(sums[..., end] - sums[..., at])).sum(axis=0)
    likelihood = power / ((end - at) * rate * density)
    heard = [n for n in range(len(seconds)) if likelihood[n].max() >= TICK_LIKELIHOOD]
    onsets = np.array([(indices[n, 0] - 0.5 + _moments(at, likelihood[n])[0]) / rate + first_s for n in heard])
    return _line(seconds[heard], onsets - seconds[heard])


def _line(seconds: Ints, onsets: Floats) -> Ticks | None:
    """What the ticks of these seconds say of the minute's beginning: a line through their medians.

    A sample clock 50 ppm off moves them by 3 ms within the minute.
    """
    count = len(seconds)
    if count < FEWEST_TICKS:
        return None
    slope = 0.0
    if count >= ENOUGH_FOR_A_LINE:
        half = count // 2
        slope = float(np.median((onsets[half:] - onsets[:-half]) / (seconds[half:] - seconds[:-half])))
    level = onsets - slope * seconds
    onset = float(np.median(level))
    scatter = 1.48 * float(np.median(np.abs(level - onset)))
    if scatter > LARGEST_SCATTER_S:
        return None
    # The median's own spread, twice as much where the line is followed back to the minute.
    spread = 1.25 * scatter / math.sqrt(count) * (2.0 if slope else 1.0)
    return Ticks(count, onset, SPREADS * spread + FLOOR_S)
