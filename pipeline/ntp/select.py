"""Which servers tell the truth, and what they say together.

Marzullo's intersection (RFC 5905 section 11.2.1): each server says that UTC lies within
theta +- distance; the offset that most of them allow is taken, and only when those are
more than half of all that are asked to vote. Servers that do not reach into it are
falsetickers. The majority is never relaxed: two against two is no answer, not a mean.

The rest is weighted by 1/distance, leaving out servers more than three times as far as
the best (chrony's combinelimit; RFC clustering lands further from what chrony says).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

# ntpsec's sys_mindist: servers within a millisecond agree, however small an error they
# claim. Without it good servers that all claim microseconds call each other liars.
MIN_DISTANCE_S = 1e-3
COMBINE_LIMIT = 3.0
# The nearest server's word is enough when every server's own offset lies within this part
# of its bound. Of random sets with less than half liars at most 0.04 % are then outside of
# the uncertainty, even if the liars collude within the others' error; 15 to 38 % are
# outside of the nearest server's bound alone (python -m tests.bench.bench_ntp --uncertainty).
CLOSE = 0.5


class Outcome(Enum):
    """What the vote came to."""

    MAJORITY = "majority"
    UNDECIDED = "undecided"  # answers are outstanding that could decide it
    NO_MAJORITY = "no-majority"  # servers contradict each other
    TOO_FEW = "too-few"  # the majority is smaller than min_agree
    NO_CANDIDATES = "no-candidates"


class Candidate(NamedTuple):
    """One server's vote; seconds. `key` is whatever the caller knows it by."""

    key: int
    theta_s: float
    distance_s: float
    jitter_s: float = 0.0
    leap: int = 0

    @property
    def reach_s(self) -> float:
        """Half the width of its interval."""
        return max(self.distance_s, MIN_DISTANCE_S)


@dataclass(frozen=True, slots=True)
class Selection:
    """The result; numbers are NaN unless `outcome` is MAJORITY.

    `bound_s` is the system peer's root distance seen from the combined offset (RFC 5905).
    It rests on one server's word: a liar that stays within the others' error and claims a
    small one of its own becomes system peer (chronyd follows it, too). `farthest_s` is the
    farthest offset that a majority of intervals allows; UTC is no farther as long as less
    than half of the servers lie. `close` tells that no server contradicts the tighter of
    the two. `jitter_s` is the expected error.
    """

    outcome: Outcome
    candidates: int = 0
    truechimers: frozenset[int] = frozenset()
    falsetickers: frozenset[int] = frozenset()
    combined: frozenset[int] = frozenset()
    system_peer: int | None = None
    theta_s: float = math.nan
    bound_s: float = math.nan
    farthest_s: float = math.nan
    jitter_s: float = math.nan
    leap: int = 3
    close: bool = False

    @property
    def uncertainty_s(self) -> float:
        """The bound to publish: the nearest server's if all confirm it, else what the majority allows, too."""
        return self.bound_s if self.close else max(self.bound_s, self.farthest_s)


Edge = tuple[float, bool]  # where, closing


def _edges(candidates: Sequence[Candidate]) -> list[Edge]:
    opening = [(c.theta_s - c.reach_s, False) for c in candidates]
    closing = [(c.theta_s + c.reach_s, True) for c in candidates]
    return sorted(opening + closing)  # at a tie opening comes first: touching is agreeing


def _deepest(edges: Sequence[Edge]) -> tuple[int, float, float]:
    """Greatest number of overlapping intervals, and from where to where it is reached."""
    depth = best = 0
    low = high = math.nan
    for at, closing in edges:
        if not closing:
            depth += 1
            if depth > best:
                best, low = depth, at
            continue
        if depth == best:
            high = at
        depth -= 1
    return best, low, high


def _farthest(edges: Sequence[Edge], theta_s: float, voters: int) -> float:
    """Distance from theta to the farthest point that more than half of the intervals cover."""
    depth, farthest = 0, 0.0
    for at, closing in edges:
        depth += not closing
        if depth * 2 > voters:
            farthest = max(farthest, abs(at - theta_s))
        depth -= closing
    return farthest


def select(candidates: Sequence[Candidate], min_agree: int, pending: int = 0) -> Selection:
    """Vote among `candidates`; `pending` servers have been asked and may still answer.

    A majority must be one whatever the pending servers are going to say.
    """
    voters = len(candidates)
    if not voters:
        return Selection(Outcome.UNDECIDED if pending else Outcome.NO_CANDIDATES)
    if voters <= pending:
        return Selection(Outcome.UNDECIDED, voters)
    edges = _edges(candidates)
    depth, low, high = _deepest(edges)
    if depth * 2 <= voters + pending:
        return Selection(Outcome.UNDECIDED if pending else Outcome.NO_MAJORITY, voters)
    true = [c for c in candidates if c.theta_s - c.reach_s <= high and c.theta_s + c.reach_s >= low]
    agreeing = frozenset(c.key for c in true)
    liars = frozenset(c.key for c in candidates) - agreeing
    if len(true) < min_agree:
        return Selection(Outcome.UNDECIDED if pending else Outcome.TOO_FEW, voters, agreeing, liars)
    return _combine(true, liars, edges, voters, pending)


def _combine(
    true: Sequence[Candidate], liars: frozenset[int], edges: Sequence[Edge], voters: int, pending: int
) -> Selection:
    best = min(true, key=lambda c: c.distance_s)
    used = [c for c in true if c.distance_s <= COMBINE_LIMIT * best.reach_s]
    weights = [1.0 / c.reach_s for c in used]
    total = sum(weights)
    theta_s = sum(w * c.theta_s for w, c in zip(weights, used, strict=True)) / total
    spread = sum(w * (c.theta_s - theta_s) ** 2 for w, c in zip(weights, used, strict=True)) / total
    bound_s = best.distance_s + abs(best.theta_s - theta_s)
    return Selection(
        outcome=Outcome.MAJORITY,
        candidates=voters,
        truechimers=frozenset(c.key for c in true),
        falsetickers=liars,
        combined=frozenset(c.key for c in used),
        system_peer=best.key,
        theta_s=theta_s,
        bound_s=bound_s,
        farthest_s=_farthest(edges, theta_s, voters),
        jitter_s=math.sqrt(spread + best.jitter_s**2),
        leap=_leap([c.leap for c in true], pending),
        close=not liars and all(abs(c.theta_s - theta_s) <= CLOSE * bound_s for c in true),
    )


def _leap(votes: Sequence[int], pending: int) -> int:
    for leap in (1, 2):
        if votes.count(leap) * 2 > len(votes) + pending:
            return leap
    return 0
