"""What a receiver hears: minute tones in noise, and noises of every kind without a minute tone.

Everything at a reduced sample rate: the detector looks at bands some 100 Hz wide, and at 4 kHz they hold
the same noise as at 16 kHz with a quarter of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Iq = npt.NDArray[np.complex64]
Audio = npt.NDArray[np.float32]
Rng = np.random.Generator

RATE = 4_000
SECONDS = 60
BEFORE = 3


def white(rng: Rng, count: int) -> Iq:
    """Complex noise of power 2."""
    parts = rng.standard_normal((count, 2), dtype=np.float32)
    return parts.view(np.complex64).reshape(-1)


def carrier(rng: Rng, count: int, rate: int = RATE, offset_hz: float = 0.0) -> Iq:
    """A carrier of amplitude 1 with a wandering Doppler shift and slow, shallow fading."""
    knots = count // rate + 2
    at = np.linspace(0, count - 1, knots)
    doppler = np.cumsum(rng.normal(0, 0.05, knots)) + rng.normal(0, 0.3) + offset_hz
    phase = 2 * np.pi * np.cumsum(doppler) * count / rate / knots + rng.uniform(0, 2 * np.pi)
    fading = np.clip(1 + np.cumsum(rng.normal(0, 0.04, knots)), 0.5, 1.5)
    n = np.arange(count)
    return (np.interp(n, at, fading) * np.exp(1j * np.interp(n, at, phase))).astype(np.complex64)


def strength(rng: Rng) -> float:
    """An amplitude that is anything from inaudible to overwhelming against `white`."""
    return float(np.sqrt(2) * 10 ** rng.uniform(-0.5, 2.0))


def notes(rng: Rng, count: int, rate: int, tempered: bool) -> Audio:
    """Music: chords with overtones, held or dying away, of a piano's pitches or of any."""
    sound, at = np.zeros(count, np.float32), 0.0
    while at < count / rate:
        for _ in range(rng.integers(1, 4)):
            first = round(at * rate)
            lasts = rng.choice([0.12, 0.25, 0.4, 0.5, 0.8, 1.0, 1.6]) * rng.uniform(0.9, 1.1)
            length = min(count - first, round(lasts * rate))
            if length <= 0:
                continue
            pitch = 110 * 2 ** (rng.integers(0, 40) / 12) if tempered else 100 * 2 ** rng.uniform(0, 3.5)
            t = np.arange(length, dtype=np.float32) / np.float32(rate)
            level = rng.uniform(0.3, 1.0) * np.exp(-t * rng.choice([0.0, 0.3, 2.0, 5.0])) * np.minimum(1, t / 0.01)
            turn = t * pitch + rng.choice([0.0, 0.0, 0.003]) * np.sin(2 * np.pi * 5.5 * t) / 5.5 * pitch
            slope = rng.uniform(0.5, 1.5)
            for number in range(1, 9):
                if number * pitch < rate * 0.47:
                    wave = np.sin(2 * np.pi * (number * turn + rng.random()))
                    sound[first : first + length] += (level / number**slope * wave).astype(np.float32)
        at += rng.choice([0.12, 0.25, 0.4, 0.5, 0.8])
    return sound / np.abs(sound).max()


def speech(rng: Rng, count: int, rate: int) -> Audio:
    """A voice: syllables of gliding pitch with two formants, and pauses."""
    sound, at = np.zeros(count, np.float32), 0.0
    while at < count / rate:
        lasts = rng.uniform(0.08, 0.6)
        first = round(at * rate)
        length = min(count - first, round(lasts * rate))
        if length > 0:
            t = np.arange(length, dtype=np.float32) / np.float32(rate)
            pitch = rng.uniform(80, 250) * (
                1 + rng.uniform(-0.25, 0.25) * t / lasts + 0.01 * np.sin(2 * np.pi * rng.uniform(3, 7) * t)
            )
            turn, mean = np.cumsum(pitch) / rate, float(pitch.mean())
            formants = (rng.uniform(300, 800), rng.uniform(900, 1800))
            for number in range(1, int(rate * 0.47 / mean) + 1):
                level = sum(1 / (1 + ((number * mean - formant) / 80) ** 2) for formant in formants) + 0.02
                sound[first : first + length] += (level * np.sin(2 * np.pi * number * turn)).astype(np.float32)
            sound[first : first + length] *= np.sqrt(np.hanning(length)).astype(np.float32)
        at += lasts + rng.choice([0.02, 0.1, 0.4], p=[0.6, 0.3, 0.1])
    return sound / np.abs(sound).max()


def _modulated(rng: Rng, sound: Audio, rate: int) -> Iq:
    count = len(sound)
    # Another part of the sound at the minute each time.
    moved = np.roll(sound, rng.integers(0, count))
    return white(rng, count) + strength(rng) * carrier(rng, count, rate) * (1 + rng.uniform(0.3, 0.9) * moved)


def _impulses(rng: Rng, count: int, rate: int) -> Iq:
    iq = white(rng, count)
    many = rng.integers(10, 3000)
    iq[rng.integers(0, count, many)] += white(rng, many) * (10 ** rng.uniform(0.5, 3, many)).astype(np.float32)
    for _ in range(rng.integers(0, 60)):  # lightning: bursts of noise from a millisecond to a second
        first, length = rng.integers(0, count), round(rate * 10 ** rng.uniform(-3, 0))
        iq[first : first + length] *= 10 ** rng.uniform(0.3, 2)
    return iq + strength(rng) * carrier(rng, count, rate) if rng.random() < 0.7 else iq


def _gaps(rng: Rng, count: int, rate: int) -> Iq:
    iq = white(rng, count)
    if rng.random() < 0.7:
        iq += strength(rng) * carrier(rng, count, rate)
    for _ in range(rng.integers(1, 40)):
        first, length = rng.integers(0, count), round(rate * 10 ** rng.uniform(-2, 1.3))
        iq[first : first + length] = 0
    return iq


def _ticking(rng: Rng, count: int, rate: int) -> Audio:
    """A station whose minute tone is missing: ticks, and its 500 or 600 Hz."""
    sound = np.zeros(count, np.float32)
    for second in range(count // rate):
        for start, lasts, hz, level in ((0, 0.005, 1000, 1.0), (0.03, 0.96, rng.choice([500, 600]), 0.5)):
            first = round((second + start) * rate)
            t = np.arange(min(round(lasts * rate), max(0, count - first))) / rate
            sound[first : first + len(t)] += (level * np.sin(2 * np.pi * hz * t)).astype(np.float32)
    return sound


def _chu_seconds(rng: Rng, count: int, rate: int) -> Audio:
    """CHU without its minute: 1000 Hz for 0.3 s in most seconds, 10 ms in others."""
    sound = np.zeros(count, np.float32)
    for second in range(count // rate):
        if second != 29:
            lasts = 0.01 if 31 <= second <= 39 or second >= 50 else 0.3
            t = np.arange(round(lasts * rate)) / rate
            sound[second * rate : second * rate + len(t)] += np.sin(2 * np.pi * 1000 * t).astype(np.float32)
    return sound


def _whistle(rng: Rng, count: int, rate: int) -> Audio:
    """A steady tone where a minute tone would be."""
    # A whole number of turns, so that its end meets its beginning.
    hz = round((rng.choice([1000.0, 1200.0]) + rng.normal(0, 1)) * count / rate) * rate / count
    return np.sin(2 * np.pi * hz * np.arange(count) / rate).astype(np.float32)


def _fading(rng: Rng, count: int, rate: int) -> Iq:
    """A carrier that comes over many paths: its level goes to nothing and back (Rayleigh), from slowly to quickly."""
    knots = max(4, round(count / rate * 10 ** rng.uniform(-1, 0.7)))
    paths = white(rng, knots)
    at, places = np.arange(count), np.linspace(0, count - 1, knots)
    level = np.interp(at, places, paths.real) + 1j * np.interp(at, places, paths.imag)
    return (white(rng, count) + strength(rng) * level * carrier(rng, count, rate)).astype(np.complex64)


def _elsewhere(rng: Rng, count: int, rate: int) -> Iq:
    """A station whose minute begins at another second, as behind a label that is off by more than is looked for."""
    station = rng.choice(["WWV", "WWVH", "CHU"])
    minute, before = station_minute(rng, rng.uniform(10, 60), station, rng.uniform(2.0, 58.0), rate)
    return np.concatenate((before, minute))


NOISES: dict[str, Callable[[Rng, int, int], Iq]] = {
    "white": lambda rng, count, rate: white(rng, count),
    "carrier": lambda rng, count, rate: white(rng, count) + strength(rng) * carrier(rng, count, rate),
    "impulses": _impulses,
    "gaps": _gaps,
    "fading": _fading,
    "other second": _elsewhere,
}
# What modulates a carrier.
SOUNDS: dict[str, Callable[[Rng, int, int], Audio]] = {
    "speech": speech,
    "music": lambda rng, count, rate: notes(rng, count, rate, True),
    "any pitch": lambda rng, count, rate: notes(rng, count, rate, False),
    "WWV no tone": _ticking,
    "CHU no tone": _chu_seconds,
    "whistle": _whistle,
}
KINDS = (*NOISES, *SOUNDS)
# Where there is a minute tone, only not at the minute.
ELSEWHERE = frozenset({"other second"})


def noise_minutes(kind: str, rng: Rng, number: int, rate: int = RATE) -> Iterator[tuple[Iq, Iq]]:
    """`number` minutes of noise and the 3 s before each.

    Of sounds, which are costly to make, one minute is heard on different carriers in different noise
    with another part of it at the beginning.
    """
    count = (SECONDS + BEFORE) * rate
    sound = SOUNDS[kind](rng, count, rate) if kind in SOUNDS else None
    for _ in range(number):
        whole = NOISES[kind](rng, count, rate) if sound is None else _modulated(rng, sound, rate)
        yield whole[BEFORE * rate :], whole[: BEFORE * rate]


def station_minute(
    rng: Rng,
    snr_db: float,
    station: str = "WWV",
    onset_s: float = 0.0,
    rate: int = RATE,
    offset_hz: float = 0.0,
    noise: bool = True,
    ticks: bool = True,
) -> tuple[Iq, Iq]:
    """A minute of a station and the 3 s before it, with ticks; a minute tone begins `onset_s` after iq[0].

    `snr_db` is the minute tone's energy over the noise's density in the demodulated audio, as
    `Tone.snr_db` states it. Depth 0.9 (CHU 0.8, upper sideband only).
    """
    hz, lasts, tick_s, depth = {"WWV": (1000, 0.8, 0.005, 0.9), "WWVH": (1200, 0.8, 0.005, 0.9),
                                "CHU": (1000, 0.5, 0.3, 0.8)}[station]  # fmt: skip
    count = (SECONDS + BEFORE) * rate
    sound = np.zeros(count, complex)
    for second in range(-BEFORE - int(np.floor(onset_s)), SECONDS - int(np.floor(onset_s))):
        if second % 60 in (29, 59) or (station == "CHU" and (31 <= second % 60 <= 39 or second % 60 >= 50)):
            continue
        begin = (BEFORE + second + onset_s) * rate
        if second % 60 and not ticks:
            continue
        end = begin + (tick_s if second % 60 else lasts) * rate
        n = np.arange(max(0, int(np.ceil(begin))), min(count, int(np.ceil(end))))
        # The analytic signal of sin(2 pi hz t) from its beginning on.
        sound[n] += depth * -1j * np.exp(2j * np.pi * hz * (n - begin) / rate)
    upper = station == "CHU"
    wave = 1 + (sound / 2 if upper else sound.real)
    # Mean of the sound against exp: depth / 2 of one sideband in noise of density 1, depth of two in 2.
    level = 10 ** (snr_db / 20) * np.sqrt((2 / rate) * (4 if upper else 2) / lasts) / depth
    iq = level * carrier(rng, count, rate, offset_hz) * wave
    if noise:
        iq = iq + white(rng, count)
    whole = iq.astype(np.complex64)
    return whole[BEFORE * rate :], whole[: BEFORE * rate]
