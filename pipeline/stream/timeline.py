"""One RTP timeline, an *epoch*: where it begins, what is known of its time and of its format.

Within it UTC is a straight line through an anchor with the nominal sample rate, in integers; no arithmetic
crosses epochs. What the line rests on and how far it may be wrong is in `evidence`.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.stream.anchor import MINUTE, SECOND, Anchor
from pipeline.stream.evidence import Evidence, HostClock, Proposal
from pipeline.stream.rtp import signed32

__all__ = ["MINUTE", "SECOND", "STATUS_REACH_S", "Anchor", "Epoch", "HostClock"]

# A status further than this from the packets around it belongs to another timeline.
STATUS_REACH_S = 10
# RTP_TIMESNAP is the next packet's timestamp; a few may be on their way through the socket.
STATUS_AHEAD_S = 0.5


@dataclass(slots=True)
class Epoch:
    """One RTP timeline; times of arrival are of the recorder's clock (see `evidence`)."""

    id: int
    reason: str
    first_timestamp: int
    first_arrival_ns: int
    rate_hz: int
    end: int = 0
    last_arrival_ns: int = 0
    rate_known: bool = False
    cut: int = 0
    previous_sequence: int | None = None
    previous_end: int = 0
    anchor: Anchor | None = None
    formats: list[tuple[int, str]] = field(default_factory=list)
    # Where the samples ended when the program did; it went on after that.
    breaks: list[int] = field(default_factory=list)
    evidence: Evidence = field(default_factory=Evidence)

    def near(self, timestamp: int) -> int:
        """A wire timestamp as the extended one nearest to the newest sample."""
        return self.end + signed32(timestamp - self.end)

    def owns_status(self, timesnap: int, arrival_ns: int, current: bool) -> bool:
        """True when a status with this RTP_TIMESNAP, come at `arrival_ns`, can be of this timeline.

        It may be seconds behind the packets (radiod catching up) but never ahead of them,
        and it may come shortly before the first packet but not after another timeline began.
        """
        reach = STATUS_REACH_S * SECOND
        if (
            not self.first_arrival_ns - reach
            <= arrival_ns
            <= self.last_arrival_ns + (reach if current else SECOND // 2)
        ):
            return False
        at = self.near(timesnap)
        newest = self.first_timestamp if arrival_ns < self.first_arrival_ns else self.end
        ahead = at - newest
        return self.first_timestamp - self.rate_hz <= at and -STATUS_REACH_S <= ahead / self.rate_hz <= STATUS_AHEAD_S

    def learn(self, timesnap: int, rate_hz: int | None, encoding: str | None) -> None:
        """A status says how packets from `timesnap` on are made."""
        if rate_hz and rate_hz != self.rate_hz:
            self.evidence.arrivals.clear()
            if self.reason == "timestamp_jump":
                self.reason = "rate_change"
            self.rate_hz = rate_hz
        self.rate_known = self.rate_known or bool(rate_hz)
        if encoding:
            self._add_format(self.near(timesnap), encoding)

    def _add_format(self, at: int, encoding: str) -> None:
        row = bisect_right(self.formats, at, key=lambda known: known[0])
        if row and self.formats[row - 1][1] == encoding:
            return
        if row < len(self.formats) and self.formats[row][1] == encoding:
            del self.formats[row]
        self.formats.insert(row, (at, encoding))

    def forget_formats(self, before: int) -> None:
        """Drop what was in force only for samples before `before`."""
        while len(self.formats) > 1 and self.formats[1][0] <= before:
            del self.formats[0]

    def add_pair(self, timesnap: int, utc_ns: int, arrival_ns: int) -> None:
        """A status pair: radiod's clock said `utc_ns` when the next packet was to be `timesnap`."""
        self.evidence.add_pair(self.near(timesnap), utc_ns, arrival_ns, self.rate_hz)

    def add_arrivals(self, ends: npt.NDArray[np.int64], arrivals_ns: npt.NDArray[np.int64]) -> None:
        """Packets whose last samples are before `ends` arrived at `arrivals_ns` of the recorder's clock."""
        self.evidence.add_arrivals(ends, arrivals_ns, self.rate_hz)

    def propose(self, host: HostClock, chain_delay_ns: int) -> Proposal | None:
        """The best line that the evidence at hand gives; None when there is none at all."""
        opening = (self.first_timestamp, self.first_arrival_ns)
        return self.evidence.propose(self.rate_hz, host, chain_delay_ns, opening)

    def rate_ppm(self) -> tuple[float, float]:
        """The sample clock against the recorder's, parts per million, and its standard deviation; NaN while unknown."""
        return self.evidence.rate_ppm(self.rate_hz)

    def to_json(self) -> dict[str, Any]:
        """Everything a successor needs, as plain values."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        anchor = self.anchor.to_json() if self.anchor else None
        return {**state, "anchor": anchor, "evidence": self.evidence.to_json()}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Epoch:
        """The epoch that `to_json` described."""
        plain = dict(state)
        plain["anchor"] = Anchor.from_json(state["anchor"]) if state["anchor"] else None
        plain["formats"] = [(at, encoding) for at, encoding in state["formats"]]
        plain["evidence"] = Evidence.from_json(state["evidence"])
        return cls(**plain)
