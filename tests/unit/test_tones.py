"""Minute tones: timed to a fraction of a sample, not heard in noise, never of another minute."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airwaves import BEFORE, ELSEWHERE, KINDS, RATE, SECONDS, carrier, noise_minutes, station_minute, white
from minutes import context
from pipeline.config import Channel, Station
from pipeline.minutefile import build
from pipeline.stream.journal import geometry
from pipeline.stream.minute import Minute
from pipeline.stream.pulses import CHU, STATIONS, WWV, WWVH, locator_position, path_delay_s, pulses
from pipeline.stream.samples import Samples
from pipeline.stream.timeline import SECOND
from pipeline.stream.tones import NOTHING, Tones, listen, survey, tone_evidence
from pipeline.stream.tonetiming import Tone
from pipeline.tonekeys import Tail, hear, position_of, tail_of, tone_keys
from streams import T0, FakeStatus, Recording
from tests.e2e.test_captures import packets, record

BOTH = (WWV, WWVH)
SAMPLE_S = 1 / RATE


def rng(seed: int = 1) -> np.random.Generator:
    """The same for each run."""
    return np.random.default_rng(seed)


def heard(iq: Any, wanted: Any = BOTH, before: Any = None, rate: int = RATE) -> list[str]:
    """Names of the stations heard."""
    return [tone.station for tone in listen(iq, rate, wanted, before).heard]


# -- is it there --


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_not_a_station(kind: str) -> None:
    """A short form of tests/bench/bench_tones.py, which looks at 10 000 minutes of each kind."""
    for minute, before in noise_minutes(kind, np.random.default_rng([7, *kind.encode()]), 5):
        assert heard(minute, BOTH, before) == []
        assert heard(minute, (CHU,), before) == []
        if kind not in ELSEWHERE:
            assert survey(minute, RATE, BOTH, before) is NOTHING
            assert survey(minute, RATE, (CHU,), before) is NOTHING


@pytest.mark.parametrize("station", STATIONS)
@pytest.mark.parametrize("onset_s", [-1.6, 7.3, 58.2])
def test_minute_tone_is_found_anywhere_by_itself_and_its_ticks(station: str, onset_s: float) -> None:
    minute, before = station_minute(rng(), 45.0, station, onset_s)
    wanted = (CHU,) if station == "CHU" else BOTH
    tones = survey(minute, RATE, wanted, before)
    assert [tone.station for tone in tones.heard] == [station]
    assert tones.heard[0].onset_s == pytest.approx(onset_s, abs=0.001)
    assert tones.ticks is not None
    assert tones.ticks.onset_s == pytest.approx(tones.heard[0].onset_s, abs=0.001)


def test_tone_far_from_the_labels_minute_must_have_ticks() -> None:
    """A single note of 0.8 s is a minute tone but for its place."""
    for onset_s, ticks, names in ((0.05, False, ["WWV"]), (0.5, False, []), (-0.5, False, []), (0.5, True, ["WWV"])):
        minute, before = station_minute(rng(), 50.0, "WWV", onset_s, ticks=ticks)
        assert heard(minute, BOTH, before) == names


def test_minute_tone_without_ticks_is_not_believed_anywhere() -> None:
    """Anybody's tone may last for 0.8 s and come once a minute."""
    minute, before = station_minute(rng(), 50.0, "WWV", 12.0, ticks=False)
    assert survey(minute, RATE, BOTH, before) is NOTHING
    ticking, before = station_minute(rng(), 50.0, "WWV", 12.0)
    assert survey(ticking, RATE, BOTH, before).heard


def test_two_minute_tones_in_a_minute_are_none() -> None:
    one, before = station_minute(rng(1), 50.0, "WWV", 12.0)
    other, before_too = station_minute(rng(2), 47.0, "WWV", 40.3, noise=False)
    assert survey(one + other, RATE, BOTH, before + before_too) is NOTHING


@pytest.mark.parametrize("station", STATIONS)
def test_station_is_heard_through_noise(station: str) -> None:
    """A minute tone 25 dB over the noise's density; WWV's carrier is then some 12 dB under the noise in 16 kHz."""
    found = [listen(*reversed_call(station_minute(rng(seed), 25.0, station, 0.01), station)) for seed in range(8)]
    assert sum([tone.station for tone in tones.heard] == [station] for tones in found) >= 7
    errors = [(abs(t.heard[0].onset_s - 0.01), t.heard[0].uncertainty_s) for t in found if t.heard]
    assert sum(error <= stated for error, stated in errors) >= len(errors) - 1
    assert all(20 < t.heard[0].snr_db < 30 for t in found if t.heard)


def reversed_call(minute_before: tuple[Any, Any], station: str) -> tuple[Any, int, Any, Any]:
    """The arguments of `listen` for what `station_minute` gives."""
    minute, before = minute_before
    return minute, RATE, (STATIONS[station],), before


def test_tone_further_off_than_a_second_and_a_half_is_not_this_minutes() -> None:
    for onset in (-2.0, 2.0, 5.0, 30.0):
        minute, before = station_minute(rng(), 55.0, onset_s=onset)
        assert heard(minute, (WWV,), before) == []


@pytest.mark.parametrize("onset_s", [-1.4, -0.3, 0.7, 1.4])
def test_tone_within_a_second_and_a_half_is_found_where_it_is(onset_s: float) -> None:
    minute, before = station_minute(rng(), 50.0, onset_s=onset_s)
    [tone] = listen(minute, RATE, (WWV,), before).heard
    assert tone.onset_s == pytest.approx(onset_s, abs=2 * SAMPLE_S)


def test_seconds_of_chu_are_not_its_minute() -> None:
    """Its 0.3 s tones are 0.5 s ones with a part missing; with the minute's own gone nothing is left to hear."""
    minute, before = station_minute(rng(), 50.0, "CHU")
    minute[: round(0.9 * RATE)] = 0
    assert heard(minute, (CHU,), before) == []
    silenced = minute.copy()
    silenced[: round(0.9 * RATE)] = white(rng(3), round(0.9 * RATE))
    assert heard(silenced, (CHU,), before) == []


def test_stations_of_one_frequency_are_told_apart_by_length() -> None:
    for name in ("WWV", "CHU"):
        minute, before = station_minute(rng(), 50.0, name)
        assert heard(minute, (WWV, CHU), before) == [name]


def test_both_stations_and_the_delay_between_them() -> None:
    wwv, before = station_minute(rng(1), 55.0, "WWV", 0.005)
    wwvh, before_h = station_minute(rng(2), 45.0, "WWVH", 0.019, noise=False)
    tones = listen(wwv + wwvh, RATE, BOTH, before + before_h)
    assert [tone.station for tone in tones.heard] == ["WWV", "WWVH"]
    assert tones.differential_s == pytest.approx(0.014, abs=0.001)
    assert tones.power_dbfs(1000) > tones.power_dbfs(1200) > -900
    assert math.isnan(replace(tones, heard=tones.heard[:1]).differential_s)


@pytest.mark.parametrize("station", ["WWV", "WWVH"])
def test_hour_has_another_tone_and_the_ticks_say_whose(station: str, monkeypatch: pytest.MonkeyPatch) -> None:
    minute, before = station_minute(rng(), 55.0, station)
    count = round(0.8 * RATE)
    along = carrier(rng(9), count) * 0
    n = np.arange(count) / RATE
    hz = STATIONS[station].hz
    # The same carrier with 1500 Hz where the station's own tone was.
    level = np.abs(minute[2 * RATE : 3 * RATE]).mean()
    angle = np.angle(minute[:count].mean())
    along += level * np.exp(1j * angle) * 0.9 * (np.sin(2 * np.pi * 1500 * n) - np.sin(2 * np.pi * hz * n))
    minute[:count] += along
    wanted = pulses(("WWV", "WWVH"), 10e6, True)
    tones = listen(minute, RATE, wanted, before)
    assert [(tone.station, tone.hz) for tone in tones.heard][0] == (station, 1500)
    assert abs(tones.heard[0].onset_s) < 0.001


# -- when did it begin --


@pytest.mark.parametrize("station", STATIONS)
def test_onset_to_a_fraction_of_a_sample(station: str) -> None:
    errors = []
    for seed in range(6):
        onset = 0.002 + 0.000_031 * seed
        minute, before = station_minute(rng(seed), 55.0, station, onset)
        tones = listen(minute, RATE, (STATIONS[station],), before)
        errors.append(tones.heard[0].onset_s - onset)
        assert abs(errors[-1]) <= tones.heard[0].uncertainty_s
        assert tones.ticks is not None
        assert tones.ticks.onset_s == pytest.approx(onset, abs=0.0002)
        assert tones.ticks.count > 20
    assert abs(float(np.median(errors))) < 0.3 * SAMPLE_S


@pytest.mark.parametrize("offset_hz", [-118.0, 3.3, 97.0])
def test_oscillator_that_is_off(offset_hz: float) -> None:
    minute, before = station_minute(rng(), 45.0, onset_s=0.01, offset_hz=offset_hz)
    [tone] = listen(minute, RATE, (WWV,), before).heard
    assert tone.onset_s == pytest.approx(0.01, abs=0.0005)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 24_000])
def test_other_sample_rates(rate: int) -> None:
    minute, before = station_minute(rng(), 50.0, onset_s=0.0123, rate=rate)
    tones = listen(minute, rate, (WWV,), before)
    assert tones.heard[0].onset_s == pytest.approx(0.0123, abs=0.0002)
    assert tones.ticks is not None
    assert tones.ticks.onset_s == pytest.approx(0.0123, abs=0.0002)


def test_tone_that_begins_before_the_file() -> None:
    """By its beginning with what came before, by its end without; both are the same time."""
    minute, before = station_minute(rng(), 55.0, onset_s=-0.0063)
    [whole] = listen(minute, RATE, (WWV,), before).heard
    [rest] = listen(minute, RATE, (WWV,)).heard
    assert whole.onset_s == pytest.approx(-0.0063, abs=0.0002)
    assert rest.onset_s == pytest.approx(-0.0063, abs=0.0004)


def test_gap_over_the_onset_is_in_the_uncertainty() -> None:
    minute, before = station_minute(rng(), 45.0, onset_s=0.005)
    clear = listen(minute, RATE, (WWV,), before).heard[0]
    minute[: round(0.02 * RATE)] = 0
    blind = listen(minute, RATE, (WWV,), before).heard[0]
    assert abs(blind.onset_s - clear.onset_s) <= blind.uncertainty_s
    minute[round(0.79 * RATE) : round(0.82 * RATE)] = 0
    blinder = listen(minute, RATE, (WWV,), before).heard[0]
    assert abs(blinder.onset_s - clear.onset_s) <= blinder.uncertainty_s
    assert blinder.uncertainty_s > 10 * clear.uncertainty_s, "neither beginning nor end was received"
    minute[: round(0.5 * RATE)] = 0
    assert heard(minute, (WWV,), before) == []


def test_free_running_sample_clock_moves_the_ticks_not_their_time() -> None:
    """50 ppm are 3 ms within the minute; the ticks are followed back to its beginning."""
    rate = 16_000
    minute, before = station_minute(rng(), 55.0, onset_s=0.004, rate=rate)
    true = np.arange(SECONDS * rate) * (1 + 50e-6)
    whole = np.concatenate((before, minute, before))
    at = true + BEFORE * rate
    fast = np.interp(at, np.arange(len(whole)), whole.real) + 1j * np.interp(at, np.arange(len(whole)), whole.imag)
    tones = listen(fast.astype(np.complex64), rate, (WWV,), before)
    assert tones.ticks is not None
    assert tones.ticks.onset_s == pytest.approx(0.004, abs=0.0003)
    assert tones.heard[0].onset_s == pytest.approx(0.004, abs=0.0003)


# -- odd input --


def test_what_cannot_be_listened_to() -> None:
    minute, before = station_minute(rng(), 50.0)
    assert listen(minute, RATE, ()) is NOTHING
    assert listen(minute[: 9 * RATE], RATE, BOTH) is NOTHING
    assert listen(minute[:60_000], 1_000, BOTH) is NOTHING
    assert listen(np.zeros(60 * RATE, np.complex64), RATE, BOTH) is NOTHING
    assert listen(np.full(60 * RATE, np.nan, np.complex64), RATE, BOTH) is NOTHING
    assert listen(np.full(60 * RATE, 1e30, np.complex64), RATE, BOTH, before).heard == ()
    spoilt = minute.copy()
    spoilt[RATE] = np.inf
    assert listen(spoilt, RATE, BOTH, before) is NOTHING


def test_part_of_a_minute_is_enough() -> None:
    minute, before = station_minute(rng(), 50.0)
    minute[20 * RATE :] = 0
    assert heard(minute, BOTH, before) == ["WWV"]
    minute[7 * RATE :] = 0
    assert heard(minute, BOTH, before) == ["WWV"], "a clear tone needs nothing to be compared with"


def test_who_is_looked_for() -> None:
    def names(*args: Any) -> list[tuple[str, int]]:
        return [(pulse.station, pulse.hz) for pulse in pulses(*args)]

    assert names((), 10e6, False) == [("WWV", 1000), ("WWVH", 1200)]
    assert names((), 20e6, False) == [("WWV", 1000)]
    assert names((), 7.85e6, False) == [("CHU", 1000)]
    assert names((), 4.996e6, False) == []
    assert names(("CHU",), 10e6, False) == [("CHU", 1000)]
    assert names(("RWM",), 10e6, False) == []
    assert names(("WWV",), 10e6, True) == [("WWV", 1500), ("WWV", 1000)]
    [hour] = pulses(("CHU",), 7.85e6, True)
    assert hour.length_s == 1.0


# -- as evidence --


def test_travelling_time() -> None:
    """Boulder to Fort Collins is no way at all; New Zealand is 12 000 km from both, Germany 8 000 km from WWV."""
    near, doubt = path_delay_s("WWV", 40.0, -105.2)
    assert near - doubt < 0.0003
    far, doubt = path_delay_s("WWV", 52.0, 10.0)
    assert far - doubt < 8_000 / 299_792 < far + doubt
    assert path_delay_s("CHU", 45.3, -75.8)[0] < 0.003
    unknown, doubt = path_delay_s("WWVH", math.nan, 0.0)
    assert unknown == doubt
    assert 2 * unknown > 20_000 / 299_792


def test_evidence_is_the_residual_less_the_way() -> None:
    tones = Tones((Tone("WWV", 1000, 0.0105, 0.0002, 40.0, -20.0),))
    found = tone_evidence(tones, 30_000, 40.0, -105.2)
    assert found is not None
    delay, doubt = path_delay_s("WWV", 40.0, -105.2)
    assert found.residual_ns == pytest.approx(30_000 + 1e9 * (0.0105 - delay), abs=2)
    assert found.uncertainty_ns == pytest.approx(1e9 * (0.0002 + doubt), abs=2)
    assert tone_evidence(NOTHING, 0) is None
    blind = tone_evidence(tones, 0)
    assert blind is not None
    assert blind.uncertainty_ns > 30_000_000


def test_residual_is_in_the_keys() -> None:
    tones = Tones((Tone("WWV", 1000, 0.0105, 0.0002, 40.0, -20.0),))
    fort_collins = position_of(Station(grid="DN70"))
    keys = tone_keys(tones, 30_000, fort_collins)
    delay, doubt = path_delay_s("WWV", *fort_collins)
    assert keys["tone_residual_ms"] == pytest.approx(0.03 + 10.5 - 1e3 * delay, abs=1e-5)
    assert keys["tone_residual_uncertainty_ms"] == pytest.approx(0.2 + 1e3 * doubt, abs=1e-5)
    assert keys["tone_residual_uncertainty_ms"] < 3
    assert tone_keys(tones)["tone_residual_uncertainty_ms"] > 30


def test_where_a_station_is() -> None:
    assert locator_position("JO62qm") == pytest.approx((52.5208, 13.375), abs=1e-3)
    assert locator_position("dn70") == pytest.approx((40.5, -105.0))
    assert position_of(Station(grid="JO62", latitude=-30.0, longitude=140.0)) == (-30.0, 140.0)
    for text in ("", "DN7", "ZZ00", "DN70ZZ", "Boulder"):
        assert all(math.isnan(part) for part in locator_position(text))


def test_keys_of_silence() -> None:
    keys = tone_keys()
    assert keys["tone_detected"] is False
    assert keys["tone_power_1000_hz_db"] == keys["tone_power_1200_hz_db"] == -999.0
    assert keys["tone_station"] == ""
    assert keys["tick_count"] == 0
    assert all(math.isnan(keys[name]) for name in ("tone_onset_ms", "tone_residual_ms", "wwvh_differential_delay_ms"))


# -- in files --

CHANNEL = Channel("WWV 10 MHz", 10e6, 10_000_000, RATE)
FRAMES = RATE // 50


def recorded(iq: Any) -> list[Minute]:
    """S16BE packets of a stream that begins 3 s before a minute, cut into minutes."""
    to = Recording(rate_hz=RATE, shape=geometry(RATE, 6))
    pairs = np.rint(iq.view(np.float32) * 32767).astype(">i2").reshape(-1, 2)
    start = T0 - BEFORE * SECOND
    cuts: list[Minute] = []
    for number in range(len(pairs) // FRAMES):
        at = start + (number + 1) * SECOND // 50
        to.packet(number, 77 + number * FRAMES, pairs[number * FRAMES : (number + 1) * FRAMES].tobytes(), at)
        if number % 25 == 0:
            to.status(FakeStatus(at, 77 + (number + 1) * FRAMES, RATE, "S16BE"), at)
    to.intake.flush_held()
    to.intake.scan()
    while (due := to.cutter.due(0, to.host, flush=True)) is not None:
        cut = to.cutter.cut(due, to.host, "stop")
        cuts += cut.minutes
        to.cutter.done(cut)
    return cuts


@pytest.fixture(scope="module")
def two_minutes() -> list[Minute]:
    """3 s and a minute of WWV, whose tone begins 4 ms before its minute by the label."""
    minute, before = station_minute(rng(), 60.0, onset_s=-0.004)
    return recorded(0.2 * np.concatenate((before, minute)) / np.abs(minute).max())


def test_file_says_what_was_heard_with_the_end_of_the_file_before(two_minutes: list[Minute]) -> None:
    first, second = two_minutes
    arrays = build(first, context(first, CHANNEL))
    assert not arrays["tone_detected"]
    tail = tail_of(first, arrays["iq"], arrays["iq_extra"])
    found = build(second, context(second, CHANNEL), tail)
    assert found["tone_detected"]
    assert str(found["tone_station"]) == "WWV"
    label_ms = (int(found["sample0_utc_ns"]) - T0) / 1e6
    assert float(found["tone_onset_ms"]) == pytest.approx(-4.0 + label_ms, abs=0.15)
    assert float(found["tick_onset_ms"]) == pytest.approx(-4.0 + label_ms, abs=0.15)
    assert -40 < float(found["tone_power_1000_hz_db"]) < 0
    assert float(found["tone_power_1200_hz_db"]) == -999.0
    small = build(second, context(second, CHANNEL, storage="int16"), tail)
    assert float(small["tone_onset_ms"]) == float(found["tone_onset_ms"])


def test_end_of_another_stream_is_not_listened_to(two_minutes: list[Minute]) -> None:
    first, second = two_minutes
    iq = np.asarray(Samples(first.runs, first.samples))
    tail = tail_of(first, iq, iq[:0])
    assert tail is not None
    before = tail.before(second)
    assert before is not None
    assert np.array_equal(before, iq[-len(before) :])
    assert replace(tail, epoch_id=9).before(second) is None
    assert replace(tail, timestamp=tail.timestamp - 1).before(second) is None
    longer = replace(tail, timestamp=tail.timestamp + 5).before(second)
    assert longer is not None
    assert len(longer) == len(before) - 5
    assert tail_of(replace(first, segments=[]), iq, iq[:0]) is None
    assert isinstance(tail, Tail)


def test_real_radiod_three_minutes_in_a_row(captures: Path) -> None:
    """Residuals are taken on the RTP clock, so that they do not depend on when the label is improved."""
    ((ssrc, events),) = packets(captures / "one-s16-150s.pcap").items()
    to = record(ssrc, events)
    line = to.minutes[-1][0].anchor
    tail: Tail | None = None
    residuals = []
    for minute, iq, extra in to.minutes:
        tones = hear(minute, replace(CHANNEL, ssrc=ssrc, sample_rate_hz=16_000), iq, tail)
        tail = tail_of(minute, iq, extra)
        if tones.heard:
            label_ms = (line.utc_at(minute.first_timestamp) - minute.utc_ns) / 1e6
            assert tones.ticks is not None
            assert abs(tones.heard[0].onset_s - tones.ticks.onset_s) < 0.0002
            alone = hear(minute, CHANNEL, iq, None).heard[0]
            assert abs(alone.onset_s - tones.heard[0].onset_s) < 0.0002
            residuals.append((minute.utc_ns // SECOND, label_ms + 1e3 * tones.heard[0].onset_s))
    assert [second for second, _ in residuals] == [1795320960, 1795321020, 1795321080]
    assert max(ms for _, ms in residuals) - min(ms for _, ms in residuals) < 0.2
