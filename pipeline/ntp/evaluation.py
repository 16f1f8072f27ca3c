"""One look at all servers: their opinions now, the vote, and by which thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config import Ntp, Thresholds
from pipeline.ntp.peer import Drift, Estimate, Peer
from pipeline.ntp.rows import usable
from pipeline.ntp.select import Candidate, Outcome, Selection, select
from pipeline.ntp.verdict import Basis
from pipeline.ntp.wire import Instant
from pipeline.records import NtpQuality


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of the vote and what went into it; `estimates` by the peers' index."""

    selection: Selection
    quality: NtpQuality
    thresholds: Thresholds
    estimates: Mapping[int, Estimate]

    @property
    def lack(self) -> str:
        """Why there is no majority; "" when there is one."""
        agree, needed = len(self.selection.truechimers), self.thresholds.min_agree
        return {
            Outcome.MAJORITY: "",
            Outcome.UNDECIDED: "answers are outstanding",
            Outcome.NO_MAJORITY: "servers contradict each other without a majority",
            Outcome.TOO_FEW: f"only {agree} of the {needed} servers needed agree",
            Outcome.NO_CANDIDATES: "no usable server",
        }[self.selection.outcome]

    def refusal(self, peer: Peer) -> str:
        """Why the peer has no vote; "" when it has one."""
        estimate = self.estimates.get(peer.index)
        return peer.reason if estimate is None else usable(estimate, self.thresholds)

    def basis(self, now: Instant, peers: Sequence[Peer]) -> Basis | None:
        """The majority's offset as something to publish; None without a majority."""
        chosen = self.selection
        if chosen.outcome is not Outcome.MAJORITY or chosen.system_peer is None:
            return None
        best = self.estimates[chosen.system_peer]
        return Basis(
            utc_minus_raw_ns=round(chosen.theta_s * 1e9) + now.base,
            raw_ns=now.raw,
            measured_raw_ns=max(self.estimates[key].newest_raw_ns for key in chosen.truechimers),
            bound_s=chosen.uncertainty_s,
            jitter_s=chosen.jitter_s,
            source=f"servers:{peers[chosen.system_peer].name}",
            stratum=best.stratum,
            leap=chosen.leap,
            quality=self.quality,
        )


def evaluate(peers: Sequence[Peer], config: Ntp, now: Instant, drift: Drift) -> Evaluation:
    """Vote by the strict thresholds and, where these give no majority, by the relaxed ones.

    The majority itself is never relaxed. Servers whose very first answer is outstanding
    count as votes that may go either way.
    """
    # A server that missed eight polls has no vote (RFC 5905 A.5.5.3), however young its last sample.
    estimates = {p.index: e for p in peers if p.reach and (e := p.estimate(now, drift)) is not None}
    pending = sum(p.index not in estimates and p.first_poll and (p.pending or p.due(now.monotonic)) for p in peers)
    levels = [(NtpQuality.STRICT, config.strict)]
    if config.fallback:
        levels.append((NtpQuality.RELAXED, config.relaxed))
    for quality, thresholds in levels:
        candidates = [
            Candidate(index, e.theta_s, e.distance_s, e.jitter_s, e.leap)
            for index, e in estimates.items()
            if not usable(e, thresholds)
        ]
        selection = select(candidates, thresholds.min_agree, pending)
        result = Evaluation(selection, quality, thresholds, estimates)
        if selection.outcome is Outcome.MAJORITY:
            break
    return result
