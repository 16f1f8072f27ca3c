"""Random servers of which fewer than half lie: the truth stays within the uncertainty."""

from __future__ import annotations

import os
import random

import pytest

from ntp_sets import KINDS, USUAL, WORST, random_set
from pipeline.ntp.select import Candidate, Outcome, select

TRIALS = 20_000 if os.environ.get("GRAPE_LONG") == "1" else 5_000


@pytest.mark.parametrize("kind", KINDS)
def test_case_60_less_than_half_liars_never_win(kind: str) -> None:
    """Never a clique of liars; the truth always within what a majority allows, and within the uncertainty but rarely.

    GRAPE_LONG=1 takes four times as many sets.
    """
    rng = random.Random(f"60 {kind}")
    decided = outside = 0
    for i in range(TRIALS):
        candidates, liars = random_set(rng, kind, (WORST, USUAL)[i % 2])
        found = select(candidates, 2)
        if found.outcome is not Outcome.MAJORITY:
            continue
        decided += 1
        assert found.truechimers - liars, "a clique of liars alone"
        assert abs(found.theta_s) <= found.farthest_s + 1e-12
        outside += abs(found.theta_s) > found.uncertainty_s
    assert decided > 0.9 * TRIALS
    assert outside <= 0.001 * decided


def test_selection_is_sound() -> None:
    """Whatever the servers say: groups do not overlap, agreeing ones meet, nothing is half-filled."""
    rng = random.Random(61)
    for _ in range(3_000):
        candidates = [
            Candidate(key, rng.gauss(0, 0.01), rng.lognormvariate(-5, 1.5), leap=rng.choice([0, 0, 1, 2]))
            for key in range(rng.randint(0, 10))
        ]
        min_agree, pending = rng.randint(1, 4), rng.choice([0, 0, 1, 3])
        found = select(candidates, min_agree, pending)
        if found.outcome is not Outcome.MAJORITY:
            assert found.theta_s != found.theta_s and found.system_peer is None
            continue
        everybody = {c.key for c in candidates}
        assert found.truechimers | found.falsetickers == everybody
        assert not found.truechimers & found.falsetickers
        assert found.system_peer in found.combined <= found.truechimers
        assert len(found.truechimers) >= min_agree
        assert 2 * len(found.truechimers) > len(everybody) + pending
        true = [c for c in candidates if c.key in found.truechimers]
        low = min(c.theta_s - c.reach_s for c in true)
        high = max(c.theta_s + c.reach_s for c in true)
        assert low <= found.theta_s <= high
        assert 0 <= found.farthest_s <= high - low
