"""What is missing on a timeline: sequence numbers that have not come, and where their samples lie.

A packet that comes after a later one is in order if and only if it fills a hole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

# The oldest are forgotten first; their packets then count as duplicates.
MAX_HOLES = 4096
# The checkpoint has room for so many.
KEPT_HOLES = 1500


@dataclass(slots=True)
class Hole:
    """Sequence numbers [first, stop) that have not come; their samples lie in [start, end).

    They begin up to `slack` earlier if the packet before has wider samples than was thought.
    `counted` holes are losses; the place before a timeline's first packet is not.
    """

    first: int
    stop: int
    start: int
    end: int
    counted: bool = True
    slack: int = 0


class Holes:
    """The holes of one timeline, in order."""

    def __init__(self, holes: list[Hole] | None = None) -> None:
        self._holes = holes or []

    def __iter__(self) -> Iterator[Hole]:
        return iter(self._holes)

    def __len__(self) -> int:
        return len(self._holes)

    def add(self, hole: Hole) -> None:
        """Remember a hole after all others."""
        self._holes.append(hole)
        if len(self._holes) > MAX_HOLES:
            del self._holes[: MAX_HOLES // 2]

    def _row(self, sequence: int) -> int:
        return bisect_right(self._holes, sequence, key=lambda hole: hole.first) - 1

    def find(self, sequence: int) -> Hole | None:
        """The hole in which an extended sequence number is missing."""
        row = self._row(sequence)
        return self._holes[row] if row >= 0 and sequence < self._holes[row].stop else None

    def fill(self, hole: Hole, sequence: int, start: int, end: int, slack: int) -> None:
        """Take one packet with samples [start, end) out of a hole; what is left are at most two smaller ones."""
        row = self._row(sequence)
        parts = [
            Hole(hole.first, sequence, hole.start, start, hole.counted, hole.slack),
            Hole(sequence + 1, hole.stop, end, hole.end, hole.counted, slack),
        ]
        self._holes[row : row + 1] = [part for part in parts if part.first < part.stop]

    def forget(self, before: int) -> None:
        """Drop holes whose samples all lie before a timestamp."""
        self._holes = [hole for hole in self._holes if hole.end > before]

    def to_json(self) -> list[Any]:
        """The newest holes as plain values."""
        return [list(astuple(hole)) for hole in self._holes[-KEPT_HOLES:]]

    @classmethod
    def from_json(cls, state: list[Any]) -> Holes:
        """The holes that `to_json` described."""
        return cls([Hole(*hole) for hole in state])
