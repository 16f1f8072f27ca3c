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
from pipeline.audit.series import MOST_DOUBT_MS
from pipeline.stream.audio import TAPS, Complex, bands, block_of, demodulated, find_carrier
from pipeline.stream.pulses import pulses
from pipeline.stream.tones import Tones, listen
from pipeline.tonekeys import tone_keys

Floats = npt.NDArray[np.floating[Any]]
Values = Mapping[str, Any]

# The carrier alone, at a rate that holds any Doppler shift.
CARRIER_RATE_HZ = 10
# A packet that is lost takes the samples beside it with it, as long as the filter is.
HEARD = 0.2
# Spectra are padded so that a line's top is never far from a bin.
PADDING = 8
OFFSET_LENGTH = 100
# Doppler shift reaches 2 Hz on the highest channels; oscillators without a reference are off by more.
AT_CENTRE_HZ = 2.0
SPECTRUM_FFT = 512
SPECTRUM_COLUMNS = 600
# The strongest of 512 bins of noise is 13.5 dB above their median in one of 2000 spectra.
CLEAR_DB = 13.5
# No layer moves so fast that the shift changes by more from one column to the next.
NEIGHBOUR_HZ = 0.25
# Of what a spectrum is of, how much must have been received.
SHORTEST = 0.5


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


def with_numbers(values: Values) -> Values:
    """The file with samples that are not numbers taken for missing ones; `odd_samples` says how many."""
    iq = values["iq"]
    odd = ~np.isfinite(iq)
    if not odd.any():
        return values
    return {**values, "iq": np.where(odd, 0, iq).astype(np.complex64), "odd_samples": int(odd.sum())}


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
    """The band 10 Hz wide around `offset_hz`, at 10 samples/s; 0 where hardly any of a sample was received."""
    block = block_of(rate_hz)
    found = bands(np.pad(iq, TAPS // 2 * block, mode="reflect"), rate_hz, offset_hz, (), upper_only=True)
    step = max(1, round(found.band_rate_hz / CARRIER_RATE_HZ))
    window = np.hanning(2 * step + 1)[1:-1]
    window /= window.sum()
    heard = np.convolve(found.valid, window, "same")[step // 2 :: step]
    smooth = np.convolve(found.carrier * found.valid, window, "same")[step // 2 :: step]
    wanted = len(iq) * CARRIER_RATE_HZ // rate_hz
    return np.where(heard > HEARD, smooth / np.maximum(heard, HEARD), 0).astype(np.complex64)[:wanted]


def doppler(narrow: Complex, length: int, step: int, offset_hz: float) -> Spectra:
    """Spectra over `length` samples of a `carrier` series, one each `step`; frequencies from the channel's centre.

    At the series' ends, and beside gaps, the stretch that a spectrum is of is moved rather than cut, since a shorter
    one would make the line wider than it is. Between gaps that leave less, it is as long as there is room for; where
    that is less than half, it reaches over the gaps if they take less than half of it, and the line has skirts. NaN
    where nothing was received.
    """
    count = max(1, len(narrow) // step)
    fft = PADDING * length
    power = np.zeros((fft, count), np.float32)
    begins, lengths = runs(narrow != 0, 1)
    for column in range(count):
        middle = column * step + step // 2
        run = int(np.searchsorted(begins, middle, "right")) - 1
        if run < 0 or middle >= begins[run] + lengths[run]:
            continue
        first, size = int(begins[run]), min(length, int(lengths[run]))
        if size >= SHORTEST * length:
            first = int(np.clip(middle - size // 2, first, first + int(lengths[run]) - size))
        else:
            first, size = max(0, min(middle - length // 2, len(narrow) - length)), min(length, len(narrow))
        part = narrow[first : first + size]
        window = np.hanning(size + 2)[1:-1].astype(np.float32)
        heard = float((window * (part != 0)).sum())
        if heard >= SHORTEST * float(window.sum()):
            power[:, column] = np.square(np.abs(np.fft.fft(part * window, fft))) / heard**2
    times = (np.arange(count) + 0.5) * step / CARRIER_RATE_HZ
    frequencies = np.fft.fftshift(np.fft.fftfreq(fft, 1 / CARRIER_RATE_HZ)) + offset_hz
    return Spectra(times, frequencies, decibels(np.fft.fftshift(power, axes=0)))


def ridge(spectra: Spectra) -> Floats:
    """The frequency of the strongest line at each time, Hz, between bins; NaN where there is none.

    A line stands out of the spectrum's median as noise does in one of some thousand spectra; see `steady`.
    """
    power = np.nan_to_num(spectra.power_db, nan=-400.0)
    best = np.clip(power.argmax(axis=0), 1, len(power) - 2)
    columns = np.arange(power.shape[1])
    before, peak, after = (power[best + shift, columns] for shift in (-1, 0, 1))
    bend = before - 2 * peak + after
    shift = np.divide(before - after, 2 * bend, out=np.zeros(len(best)), where=bend < 0)
    step = spectra.frequencies_hz[1] - spectra.frequencies_hz[0]
    found = spectra.frequencies_hz[best] + np.clip(shift, -0.5, 0.5) * step
    return np.where((peak > -300) & (peak > np.median(power, axis=0) + CLEAR_DB), found, np.nan)


def steady(line_hz: Floats) -> Floats:
    """The points of a `ridge` that a neighbour in time agrees with; a line that is noise's is alone."""
    near = np.abs(np.diff(line_hz)) < NEIGHBOUR_HZ
    supported = np.concatenate(([False], near)) | np.concatenate((near, [False]))
    return np.where(supported, line_hz, np.nan)


def carrier_offset(values: Values) -> float | None:
    """Where the channel's carrier is, Hz from its centre; 0 when it is as near as Doppler shift moves it.

    None when there is no carrier that is one for most of the minute.
    """
    iq, rate = values["iq"], values["sample_rate"]
    near = find_carrier(iq, rate)
    found = steady(ridge(doppler(carrier(iq, rate, near), OFFSET_LENGTH, OFFSET_LENGTH // 4, near)))
    known = found[np.isfinite(found)]
    if known.size < len(found) / 2:
        return None
    middle = float(np.median(known))
    return 0.0 if abs(middle) <= AT_CENTRE_HZ else float(round(middle))


def first_audio(values: Values, seconds: float) -> tuple[Floats, Floats] | None:
    """Times (s after iq[0]) and modulation of the minute's first moments; None where they were not received."""
    rate, iq = values["sample_rate"], values["iq"]
    count = round(seconds * rate)
    stretch = iq[: max(count, rate // 4)]
    if not stretch.all() or len(stretch) < count:
        return None
    along = bands(stretch, rate, find_carrier(iq, rate), (), upper_only=True)
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
    shown = f"{percent:.0f}" if missing in (0, count) else f"{percent:.{2 if percent < 99.99 else 4}f}"
    gaps = len(v["gap_samples_filled"])
    text = f"received: {shown} %, " + (f"{gaps} gap{'s' * (gaps != 1)}" if gaps else "no gap")
    return text + (f", {v['odd_samples']} not numbers" if "odd_samples" in v else "")


def _tone(tone: Mapping[str, Any]) -> str:
    if not tone["tone_detected"]:
        return "minute tone: none heard"
    bound = f"{signed(tone['tone_onset_ms'], 2)} \N{PLUS-MINUS SIGN} {tone['tone_uncertainty_ms']:.2f} ms"
    text = f"minute tone: {tone['tone_station']} {bound} by the label"
    residual, doubt = tone.get("tone_residual_ms", math.nan), tone.get("tone_residual_uncertainty_ms", math.nan)
    if math.isfinite(residual) and doubt < MOST_DOUBT_MS:
        return f"{text}, so label \N{MINUS SIGN} UTC {signed(residual, 2)} \N{PLUS-MINUS SIGN} {doubt:.2g} ms"
    text += f", SNR {tone['tone_snr_db']:.0f} dB"
    if tone["tick_count"] and math.isfinite(tone["tick_onset_ms"]):
        text += f"; {tone['tick_count']} ticks {signed(tone['tick_onset_ms'], 2)} ms"
    return text


def signed(value: float, digits: int) -> str:
    """A number with its sign, as the axes write it; never a negative zero."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
