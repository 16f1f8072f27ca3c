"""Pictures of minute files: one minute in detail, or many as a view of days. Needs matplotlib, an extra.

Colours are told apart with any kind of colour vision (Okabe and Ito's eight, and cividis).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import DISTRIBUTION, PipelineError
from pipeline.plotdata import (
    CARRIER_RATE_HZ,
    GapSpan,
    Spectra,
    Values,
    carrier,
    carrier_offset,
    doppler,
    gap_spans,
    headline,
    level,
    ridge,
    spectrogram,
    station,
)
from pipeline.plotdays import Days

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
LEVEL_S = 0.1
MINUTE_LENGTH, MINUTE_STEP = 80, 5
# Of a gap narrower than this much of the picture nothing would be seen.
NARROWEST = 1 / 400
STYLE = {
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


class PlotError(PipelineError):
    """A picture that cannot be made."""


def require_matplotlib() -> None:
    """Raise PlotError, with what to do, when matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise PlotError(
            f"plot needs matplotlib, which is not installed here; run\n"
            f"  {sys.executable} -m pip install '{DISTRIBUTION}[plot]'   (in a clone: '.[plot]')"
        ) from None
    mpl.use("Agg")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG. Raises PlotError when the folder refuses."""
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise PlotError(f"{path}: {error.strerror or error}") from None


# -- one minute --


def minute(values: Values) -> Figure:
    """One file: spectrogram, the carrier's Doppler shift, level, gaps by cause, and what the file says of itself."""
    import matplotlib.pyplot as plt

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
        _band(figure, axes[0], figure.add_subplot(grid[0, 1]), values)
        _carrier(figure, axes[1], figure.add_subplot(grid[1, 1]), values)
        _level(axes[2], values)
        _gap_strip(axes[3], gaps)
        for axis in axes[:3]:
            axis.tick_params(labelbottom=False)
            _shade(axis, gaps)
        axes[3].set_xlim(0, len(values["iq"]) / values["sample_rate"])
        axes[3].set_xticks(range(0, 61, 5))
        axes[3].set_xlabel("seconds of the minute, by the label")
        return figure


def _header(figure: Figure, title: str, facts: list[str], who: str) -> None:
    figure.text(0.075, 0.965, title, fontsize=16, fontweight="bold", color=INK, va="center")
    figure.text(0.93, 0.965, who, fontsize=10, color=QUIET, ha="right", va="center")
    figure.text(0.075, 0.930, "     ".join(facts[:2]), fontsize=10.5, color=INK, va="center")
    for number, fact in enumerate(facts[2:]):
        figure.text(0.075, 0.904 - 0.024 * number, fact, fontsize=10.5, color=INK, va="center")


def _image(axis: Axes, spectra: Spectra, scale: float, low_db: float, high_db: float) -> Any:
    """A spectrogram; what was not received stays white."""
    times, frequencies = spectra.times_s, spectra.frequencies_hz / scale
    half_t = (times[1] - times[0]) / 2 if len(times) > 1 else 0.5
    half_f = (frequencies[1] - frequencies[0]) / 2
    return axis.imshow(
        np.ma.masked_invalid(spectra.power_db), origin="lower", aspect="auto", cmap=MAP, vmin=low_db, vmax=high_db,
        interpolation="nearest",
        extent=(times[0] - half_t, times[-1] + half_t, frequencies[0] - half_f, frequencies[-1] + half_f),
    )  # fmt: skip


def _range(power_db: Any, low: float = 5.0, high: float = 99.7, span: float = 20.0) -> tuple[float, float]:
    known = power_db[np.isfinite(power_db)]
    if not known.size:
        return -100.0, -80.0
    bottom, top = np.percentile(known, (low, high))
    return float(bottom), float(max(top, bottom + span))


def _bar(figure: Figure, image: Any, axis: Axes, label: str) -> None:
    bar = figure.colorbar(image, cax=axis)
    bar.set_label(label)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _band(figure: Figure, axis: Axes, beside: Axes, values: Values) -> None:
    spectra = spectrogram(values["iq"], values["sample_rate"])
    image = _image(axis, spectra, 1e3, *_range(spectra.power_db))
    axis.set_title("Whole band")
    axis.set_ylabel(f"kHz from {_mhz(values['frequency_hz'])}")
    width = values["sample_rate"] / len(spectra.frequencies_hz)
    _bar(figure, image, beside, f"dBFS in {width:.0f} Hz")


def _mhz(frequency_hz: float) -> str:
    return f"{frequency_hz / 1e6:.6f}".rstrip("0").rstrip(".") + " MHz"


def _carrier(figure: Figure, axis: Axes, beside: Axes, values: Values) -> None:
    offset = carrier_offset(values)
    spectra = doppler(carrier(values["iq"], values["sample_rate"], offset), MINUTE_LENGTH, MINUTE_STEP, offset)
    line = ridge(spectra)
    middle, reach = _view(line, offset, 1.0)
    near = np.abs(spectra.frequencies_hz - middle) <= 1.2 * reach
    shown = Spectra(spectra.times_s, spectra.frequencies_hz[near], spectra.power_db[near])
    low, high = _range(shown.power_db, 30.0, 100.0)
    image = _image(axis, shown, 1.0, max(low, high - 60.0), high)
    known = line[np.isfinite(line)]
    said = "no carrier stands out"
    if known.size:
        axis.plot(spectra.times_s, line, color=LINE, linewidth=1.3, alpha=0.9)
        said = f"median {np.median(known):+.3f} Hz, from {known.min():+.3f} to {known.max():+.3f} Hz"
    resolution = 1.44 * CARRIER_RATE_HZ / MINUTE_LENGTH
    axis.set_title(
        f"Carrier: {said}   (line: strongest frequency; resolution {resolution:.2f} Hz, {MINUTE_LENGTH / 10:g} s)"
    )
    axis.set_ylim(middle - reach, middle + reach)
    axis.set_ylabel(f"Hz from {_mhz(values['frequency_hz'])}")
    _bar(figure, image, beside, "dBFS")


def _view(line_hz: Any, offset_hz: float, least: float) -> tuple[float, float]:
    """Middle and half-width of the frequencies to show: the line and as much again, 1 Hz at least."""
    known = line_hz[np.isfinite(line_hz)]
    if not known.size:
        return offset_hz, 2 * least
    low, high = np.percentile(known, (1, 99))
    middle = round(float(low + high), 0) / 2
    return middle, min(4.5, max(least, np.ceil(2 * (1.6 * max(high - middle, middle - low) + 0.2)) / 2))


def _level(axis: Axes, values: Values) -> None:
    iq, rate = values["iq"], values["sample_rate"]
    times, power = level(iq, rate, LEVEL_S)
    axis.plot(times, power, color="#0072B2", linewidth=1.0, label=f"mean of {LEVEL_S * 1e3:.0f} ms")
    peak = float(np.abs(iq).max(initial=0.0))
    clipped = int(np.count_nonzero((np.abs(iq.real) >= 0.99996) | (np.abs(iq.imag) >= 0.99996)))
    text = f"Level: peak {20 * np.log10(peak):.1f} dBFS" if peak > 0 else "Level: nothing but zeros"
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


def _gap_strip(axis: Axes, gaps: list[GapSpan]) -> None:
    """Gaps as bars in the colour of their cause, each wide enough to be seen."""
    total: dict[str, tuple[int, float]] = {}
    for gap in gaps:
        width = max(gap.length_s, 60 * NARROWEST)
        axis.axvspan(gap.begin_s, gap.begin_s + width, color=COLOURS.get(gap.cause, "#000000"), lw=0)
        count, seconds = total.get(gap.cause, (0, 0.0))
        total[gap.cause] = count + 1, seconds + gap.length_s
    axis.set_title("Gaps: none" if not gaps else "Gaps")
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    handles = [
        _swatch(cause, f"{cause.replace('_', ' ')}: {count} of {_seconds(seconds)}")
        for cause, (count, seconds) in sorted(total.items(), key=lambda item: -item[1][1])
    ]
    if handles:
        axis.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.05, 0.9), ncols=5, frameon=False, fontsize=9.5,
                    handlelength=1.2, handleheight=0.9, columnspacing=1.6, borderaxespad=0.2)  # fmt: skip


def _swatch(cause: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=COLOURS.get(cause, "#000000"), label=label)


def _seconds(seconds: float) -> str:
    if seconds >= 600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.0f} ms"


# -- days --


def days(channels: list[Days]) -> Figure:
    """Doppler spectra and completeness of each channel over time, and the levels of all."""
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        count = len(channels)
        heights = [*([3.0 if count == 1 else 1.6, 0.16] * count), 1.7]
        total = 1.3 + 0.75 * sum(heights) + (2.0 if count == 1 else 0.0)
        figure = plt.figure(figsize=(12, total + 0.55))
        grid = figure.add_gridspec(
            len(heights), 2, height_ratios=heights, width_ratios=(60, 1), hspace=0.5 if count == 1 else 0.62, wspace=0.03,
            left=0.075, right=0.93, top=1 - 0.95 / total, bottom=0.75 / total,
        )  # fmt: skip
        top = figure.add_subplot(grid[0, 0])
        rows = [top, *(figure.add_subplot(grid[row, 0], sharex=top) for row in range(1, len(heights)))]
        for number, channel in enumerate(channels):
            _doppler(figure, rows[2 * number], figure.add_subplot(grid[2 * number, 1]), channel)
            _strip(rows[2 * number + 1], channel)
        _levels(rows[-1], channels)
        _days_header(figure, channels, total)
        for axis in rows[:-1]:
            axis.tick_params(labelbottom=False)
        _time_axis(rows[-1], channels)
        return figure


def _moments(seconds: Any) -> Any:
    """Matplotlib's days since 1970."""
    return np.asarray(seconds, float) / 86_400.0


def _time_axis(axis: Axes, channels: list[Days]) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    first, end = min(c.first_s for c in channels), max(c.end_s for c in channels)
    axis.set_xlim(_moments(first), _moments(end))
    locator = AutoDateLocator(minticks=4, maxticks=13)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    axis.set_xlabel("UTC")


def _days_header(figure: Figure, channels: list[Days], total: float) -> None:
    first, end = min(c.first_s for c in channels), max(c.end_s for c in channels)
    names = channels[0].channel if len(channels) == 1 else f"{len(channels)} channels"
    begin, last = (str(np.datetime64(s, "m")).replace("T", " ") for s in (first // 60, end // 60))
    files = sum(c.files for c in channels)
    valid = sum(float(c.valid_s.sum()) for c in channels) / max(1, sum(60 * c.minutes for c in channels))
    bound = max(c.bound_ms for c in channels)
    facts = [f"{files} files, {100 * min(1.0, valid):.3g} % of the time received"]
    facts += [f"labels true within {bound:.3g} ms"] if bound else []
    tones = [onset for c in channels for _, onset in c.tones]
    if tones:
        facts.append(f"minute tone in {len(tones)} files, median {np.median(tones):+.2f} ms by the label")
    figure.text(0.075, 1 - 0.30 / total, f"{names}   {begin} to {last} UTC", fontsize=16, fontweight="bold", color=INK,
                va="center")  # fmt: skip
    figure.text(0.075, 1 - 0.60 / total, "     ".join(facts), fontsize=10.5, color=INK, va="center")


def _doppler(figure: Figure, axis: Axes, beside: Axes, channel: Days) -> None:
    from matplotlib.dates import date2num

    assert date2num(np.datetime64("1970-01-01")) == 0.0, "matplotlib counts days from 1970"
    picture = channel.picture()
    middle, reach = _view(channel.line_hz, channel.offset_hz, 1.0)
    shown = Spectra(_moments(picture.times_s), picture.frequencies_hz, picture.power_db)
    low, high = _range(shown.power_db, 30.0, 100.0)
    if len(shown.frequencies_hz) > 1:
        image = _image(axis, shown, 1.0, max(low, high - 60.0), high)
        _bar(figure, image, beside, "dBFS")
    axis.plot(_moments(picture.times_s), channel.line_hz, color=LINE, linewidth=1.0, alpha=0.9)
    axis.set_ylim(middle - reach, middle + reach)
    axis.set_ylabel("Hz")
    known = channel.line_hz[np.isfinite(channel.line_hz)]
    said = f"median {np.median(known):+.3f} Hz" if known.size else "no carrier stands out"
    axis.set_title(f"{channel.channel}   carrier from {_mhz(channel.frequency_hz)}: {said}")


def _strip(axis: Axes, channel: Days) -> None:
    """How much of each column was received: dark is all, white none."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("received", ["#FFFFFF", "#E69F00", "#0072B2"])
    low, high = _moments(channel.first_s), _moments(channel.first_s + channel.columns * channel.column_s)
    axis.imshow(channel.recorded_pct[None, :], aspect="auto", cmap=shades, vmin=0, vmax=100, extent=(low, high, 0, 1),
                interpolation="nearest")  # fmt: skip
    axis.set_yticks([])
    percent = 100 * float(channel.valid_s.sum()) / (60 * channel.minutes)
    axis.set_ylabel(f"{min(100.0, percent):.4g} %", rotation=0, ha="right", va="center", fontsize=9)


def _levels(axis: Axes, channels: list[Days]) -> None:
    wheel = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#B8A800"]
    for number, channel in enumerate(channels):
        style = ("-", "--", ":")[number // len(wheel) % 3]
        axis.plot(_moments(channel.times_s), channel.level_db, style, color=wheel[number % len(wheel)], linewidth=1.1,
                  label=channel.channel)  # fmt: skip
    axis.set_title("Level")
    axis.set_ylabel("dBFS")
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    if len(channels) > 1:
        axis.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=5, frameon=False, fontsize=9, columnspacing=1.4,
                    handlelength=1.5)  # fmt: skip
