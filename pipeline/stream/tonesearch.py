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
LEAST_FIT, LEAST_FIT_AMONG_OTHERS, LEAST_FIT_WITH_TICKS = 0.16, 0.85, 0.4
# (White noise hardly reaches half of the first, but a note that weak cannot be told from a pulse by its shape.)
# White noise in n independent samples of the band explains 14 / n once in a million places.
LOUD = 14.0
# How much more signal over scatter the minute's beginning must have than any other place.
LEAST_RATIO = 4.0
ENOUGH_REST = 0.2  # of the places to compare with; with fewer the rest counts as loud
# Level between pulses over level in them, and late in a pulse over early in it.
MOST_OUTSIDE = 0.5
LEAST_LATE, MOST_LATE = 0.45, 2.2
# No fifth of a pulse may be silent or out of phase, where noise is so much weaker that it can be told.
FIFTHS, LEAST_PART, CLEAR = 5, 0.35, 25.0
# Log-likelihood by which it must be a whole pulse rather than one as short as a tick, which CHU's are 0.3 s of.
DISTINCT = 8.0
# Between early and late in a pulse: a sample clock 50 ppm off turns a tone by 0.13 rad.
MOST_TURN_RAD, TURN_SPREADS = 0.2, 3.0
LEAST_AROUND = 0.25  # of the stretch beside it
# A second station's carrier is off the one that is followed by the difference of two Doppler shifts: its tone turns
# one way in the upper sideband and the other way in the lower. Looked for coarsely, then finely around the best.
TURNS_HZ = (0.0, -0.75, 0.75)
FINE_TURNS_HZ = tuple(step / 8 for step in range(-4, 5))


@dataclass(frozen=True, slots=True)
class Find:
    """A pulse in the bands: fit 0..1, the band sample it begins at, the noise's density (power per Hz) around it.

    `turn_hz` is how much higher its carrier is than the one that is followed. Where it is not `sure` it must be
    confirmed by its station's ticks.
    """

    pulse: Pulse
    fit: float
    at: int
    density: float
    turn_hz: float
    sure: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pulse fits best: the band sample that it begins at, how well (0..1), and its carrier's turn."""

    pulse: Pulse
    at: int
    fit: float
    turn_hz: float


def near_minute(first: Bands, pulse: Pulse, lead_s: float) -> Place | None:
    """Where the pulse may be within 1.5 s of the minute, which is `lead_s` after the begin of `first`."""
    return _best_place(first, pulse, lead_s - SEARCH_S, lead_s + SEARCH_S)


def find(first: Bands, rest: Bands, place: Place, rest_s: float) -> Find | None:
    """The pulse at a place near the minute, None unless it is there beyond doubt.

    `rest` begins `rest_s` after the minute.
    """
    pulse = place.pulse
    others, begins = fits(rest, pulse, place.turn_hz)
    seconds = rest_s + _seconds(rest, begins)
    low, high = seconds - pulse.before_s, seconds + pulse.length_s + pulse.after_s
    # The next minute's tone may be as early as this one's.
    quiet = _quiet(pulse, low, high) & (high < 60.0 - SEARCH_S)
    return _judged(first, place, others[quiet])


def find_anywhere(whole: Bands, pulse: Pulse, begin_s: float, end_s: float) -> Find | None:
    """The pulse that begins between two places of a stretch of a minute (s after its begin), None in any doubt.

    It must stand out from all the rest of the stretch, and nothing there may look like another one.
    """
    place = _best_place(whole, pulse, begin_s, end_s)
    if place is None:
        return None
    others, begins = fits(whole, pulse, place.turn_hz)
    # As if the pulse found were the minute's: what is quiet then has nothing like it.
    since = _seconds(whole, begins) - _seconds(whole, np.array(place.at))
    beyond = np.abs(since) >= pulse.before_s + pulse.length_s + pulse.after_s
    since %= 60.0
    low, high = since - pulse.before_s, since + pulse.length_s + pulse.after_s
    others = others[beyond & _quiet(pulse, low, high) & (high < 60.0)]
    if others.max(initial=0.0) >= LEAST_FIT_WITH_TICKS:
        return None
    return _judged(whole, place, others)


def _best_place(of: Bands, pulse: Pulse, begin_s: float, end_s: float) -> Place | None:
    """Where the pulse fits best that begins between two times of the stretch."""
    best: Place | None = None
    for turn_hz in (0.0,) if pulse.upper_only else TURNS_HZ:
        fit, begins = fits(of, pulse, turn_hz)
        seconds = _seconds(of, begins)
        fit = np.where((seconds >= begin_s) & (seconds < end_s), fit, 0.0)
        row = int(np.argmax(fit)) if len(fit) else 0
        if len(fit) and fit[row] >= LEAST_FIT and (best is None or fit[row] > best.fit):
            best = Place(pulse, int(begins[row]), float(fit[row]), turn_hz)
    return best


def _seconds(of: Bands, begins: Ints) -> Floats:
    """When places of the bands are, s after the begin of the stretch."""
    seconds: Floats = (of.index(0) + begins * of.block) / of.rate_hz
    return seconds


def _quiet(pulse: Pulse, low: Floats, high: Floats) -> npt.NDArray[np.bool_]:
    """Which of the spans low to high (s after the minute) have nothing like the minute tone in them."""
    quiet: npt.NDArray[np.bool_] = np.logical_or.reduce([(low > begin) & (high < end) for begin, end in pulse.quiet_s])
    return quiet


def _judged(of: Bands, place: Place, others: Floats) -> Find | None:
    """The pulse at a place, None unless it stands out from `others`, the fits where it should not be."""
    pulse, fit = place.pulse, place.fit
    elsewhere = float(others.max(initial=0.0))
    compared = np.count_nonzero(others) / max(1, len(others))
    if _odds(fit) < LEAST_RATIO * _odds(elsewhere):
        return None
    independent = sum(lengths(of, pulse)) / of.band_rate_hz * of.noise_hz
    loud = compared < ENOUGH_REST or elsewhere > LOUD / independent
    if loud and fit < LEAST_FIT_WITH_TICKS:
        return None
    turn_hz = _fine_turn(of, pulse, place.at, place.turn_hz)
    found = _shape(of, pulse, place.at, turn_hz)
    if found is None:
        return None
    density, in_step = found
    return Find(pulse, fit, place.at, density, turn_hz, in_step and (not loud or fit >= LEAST_FIT_AMONG_OTHERS))


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


def _turned(of: Bands, hz: int, turn_hz: float) -> Complex:
    """A tone's sidebands along a carrier that is `turn_hz` higher than the one that is followed."""
    if not turn_hz:
        return of.audio[hz]
    turn = np.exp((-2j * np.pi * turn_hz / of.band_rate_hz) * np.arange(len(of.valid))).astype(np.complex64)
    turned: Complex = of.audio[hz] * np.stack((turn, np.conj(turn)))
    return turned


def _fine_turn(of: Bands, pulse: Pulse, at: int, turn_hz: float) -> float:
    """The turn near `turn_hz` that explains most of a pulse."""
    if pulse.upper_only:
        return 0.0
    inside = slice(at, at + lengths(of, pulse)[1])
    turns = [turn_hz + step for step in FINE_TURNS_HZ]
    n = np.arange(inside.start, inside.stop)
    waves = np.exp((-2j * np.pi / of.band_rate_hz) * np.multiply.outer(turns, n))
    upper, lower = of.audio[pulse.hz][:, inside]
    power = np.abs(waves @ upper) ** 2 + np.abs(np.conj(waves) @ lower) ** 2
    return turns[int(np.argmax(power))]


def fits(of: Bands, pulse: Pulse, turn_hz: float = 0.0) -> tuple[Floats, Ints]:
    """For every place: the share of the power around it that a pulse beginning there explains; and the places.

    The square of a correlation coefficient, 0 for a steady tone and 1 for the pulse alone. In white noise
    it exceeds r with probability (1 - r)^(n - 2), n independent samples of one sideband; of two less often.
    """
    before, on, after = lengths(of, pulse)
    audio = _turned(of, pulse.hz, turn_hz).astype(np.complex128)
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


def _shape(of: Bands, pulse: Pulse, at: int, turn_hz: float) -> tuple[float, bool] | None:
    """The noise's power per Hz around a pulse, and whether its frequency is the right one.

    None when it goes on before or after, or dies away.
    """
    before, on, after = lengths(of, pulse)
    audio, valid = _turned(of, pulse.hz, turn_hz), of.valid

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
    if not all(_sounds(heard(low, high), level, noise) for low, high in itertools.pairwise(fifths)):
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


def _sounds(part: Complex, level: Complex, noise: float) -> bool:
    """Whether a part of a pulse is at its level and phase, as far as noise of that power in each sample lets tell.

    Where two carriers are equally strong they cancel at times, and the phase that is followed turns over.
    """
    strength = float(_power(level))
    if part.shape[1] * strength < CLEAR * noise * len(part):
        return True
    return float((part.mean(axis=1) * np.conj(level)).real.sum()) >= LEAST_PART * strength


def _turn(first: Complex, second: Complex) -> float:
    """By how many rad a tone turned in all sidebands alike, which is what a wrong frequency does."""
    turned = complex(np.prod((second * np.conj(first)).astype(np.complex128)))
    return abs(cmath.phase(turned)) / len(first)
