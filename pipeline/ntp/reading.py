"""What a local time source gives, and the rules about its age that all of them share."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.ntp.wire import PHI, Instant

# A daemon goes on saying "synchronised" long after its servers have vanished: chronyd for
# ever, with a dispersion that grows 1 ppm. What counts is when it last heard from one.
MIN_UPDATE_S = 64.0
UPDATES_OVERDUE = 4
GRACE_S = 10.0
STALE_FACTOR = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """A healthy daemon's word: theta = UTC - host in seconds, at `at`, within `bound_s`.

    `age_s` is the time since the daemon last heard from its reference.
    """

    source: str
    at: Instant
    theta_s: float
    bound_s: float
    jitter_s: float
    stratum: int
    leap: int
    reference: str
    age_s: float


@dataclass(frozen=True, slots=True)
class Absence:
    """Why there is no reading."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class KernelState:
    """adjtimex(2) without a change; errors in s, frequency in s/s, positive = realtime gains on raw."""

    synchronised: bool
    max_error_s: float
    frequency: float
    leap: int


def overdue_s(age_s: float, update_interval_s: float) -> float | None:
    """What an update's age adds to the bound, s; None when it is too old to be believed."""
    limit_s = max(MIN_UPDATE_S, UPDATES_OVERDUE * update_interval_s) + GRACE_S
    if age_s <= limit_s:
        return 0.0
    return PHI * age_s if age_s <= STALE_FACTOR * limit_s else None
