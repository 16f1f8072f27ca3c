"""The page's pictures: a minute's spectrogram and a day's strip, small enough for a telephone. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.plotting.data import Spectra, gap_spans, spectrogram
from pipeline.plotting.days import Days
from pipeline.plotting.style import COLOURS, LINE, SPAN_DB, STYLE, image, limits, mhz, view

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
SIZE = (6.4, 2.5)  # inches
HOUR_S = 3600.0


def minute_png(values: Mapping[str, Any]) -> bytes:
    """The spectrogram of one file's values, gaps in the colour of their cause."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(SIZE)
        axis = figure.add_axes((0.1, 0.19, 0.88, 0.78))
        spectra = spectrogram(values["iq"], values["sample_rate"])
        image(axis, spectra, 1e3, *limits(spectra.power_db))
        for gap in gap_spans(values):
            axis.axvspan(gap.begin_s, gap.begin_s + gap.length_s, color=COLOURS.get(gap.cause, "#000000"), alpha=0.35)
        axis.set_xlim(0, len(values["iq"]) / values["sample_rate"])
        axis.set_xlabel("s", labelpad=1)
        axis.set_ylabel(f"kHz from {mhz(values['frequency_hz'])}", fontsize=9)
        return _png(figure)


def day_png(day: Days) -> bytes:
    """Completeness and Doppler shift over a UTC day."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(SIZE)
        above = figure.add_axes((0.1, 0.33, 0.88, 0.64))
        below = figure.add_axes((0.1, 0.19, 0.88, 0.08), sharex=above)
        _doppler(above, day)
        _strip(below, day)
        above.tick_params(labelbottom=False)
        below.set_xlim(0, (day.end_s - day.first_s) / HOUR_S)
        below.set_xticks(range(0, 25, 3))
        below.set_xlabel("UTC, h", labelpad=1)
        return _png(figure)


def _hours(day: Days) -> Any:
    return (day.times_s - day.first_s) / HOUR_S


def _doppler(axis: Axes, day: Days) -> None:
    picture = day.picture()
    middle, reach = view(day.steady_hz, day.offset_hz, day.picture())
    if len(picture.frequencies_hz) > 1:
        shown = Spectra(_hours(day), picture.frequencies_hz, picture.power_db)
        low, high = limits(shown.power_db, 30.0, 100.0)
        image(axis, shown, 1.0, max(low, high - SPAN_DB), high)
    axis.plot(_hours(day), day.steady_hz, color=LINE, linewidth=0.8)
    axis.set_ylim(middle - reach, middle + reach)
    axis.locator_params(axis="y", nbins=5)
    axis.set_ylabel("Doppler, Hz", fontsize=9)


def _strip(axis: Axes, day: Days) -> None:
    """Dark is all received, white none."""
    received = np.ma.masked_equal(day.recorded_pct, 0.0)
    axis.imshow(
        received[None, :], aspect="auto", cmap="Blues", vmin=0, vmax=130, interpolation="nearest",
        extent=(0, day.columns * day.column_s / HOUR_S, 0, 1),
    )  # fmt: skip
    axis.set_yticks([])


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, dpi=DPI, format="png")
    return out.getvalue()
