"""Random sets of servers of which fewer than half lie; the truth is theta = 0."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pipeline.ntp.select import Candidate

# far: liars are wrong by a second, give or take; near: by as much as honest servers may be,
# with a smaller claimed error; colluding: all by the same, claiming just less than that.
KINDS = ("honest", "far", "near", "colluding")
# An honest server's error: anywhere in what it admits, or, as on real paths, a tenth of that.
WORST, USUAL = "worst", "usual"


def random_set(rng: random.Random, kind: str, errors: str = WORST) -> tuple[list[Candidate], frozenset[int]]:
    """Three to twelve servers in any order, and which of them lie."""
    count = rng.randint(3, 12)
    liars = 0 if kind == "honest" else rng.randint(0, (count - 1) // 2)
    honest = [_honest(rng, key, errors) for key in range(count - liars)]
    candidates = [*honest, *_liars(rng, range(count - liars, count), kind)]
    rng.shuffle(candidates)
    return candidates, frozenset(range(count - liars, count))


def _honest(rng: random.Random, key: int, errors: str) -> Candidate:
    distance = rng.lognormvariate(-5.0, 1.0)
    part = rng.uniform(-1, 1) if errors == WORST else max(-1.0, min(1.0, rng.gauss(0, 0.1)))
    return Candidate(key, part * distance, distance, distance / 20)


def _liars(rng: random.Random, keys: Sequence[int], kind: str) -> list[Candidate]:
    center, width = {"far": (0.0, 1.5), "near": (-5.0, 1.0)}.get(kind, (-5.0, 0.7))
    lie = rng.choice([-1, 1]) * rng.lognormvariate(center, width)
    together = rng.random() < 0.5
    found = []
    for key in keys:
        if kind == "colluding":
            theta, distance = lie + rng.gauss(0, 1e-4), abs(lie) * rng.uniform(0.2, 1)
        else:
            theta, distance = lie if together else rng.uniform(-2, 2) * lie, rng.lognormvariate(-6.0, 1.5)
        found.append(Candidate(key, theta, distance, distance / 20))
    return found
