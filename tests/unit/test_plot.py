"""Pictures of minute files: what they claim is in the samples, and every kind of file can be drawn."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("matplotlib")
import matplotlib as mpl

mpl.use("Agg")

from airwaves import white
from madeup import MIDNIGHT, Iq, Sky, as_int16, day, minute
from minutes import CHANNEL, ancestor
from pipeline import EXIT_FAILURE, npz
from pipeline.cli import cli
from pipeline.config import Channel
from pipeline.minutefile import minute_path
from pipeline.plotting.data import carrier, carrier_offset, doppler, gap_spans, headline, ridge, spectrogram, steady
from pipeline.plotting.days import MOST_COLUMNS, Days
from pipeline.plotting.minuteview import MINUTE_LENGTH, MINUTE_STEP
from pipeline.plotting.minuteview import minute as minute_figure
from pipeline.plotting.style import mhz, span
from pipeline.stream.timeline import SECOND
from streams import T0
from trees import write_minute

RATE = 1_000
COUNT = 60 * RATE
T0_S = T0 // SECOND
Lines = np.ndarray[Any, Any]


def tone(shift_hz: float | Lines, level: float = 0.3, rate: int = RATE) -> Iq:
    """A carrier so far from the channel's centre."""
    turns = np.cumsum(np.broadcast_to(shift_hz, 60 * rate)) / rate
    return (level * np.exp(2j * np.pi * turns)).astype(np.complex64)


def line(iq: Iq, offset_hz: float = 0.0, rate: int = RATE) -> Lines:
    """The frequency that the picture of a minute draws."""
    return steady(ridge(doppler(carrier(iq, rate, offset_hz), MINUTE_LENGTH, MINUTE_STEP, offset_hz)))


@pytest.fixture(autouse=True)
def _strict() -> Iterator[None]:
    """A warning of matplotlib or numpy is a picture that is not right."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# -- what is claimed --


def test_noise_has_no_carrier() -> None:
    rng = np.random.default_rng(1)
    claimed = [np.isfinite(line(white(rng, COUNT))).mean() for _ in range(25)]
    assert np.mean(claimed) < 0.005
    values = [{"iq": white(rng, COUNT), "sample_rate": RATE} for _ in range(10)]
    assert [carrier_offset(v) for v in values] == [None] * 10


def test_line_of_one_moment_is_none() -> None:
    nan = np.nan
    assert np.isnan(steady(np.array([nan, 0.1, nan, -2.0, 2.0, nan, 0.3]))).all()
    assert np.isfinite(steady(np.array([0.1, 0.2, nan, -1.0, -1.1, -1.2]))).tolist() == [True, True, False] + 3 * [True]


def test_frequency_is_right() -> None:
    rng = np.random.default_rng(2)
    for level in (0.05, 1.0):  # against noise of power 2: -26 and +0 dB less 30 of the band's width
        found = line(tone(0.437, level) + white(rng, COUNT) * 0.1)
        assert np.isfinite(found).mean() > 0.95
        assert np.nanmax(np.abs(found - 0.437)) < 0.05
    moving = 0.8 * np.sin(2 * np.pi * np.arange(COUNT) / COUNT)
    found = line(tone(moving))
    middle = slice(10, -10)
    at = (np.arange(len(found)) + 0.5) * 0.5 * RATE
    assert np.nanmax(np.abs(found[middle] - moving[at.astype(int)][middle])) < 0.06


@pytest.mark.parametrize(("hz", "expected"), [(0.4, 0.0), (-1.7, 0.0), (37.4, 37.0), (-101.0, -101.0)])
def test_carrier_of_an_oscillator_without_reference(hz: float, expected: float) -> None:
    iq = tone(hz) + 0.01 * white(np.random.default_rng(3), COUNT)
    assert carrier_offset({"iq": iq, "sample_rate": RATE}) == expected
    assert np.nanmedian(line(iq, expected)) == pytest.approx(hz, abs=0.01)


def test_nothing_is_drawn_where_nothing_was_received() -> None:
    iq = tone(0.2)
    iq[20 * RATE : 40 * RATE] = 0
    found = doppler(carrier(iq, RATE, 0.0), MINUTE_LENGTH, MINUTE_STEP, 0.0)
    inside = (found.times_s > 20.2) & (found.times_s < 39.8)
    assert np.isnan(found.power_db[:, inside]).all()
    assert np.isfinite(found.power_db[:, ~inside]).any(axis=0).mean() > 0.97
    # Beside the gap the line is no wider than elsewhere.
    heard = found.power_db[:, np.isfinite(found.power_db).any(axis=0)]
    wide = (heard > np.nanmax(heard, axis=0) - 6).sum(axis=0)
    assert wide.max() <= wide.min() + 2
    assert np.isnan(spectrogram(iq, RATE).power_db[:, 250:300]).all()


def test_line_goes_on_over_short_gaps() -> None:
    iq = tone(-0.3)
    for second in range(2, 58):
        iq[second * RATE : second * RATE + 120] = 0
    found = line(iq)
    assert np.isfinite(found).mean() > 0.9
    assert np.nanmax(np.abs(found + 0.3)) < 0.02


def test_headline_does_not_round_losses_away() -> None:
    values = npz_values(minute(tone(0.1), RATE, [(7, 1, "network", 1)]))
    _, facts = headline(values)
    assert "received: 99.9983 %, 1 gap" in facts
    assert [(s.cause, s.length_s) for s in gap_spans(values)] == [("network", 0.001)]
    assert "received: 100 %, no gap" in headline(npz_values(minute(tone(0.1), RATE)))[1]


def test_words_for_numbers() -> None:
    assert [span(s) for s in (0.02, 1.5, 218.3, 7_800, 90_000)] == ["20 ms", "1.5 s", "218 s", "130 min", "25.0 h"]
    assert [mhz(hz) for hz in (10e6, 7.85e6, 60e3, 14_670_001)] == ["10 MHz", "7.85 MHz", "60 kHz", "14.670001 MHz"]


def npz_values(arrays: dict[str, Any]) -> dict[str, Any]:
    """As they are read back."""
    return {n: v.item() if np.ndim(v) == 0 and isinstance(v, np.ndarray) else v for n, v in arrays.items()}


# -- days --


def test_day_that_begins_in_noise_finds_its_carrier() -> None:
    rng = np.random.default_rng(4)
    channel = Days("WWV 10 MHz", 10e6, T0_S, T0_S + 600)
    for number in range(10):
        iq = 0.01 * white(rng, COUNT) + (tone(40.3) if number >= 4 else 0)
        gaps = [(0, 12_000, "network", 3)] if number == 6 else []
        if number != 8:
            channel.add(npz_values(minute(iq, RATE, gaps, number)), T0_S + 60 * number)
    assert channel.offset_hz == 40.0
    assert np.isnan(steady(channel.line_hz)[:24]).all()
    assert np.nanmedian(channel.line_hz[24:]) == pytest.approx(40.3, abs=0.01)
    picture = channel.picture()
    strongest = picture.frequencies_hz[np.nanargmax(picture.power_db[:, 30])]
    assert strongest == pytest.approx(40.3, abs=0.03)
    lost = channel.missing_s()
    assert {cause: round(float(seconds.sum()), 3) for cause, seconds in lost.items()} == {"network": 12, "no file": 60}
    assert (np.flatnonzero(lost["network"]).tolist(), np.flatnonzero(lost["no file"]).tolist()) == (
        [36, 37],
        list(range(48, 54)),
    )
    assert channel.recorded_pct[[0, 36, 37, 50]] == pytest.approx([100, 0, 80, 0])


def test_months_take_as_much_memory_as_days() -> None:
    channel = Days("WWV 10 MHz", 10e6, T0_S, T0_S + 90 * 86_400)
    for number in (0, 1, 129_599):
        channel.add(npz_values(minute(tone(0.2), RATE, (), number)), T0_S + 60 * number)
    assert channel.columns <= MOST_COLUMNS
    assert channel.power.size < 700 * MOST_COLUMNS
    assert channel.spectra.sum() == 3


# -- drawing --


GAPS = [(0, 2_500, "start", 0), (4_000, 400, "network", 4), (10_000, 20, "network", 1), (12_000, 3_000, "mute", 0),
        (20_000, 2_000, "zero_block", 0), (26_000, 600, "late", 1), (30_000, 900, "restart", 0),
        (33_000, 200, "epoch", 0), (36_000, 700, "unknown", 0), (55_000, 5_000, "stop", 0)]  # fmt: skip
TONE = {"tone_detected": True, "tone_station": "WWVH", "tone_onset_ms": 22.01, "tone_uncertainty_ms": 0.11,
        "tone_snr_db": 51.3, "tick_onset_ms": 22.02, "tick_count": 52}  # fmt: skip
KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "carrier": lambda: minute(tone(0.3), RATE),
    "noise": lambda: minute(white(np.random.default_rng(5), COUNT), RATE),
    "nothing": lambda: minute(tone(0.3), RATE, [(0, COUNT, "mute", 0)]),
    "every cause": lambda: minute(tone(0.3), RATE, GAPS),
    "many gaps": lambda: minute(tone(0.3), RATE, [(60 * n, 20, "network", 1) for n in range(900)]),
    "int16": lambda: as_int16(minute(tone(0.3), RATE)),
    "12 kHz": lambda: minute(tone(0.3, rate=12_000), 12_000),
    "not numbers": lambda: minute(np.where(np.arange(COUNT) % 999 == 5, np.nan, tone(0.3)), RATE),
    "full scale": lambda: minute(np.ones(COUNT), RATE),
    "signal-recorder's": lambda: ancestor(60 * RATE),
    "tone": lambda: minute(tone(0.3), RATE, [], **TONE),
    "tone and position": lambda: minute(
        tone(0.3),
        RATE,
        [],
        **TONE,
        tone_residual_ms=-12.345,
        tone_residual_uncertainty_ms=12.3,
        anchor_source="wall_clock",
        anchor_uncertainty_ns=16_100_000_000,
    ),
    "short": lambda: ancestor(700),
    "very short": lambda: ancestor(300),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_drawn(kind: str, tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    path = tmp_path / "20261122T041600Z_10000000_iq.npz"
    npz.write(path, {name: np.asarray(value) for name, value in KINDS[kind]().items()}, 1)
    figure = minute_figure(npz.read(path))
    figure.set_dpi(60)
    figure.canvas.draw()
    said = [text.get_text() for text in figure.findobj(mpl.text.Text)]
    words = [text.get_window_extent() for text in figure.texts if text.get_text()]
    drawn = [axis.get_tightbbox() for axis in figure.axes]
    assert not any(a.overlaps(b) for a in words for b in drawn if b), "words lie over what is drawn"
    assert max(box.x1 for box in [*words, *filter(None, drawn)]) <= figure.bbox.x1
    plt.close(figure)
    assert ("nothing was received" in said) == (kind == "nothing")
    if kind == "not numbers":
        assert any("61 not numbers" in text for text in said)
    if kind == "noise":
        assert any("no carrier stands out" in text for text in said)
    if kind == "every cause":
        assert {"mute: 1, 3 s", "network: 2, 420 ms", "zero block: 1, 2 s"} <= set(said)


def run(*arguments: str | Path) -> Any:
    """The command."""
    return CliRunner().invoke(cli, ["plot", *map(str, arguments)], standalone_mode=False)


def test_day_of_two_channels(tmp_path: Path) -> None:
    day(tmp_path, Sky(), range(660, 690), absent=[(670, 680)])
    day(tmp_path, Sky(Channel("WWV 5 MHz", 5e6, 5, 250), seed=2), range(660, 690))
    picture = tmp_path / "day.png"
    result = run(tmp_path, "-o", picture)
    assert (result.exception, result.return_value) == (None, 0)
    assert picture.read_bytes().startswith(b"\x89PNG")
    again = run(tmp_path, "-o", picture)
    assert "exists already" in str(again.exception)
    assert run(tmp_path, "-o", picture, "--force").return_value == 0


def test_files_that_cannot_be_drawn_do_not_hold_up_the_others(tmp_path: Path) -> None:
    path = write_minute(tmp_path, minute(tone(0.1), RATE, (), MIDNIGHT))
    minute_path(tmp_path, CHANNEL, T0).write_bytes(b"")
    result = run(path.parent, "-o", tmp_path / "a.png")
    assert result.return_value == EXIT_FAILURE
    assert "empty, not an npz file" in result.stderr
    assert (tmp_path / "a.png").exists()
    path.unlink()
    assert "none of the files can be read" in str(run(path.parent, "-o", tmp_path / "b.png").exception)
    assert "is not a folder" in str(run(path.parent, "-o", tmp_path / "none" / "b.png").exception)
