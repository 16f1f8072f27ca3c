"""Colours, fonts and scales that all pictures share.

Colours are told apart with any kind of colour vision (Okabe and Ito's eight, and cividis).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.plotting.data import Spectra, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RECEIVED = "#0072B2"
INK, LINE, QUIET = "#222222", "#D55E00", "#777777"
COLOURS = {
    "network": "#D55E00",
    "late": "#E69F00",
    "mute": "#56B4E9",
    "zero_block": "#0072B2",
    "start": "#999999",
    "stop": "#666666",
    "restart": "#CC79A7",
    "epoch": "#F0E442",
    "unknown": "#000000",
    "not stated": "#000000",
    "no file": "#DDDDDD",
}
MAP = "cividis"
# What a carrier's skirts are shown down to.
SPAN_DB = 45.0
# A second way of the signal is to be seen too: so much weaker, and in so much of the time.
STRONG_DB, OFTEN = 12.0, 0.004
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def image(axis: Axes, spectra: Spectra, scale: float, low_db: float, high_db: float) -> Any:
    """A spectrogram; what was not received stays white."""
    times, frequencies = spectra.times_s, spectra.frequencies_hz / scale
    half_t = (times[1] - times[0]) / 2 if len(times) > 1 else 0.5
    half_f = (frequencies[1] - frequencies[0]) / 2
    return axis.imshow(
        np.ma.masked_invalid(spectra.power_db), origin="lower", aspect="auto", cmap=MAP, vmin=low_db, vmax=high_db,
        interpolation="nearest",
        extent=(times[0] - half_t, times[-1] + half_t, frequencies[0] - half_f, frequencies[-1] + half_f),
    )  # fmt: skip


def limits(power_db: Any, low: float = 5.0, high: float = 99.7, span: float = 20.0) -> tuple[float, float]:
    """Darkest and brightest level to show, dB: percentiles of what there is, `span` apart at least."""
    known = power_db[np.isfinite(power_db)]
    if not known.size:
        return -100.0, -80.0
    bottom, top = np.percentile(known, (low, high))
    return float(bottom), float(max(top, bottom + span))


def bar(figure: Figure, drawn: Any, axis: Axes, label: str) -> None:
    """The scale of an image's colours."""
    scale: Any = figure.colorbar(drawn, cax=axis)
    scale.set_label(label)
    scale.outline.set_visible(False)


def mhz(frequency_hz: float) -> str:
    """A frequency as people say it."""
    scale, unit = (1e6, " MHz") if abs(frequency_hz) >= 1e6 else (1e3, " kHz")
    return f"{frequency_hz / scale:.6f}".rstrip("0").rstrip(".") + unit


def hz(value: Any) -> str:
    """A Doppler shift, to 1 mHz."""
    return signed(float(value), 3) + " Hz"


def view(line_hz: Any, offset_hz: float, spectra: Spectra) -> tuple[float, float]:
    """Middle and half-width of the frequencies to show: the line and what is nearly as strong, 1 Hz each way at least.

    The channel's own frequency is in the middle if it can be.
    """
    known = line_hz[np.isfinite(line_hz)]
    if not known.size:
        return round(offset_hz, 0) + 0.0, 2.0
    low, high = np.percentile(known, (1, 99))
    power = np.nan_to_num(spectra.power_db, nan=-400.0)[:, np.isfinite(line_hz)]
    often = (power > power.max(axis=0) - STRONG_DB).mean(axis=1) > OFTEN
    if often.any():
        strong = spectra.frequencies_hz[often]
        low, high = min(low, strong.min()), max(high, strong.max())
    middle = 0.0 if abs(low + high) < 3.0 else round(float(low + high), 0) / 2
    reach = np.ceil(2 * (1.15 * max(high - middle, middle - low))) / 2
    axis = spectra.frequencies_hz
    return middle, float(np.clip(reach, 1.0, max(1.0, min(middle - axis[0], axis[-1] - middle))))


def span(seconds: float) -> str:
    """How long something was, in the unit that suits it."""
    if seconds >= 36_000:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.0f} ms"
