"""Packets that fit no known place, in runs that may turn out to be a new RTP timeline.

Several runs are followed at once, because strangers may send between the packets of a
radiod that has just been restarted. Here is only which packets belong together; their
payloads wait in the journal, under the run's number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from pipeline.stream.rtp import signed16, signed32

Origin = tuple[str, int]

# How far a run may skip or reorder and still be one run, and how many packets of the known
# timeline may come between its packets: both are what a network reorders.
REACH = 16
MAX_CANDIDATES = 4


@lru_cache(64)
def origin(address: int, port: int) -> Origin:
    """A sender by its address and port, both as numbers in host order."""
    return ".".join(str(address >> shift & 0xFF) for shift in (24, 16, 8, 0)), port


class Arrival(NamedTuple):
    """One packet as it came: wire values, payload bytes, sender and time of arrival (CLOCK_REALTIME)."""

    marker: bool
    sequence: int
    timestamp: int
    length: int
    origin: Origin
    arrival_ns: int


@dataclass(slots=True)
class Candidate:
    """A run of `packets` packets; `run` of them came in order since the known timeline last moved."""

    number: int
    first: Arrival
    last: Arrival
    looks_repeated: bool
    run: int = 1
    packets: int = 1
    moves: int = 0

    def continues(self, packet: Arrival, widest: int) -> bool:
        """True when the packet goes on where the run is; `widest` is how far two packets may be apart, in frames."""
        step = signed16(packet.sequence - self.last.sequence)
        frames = signed32(packet.timestamp - self.last.timestamp)
        if packet.origin != self.last.origin or not -REACH <= step <= REACH or step == 0:
            return False
        return 0 < frames * (1 if step > 0 else -1) <= widest * abs(step)

    def add(self, packet: Arrival) -> None:
        """The packet belongs to this run."""
        self.packets += 1
        if signed16(packet.sequence - self.last.sequence) > 0:
            self.run += 1
            self.last = packet

    def repeats(self, packet: Arrival) -> bool:
        """True for a copy of the newest packet."""
        last = self.last
        return (packet.sequence, packet.timestamp, packet.origin) == (last.sequence, last.timestamp, last.origin)


@dataclass(slots=True)
class Candidates:
    """All runs that are being followed; what is dropped is returned, to be counted."""

    runs: list[Candidate] = field(default_factory=list)
    next_number: int = 0

    def find(self, packet: Arrival, widest: int) -> Candidate | None:
        """The run that the packet continues."""
        return next((run for run in self.runs if run.continues(packet, widest)), None)

    def repeated(self, packet: Arrival) -> bool:
        """True for a copy of some run's newest packet."""
        return any(run.repeats(packet) for run in self.runs)

    def start(self, packet: Arrival, looks_repeated: bool) -> tuple[Candidate, list[Candidate]]:
        """A new run, and what had to go for it: copies first, then the shortest one, the oldest of these."""
        dropped = []
        if len(self.runs) >= MAX_CANDIDATES:
            dropped.append(min(self.runs, key=lambda run: (not run.looks_repeated, run.run)))
            self.runs.remove(dropped[0])
        run = Candidate(self.next_number, packet, packet, looks_repeated)
        self.next_number += 1
        self.runs.append(run)
        return run, dropped

    def moved(self, origin: Origin | None) -> list[Candidate]:
        """The known timeline moved on, which speaks against all runs; returns those given up.

        The last packets of a sender's old timeline may come after the first of its new one,
        so its own runs are given up only when that goes on.
        """
        kept: list[Candidate] = []
        dropped: list[Candidate] = []
        for run in self.runs:
            run.run = 0
            run.moves += 1
            (kept if run.last.origin == origin and run.moves <= REACH else dropped).append(run)
        self.runs = kept
        return dropped

    def nearer(self, timestamp: int, end: int) -> bool:
        """True when a run is nearer to a timestamp than the known timeline, which ends at `end`."""
        distance = abs(signed32(timestamp - end))
        runs = [run for run in self.runs if not run.looks_repeated]
        return any(abs(signed32(timestamp - run.last.timestamp)) < distance for run in runs)

    def clear(self) -> list[Candidate]:
        """Give up all; returns them."""
        dropped, self.runs = self.runs, []
        return dropped

    def to_json(self) -> list[Any]:
        """The runs as plain values."""
        return [self.next_number, [list(astuple(run)) for run in self.runs]]

    @classmethod
    def from_json(cls, state: Iterable[Any]) -> Candidates:
        """The runs that `to_json` described."""
        number, runs = state
        return cls([Candidate(n, _arrival(first), _arrival(last), *rest) for n, first, last, *rest in runs], number)


def _arrival(values: list[Any]) -> Arrival:
    marker, sequence, timestamp, length, origin, arrival_ns = values
    return Arrival(marker, sequence, timestamp, length, (origin[0], origin[1]), arrival_ns)
