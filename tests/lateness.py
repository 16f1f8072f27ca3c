"""What a simulator's truth file says of its own lateness: the only excuse for a label beyond its bound.

A recorder knows the time of a sample from pairs that can only be late, and allows for a lateness that all of them
share. Where the machine was too slow to send any pair of ten minutes in time, no recorder could know better: that
says nothing of the recorder, for or against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.simulator.truth import Timeline, Truth
from pipeline.stream.envelope import SECOND, WINDOW_S
from pipeline.stream.evidence import PAIR_FLOOR_NS

Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Lateness:
    """Of one timeline's status pairs: UTC of their samples, and how much later than that they were made, ns each."""

    utc_ns: Times
    late_ns: Times

    @classmethod
    def of(cls, truth: Truth, timeline: Timeline) -> Lateness:
        """As the simulator noted it."""
        noted = [e for e in truth.events if e["kind"] == "progress" and e["timeline"] == timeline.number]
        utc = [timeline.utc_ns(timeline.frame(e["rtp_next"])) for e in noted]
        return cls(np.array(utc, np.int64), np.array([e["pair_late_ns"] for e in noted], np.int64))

    def since(self, heard_ns: int) -> Lateness:
        """Without the pairs before `heard_ns` (UTC), when nobody listened yet."""
        heard = self.utc_ns >= heard_ns
        return Lateness(self.utc_ns[heard], self.late_ns[heard])

    def shared_ns(self, end_ns: int) -> int:
        """How late the least late pair was that speaks for a minute which ends at `end_ns`; 0 if there is none."""
        speak = (self.utc_ns <= end_ns) & (self.utc_ns > end_ns - WINDOW_S * SECOND)
        return int(self.late_ns[speak].min()) if speak.any() else 0

    def excuses(self, beyond_ns: int, end_ns: int) -> bool:
        """Whether a label is later than its bound by `beyond_ns` because every pair was later than one may be."""
        return 0 < beyond_ns <= self.shared_ns(end_ns) - PAIR_FLOOR_NS


def overdue_ms(truth: Truth) -> list[float]:
    """How long after their planned instants packets left, at most, in each half second of each channel; ascending."""
    noted: list[dict[str, Any]] = [e for e in truth.events if e["kind"] in ("progress", "removed")]
    return sorted(e["overdue_ns"] / 1e6 for e in noted)
