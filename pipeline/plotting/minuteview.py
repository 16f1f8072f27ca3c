"""One minute: spectrogram, the carrier's Doppler shift, level, gaps by cause, and what the file says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.plotting.data import (
    CARRIER_RATE_HZ,
    GapSpan,
    Spectra,
    Values,
    carrier,
    carrier_offset,
    doppler,
    first_audio,
    gap_spans,
    headline,
    level,
    ridge,
    signed,
    spectrogram,
    station,
    steady,
    tone_of,
    with_numbers,
)
from pipeline.plotting.style import COLOURS, INK, LINE, QUIET, SPAN_DB, STYLE, bar, hz, image, limits, mhz, span, view

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL_S = 0.1
MINUTE_LENGTH, MINUTE_STEP = 80, 5
FIRST_S = 0.03
# Of a gap narrower than this much of the picture nothing would be seen.
NARROWEST = 1 / 400
STRIP_COLUMNS, PALEST = 480, 0.35


def minute(values: Values) -> Figure:
    """One file: spectrogram, the carrier's Doppler shift, level, gaps by cause, and what the file says of itself."""
    import matplotlib.pyplot as plt

    values = with_numbers(values)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(12, 9.5))
        grid = figure.add_gridspec(
            4, 2, height_ratios=(3.2, 3.2, 2.0, 0.35), width_ratios=(60, 1), hspace=0.42, wspace=0.03,
            left=0.075, right=0.93, top=0.855, bottom=0.085,
        )  # fmt: skip
        axes = [figure.add_subplot(grid[0, 0])]
        axes += [figure.add_subplot(grid[row, 0], sharex=axes[0]) for row in (1, 2, 3)]
        gaps = gap_spans(values)
        _header(figure, *headline(values), station(values))
        _first_moments(figure, values)
        _band(figure, axes[0], figure.add_subplot(grid[0, 1]), values)
        _carrier(figure, axes[1], figure.add_subplot(grid[1, 1]), values)
        _level(axes[2], values)
        seconds = max(1.0, len(values["iq"]) / values["sample_rate"])
        _gap_strip(axes[3], gaps, seconds)
        for axis in axes[:3]:
            axis.tick_params(labelbottom=False)
            _shade(axis, gaps)
        axes[3].set_xlim(0, seconds)
        axes[3].set_xticks(range(0, 61, 5))
        axes[3].set_xlabel("seconds of the minute, by the label")
        return figure


def _header(figure: Figure, title: str, facts: list[str], who: str) -> None:
    figure.text(0.075, 0.965, title, fontsize=16, fontweight="bold", color=INK, va="center")
    figure.text(0.93, 0.022, who, fontsize=9, color=QUIET, ha="right", va="center")
    figure.text(0.075, 0.930, "     ".join(facts[:2]), fontsize=10.5, color=INK, va="center")
    for number, fact in enumerate(facts[2:]):
        figure.text(0.075, 0.904 - 0.024 * number, fact, fontsize=10.5, color=INK, va="center")


def _first_moments(figure: Figure, values: Values) -> None:
    """The demodulated audio where the minute begins, with the tone's onset."""
    found = first_audio(values, FIRST_S)
    if found is None:
        return
    axis = figure.add_axes((0.745, 0.905, 0.185, 0.062))
    times, sound = found
    axis.plot(1e3 * times, sound, color="#0072B2", linewidth=0.9)
    tone = tone_of(values)
    if tone["tone_detected"] and 0 <= tone["tone_onset_ms"] < 1e3 * FIRST_S:
        axis.axvline(tone["tone_onset_ms"], color=LINE, linewidth=1.2)
    axis.set_xlim(0, 1e3 * FIRST_S)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.tick_params(labelsize=8, length=2.5, pad=1.5)
    axis.set_title(f"audio in the minute's first {1e3 * FIRST_S:.0f} ms", fontsize=8.5, color=QUIET, pad=2)


def _band(figure: Figure, axis: Axes, beside: Axes, values: Values) -> None:
    spectra = spectrogram(values["iq"], values["sample_rate"])
    axis.set_title("Whole band")
    axis.set_ylabel(f"kHz from {mhz(values['frequency_hz'])}")
    if _empty(spectra.power_db, axis, beside):
        return
    drawn = image(axis, spectra, 1e3, *limits(spectra.power_db))
    width = values["sample_rate"] / len(spectra.frequencies_hz)
    bar(figure, drawn, beside, f"dBFS in {width:.0f} Hz")


def _empty(power_db: Any, axis: Axes, beside: Axes | None = None) -> bool:
    """Say so where there is nothing to show."""
    if np.isfinite(power_db).any():
        return False
    axis.text(
        0.5,
        0.5,
        "nothing was received" if power_db.size else "too short to show",
        transform=axis.transAxes,
        ha="center",
        va="center",
        color=INK,
    )
    axis.set_yticks([])
    axis.set_ylabel("")
    if beside is not None:
        beside.set_axis_off()
    return True


def _carrier(figure: Figure, axis: Axes, beside: Axes, values: Values) -> None:
    offset = carrier_offset(values) or 0.0
    spectra = doppler(carrier(values["iq"], values["sample_rate"], offset), MINUTE_LENGTH, MINUTE_STEP, offset)
    line = steady(ridge(spectra))
    if _empty(spectra.power_db, axis, beside):
        axis.set_title("Carrier")
        return
    middle, reach = view(line, offset, spectra)
    near = np.abs(spectra.frequencies_hz - middle) <= 1.2 * reach
    shown = Spectra(spectra.times_s, spectra.frequencies_hz[near], spectra.power_db[near])
    low, high = limits(shown.power_db, 30.0, 100.0)
    drawn = image(axis, shown, 1.0, max(low, high - SPAN_DB), high)
    known = line[np.isfinite(line)]
    said = "no carrier stands out"
    if known.size:
        axis.plot(spectra.times_s, line, color=LINE, linewidth=1.3, alpha=0.9)
        said = f"median {hz(np.median(known))}, from {hz(known.min())} to {hz(known.max())}"
    resolution = f"resolution {1.44 * CARRIER_RATE_HZ / MINUTE_LENGTH:.2f} Hz, {MINUTE_LENGTH / CARRIER_RATE_HZ:g} s"
    axis.set_title(f"Carrier: {said}   ({'line: strongest frequency; ' if known.size else ''}{resolution})")
    axis.set_ylim(middle - reach, middle + reach)
    axis.set_ylabel(f"Hz from {mhz(values['frequency_hz'])}")
    bar(figure, drawn, beside, "dBFS")


def _level(axis: Axes, values: Values) -> None:
    iq, rate = values["iq"], values["sample_rate"]
    times, power = level(iq, rate, LEVEL_S)
    axis.plot(times, power, color="#0072B2", linewidth=1.0, label=f"mean of {LEVEL_S * 1e3:.0f} ms")
    peak = float(np.abs(iq).max(initial=0.0))
    clipped = int(np.count_nonzero((np.abs(iq.real) >= 0.99996) | (np.abs(iq.imag) >= 0.99996)))
    if _empty(power, axis):
        axis.set_title("Level")
        return
    text = f"Level: peak {signed(20 * np.log10(peak), 1)} dBFS"
    axis.set_title(
        text + (f", {clipped} samples at full scale" if clipped else "") + f"   (mean of {LEVEL_S * 1e3:.0f} ms)"
    )
    axis.set_ylabel("dBFS")
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    known = power[np.isfinite(power)]
    if known.size:
        low, high = float(known.min()), float(known.max())
        pad = max(1.0, 0.12 * (high - low))
        axis.set_ylim(low - pad, high + pad)


def _shade(axis: Axes, gaps: list[GapSpan]) -> None:
    for gap in gaps:
        if gap.length_s >= 60 * NARROWEST:
            axis.axvspan(
                gap.begin_s, gap.begin_s + gap.length_s, color=COLOURS.get(gap.cause, "#000000"), alpha=0.13, lw=0
            )


def _gap_strip(axis: Axes, gaps: list[GapSpan], seconds: float) -> None:
    """Gaps in the colour of their cause, each to be seen; paler where only some of the moment is missing."""
    from matplotlib.colors import to_rgb

    total: dict[str, tuple[int, float]] = {}
    lost: dict[str, Any] = {}
    edges = np.linspace(0, seconds, STRIP_COLUMNS + 1)
    for gap in gaps:
        count, so_far = total.get(gap.cause, (0, 0.0))
        total[gap.cause] = count + 1, so_far + gap.length_s
        ends = np.minimum(edges[1:], gap.begin_s + gap.length_s)
        lost.setdefault(gap.cause, np.zeros(STRIP_COLUMNS))[:] += np.maximum(
            0, ends - np.maximum(edges[:-1], gap.begin_s)
        )
    if gaps:
        shares = np.stack(list(lost.values())) / (edges[1] - edges[0])
        colours = np.array([to_rgb(COLOURS.get(cause, "#000000")) for cause in lost])[shares.argmax(axis=0)]
        missing = np.clip(shares.sum(axis=0), 0, 1)[:, None]
        strength = np.where(missing > 0, PALEST + (1 - PALEST) * missing, 0)
        picture = 1 - strength * (1 - colours)
        axis.imshow(picture[None], aspect="auto", extent=(0, seconds, 0, 1), interpolation="nearest")
    axis.set_title("" if gaps else "Gaps: none")
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    handles = [
        _swatch(cause, f"{cause.replace('_', ' ')}: {count}, {span(length_s)}")
        for cause, (count, length_s) in sorted(total.items(), key=lambda item: -item[1][1])
    ]
    if handles:
        axis.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.008, 0.95), ncols=6, frameon=False,
                    fontsize=9, handlelength=1.2, handleheight=0.9, columnspacing=1.6, borderaxespad=0.2)  # fmt: skip


def _swatch(cause: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=COLOURS.get(cause, "#000000"), label=label)
