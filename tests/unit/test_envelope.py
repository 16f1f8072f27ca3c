"""The line below points that can only be late."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.stream.envelope import WINDOW_S, Least, fit

MS = 1e6


def late(rng: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Evenly 0 to 9 ms late, one in twenty much more."""
    found = rng.uniform(0, 9 * MS, count)
    found[rng.random(count) < 0.05] += 200 * MS
    return found


@pytest.mark.parametrize("slope", [-50_000.0, 0.0, 1_000.0, 50_000.0])
def test_line_is_found_under_the_noise_and_within_its_doubt(slope: float) -> None:
    rng = np.random.default_rng(1)
    x = np.arange(-599.0, 1.0)
    missed = 0
    for _ in range(50):
        found = fit(x, 7 * MS + slope * x + late(rng, 600))
        error = abs(found.at(0.0) - 7 * MS)
        assert error < 0.6 * MS
        assert found.excess < 2 * MS
        missed += error > found.doubt_at(0.0)
    assert missed <= 1


def test_few_torn_points_do_not_count_and_many_do() -> None:
    rng = np.random.default_rng(2)
    x = np.arange(100.0)
    points = late(rng, 100)
    points[[20, 50, 80]] -= 300 * MS
    assert abs(fit(x, points).at(50.0)) < 2 * MS
    points[40:60] = -300 * MS
    assert fit(x, points).at(50.0) < -290 * MS


@pytest.mark.parametrize("by_ms", [40, 3000])
@pytest.mark.parametrize(
    ("before_s", "early_s", "after_s"),
    [(a, n, b) for n in (1, 2, 3, 8, 9, 10, 20) for a in (0, 20, 500) for b in (0, 20, 500) if n > 1 or not (a and b)],
)
def test_those_in_time_are_in_the_bound_however_few(before_s: int, early_s: int, after_s: int, by_ms: int) -> None:
    """All others are late. One alone among others cannot be told from a torn one."""
    rng = np.random.default_rng(early_s)
    count = before_s + early_s + after_s
    x, points = np.arange(1.0 - count, 1.0), rng.uniform(0, 2 * MS, count)
    points[:before_s] += by_ms * MS
    points[before_s + early_s :] += by_ms * MS
    for slope in (None, 0.0):
        found = fit(x, points, slope)
        for at in (-60.0, 0.0):
            bound = found.doubt_at(at) + found.excess + found.spread / 4 + 2 * MS
            assert abs(found.at(at)) < bound


def test_three_in_a_row_are_believed_and_two_are_not_yet() -> None:
    points = np.full(50, 3000 * MS)
    points[-2:] = 0.0
    waiting = fit(np.arange(50.0), points)
    assert (waiting.at(49.0), waiting.excess) == (3000 * MS, 3000 * MS)
    points[-3] = 0.0
    assert fit(np.arange(50.0), points).at(49.0) < 20 * MS


def test_short_stretch_says_nothing_of_the_rate_and_doubts_accordingly() -> None:
    found = fit(np.arange(20.0), np.arange(20.0) * 50_000)
    assert found.slope == 0.0
    assert found.doubt_at(20.0) >= 10.5 * 50_000


def test_one_point_is_a_line_of_unknown_rate() -> None:
    found = fit(np.array([3.0]), np.array([5 * MS]))
    assert (found.at(3.0), found.doubt_at(3.0), found.excess) == (5 * MS, 0.0, 0.0)
    assert found.doubt_at(63.0) == 6 * MS


@pytest.mark.parametrize("step_ms", [5.0, 60.0, 900.0])
@pytest.mark.parametrize("since_s", [70, 300, 530])
def test_lasting_lateness_is_taken_for_lost_samples_and_stays_in_the_excess(step_ms: float, since_s: int) -> None:
    rng = np.random.default_rng(since_s)
    x = np.arange(-599.0, 1.0)
    points = late(rng, 600)
    points[-since_s:] += step_ms * MS
    found = fit(x, points)
    assert abs(found.at(0.0) - step_ms * MS) <= found.doubt_at(0.0) + 0.2 * MS
    assert found.excess > step_ms * MS - 2 * MS


def test_passing_lateness_is_not_lost_samples() -> None:
    rng = np.random.default_rng(5)
    x = np.arange(-599.0, 1.0)
    points = late(rng, 600)
    points[-45:] += 50 * MS
    still = fit(x, points)
    assert abs(still.at(0.0)) < 2 * MS and still.excess > 49 * MS
    points[-5:] -= 50 * MS
    assert fit(x, points).excess < 10 * MS


def test_least_late_one_of_each_second_is_kept_for_ten_minutes() -> None:
    kept = Least()
    for n in range(2000):
        kept.add(n * 500, n * 500_000_000 + (n % 2) * 1000, n, 1000)
    assert len(kept.rows) == WINDOW_S + 1
    assert all(row[2] % 2 == 0 for row in kept.rows)
    assert kept.count == 2000


def test_order_does_not_matter_to_what_is_kept() -> None:
    rng = np.random.default_rng(6)
    observations = [(n * 330, n * 330_000_000 + int(rng.integers(0, 1000)) * 1000, n) for n in range(500)]
    forward, mixed = Least(), Least()
    for row in observations:
        forward.add(*row, 1000)
    for n in rng.permutation(500):
        mixed.add(*observations[n], 1000)
    assert forward == mixed
    assert Least.from_json(forward.to_json()) == forward


def test_points_are_seconds_and_lateness_from_a_reference() -> None:
    kept = Least()
    far = 400 * 86_400 * 1000
    for n in range(3):
        kept.add(far + n * 1000, 10**18 + n * 1_000_000_050, 0, 1000)
    x, lateness, base = kept.points(far + 2000, 1000)
    assert x.tolist() == [-2.0, -1.0, 0.0]
    assert lateness.tolist() == [-100.0, -50.0, 0.0]
    assert base == 10**18 + 2_000_000_100
