"""RTP to UTC: what the evidence gives, and a bound that holds."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.records import AnchorSource
from pipeline.stream.anchor import SECOND
from pipeline.stream.envelope import Fit
from pipeline.stream.evidence import HostClock, Proposal, next_anchor, renewed
from pipeline.stream.timeline import Epoch
from streams import T0
from timelines import RATE, arrivals, epoch, paired

SYNCED = HostClock(0, 1_000_000)


# -- pairs --


def test_single_pair_is_believed_with_its_doubt() -> None:
    found = paired([0]).propose(SYNCED, 0)
    assert found is not None and found.source is AnchorSource.RADIOD
    assert found.utc_at(1000) == T0
    assert found.uncertainty_at(1000) >= 200_000_000


def test_late_pairs_do_not_move_the_label() -> None:
    rng = random.Random(1)
    found = paired([int(rng.expovariate(1 / 8e6)) + 82_000_000 * (n % 9 == 0) for n in range(200)]).propose(SYNCED, 0)
    assert found is not None
    assert 0 <= found.utc_at(1000) - T0 < 1_000_000
    assert found.utc_at(1000) - T0 <= found.uncertainty_at(1000) < 20_000_000


@pytest.mark.parametrize(("late_ms", "delay_ms"), [(10, 0.5), (300, 0.5), (300, 40), (3000, 8)])
@pytest.mark.parametrize("ended_s", [0, 20])
def test_pairs_that_are_all_late_are_found_out_by_packets_that_are_not(
    late_ms: int, delay_ms: float, ended_s: int
) -> None:
    found = paired([late_ms * 1_000_000] * 100)
    assert (alone := found.propose(SYNCED, 0)) is not None and alone.uncertainty_at(1000) < 10_000_000
    arrivals(found, [round(delay_ms * 1e6)] * ((50 - ended_s) * 50))
    proposed = found.propose(SYNCED, 0)
    assert proposed is not None and proposed.source is AnchorSource.RADIOD
    assert proposed.utc_at(1000) - T0 < proposed.uncertainty_at(1000) < late_ms * 1_000_000 + 70_000_000


def test_torn_early_pair_does_not_move_the_label() -> None:
    late = [3_000_000 + n % 7 * 1_000_000 for n in range(60)]
    late[40] = -2_980_000_000
    found = paired(late).propose(SYNCED, 0)
    assert found is not None
    assert abs(found.utc_at(1000) - T0 - 3_000_000) < 10_000


def behind(by_ns: int, count: int = 60) -> Epoch:
    """An epoch whose radiod's clock is behind the recorder's; sample 1000 was taken at T0 by the recorder's."""
    found = epoch()
    for n in range(count):
        at = T0 + n * SECOND // 2
        found.end = 1000 + n * RATE // 2
        found.add_pair(found.end, at - by_ns, at)
    return found


def test_radiods_clock_error_is_in_the_bound() -> None:
    proposed = behind(400_000_000).propose(SYNCED, 0)
    assert proposed is not None
    assert proposed.utc_at(1000) == T0 - 400_000_000
    assert abs(proposed.utc_at(1000) - T0) <= proposed.uncertainty_at(1000) < 410_000_000


def test_clock_that_was_set_right_is_followed_and_one_that_was_set_wrong_is_not() -> None:
    """The recorder's clock runs on as it was; `shift_ns` is what the host's was set by."""
    pairs = paired([0] * 60)
    wrong = pairs.propose(HostClock(0, 1_000_000, 500_000_000), 0)
    right = pairs.propose(HostClock(-500_000_000, 1_000_000, 500_000_000), 0)
    unknown = pairs.propose(HostClock(None, shift_ns=500_000_000), 0)
    assert wrong and right and unknown
    assert (wrong.utc_at(1000) - T0, right.utc_at(1000) - T0, unknown.utc_at(1000) - T0) == (0, 500_000_000, 0)
    assert wrong.uncertainty_at(1000) == right.uncertainty_at(1000) < 10_000_000


def test_pairs_of_ten_minutes_count() -> None:
    found = paired([0] * 2500)
    rows = found.evidence.pairs.rows
    assert rows[-1][0] - rows[0][0] == 600 * RATE
    assert len(found.evidence.pairs.rows) == 601


def test_sample_clock_is_followed_to_the_end_of_the_evidence() -> None:
    found = paired([n * 25_000 for n in range(600)])
    proposed = found.propose(SYNCED, 0)
    assert proposed is not None
    true = T0 + 599 * SECOND // 2 + 599 * 25_000
    assert abs(proposed.utc_at(found.end) - true) < 1_000


def test_bound_of_a_minute_covers_what_the_clock_drifts_within_it() -> None:
    proposed = paired([n * 25_000 for n in range(600)]).propose(SYNCED, 0)
    assert proposed is not None
    start = 1000 + 240 * RATE
    held = renewed(proposed.anchor(start), proposed, start, start + 60 * RATE)
    assert held.uncertainty_ns - proposed.uncertainty_at(start) == pytest.approx(3_000_000, rel=0.1)


def test_samples_that_were_lost_unseen_are_in_the_bound_at_once_and_in_the_label_after_a_minute() -> None:
    rng = random.Random(4)
    late = [int(rng.uniform(0, 9e6)) for _ in range(1200)]
    soon = paired(late[:660] + [ns + 80_000_000 for ns in late[660:740]])
    later = paired(late[:660] + [ns + 80_000_000 for ns in late[660:900]])
    for found, follows in ((soon, False), (later, True)):
        proposed = found.propose(SYNCED, 0)
        assert proposed is not None
        true = T0 + (found.end - 1000) * SECOND // RATE + 80_000_000
        error = abs(proposed.utc_at(found.end) - true)
        assert (error < 2_000_000) == follows
        assert error <= proposed.uncertainty_at(found.end)


def test_old_pairs_give_way_to_packets_that_come_without_status() -> None:
    found = paired([0] * 60)
    arrivals(found, [1_000_000] * 50, start=1500)
    young = found.propose(SYNCED, 0)
    arrivals(found, [1_000_000] * 200, start=50 * 3600 * 3)
    old = found.propose(SYNCED, 0)
    assert young and old
    assert (young.source, old.source) == (AnchorSource.RADIOD, AnchorSource.NTP)


def test_chain_delay_is_taken_off_once() -> None:
    found = paired([0] * 30)
    plain, delayed = found.propose(SYNCED, 0), found.propose(SYNCED, 5_000_000)
    assert plain is not None and delayed is not None
    assert plain.utc_at(5000) - delayed.utc_at(5000) == 5_000_000


def test_order_of_pairs_does_not_matter() -> None:
    late = [n * 7919 % 9_000_000 for n in range(60)]
    found, turned = paired(late), epoch()
    turned.end = found.end
    for n in reversed(range(60)):
        at = T0 + n * SECOND // 2 + late[n]
        turned.add_pair(1000 + n * RATE // 2, at, at)
    assert found.evidence == turned.evidence


# -- arrivals --


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
    assert whole.evidence.arrivals.rows == lots.evidence.arrivals.rows


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
    assert proposed.uncertainty_at(1000) >= 16 * SECOND


def test_timeline_that_nobody_looked_at_still_has_a_place() -> None:
    proposed = epoch().propose(SYNCED, 0)
    assert proposed is not None
    assert abs(proposed.utc_at(1000) - T0) <= proposed.uncertainty_at(1000)


def test_arrivals_after_a_year_do_not_overflow() -> None:
    found = epoch()
    year = 365 * 86_400
    ends = np.array([1000 + year * RATE, 1000 + year * RATE + 320], np.int64)
    found.add_arrivals(ends, np.array([T0 + year * SECOND, T0 + year * SECOND + 20_000_000], np.int64))
    proposed = found.propose(SYNCED, 0)
    assert proposed is not None and proposed.utc_at(1000) == T0


@pytest.mark.parametrize("ppm", [-40.0, 0.0, 25.0])
def test_rate_is_measured_against_the_arrivals(ppm: float) -> None:
    rng = np.random.default_rng(round(ppm) + 100)
    off = []
    for _ in range(40):
        found = epoch()
        blocks = np.arange(1, 6000)
        sent = np.round(blocks * 20_000_000 / (1 + ppm * 1e-6) + rng.uniform(0, 9e6, len(blocks)))
        found.add_arrivals(1000 + blocks * 320, T0 + sent.astype(np.int64))
        measured, sigma = found.rate_ppm()
        assert abs(measured - ppm) < 3 and 0 < sigma < 3
        off.append(abs(measured - ppm) / sigma)
    assert sorted(off)[-3] <= 3


def test_rate_is_unknown_for_the_first_minute() -> None:
    found = epoch()
    arrivals(found, [0] * 2500)
    assert all(math.isnan(value) for value in found.rate_ppm())


# -- the next anchor --


def line(utc_ns: int = T0, bound_ns: int = 3_000_000, doubt_ns: int = 400_000, **facts: Any) -> Proposal:
    """A proposal through timestamp 1000, of a known bound and doubt."""
    plain = Proposal(
        AnchorSource.RADIOD, RATE, 1000, utc_ns, Fit(0, 0, doubt_ns, 0, 0, 0, 60), bound_ns - doubt_ns, 0, T0
    )
    return replace(plain, **facts)


CURRENT = line().anchor(1000)


def test_equal_evidence_changes_nothing_but_the_bound() -> None:
    kept = next_anchor(CURRENT, line(T0 + 150_000, 2_800_000), 5000)
    assert kept.utc_at(5000) == CURRENT.utc_at(5000)
    assert kept.uncertainty_ns == 2_950_000


@pytest.mark.parametrize(
    "proposed",
    [
        line(T0 + 210_000),
        line(T0 - 210_000),
        line(T0 + 63_000, doubt_ns=100_000),
        line(rate_hz=24_000),
    ],
    ids=["later", "earlier", "half the doubt", "another rate"],
)
def test_clearly_different_or_better_evidence_is_taken(proposed: Proposal) -> None:
    assert next_anchor(CURRENT, proposed, 1000) == proposed.anchor(1000)


def test_no_more_than_a_sample_moves_nothing() -> None:
    kept = next_anchor(CURRENT, line(T0 + 62_000, doubt_ns=1_000), 1000)
    assert kept.utc_at(1000) == T0


def test_radiods_word_replaces_any_other() -> None:
    other = line(source=AnchorSource.NTP)
    assert next_anchor(other.anchor(1000), line(), 1000).source is AnchorSource.RADIOD
    assert next_anchor(CURRENT, other, 1000).source is AnchorSource.RADIOD
