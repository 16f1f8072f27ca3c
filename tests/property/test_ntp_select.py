"""Random servers of which fewer than half lie: the truth stays within the uncertainty."""

from __future__ import annotations

import random

from pipeline.ntp.select import Candidate, Outcome, select

TRIALS = 20_000


def servers(rng: random.Random, count: int, liars: int) -> list[Candidate]:
    """`count` servers of a host whose theta is 0; the last `liars` of them say anything, perhaps together."""
    candidates = []
    for key in range(count - liars):
        distance = rng.lognormvariate(-5.0, 1.0)
        candidates.append(Candidate(key, rng.uniform(-1, 1) * distance, distance, distance / 20))
    lie = rng.choice([-1, 1]) * rng.lognormvariate(-4.0, 2.0)
    together = rng.random() < 0.5
    for key in range(count - liars, count):
        theta = lie if together else rng.uniform(-2, 2) * lie
        distance = rng.lognormvariate(-6.0, 1.5)
        candidates.append(Candidate(key, theta, distance, distance / 20))
    rng.shuffle(candidates)
    return candidates


def test_less_than_half_liars_never_win() -> None:
    rng = random.Random(20_000)
    decided = 0
    for _ in range(TRIALS):
        count = rng.randint(3, 12)
        liars = rng.randint(0, (count - 1) // 2)
        found = select(servers(rng, count, liars), 2)
        if found.outcome is not Outcome.MAJORITY:
            continue
        decided += 1
        assert min(found.truechimers) < count - liars, "a clique of liars alone"
        assert abs(found.theta_s) <= found.farthest_s + 1e-12 <= found.uncertainty_s + 1e-12
    assert decided > 0.9 * TRIALS


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
