"""The programmes: pure functions of the frame number, with their marks where UTC puts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.simulator.signal import (
    CounterSource,
    WwvSource,
    chu_pulses,
    counter_iq,
    counter_key,
    counter_value,
    wwv_pulses,
)
from pipeline.simulator.spec import WWV_CHU
from pipeline.simulator.wire import Iq, encode_samples

RATE = 16_000
MINUTE_NS = 29_922_017 * 60_000_000_000  # an odd minute: 600 Hz
T0 = MINUTE_NS - 5_000_000_000 + 12_345_678


def wwv(start_utc_ns: int = T0, frequency_hz: float = 10e6, chu: bool = False, ppm: float = 0.0) -> WwvSource:
    return WwvSource(chu, frequency_hz, RATE, ppm, start_utc_ns, seed=1)


def tone(iq: Iq, hz: float) -> float:
    """Amplitude of the AM tone at `hz`, relative to the carrier."""
    z = iq[:, 0].astype(float) + 1j * iq[:, 1]
    envelope = np.abs(z)
    carrier = float(envelope.mean())
    wave = np.exp(-2j * np.pi * hz * np.arange(len(envelope)) / RATE)
    return 2 * float(abs((envelope - carrier) @ wave)) / len(envelope) / carrier


def at(source: WwvSource, utc_ns: int, seconds: float) -> Iq:
    """`seconds` of samples from the first at or after `utc_ns` on."""
    return source.samples(-((source.start_utc_ns - utc_ns) * RATE // 10**9), round(seconds * RATE))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**30 - 1))
def test_counter_says_the_timestamp(rtp: int, key: int) -> None:
    iq = counter_iq(rtp, 400, key)
    expected = (np.arange(rtp, rtp + 400) + key) % 2**30
    assert np.array_equal(counter_value(iq), expected)
    assert int(iq.min()) >= -32767
    assert iq.any()


def test_counter_runs_on_over_the_wrap_of_the_timestamp() -> None:
    first = CounterSource(2**32 - 10, 7).samples(0, 30)
    assert np.array_equal(first[10:], counter_iq(0, 20, 7))


def test_counter_keys_tell_channels_and_timelines_apart() -> None:
    keys = {counter_key(channel.ssrc, number) for channel in WWV_CHU for number in range(100)}
    assert len(keys) == 900


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=6), st.integers(0, 40_000))
@settings(max_examples=20, deadline=None)
def test_samples_do_not_depend_on_the_portions(portions: list[int], first: int) -> None:
    for source in (wwv(), CounterSource(5, 9)):
        whole = source.samples(first, sum(portions))
        ends = first + np.cumsum([0, *portions])
        parts = [source.samples(int(a), int(b - a)) for a, b in zip(ends, ends[1:], strict=False)]
        assert np.array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("start_utc_ns", [T0, T0 + 31_250, MINUTE_NS - 1])
def test_wwv_ticks_begin_on_the_utc_second(start_utc_ns: int) -> None:
    source = wwv(start_utc_ns)
    second_ns = MINUTE_NS + 50_000_000_000  # no 600 Hz then
    found = at(source, second_ns, 0.0045)
    before = at(source, second_ns - 6_000_000, 0.0045)
    assert tone(found, 1000.0) > 0.4
    assert tone(before, 1000.0) < 0.1


@pytest.mark.parametrize("second", [29, 59])
def test_no_tick_at_29_and_59(second: int) -> None:
    assert tone(at(wwv(), MINUTE_NS + second * 10**9, 0.004), 1000.0) < 0.15


def test_wwv_minute_tone_lasts_800_ms() -> None:
    source = wwv()
    assert tone(at(source, MINUTE_NS, 0.79), 1000.0) > 0.4
    assert tone(at(source, MINUTE_NS + 810_000_000, 0.18), 1000.0) < 0.02


def test_tones_alternate_by_the_minute_and_stop_at_45() -> None:
    source = wwv()
    for minute, hz, other in ((0, 600.0, 500.0), (1, 500.0, 600.0)):
        part = at(source, MINUTE_NS + minute * 60_000_000_000 + 20_100_000_000, 0.8)
        assert tone(part, hz) > 0.2
        assert tone(part, other) < 0.02
    assert tone(at(source, MINUTE_NS + 50_100_000_000, 0.8), 600.0) < 0.02


def test_chu_minute_tone_lasts_500_ms_and_a_second_on_the_hour() -> None:
    assert [(p.start_s, p.length_s) for p in chu_pulses(17, 0)] == [(0.0, 0.5)]
    assert [(p.start_s, p.length_s) for p in chu_pulses(120, 0)] == [(0.0, 1.0)]
    assert not list(chu_pulses(17, 29))
    assert not list(chu_pulses(120, 9))
    assert [second for second in range(60) if [p.length_s for p in chu_pulses(17, second)] == [0.01]] == [
        *range(50, 60)
    ]
    source = wwv(chu=True, frequency_hz=7.85e6)
    assert tone(at(source, MINUTE_NS, 0.49), 1000.0) > 0.4
    assert tone(at(source, MINUTE_NS + 520_000_000, 0.4), 1000.0) < 0.02


def test_no_minute_has_two_minute_tones() -> None:
    long = [s for s in range(60) for p in wwv_pulses(17, s) if p.hz == 1000.0 and p.length_s > 0.1]
    assert long == [0]


def test_sample_clock_error_moves_ticks_in_frames_not_in_utc() -> None:
    fast = wwv(ppm=100.0)
    frame = round((MINUTE_NS + 55_000_000_000 - T0) * RATE * 1.0001 / 1e9)
    assert tone(fast.samples(frame, 64), 1000.0) > 0.4
    assert tone(fast.samples(frame - 96, 64), 1000.0) < 0.15


def test_all_channels_differ_and_none_clips_or_is_silent() -> None:
    noises: set[float] = set()
    for channel in WWV_CHU:
        source = wwv(MINUTE_NS, channel.frequency_hz, channel.name.startswith("CHU"))
        iq = source.samples(0, 2 * RATE)
        assert int(np.abs(iq.astype(int)).max()) < 32767
        assert iq.reshape(-1, 640).any(axis=1).all()
        noises.add(source.noise_lsb())
    assert len(noises) == 9


def test_carrier_moves_by_a_fraction_of_a_hertz() -> None:
    iq = wwv().samples(0, 180 * RATE).astype(float)
    z = (iq[:, 0] + 1j * iq[:, 1]).reshape(-1, RATE // 200).mean(axis=1)
    turns = np.unwrap(np.angle(z)) / (2 * np.pi)
    hz = np.diff(turns[::200])
    assert np.ptp(hz) > 0.1
    assert float(np.abs(hz).max()) < 2.0


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("S16BE", "4000 c000"),
        ("S16LE", "0040 00c0"),
        ("F32LE", "0000003f 000000bf"),
        ("F32BE", "3f000000 bf000000"),
        ("F16LE", "0038 00b8"),
        ("F16BE", "3800 b800"),
    ],
)
def test_encodings_put_i_first_and_scale_by_32768(encoding: str, expected: str) -> None:
    assert encode_samples(np.array([[16384, -16384]], np.int16), encoding) == bytes.fromhex(expected)


def test_f32_is_lossless() -> None:
    iq = counter_iq(0, 40_000, 12_345_678)
    back = np.frombuffer(encode_samples(iq, "F32LE"), "<f4").reshape(-1, 2) * 32768
    assert np.array_equal(back.astype(np.int16), iq)
