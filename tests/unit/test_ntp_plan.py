"""Turns, retries and the frequency fit."""

from __future__ import annotations

import random

import pytest

from ntp_farm import SECOND
from pipeline.ntp import frequency
from pipeline.ntp.plan import Grid, RetryChain


class TestGrid:
    def test_seven_turns_of_ten_seconds(self) -> None:
        grid = Grid(0, 10 * SECOND)
        assert (grid.turns, grid.public_interval_s) == (7, 70)
        assert grid.turn(9, False, 1) == 20 * SECOND  # 9 % 7 = third cycle
        assert grid.turn(9, False, 20 * SECOND) == 20 * SECOND
        assert grid.turn(9, False, 20 * SECOND + 1) == 90 * SECOND
        assert grid.turn(9, True, 1) == 10 * SECOND

    @pytest.mark.parametrize(("cycle_s", "samples"), [(0.1, 1), (10, 1), (10, 3), (63, 1), (64, 1), (3600, 1)])
    def test_never_below_64_s_for_each_sample(self, cycle_s: float, samples: int) -> None:
        assert Grid(0, round(cycle_s * SECOND), samples).public_interval_s >= 64 * samples

    def test_next_cycle_skips_what_was_missed(self) -> None:
        grid = Grid(5, 10 * SECOND)
        assert grid.next_cycle(5) == 5 + 10 * SECOND
        assert grid.next_cycle(5 + 35 * SECOND) == 5 + 40 * SECOND


class TestRetryChain:
    def test_delays_count_from_the_failure(self) -> None:
        chain = RetryChain([0, 5, 15])
        chain.start(100)
        taken = [t for t in range(0, 20 * SECOND, SECOND // 2) if chain.take(t + 100)]
        assert taken == [0, 5 * SECOND, 15 * SECOND]
        assert chain.exhausted and not chain.running

    def test_one_chain_at_a_time_and_one_per_failure(self) -> None:
        chain = RetryChain([5])
        chain.start(0)
        chain.start(3 * SECOND)
        assert chain.next_ns == 5 * SECOND
        assert chain.take(5 * SECOND)
        chain.start(6 * SECOND)
        assert chain.next_ns is None
        chain.succeeded()
        chain.start(7 * SECOND)
        assert chain.next_ns == 12 * SECOND

    def test_success_cancels(self) -> None:
        chain = RetryChain([0, 5])
        chain.start(0)
        chain.succeeded()
        assert not chain.take(10 * SECOND)

    def test_no_retries(self) -> None:
        chain = RetryChain([])
        chain.start(0)
        assert chain.exhausted and not chain.take(SECOND)


class TestFrequency:
    @staticmethod
    def series(slope: float, offset_s: float, count: int, rng: random.Random, noise_s: float) -> list[tuple[int, int]]:
        return [
            (i * 70 * SECOND, round((offset_s + slope * i * 70 + rng.gauss(0, noise_s)) * SECOND)) for i in range(count)
        ]

    def test_many_servers_of_few_samples(self) -> None:
        rng = random.Random(3)
        histories = [self.series(37e-6, rng.gauss(0, 0.01), 6, rng, 0.0003) for _ in range(10)]
        assert frequency.fit(histories) == pytest.approx(37e-6, abs=2e-6)

    def test_noise_that_hides_the_slope(self) -> None:
        rng = random.Random(3)
        assert frequency.fit([self.series(37e-6, 0, 6, rng, 0.05) for _ in range(3)]) is None

    def test_too_little(self) -> None:
        rng = random.Random(3)
        assert frequency.fit([]) is None
        assert frequency.fit([self.series(1e-6, 0, 7, rng, 1e-6)]) is None
        assert frequency.fit([self.series(1e-6, 0, 4, rng, 1e-6)] * 5) is None, "span below five minutes"

    def test_an_absurd_oscillator_is_not_believed(self) -> None:
        assert frequency.fit([self.series(0.01, 0, 9, random.Random(3), 1e-6)]) is None
