"""A label's line: UTC and back, minutes and wraps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream.anchor import MINUTE, SECOND
from streams import T0
from timelines import RATE, anchor


@given(st.sampled_from([1_000, 12_000, 16_000, 24_000, 44_100, 192_000]), st.integers(-(1 << 45), 1 << 45))
def test_utc_and_back_is_the_same_sample(rate: int, timestamp: int) -> None:
    line = anchor(rate_hz=rate)
    assert line.timestamp_at(line.utc_at(timestamp)) == timestamp


@given(st.sampled_from([1_000, 16_000, 44_100]), st.integers(-(1 << 40), 1 << 40), st.integers(0, MINUTE))
def test_minutes_of_samples_partition_the_line(rate: int, timestamp: int, phase: int) -> None:
    line = anchor(rate_hz=rate, utc_ns=T0 + phase)
    minute = line.minute_of(timestamp)
    assert minute % MINUTE == 0
    assert line.timestamp_at(minute) <= timestamp < line.timestamp_at(minute + MINUTE)


@pytest.mark.parametrize("days", [0.0, 1.5532, 3.1069, 400.0])
def test_labels_are_exact_beyond_every_wrap(days: float) -> None:
    samples = round(days * 86_400) * RATE
    assert anchor().utc_at(1000 + samples) == T0 + round(days * 86_400) * SECOND


def test_every_minute_has_its_samples_whatever_the_phase() -> None:
    for phase in range(0, SECOND, 7_654_321):
        line = anchor(utc_ns=T0 + phase)
        assert line.timestamp_at(T0 + 2 * MINUTE) - line.timestamp_at(T0 + MINUTE) == 60 * RATE


def test_moved_line_says_so_in_its_uncertainty() -> None:
    moved = anchor().moved(16)
    assert moved.utc_at(1000) == T0 + 1_000_000
    assert moved.uncertainty_ns == 2_000_000
