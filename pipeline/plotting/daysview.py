"""Many minutes: Doppler spectra and completeness of each channel over time, levels, minute tones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.plotting.data import Spectra, duration, signed
from pipeline.plotting.days import Days
from pipeline.plotting.style import (
    COLOURS,
    INK,
    LINE,
    RECEIVED,
    SPAN_DB,
    STYLE,
    bar,
    hz,
    image,
    limits,
    mhz,
    span,
    view,
)

# An inch of the picture has some 50 of them.
STRIP_COLUMNS = 480

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def days(channels: list[Days]) -> Figure:
    """Doppler spectra and completeness of each channel over time, and the levels of all."""
    import matplotlib.pyplot as plt

    alone = len(channels) == 1
    tones = alone and len(channels[0].tones) > 1
    # Inches: what a channel takes, what is below, and the margins.
    each, below = (3.6 if alone else 1.35), [1.9, *([1.5] if tones else [])]
    total = 1.1 + len(channels) * (each + 0.5) + sum(below) + 0.3 * (len(below) - 1) + 0.85
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(12, total))
        at = total - 1.1
        rows: list[Axes] = []
        for channel in channels:
            at -= each
            axis = _axes(figure, at + 0.24, each - 0.24, total, rows)
            beside = figure.add_axes((0.922, (at + 0.24) / total, 0.012, (each - 0.24) / total))
            _doppler(figure, axis, beside, channel)
            rows += [axis, _axes(figure, at - 0.05, 0.2, total, [axis])]
            _strip(rows[-1], channel)
            at -= 0.5
        at -= below[0]
        rows.append(_axes(figure, at, below[0] - 0.25, total, rows))
        _levels(rows[-1], channels)
        if tones:
            at -= below[1] + 0.3
            rows.append(_axes(figure, at, below[1] - 0.1, total, rows))
            _tones(rows[-1], channels[0])
        _days_header(figure, channels, total)
        _causes(figure, channels, total)
        for axis in rows[:-1]:
            axis.tick_params(labelbottom=False)
        _time_axis(rows[-1], channels)
        return figure


def _axes(figure: Figure, bottom: float, height: float, total: float, above: list[Axes]) -> Axes:
    """An axis across the picture, inches from its bottom; it shares the time axis of those above."""
    where = (0.075, bottom / total, 0.835, height / total)
    return figure.add_axes(where, sharex=above[0] if above else None)


def _moments(seconds: Any) -> Any:
    """Matplotlib's days since 1970."""
    return np.asarray(seconds, float) / 86_400.0


def _time_axis(axis: Axes, channels: list[Days]) -> None:
    import matplotlib.dates

    dates: Any = matplotlib.dates
    first, end = min(c.first_s for c in channels), max(c.end_s for c in channels)
    axis.set_xlim(_moments(first), _moments(end))
    locator = dates.AutoDateLocator(minticks=4, maxticks=13)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, show_offset=False))
    axis.set_xlabel("UTC")


def _days_header(figure: Figure, channels: list[Days], total: float) -> None:
    first, end = min(c.first_s for c in channels), max(c.end_s for c in channels)
    names = channels[0].channel if len(channels) == 1 else f"{len(channels)} channels"
    begin, last = (str(np.datetime64(s // 60, "m")).split("T") for s in (first, end))
    span = f"{' '.join(begin)} to {last[1] if last[0] == begin[0] else ' '.join(last)} UTC"
    files = sum(c.files for c in channels)
    received = sum(float(c.valid_s.sum()) for c in channels) / max(1, sum(60 * c.minutes for c in channels))
    bound = max(c.bound_ms for c in channels)
    facts = [f"{files} file{'s' * (files != 1)}, {_percent(100 * min(1.0, received))} of the time received"]
    facts += [f"labels true within {duration(bound / 1e3)}"] if bound else []
    tones = [onset for c in channels for _, onset in c.tones]
    if tones:
        facts.append(f"minute tone in {len(tones)} files, median {signed(float(np.median(tones)), 2)} ms by the label")
    figure.text(0.075, 1 - 0.32 / total, f"{names}   {span}", fontsize=16, fontweight="bold", color=INK, va="center")
    figure.text(0.075, 1 - 0.63 / total, "     ".join(facts), fontsize=10.5, color=INK, va="center")


def _doppler(figure: Figure, axis: Axes, beside: Axes, channel: Days) -> None:
    picture = channel.picture()
    line = channel.steady_hz
    middle, reach = view(line, channel.offset_hz, picture)
    shown = Spectra(_moments(picture.times_s), picture.frequencies_hz, picture.power_db)
    low, high = limits(shown.power_db, 30.0, 100.0)
    if len(shown.frequencies_hz) > 1:
        drawn = image(axis, shown, 1.0, max(low, high - SPAN_DB), high)
        bar(figure, drawn, beside, "dBFS")
    axis.plot(_moments(picture.times_s), line, color=LINE, linewidth=1.0 if channel.columns < 400 else 0.4)
    axis.set_ylim(middle - reach, middle + reach)
    axis.locator_params(axis="y", nbins=5)
    axis.set_ylabel(f"Hz from {mhz(channel.frequency_hz)}", fontsize=9)
    known = line[np.isfinite(line)]
    share = 100 * known.size / max(1, int(np.count_nonzero(channel.spectra)))
    often = "" if share > 99.5 else f" in {share:.2g} % of what was received"
    said = f"carrier{often}, median {hz(np.median(known))}" if known.size else "no carrier stands out"
    axis.set_title(f"{channel.channel}: {said}")


def _strip(axis: Axes, channel: Days) -> None:
    """Above how much of each column was received, dark is all; below the cause of most that was not."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    shades = LinearSegmentedColormap.from_list("received", ["#FFFFFF", RECEIVED])
    missing = channel.missing_s()
    # As wide as can be seen, and of several columns the one with most missing.
    group = -(-channel.columns // STRIP_COLUMNS)
    starts = np.arange(0, channel.columns, group)
    picture = np.ones((2, len(starts), 3))
    picture[0] = shades(np.minimum.reduceat(channel.recorded_pct, starts) / 100)[:, :3]
    causes = list(missing)
    if causes:
        lost = np.stack([np.maximum.reduceat(missing[cause], starts) for cause in causes])
        colours = np.array([to_rgb(COLOURS.get(cause, "#000000")) for cause in causes])
        picture[1] = np.where((lost.max(axis=0) > 0)[:, None], colours[lost.argmax(axis=0)], 1.0)
    low, high = _moments(channel.first_s), _moments(channel.first_s + len(starts) * group * channel.column_s)
    axis.imshow(picture, aspect="auto", extent=(low, high, 0, 1), interpolation="nearest")
    axis.set_yticks([])
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set(visible=True, color="#BBBBBB", linewidth=0.6)
    percent = 100 * float(channel.valid_s.sum()) / (60 * channel.minutes)
    axis.text(1.006, 0.5, f"{_percent(percent)} received", transform=axis.transAxes, va="center", fontsize=8,
              color=INK)  # fmt: skip


def _percent(percent: float) -> str:
    return f"{percent:.2f} %" if percent < 99.995 else "100 %"


def _causes(figure: Figure, channels: list[Days], total: float) -> None:
    """What the colours of the strips mean, with how much of each there is in all channels."""
    from matplotlib.patches import Patch

    summed: dict[str, float] = {}
    for channel in channels:
        for cause, lost in channel.missing_s().items():
            summed[cause] = summed.get(cause, 0.0) + float(lost.sum())
    rows = sorted(summed.items(), key=lambda row: -row[1])
    handles = [Patch(color=COLOURS.get(cause, "#000000"), label=f"{cause.replace('_', ' ')}: {span(seconds)}")
               for cause, seconds in rows]  # fmt: skip
    if handles:
        figure.text(0.075, 0.17 / total, "not received:", fontsize=9, color=INK, va="center")
        figure.legend(handles=handles, loc="center left", bbox_to_anchor=(0.145, 0.17 / total), ncols=8, frameon=False,
                      fontsize=9, handlelength=1.2, handleheight=0.9, columnspacing=1.4)  # fmt: skip


def _levels(axis: Axes, channels: list[Days]) -> None:
    wheel = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#B8A800"]
    for number, channel in enumerate(channels):
        style = ("-", "--", ":")[number // len(wheel) % 3]
        axis.plot(_moments(channel.times_s), channel.level_db, style, color=wheel[number % len(wheel)], linewidth=1.2,
                  label=channel.channel)  # fmt: skip
    axis.set_title("Level")
    axis.set_ylabel("dBFS")
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    known = np.concatenate([channel.level_db[np.isfinite(channel.level_db)] for channel in channels])
    if known.size:
        pad = max(1.0, 0.1 * float(known.max() - known.min()))
        axis.set_ylim(float(known.min()) - pad, float(known.max()) + pad)
    if len(channels) > 1:
        axis.legend(loc="lower left", bbox_to_anchor=(0.05, 0.985), ncols=9, frameon=False, fontsize=8,
                    columnspacing=1.0, handlelength=1.2, handletextpad=0.4)  # fmt: skip


def _tones(axis: Axes, channel: Days) -> None:
    times, onsets = zip(*channel.tones, strict=True)
    axis.plot(
        _moments(np.array(times)), onsets, ".", color="#0072B2", markersize=8 if len(times) < 60 else 4, clip_on=False
    )
    axis.set_title("Minute tone, by the label")
    axis.set_ylabel("ms late")
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    middle = float(np.median(onsets))
    spread = max(0.5, 1.2 * float(np.percentile(np.abs(np.array(onsets) - middle), 98)))
    axis.set_ylim(middle - spread, middle + spread)
