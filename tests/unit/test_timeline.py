"""RTP to UTC: one straight line per epoch, the best of what is known, and a bound that holds."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import AnchorSource
from pipeline.stream.timeline import (
    MINUTE,
    PAIRS,
    SECOND,
    Anchor,
    Epoch,
    HostClock,
    next_anchor,
)
from streams import T0

RATE = 16_000
SYNCED = HostClock(0, 1_000_000)


def anchor(
    timestamp: int = 1000,
    utc_ns: int = T0,
    uncertainty_ns: int = 1_000_000,
    source: AnchorSource = AnchorSource.RADIOD,
    rate_hz: int = RATE,
) -> Anchor:
    return Anchor(timestamp, utc_ns, rate_hz, source, uncertainty_ns, T0)


def epoch(first: int = 1000, rate_hz: int = RATE) -> Epoch:
    return Epoch(1, "start", first, T0, rate_hz, end=first, last_arrival_ns=T0, cut=-(1 << 62))


def paired(late_ns: list[int], rate_hz: int = RATE) -> Epoch:
    """An epoch with a pair each half second, each late by so much; sample 1000 was taken at T0."""
    found = epoch(rate_hz=rate_hz)
    for n, late in enumerate(late_ns):
        at = T0 + n * SECOND // 2
        found.end, found.last_arrival_ns = 1000 + n * rate_hz // 2, at + late
        found.add_pair(found.end, at + late, at + late)
    return found


# -- the line --


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


# -- pairs --


def test_single_pair_is_believed_with_its_doubt() -> None:
    found = paired([0]).propose(SYNCED, 0)
    assert found is not None and found.source is AnchorSource.RADIOD
    assert found.utc_at(1000) == T0
    assert found.uncertainty_ns >= 200_000_000


def test_late_pairs_do_not_move_the_label() -> None:
    rng = random.Random(1)
    found = paired([int(rng.expovariate(1 / 8e6)) + 82_000_000 * (n % 9 == 0) for n in range(200)]).propose(SYNCED, 0)
    assert found is not None
    assert 0 <= found.utc_at(1000) - T0 < 1_000_000
    assert found.utc_at(1000) - T0 <= found.uncertainty_ns < 20_000_000


def test_torn_early_pair_does_not_move_the_label() -> None:
    late = [3_000_000 + n % 7 * 1_000_000 for n in range(60)]
    late[40] = -2_980_000_000
    found = paired(late).propose(SYNCED, 0)
    assert found is not None
    assert abs(found.utc_at(1000) - T0 - 3_000_000) < 10_000
    assert found.uncertainty_ns > 3_000_000


def test_radiods_clock_error_is_in_the_bound() -> None:
    found = paired([0] * 60)
    for at, utc, arrival in list(found.pairs):
        found.pairs.popleft()
        found.pairs.append((at, utc - 400_000_000, arrival))
    proposed = found.propose(SYNCED, 0)
    assert proposed is not None
    assert abs(proposed.utc_at(1000) - T0) <= proposed.uncertainty_ns


def test_pairs_are_bounded_and_follow_the_newest() -> None:
    found = paired([n * 10_000 for n in range(3 * PAIRS)])
    assert len(found.pairs) == PAIRS
    proposed = found.propose(SYNCED, 0)
    assert proposed is not None and proposed.utc_at(1000) - T0 >= 2 * PAIRS * 10_000


def test_chain_delay_is_taken_off_once() -> None:
    found = paired([0] * 30)
    plain, delayed = found.propose(SYNCED, 0), found.propose(SYNCED, 5_000_000)
    assert plain is not None and delayed is not None
    assert plain.utc_at(5000) - delayed.utc_at(5000) == 5_000_000


def test_order_of_pairs_does_not_matter() -> None:
    found, turned = paired([0] * 30), paired([0] * 30)
    turned.pairs.reverse()
    assert found.propose(SYNCED, 0) == turned.propose(SYNCED, 0)


# -- arrivals --


def arrivals(found: Epoch, delays_ns: list[int], start: int = 0) -> None:
    ends = np.array([1000 + (start + n + 1) * 320 for n in range(len(delays_ns))], np.int64)
    times = np.array([T0 + (start + n + 1) * 20_000_000 + d for n, d in enumerate(delays_ns)], np.int64)
    found.add_arrivals(ends, times)


def test_least_delayed_arrival_stands_for_all() -> None:
    found = epoch()
    rng = random.Random(2)
    arrivals(found, [1_000_000 + int(rng.expovariate(1 / 5e6)) for _ in range(3000)])
    proposed = found.propose(SYNCED, 0)
    assert proposed is not None and proposed.source is AnchorSource.NTP
    assert 1_000_000 <= proposed.utc_at(1000) - T0 < 1_200_000


def test_arrivals_looked_at_in_any_lots_give_the_same() -> None:
    rng = random.Random(3)
    delays = [int(rng.expovariate(1 / 5e6)) for _ in range(2000)]
    whole, lots = epoch(), epoch()
    arrivals(whole, delays)
    for start in range(0, 2000, 37):
        arrivals(lots, delays[start : start + 37], start)
    assert list(whole.arrivals) == list(lots.arrivals)


def test_hosts_clock_is_corrected_by_ntp() -> None:
    found = epoch()
    arrivals(found, [0] * 1000)
    proposed = found.propose(HostClock(250_000_000, 2_000_000), 0)
    assert proposed is not None and proposed.utc_at(1000) == T0 - 250_000_000


def test_without_ntp_the_bound_is_an_undisciplined_clocks() -> None:
    found = epoch()
    arrivals(found, [0] * 1000)
    proposed = found.propose(HostClock(), 0)
    assert proposed is not None and proposed.source is AnchorSource.WALL_CLOCK
    assert proposed.uncertainty_ns >= 16 * SECOND


def test_timeline_that_nobody_looked_at_still_has_a_place() -> None:
    proposed = epoch().propose(SYNCED, 0)
    assert proposed is not None
    assert abs(proposed.utc_at(1000) - T0) <= proposed.uncertainty_ns


def test_arrivals_after_a_year_do_not_overflow() -> None:
    found = epoch()
    year = 365 * 86_400
    ends = np.array([1000 + year * RATE, 1000 + year * RATE + 320], np.int64)
    found.add_arrivals(ends, np.array([T0 + year * SECOND, T0 + year * SECOND + 20_000_000], np.int64))
    proposed = found.propose(SYNCED, 0)
    assert proposed is not None and proposed.utc_at(1000) == T0


@pytest.mark.parametrize("ppm", [-40.0, 0.0, 25.0])
def test_rate_is_measured_against_the_arrivals(ppm: float) -> None:
    found = epoch()
    blocks = np.arange(1, 6000)
    found.add_arrivals(1000 + blocks * 320, T0 + np.round(blocks * 20_000_000 / (1 + ppm * 1e-6)).astype(np.int64))
    assert found.rate_ppm() == pytest.approx(ppm, abs=0.5)


def test_rate_is_unknown_for_the_first_minute() -> None:
    found = epoch()
    arrivals(found, [0] * 2500)
    assert math.isnan(found.rate_ppm())


# -- which timeline a status speaks of --


def test_status_is_of_the_packets_around_it() -> None:
    found = epoch()
    found.end, found.last_arrival_ns = 1000 + 100 * RATE, T0 + 100 * SECOND
    now = T0 + 100 * SECOND
    assert found.owns_status(found.end & 0xFFFFFFFF, now, True)
    assert found.owns_status(found.end + 3 * 320, now, True)
    assert found.owns_status(found.end - 3 * RATE, now, True)
    assert not found.owns_status(found.end + 2 * RATE, now, True)
    assert not found.owns_status(found.end - 11 * RATE, now, True)
    assert not found.owns_status(found.end, now + 11 * SECOND, True)
    assert not found.owns_status(found.end, now + SECOND, False)


def test_status_may_come_shortly_before_the_first_packet() -> None:
    found = epoch()
    assert found.owns_status(1000, T0 - 50_000, True)
    assert not found.owns_status(1000, T0 - 11 * SECOND, True)


def test_status_across_the_wrap_is_near() -> None:
    found = epoch((1 << 32) - 320)
    found.end = (1 << 32) + 640
    found.learn(640, RATE, "S16BE")
    assert found.formats == [((1 << 32) + 640, "S16BE")]


def test_formats_are_kept_in_order_without_repetition() -> None:
    found = epoch()
    found.end = 100_000
    for at, name in ((1000, "S16BE"), (3000, "S16BE"), (9000, "F32LE"), (20_000, "S16BE"), (7000, "F32LE")):
        found.learn(at, None, name)
    assert found.formats == [(1000, "S16BE"), (7000, "F32LE"), (20_000, "S16BE")]
    found.forget_formats(6999)
    assert len(found.formats) == 3
    found.forget_formats(7000)
    assert found.formats[0] == (7000, "F32LE")


def test_first_status_may_correct_the_rate_and_the_reason() -> None:
    found = Epoch(2, "timestamp_jump", 1000, T0, RATE, end=1000)
    arrivals(found, [0] * 10)
    found.learn(1000, 24_000, "F32LE")
    assert (found.rate_hz, found.rate_known, found.reason, len(found.arrivals)) == (24_000, True, "rate_change", 0)


def test_epoch_survives_json() -> None:
    found = paired([0, 5, 7])
    arrivals(found, [0] * 10)
    found.learn(1000, RATE, "S16BE")
    found.anchor = anchor()
    found.previous_sequence, found.previous_end = 12, 13
    assert Epoch.from_json(json.loads(json.dumps(found.to_json()))) == found


# -- the next anchor --


def test_equal_evidence_changes_nothing_but_the_bound() -> None:
    current, proposed = anchor(uncertainty_ns=3_000_000), anchor(utc_ns=T0 + 1_000_000, uncertainty_ns=3_000_000)
    kept = next_anchor(current, proposed, 5000)
    assert kept.utc_at(5000) == current.utc_at(5000)
    assert kept.uncertainty_ns == 4_000_000


@pytest.mark.parametrize(
    "proposed",
    [
        anchor(utc_ns=T0 + 3_100_000, uncertainty_ns=3_000_000),
        anchor(utc_ns=T0 - 3_100_000, uncertainty_ns=3_000_000),
        anchor(utc_ns=T0 + 1, uncertainty_ns=1_400_000),
        anchor(rate_hz=24_000, uncertainty_ns=3_000_000),
    ],
    ids=["later", "earlier", "half the doubt", "another rate"],
)
def test_clearly_different_or_better_evidence_is_taken(proposed: Anchor) -> None:
    assert next_anchor(anchor(uncertainty_ns=3_000_000), proposed, 1000) is proposed


def test_radiods_word_replaces_any_other() -> None:
    current, proposed = anchor(source=AnchorSource.NTP), anchor(uncertainty_ns=1_000_000)
    assert next_anchor(current, proposed, 1000) is proposed
    assert next_anchor(proposed, current, 1000).source is AnchorSource.RADIOD
