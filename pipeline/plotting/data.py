"""What pictures of minute files show, as arrays: spectra, level, Doppler shift, gaps. Pure but for reading nothing.

Levels are dB of full scale, |iq| = 1 being 0 dB; what was not received is NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.audit.gaplist import runs
from pipeline.stream.audio import TAPS, Complex, bands, block_of, demodulated, find_carrier
from pipeline.stream.pulses import pulses
from pipeline.stream.tones import Tones, listen
from pipeline.tonekeys import tone_keys

Floats = npt.NDArray[np.floating[Any]]
Values = Mapping[str, Any]

# The carrier alone, at a rate that holds any Doppler shift.
CARRIER_RATE_HZ = 10
# Spectra are padded so that a line's top is never far from a bin.
PADDING = 8
SPECTRUM_FFT = 512
SPECTRUM_COLUMNS = 600
CLEAR_DB = 10.0


@dataclass(frozen=True, slots=True)
class Spectra:
    """Power over time and frequency: `power_db[f, t]`, dB of full scale in one bin; axes of the bins' centres."""

    times_s: Floats
    frequencies_hz: Floats
    power_db: Floats


@dataclass(frozen=True, slots=True)
class GapSpan:
    """One stretch that was not received, s from iq[0]."""

    begin_s: float
    length_s: float
    cause: str


def gap_spans(values: Values) -> list[GapSpan]:
    """The file's gap list; cause "not stated" in files that have none."""
    rate = values["sample_rate"]
    causes = (
        values["gap_cause"].tolist() if "gap_cause" in values else ["not stated"] * len(values["gap_samples_filled"])
    )
    rows = zip(values["gap_sample_indices"].tolist(), values["gap_samples_filled"].tolist(), causes, strict=True)
    return [GapSpan(index / rate, filled / rate, cause) for index, filled, cause in rows if filled]


def decibels(power: Floats) -> Floats:
    """10 log10, NaN for nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(power > 0, 10 * np.log10(power), np.nan)


def spectrogram(iq: Complex, rate_hz: int) -> Spectra:
    """The whole band, some 30 Hz fine, averaged to at most 600 columns."""
    whole = len(iq) // SPECTRUM_FFT
    group = max(1, whole // SPECTRUM_COLUMNS)
    columns = whole // group
    window = np.hanning(SPECTRUM_FFT).astype(np.float32)
    frames = iq[: columns * group * SPECTRUM_FFT].reshape(columns, group, SPECTRUM_FFT)
    power = np.empty((columns, SPECTRUM_FFT), np.float32)
    for column in range(columns):
        spectra = np.fft.fft(frames[column] * window, axis=1)
        power[column] = np.square(np.abs(spectra)).mean(axis=0)
        if not frames[column].any(axis=1).all():
            power[column] = 0.0  # the edge of a gap looks like a click that is not there
    power /= float(window.sum()) ** 2
    times = (np.arange(columns) + 0.5) * group * SPECTRUM_FFT / rate_hz
    frequencies = np.fft.fftshift(np.fft.fftfreq(SPECTRUM_FFT, 1 / rate_hz))
    return Spectra(times, frequencies, decibels(np.fft.fftshift(power, axes=1).T))


def level(iq: Complex, rate_hz: int, step_s: float) -> tuple[Floats, Floats]:
    """Times and mean power over steps of `step_s`, dB; what is exactly zero does not count."""
    step = max(1, round(step_s * rate_hz))
    count = len(iq) // step
    parts = np.ascontiguousarray(iq[: count * step]).view(np.float32).reshape(count, 2 * step)
    power = np.einsum("ij,ij->i", parts, parts, dtype=np.float64)
    received = np.count_nonzero(iq[: count * step].reshape(count, step), axis=1)
    mean = np.divide(power, received, out=np.zeros(count), where=received > step // 10)
    return (np.arange(count) + 0.5) * step / rate_hz, decibels(mean)


def carrier(iq: Complex, rate_hz: int, offset_hz: float) -> Complex:
    """The band 10 Hz wide around `offset_hz`, at 10 samples/s; 0 where most of a sample was not received."""
    block = block_of(rate_hz)
    found = bands(np.pad(iq, TAPS // 2 * block, mode="reflect"), rate_hz, offset_hz, (), upper_only=True)
    step = max(1, round(found.band_rate_hz / CARRIER_RATE_HZ))
    window = np.hanning(2 * step + 1)[1:-1]
    window /= window.sum()
    heard = np.convolve(found.valid, window, "same")[step // 2 :: step]
    smooth = np.convolve(found.carrier * found.valid, window, "same")[step // 2 :: step]
    wanted = len(iq) * CARRIER_RATE_HZ // rate_hz
    return np.where(heard > 0.5, smooth / np.maximum(heard, 0.5), 0).astype(np.complex64)[:wanted]


def doppler(narrow: Complex, length: int, step: int, offset_hz: float) -> Spectra:
    """Spectra over `length` samples of a `carrier` series, one each `step`; frequencies from the channel's centre.

    At the series' ends, and beside gaps, a spectrum is of the longest part without one, if that is half its length.
    """
    count = max(1, len(narrow) // step)
    fft = PADDING * length
    power = np.zeros((fft, count), np.float32)
    for column in range(count):
        first = column * step + step // 2 - length // 2
        part = narrow[max(0, first) : first + length]
        begins, lengths = runs(part != 0, 1)
        longest = int(np.argmax(lengths)) if len(lengths) else 0
        if not len(lengths) or lengths[longest] < 0.45 * length:
            continue
        part = part[begins[longest] : begins[longest] + lengths[longest]]
        # A window of the part's own length: one with a hole would smear the line over all frequencies.
        window = np.hanning(len(part) + 2)[1:-1].astype(np.float32)
        power[:, column] = np.square(np.abs(np.fft.fft(part * window, fft))) / float(window.sum()) ** 2
    times = (np.arange(count) + 0.5) * step / CARRIER_RATE_HZ
    frequencies = np.fft.fftshift(np.fft.fftfreq(fft, 1 / CARRIER_RATE_HZ)) + offset_hz
    return Spectra(times, frequencies, decibels(np.fft.fftshift(power, axes=0)))


def ridge(spectra: Spectra) -> Floats:
    """The frequency of the strongest line at each time, Hz, between bins; NaN where none stands out by 10 dB."""
    power = np.nan_to_num(spectra.power_db, nan=-400.0)
    best = np.clip(power.argmax(axis=0), 1, len(power) - 2)
    columns = np.arange(power.shape[1])
    before, peak, after = (power[best + shift, columns] for shift in (-1, 0, 1))
    bend = before - 2 * peak + after
    shift = np.divide(before - after, 2 * bend, out=np.zeros(len(best)), where=bend < 0)
    step = spectra.frequencies_hz[1] - spectra.frequencies_hz[0]
    found = spectra.frequencies_hz[best] + np.clip(shift, -0.5, 0.5) * step
    return np.where((peak > -300) & (peak > np.median(power, axis=0) + CLEAR_DB), found, np.nan)


def carrier_offset(values: Values) -> float:
    """Where the channel's carrier is, Hz from its centre, to 4 Hz."""
    return find_carrier(values["iq"], values["sample_rate"])


def first_audio(values: Values, seconds: float) -> tuple[Floats, Floats] | None:
    """Times (s after iq[0]) and modulation of the minute's first moments; None where they were not received."""
    rate, iq = values["sample_rate"], values["iq"]
    count = round(seconds * rate)
    stretch = iq[: max(count, rate // 4)]
    if not stretch.all() or len(stretch) < count:
        return None
    along = bands(stretch, rate, carrier_offset(values), (), upper_only=True)
    return np.arange(count) / rate, demodulated(stretch, along, np.arange(count))


def duration(seconds: float) -> str:
    """A bound in the unit that suits it."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} \N{MICRO SIGN}s"


def tone_of(values: Values) -> dict[str, Any]:
    """The tone keys of a file; looked for anew in files that do not state them."""
    if "tone_detected" in values:
        return dict(values)
    hour = round(values["unix_timestamp"]) % 3600 == 0
    tones: Tones = listen(values["iq"], values["sample_rate"], pulses((), values["frequency_hz"], hour))
    label = (
        values.get("sample0_utc_ns", round(values["unix_timestamp"] * 1e9)) - round(values["unix_timestamp"]) * 10**9
    )
    return tone_keys(tones, label)


def headline(values: Values) -> tuple[str, list[str]]:
    """Channel and time; and what the file says of its label, its completeness and its tone, one fact a line."""
    moment = str(np.datetime64(round(values["unix_timestamp"]), "s")).replace("T", " ")
    title = f"{values['channel_name']}   {moment[:16]} UTC"
    return title, [_label(values), _completeness(values), _tone(tone_of(values))]


def station(values: Values) -> str:
    """Who recorded it, as far as the file says."""
    try:
        said = json.loads(values.get("station_json", "{}"))
    except ValueError:
        return ""
    return "  ".join(str(said[key]) for key in ("callsign", "grid", "receiver_name") if said.get(key))


def _label(v: Values) -> str:
    if "anchor_uncertainty_ns" in v:
        return f"label: {v['anchor_source']} anchor, true within {duration(v['anchor_uncertainty_ns'] / 1e9)}"
    return f"label: {v.get('time_snap_source', 'source not stated')}, no bound stated"


def _completeness(v: Values) -> str:
    count, missing = len(v["iq"]), int(v["gap_samples_filled"].sum())
    percent = 100.0 * (1 - missing / max(1, count))
    shown = f"{percent:.3f}" if percent < 99.9995 and missing else f"{percent:.0f}"
    gaps = len(v["gap_samples_filled"])
    return f"received: {shown} %, " + (f"{gaps} gap{'s' * (gaps != 1)}" if gaps else "no gap")


def _tone(tone: Mapping[str, Any]) -> str:
    if not tone["tone_detected"]:
        return "minute tone: none heard"
    text = f"minute tone: {tone['tone_station']} {tone['tone_onset_ms']:+.2f} \N{PLUS-MINUS SIGN} " \
           f"{tone['tone_uncertainty_ms']:.2f} ms by the label, SNR {tone['tone_snr_db']:.0f} dB"  # fmt: skip
    if tone["tick_count"] and math.isfinite(tone["tick_onset_ms"]):
        text += f"; {tone['tick_count']} ticks {tone['tick_onset_ms']:+.2f} ms"
    return text
