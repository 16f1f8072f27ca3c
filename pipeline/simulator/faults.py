"""What the network does to one channel's packets, between the packet list and the socket.

A pure machine: packets and times go in, deliveries come out, chance is a seeded generator. It neither
sends nor waits. What radiod itself does wrong (mutes, zero blocks, restarts) is not here but in `channel`.
"""

from __future__ import annotations

import random
from enum import Enum
from typing import NamedTuple

from pipeline.simulator.spec import FaultPlan


class Packet(NamedTuple):
    """One RTP packet as radiod made it; `timeline` is the truth file's number of its timeline."""

    ssrc: int
    sequence_number: int
    timestamp: int
    frames: int
    header: bytes
    payload: memoryview | bytes
    timeline: int
    destination: tuple[str, int]


class Fate(Enum):
    """What became of a packet; the value is the word in the truth file."""

    SENT = "sent"
    DROPPED = "dropped"
    DUPLICATE = "duplicate"  # one more copy
    LATE = "late"
    REORDERED = "reordered"  # overtaken by later packets of its channel


class Delivery(NamedTuple):
    """Send `packet` at `at_ns`, unless its fate is DROPPED."""

    at_ns: int
    packet: Packet
    fate: Fate


class FaultLine:
    """One channel's way through the network. `feed` is the only door.

    Every packet fed comes out exactly once as SENT, DROPPED, LATE or REORDERED (a reordered one at the
    latest in `flush`), and possibly once more as DUPLICATE.
    """

    def __init__(self, plan: FaultPlan, seed: int, ssrc: int) -> None:
        self._plan = plan
        self._random = random.Random(f"{seed} {ssrc} faults")
        self._drops = sorted(plan.drops)
        self._burst_left = 0
        self._held: list[tuple[int, Packet]] = []
        self.clean = not (plan.loss or plan.burst or plan.drops or plan.reorder or plan.duplicate or plan.late)

    def feed(self, packet: Packet, due_ns: int, at_s: float) -> list[Delivery]:
        """What leaves now or later because `packet` is due at `due_ns`; `at_s` is its age on the sample clock."""
        if self.clean:
            return [Delivery(due_ns, packet, Fate.SENT)]
        if self._loses(at_s):
            return [Delivery(due_ns, packet, Fate.DROPPED), *self._overtake(due_ns)]
        plan, chance = self._plan, self._random.random
        if chance() < plan.late:
            out = [Delivery(due_ns + round(plan.late_s * 1e9), packet, Fate.LATE)]
        elif chance() < plan.reorder:
            # One more than the depth: this packet's own pass below counts one down.
            self._held.append((self._random.randint(1, plan.reorder_depth) + 1, packet))
            out = []
        else:
            out = [Delivery(due_ns, packet, Fate.SENT)]
        if chance() < plan.duplicate:
            out.append(Delivery(due_ns + round(plan.duplicate_delay_s * 1e9), packet, Fate.DUPLICATE))
        return out + self._overtake(due_ns)

    def flush(self, due_ns: int) -> list[Delivery]:
        """What is still held back."""
        held, self._held = self._held, []
        return [Delivery(due_ns, packet, Fate.REORDERED) for _, packet in held]

    def _overtake(self, due_ns: int) -> list[Delivery]:
        self._held = [(left - 1, packet) for left, packet in self._held]
        out = [Delivery(due_ns, packet, Fate.REORDERED) for left, packet in self._held if left == 0]
        self._held = [(left, packet) for left, packet in self._held if left]
        return out

    def _loses(self, at_s: float) -> bool:
        if self._drops and at_s >= self._drops[0][0]:
            self._burst_left += self._drops.pop(0)[1]
        plan = self._plan
        if not self._burst_left and plan.burst and self._random.random() < plan.burst:
            self._burst_left = plan.burst_packets
        if self._burst_left:
            self._burst_left -= 1
            return True
        return bool(plan.loss) and self._random.random() < plan.loss
