"""Whether a minute tone is in a minute at all. Noise must not look like a station.

A pulse is found when, in its own narrow band,

* it explains more of the power around it than noise does by chance, silence before and after included,
* it stands out clearly more than anything else in the same minute, and
* it keeps its level, and neither begins before nor goes on.

Where something else is loud in its band, or its frequency seems off, its station's second ticks must confirm it.

The thresholds hold for white noise, carriers, impulses, speech, music and gaps alike; what they let
pass and what they miss is measured by tests/bench/bench_tones.py.
"""

from __future__ import annotations

import cmath
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.stream.audio import Bands, Complex, Floats
from pipeline.stream.pulses import Pulse

Ints = npt.NDArray[np.int64]

SEARCH_S = 1.5
# The share of the power in and around it that a pulse must explain; where something louder
# than noise is in its band elsewhere in the minute; there too, when second ticks confirm it.
LEAST_FIT, LEAST_FIT_AMONG_OTHERS, LEAST_FIT_WITH_TICKS = 0.13, 0.85, 0.4
# White noise in n independent samples of the band explains 14 / n once in a million places.
LOUD = 14.0
# How much more signal over scatter the minute's beginning must have than any other place.
LEAST_RATIO = 4.0
ENOUGH_REST = 0.2  # of the places to compare with; with fewer the rest counts as loud
# Level between pulses over level in them, and late in a pulse over early in it.
MOST_OUTSIDE = 0.5
LEAST_LATE, MOST_LATE = 0.45, 2.2
# No fifth of a pulse may be silent, where noise is so much weaker that it can be told.
FIFTHS, LEAST_PART, CLEAR = 5, 0.35, 25.0
# Log-likelihood by which it must be a whole pulse rather than one as short as a tick, which CHU's are 0.3 s of.
DISTINCT = 8.0
# Between early and late in a pulse: a sample clock 50 ppm off turns a tone by 0.13 rad.
MOST_TURN_RAD, TURN_SPREADS = 0.2, 3.0
LEAST_AROUND = 0.25  # of the stretch beside it


@dataclass(frozen=True, slots=True)
class Find:
    """A pulse in the bands: fit 0..1, the band sample it begins at, the noise's density (power per Hz) around it.

    Where it is not `sure` it must be confirmed by its station's ticks.
    """

    pulse: Pulse
    fit: float
    at: int
    density: float
    sure: bool


def find(first: Bands, rest: Bands, pulse: Pulse, lead_s: float, rest_s: float) -> Find | None:
    """The pulse within 1.5 s of the minute, None unless it is there beyond doubt.

    The minute is `lead_s` after the begin of `first`; `rest` begins `rest_s` after the minute.
    """
    fit, begins = fits(first, pulse)
    seconds = (first.index(0) + begins * first.block) / first.rate_hz - lead_s
    fit = np.where(np.abs(seconds) <= SEARCH_S, fit, 0.0)
    best = int(np.argmax(fit)) if len(fit) else 0
    if not len(fit) or fit[best] < LEAST_FIT:
        return None
    elsewhere, compared = _elsewhere(rest, pulse, rest_s)
    if _odds(fit[best]) < LEAST_RATIO * _odds(elsewhere):
        return None
    independent = sum(lengths(first, pulse)) / first.band_rate_hz * first.noise_hz
    loud = compared < ENOUGH_REST or elsewhere > LOUD / independent
    if loud and fit[best] < LEAST_FIT_WITH_TICKS:
        return None
    found = _shape(first, pulse, int(begins[best]))
    if found is None:
        return None
    density, in_step = found
    sure = in_step and (not loud or bool(fit[best] >= LEAST_FIT_AMONG_OTHERS))
    return Find(pulse, float(fit[best]), int(begins[best]), density, sure)


def _odds(fit: float) -> float:
    return fit / (1 - fit)


def lengths(of: Bands, pulse: Pulse) -> tuple[int, int, int]:
    """A pulse's surroundings before it, itself, and after it, in samples of the bands."""
    rate = of.band_rate_hz
    return round(pulse.before_s * rate), round(pulse.length_s * rate), round(pulse.after_s * rate)


def _sums(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    first = np.zeros((*values.shape[:-1], 1), values.dtype)
    return np.concatenate((first, np.cumsum(values, axis=-1)), axis=-1)


def _power(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of all sidebands together."""
    power: npt.NDArray[Any] = np.square(np.abs(rows)).sum(axis=0)
    return power


def fits(of: Bands, pulse: Pulse) -> tuple[Floats, Ints]:
    """For every place: the share of the power around it that a pulse beginning there explains; and the places.

    The square of a correlation coefficient, 0 for a steady tone and 1 for the pulse alone. In white noise
    it exceeds r with probability (1 - r)^(n - 2), n independent samples of one sideband; of two less often.
    """
    before, on, after = lengths(of, pulse)
    audio = of.audio[pulse.hz].astype(np.complex128)
    begins = np.arange(before, len(of.valid) - on - after)
    low, end, stop = begins - before, begins + on, begins + on + after
    sums, powers, counts = _sums(audio), _sums(_power(audio)), _sums(of.valid.astype(np.int64))
    heard, whole = counts[end] - counts[begins], counts[stop] - counts[low]
    beside = whole - heard
    enough = (heard >= pulse.least_heard * on) & (beside >= LEAST_AROUND * (before + after))
    heard, beside, whole = (np.maximum(count, 1) for count in (heard, beside, whole))
    inside, total = sums[:, end] - sums[:, begins], sums[:, stop] - sums[:, low]
    step = inside / heard - (total - inside) / beside
    power = powers[stop] - powers[low]
    # A difference of sums is no better than their rounding.
    scatter = np.maximum(power - _power(total) / whole, 1e-6 * power)
    explained = _power(step) * heard * beside / whole
    fit = np.divide(explained, scatter, out=np.zeros(len(begins)), where=enough & (scatter > 0))
    return np.minimum(fit, 1 - 1e-6), begins


def _elsewhere(rest: Bands, pulse: Pulse, rest_s: float) -> tuple[float, float]:
    """The best fit in the rest of the minute, and the share of that rest that could be looked at."""
    fit, begins = fits(rest, pulse)
    seconds = rest_s + (rest.index(0) + begins * rest.block) / rest.rate_hz
    low, high = seconds - pulse.before_s, seconds + pulse.length_s + pulse.after_s
    compared = fit[np.logical_or.reduce([(low > begin) & (high < end) for begin, end in pulse.quiet_s])]
    return float(compared.max(initial=0.0)), np.count_nonzero(compared) / max(1, len(compared))


def _shape(of: Bands, pulse: Pulse, at: int) -> tuple[float, bool] | None:
    """The noise's power per Hz around a pulse, and whether its frequency is the right one.

    None when it goes on before or after, or dies away.
    """
    before, on, after = lengths(of, pulse)
    audio, valid = of.audio[pulse.hz], of.valid

    def heard(low: int, high: int) -> Complex:
        part: Complex = audio[:, low:high][:, valid[low:high]]
        return part

    inside, middle = heard(at, at + on), at + 3 * on // 5
    around = np.concatenate((heard(at - before, at), heard(at + on, at + on + after)), axis=1)
    level, outside = inside.mean(axis=1), around.mean(axis=1)
    strength = float(_power(level))
    if float(_power(outside)) > MOST_OUTSIDE**2 * strength:
        return None
    scatter = np.abs(np.concatenate((inside - level[:, None], around - outside[:, None]), axis=1)).astype(float) ** 2
    # The median, for the filter rounds the pulse's corners; exponentially distributed power has it at ln 2 of its mean.
    power = max(float(np.median(scatter)) / math.log(2), 1e-9 * strength)
    noise = power / of.noise_hz * of.band_rate_hz
    fifths = np.linspace(at, at + on, FIFTHS + 1).astype(int)
    if not all(_sounds(heard(low, high), strength, noise) for low, high in itertools.pairwise(fifths)):
        return None
    if _explained(inside, on) - _explained(inside, round(pulse.tick_s * of.band_rate_hz)) < DISTINCT * noise:
        return None
    early, late = heard(at, middle), heard(middle, at + on)
    if min(early.shape[1], late.shape[1]) < on // 5:
        return power / of.noise_hz, False
    first, second = early.mean(axis=1), late.mean(axis=1)
    before_power, after_power = float(_power(first)), float(_power(second))
    if not LEAST_LATE**2 * before_power <= after_power <= MOST_LATE**2 * before_power:
        return None
    doubt = math.sqrt(noise / 2 * (1 / early.shape[1] / before_power + 1 / late.shape[1] / after_power))
    return power / of.noise_hz, _turn(first, second) <= MOST_TURN_RAD + TURN_SPREADS * doubt


def _explained(rows: Complex, length: int) -> float:
    """The power that the best pulse of `length` samples, or what was received of it, explains."""
    length = max(1, min(length, rows.shape[1]))
    sums = _sums(rows.astype(np.complex128))
    return float(_power(sums[:, length:] - sums[:, :-length]).max(initial=0.0)) / length


def _sounds(part: Complex, strength: float, noise: float) -> bool:
    """Whether a part of a pulse has its level, as far as that can be told from noise of that power in each sample."""
    count = part.shape[1]
    if count * strength < CLEAR * noise * len(part):
        return True
    return float(_power(part.mean(axis=1))) >= LEAST_PART**2 * strength


def _turn(first: Complex, second: Complex) -> float:
    """By how many rad a tone turned in all sidebands alike, which is what a wrong frequency does."""
    turned = complex(np.prod((second * np.conj(first)).astype(np.complex128)))
    return abs(cmath.phase(turned)) / len(first)
