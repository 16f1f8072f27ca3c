"""What is shown of each server: the columns of `grape-pipeline ntp` and of its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipeline.config import Thresholds
from pipeline.ntp.peer import Estimate, Peer
from pipeline.ntp.select import Outcome, Selection


class RowState(StrEnum):
    """A server's part in the verdict; `symbol` is chronyc's letter for it."""

    SYSTEM_PEER = "system_peer"
    COMBINED = "combined"
    NOT_COMBINED = "not_combined"
    FALSETICKER = "falseticker"
    UNUSABLE = "unusable"

    @property
    def symbol(self) -> str:
        """One character, as in `chronyc sources`."""
        return {"system_peer": "*", "combined": "+", "not_combined": "-", "falseticker": "x"}.get(self.value, "?")


@dataclass(frozen=True, slots=True)
class Row:
    """One server. Offset is host - server in ms; None = unknown. `reason` is "" for a good one."""

    name: str
    address: str | None
    state: RowState
    reason: str
    offset_ms: float | None
    delay_ms: float | None
    dispersion_ms: float | None
    stratum: int | None
    reach: int

    def as_dict(self) -> dict[str, Any]:
        """The keys of `ntp --json`."""
        return {
            "name": self.name,
            "address": self.address,
            "state": self.state.value,
            "reason": self.reason or None,
            "offset_ms": self.offset_ms,
            "delay_ms": self.delay_ms,
            "dispersion_ms": self.dispersion_ms,
            "stratum": self.stratum,
            "reach": self.reach,
        }


def usable(estimate: Estimate, thresholds: Thresholds) -> str:
    """ "" when the estimate may vote, else the threshold that it misses."""
    if estimate.delay_s * 1e3 > thresholds.max_delay_ms:
        return "delay"
    if estimate.distance_s * 1e3 > thresholds.max_distance_ms:
        return "distance"
    return ""


def build(
    peers: Sequence[Peer], estimates: Mapping[int, Estimate], selection: Selection, thresholds: Thresholds
) -> tuple[Row, ...]:
    """A row per server, in the order of the configuration."""
    return tuple(_row(p, estimates.get(p.index), selection, thresholds) for p in peers)


def _row(peer: Peer, estimate: Estimate | None, selection: Selection, thresholds: Thresholds) -> Row:
    state, reason = _state(peer, estimate, selection, thresholds)
    return Row(
        name=peer.name,
        address=str(peer.address) if peer.address else None,
        state=state,
        reason=reason,
        offset_ms=-estimate.theta_s * 1e3 if estimate else None,
        delay_ms=estimate.delay_s * 1e3 if estimate else None,
        dispersion_ms=estimate.dispersion_s * 1e3 if estimate else None,
        stratum=estimate.stratum if estimate else None,
        reach=peer.reach,
    )


def _state(peer: Peer, estimate: Estimate | None, selection: Selection, thresholds: Thresholds) -> tuple[RowState, str]:
    if estimate is None:
        return RowState.UNUSABLE, peer.reason or "no sample yet"
    if refused := usable(estimate, thresholds):
        return RowState.UNUSABLE, refused
    if selection.outcome is not Outcome.MAJORITY:
        return RowState.UNUSABLE, selection.outcome.value
    if peer.index in selection.falsetickers:
        return RowState.FALSETICKER, "falseticker"
    if peer.index == selection.system_peer:
        return RowState.SYSTEM_PEER, peer.reason
    if peer.index in selection.combined:
        return RowState.COMBINED, peer.reason
    return RowState.NOT_COMBINED, peer.reason
