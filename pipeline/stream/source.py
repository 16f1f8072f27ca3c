"""Which timeline a packet belongs to, decided as it arrives (RFC 3550 appendix A.1, extended).

A `Source` follows one SSRC. It unwraps sequence numbers and timestamps, tells the next
packet from a late, a duplicate and a foreign one, and notices when radiod has begun a new
RTP timeline (an *epoch*): after a restart both counters start again from a new UDP port;
after a change of rate the timestamp alone does.

Nothing is decided by one odd packet. A packet that fits no known place is *held*; only
when enough packets follow it, each continuing the one before, while the known timeline
does not move, does the held run become the new timeline, with all its packets. So a
stray, a forged or a very late packet costs nothing, and a restart loses nothing.

No clock is read: arrival times come with the packets. Order of arrival decides; times are
used only to tell a long silence of one timeline from the start of another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from pipeline.stream.rtp import SEQUENCE_MODULUS, signed16, signed32

Origin = tuple[str, int]

# Runs that turn held packets into a timeline. A rate change or a jump of the same sender
# is certain after three; another sender must keep on for 160 ms of radiod's 20 ms blocks
# in which the known one is mute; packets that look like copies of old ones (a restart on
# the same port does) may be a burst that some switch repeated, so a second's worth.
CONFIRM_JUMP = 3
CONFIRM_ORIGIN = 8
CONFIRM_REPEAT = 50
CONFIRM_IDLE = 2
IDLE_NS = 1_000_000_000
# How far a held run may skip or reorder and still be one run.
RUN_REORDER = 16
# Sequence numbers before the first packet of a timeline that may still come after it.
START_REORDER = 64
# Holes remembered; the oldest are forgotten first and their packets then count as duplicates.
MAX_HOLES = 4096
NOTHING_SEALED = -(1 << 62)


class Admission(IntEnum):
    """What to do with a packet."""

    PLACE = 1  # at `Source.extended_timestamp` in the current epoch
    REORDERED = 2  # the same, but it came after a later one
    HOLD = 3  # keep it aside
    PROMOTE = 4  # hold it too, then begin a new epoch with everything held
    DUPLICATE = 5
    LATE = 6
    BAD = 7


@dataclass(slots=True)
class Hole:
    """Sequence numbers [first, stop) that have not come; their samples lie in [start, end)."""

    first: int
    stop: int
    start: int
    end: int
    counted: bool = True


class Arrival(NamedTuple):
    """One packet as it came: wire values, payload bytes, sender and time of arrival (CLOCK_REALTIME)."""

    marker: bool
    sequence: int
    timestamp: int
    length: int
    origin: Origin
    arrival_ns: int


@dataclass(slots=True)
class Held:
    """A run of packets that may become a timeline."""

    first: Arrival
    last: Arrival
    looks_repeated: bool
    run: int = 1
    packets: int = 1
    strangers: int = 0


@dataclass(slots=True)
class Source:
    """The state of one SSRC; `admit` is the only way in. `rate_hz` is nominal, for plausibility only."""

    rate_hz: int
    bytes_per_frame: int
    epoch: int = 0
    origin: Origin | None = None
    sequence: int = 0
    timestamp: int = 0
    length: int = 0
    end: int = 0
    arrival_ns: int = 0
    sealed: int = NOTHING_SEALED
    lost: int = 0
    duplicates: int = 0
    bad: int = 0
    extended_sequence: int = 0
    extended_timestamp: int = 0
    holes: list[Hole] = field(default_factory=list)
    held: Held | None = None
    _next_sequence: int = 0
    _next_timestamp: int = 0

    def admit_next(self, sequence: int, timestamp: int, length: int, origin: Origin, arrival_ns: int) -> bool:
        """The common case, quickly: True if the packet is the very next one, which is then placed."""
        if sequence != self._next_sequence or timestamp != self._next_timestamp or origin != self.origin:
            return False
        self._place(self.sequence + 1, self.end, length, arrival_ns)
        return True

    def admit(self, packet: Arrival) -> Admission:
        """Decide on one packet.

        After PLACE, REORDERED and LATE, `extended_sequence` and `extended_timestamp` are
        the packet's. After PROMOTE the caller calls `begin` with the first held packet and
        admits all held packets again.
        """
        if packet.origin != self.origin:
            return self._hold(packet, repeated=False)
        step = signed16(packet.sequence - self.sequence)
        ahead = signed32(packet.timestamp - self.end)
        if step <= 0 and ahead > 60 * self.rate_hz and self._elapsed(ahead, packet.arrival_ns):
            # More than 2^15 packets are missing; the sequence number alone looks like an old one.
            step += SEQUENCE_MODULUS
        return self._admit_ahead(packet, step, ahead) if step > 0 else self._admit_behind(packet, step)

    def _place(self, sequence: int, timestamp: int, length: int, arrival_ns: int) -> None:
        self.extended_sequence = self.sequence = sequence
        self.extended_timestamp = self.timestamp = timestamp
        self.length = length
        self.end = end = timestamp + length // self.bytes_per_frame
        self._next_sequence = (sequence + 1) & 0xFFFF
        self._next_timestamp = end & 0xFFFF_FFFF
        self.arrival_ns = arrival_ns
        if self.held is not None:
            self._discard_held()

    def _discard_held(self) -> None:
        held, self.held = self.held, None
        if held is not None:
            if held.looks_repeated:
                self.duplicates += held.packets
            else:
                self.bad += held.packets

    def _admit_ahead(self, packet: Arrival, step: int, ahead: int) -> Admission:
        if step == 1:
            # The distance to the packet before says how wide its samples are, whatever was announced.
            frames = signed32(packet.timestamp - self.timestamp)
            for width in (4, 8):
                if width != self.bytes_per_frame and frames * width == self.length:
                    self.bytes_per_frame = width
                    self._place(self.sequence + 1, self.timestamp + frames, packet.length, packet.arrival_ns)
                    return Admission.PLACE
        lost = self._lost(step, ahead)
        plausible = ahead >= 0 and (
            ahead <= self.rate_hz
            or (step == 1 and packet.marker)
            or self._fits(lost, ahead)
            or self._elapsed(ahead, packet.arrival_ns)
        )
        if not plausible:
            return self._hold(packet, repeated=False)
        first = self.sequence + 1
        if lost:
            self._open_hole(Hole(first, first + lost, self.end, self.end + ahead))
            self.lost += lost
        self._place(first + lost, self.end + ahead, packet.length, packet.arrival_ns)
        return Admission.PLACE

    def _lost(self, step: int, ahead: int) -> int:
        """Packets missing before this one: known modulo 2^16, the timestamps tell which multiple."""
        lost = step - 1
        if not lost:
            return 0
        frames = max(1, self.length // self.bytes_per_frame)
        wraps = round((ahead / frames - lost) / SEQUENCE_MODULUS)
        return lost + max(0, wraps) * SEQUENCE_MODULUS

    def _fits(self, lost: int, ahead: int) -> bool:
        """True when `lost` packets of about the usual size fill `ahead` samples."""
        frames = max(1, self.length // self.bytes_per_frame)
        # radiod splits a block into packets of unequal size (180 + 140); the last one seen may be either.
        return lost > 0 and 0.5 * lost * frames <= ahead <= 2 * lost * frames + self.rate_hz // 10

    def _elapsed(self, ahead: int, arrival_ns: int) -> bool:
        """True when the samples that are missing are about the time that passed."""
        passed = (arrival_ns - self.arrival_ns) * self.rate_hz // 1_000_000_000
        return abs(passed - ahead) <= self.rate_hz + ahead // 50 and ahead < 1 << 31

    def _admit_behind(self, packet: Arrival, step: int) -> Admission:
        extended = self.sequence + step
        at = self.timestamp + signed32(packet.timestamp - self.timestamp)
        stop = at + packet.length // self.bytes_per_frame
        hole = self._hole_of(extended)
        if hole is None or at < hole.start or stop > hole.end:
            return self._hold(packet, repeated=at <= self.timestamp)
        self._fill(hole, extended, at, stop)
        self.extended_sequence, self.extended_timestamp = extended, at
        if stop <= self.sealed:
            return Admission.LATE
        if hole.counted:
            self.lost -= 1
        return Admission.REORDERED

    def _open_hole(self, hole: Hole) -> None:
        self.holes.append(hole)
        if len(self.holes) > MAX_HOLES:
            del self.holes[: MAX_HOLES // 2]

    def _hole_of(self, sequence: int) -> Hole | None:
        for hole in reversed(self.holes):
            if hole.first <= sequence < hole.stop:
                return hole
        return None

    def _fill(self, hole: Hole, sequence: int, start: int, end: int) -> None:
        """Take one packet out of a hole; what is left are at most two smaller ones."""
        at = self.holes.index(hole)
        parts = [
            Hole(hole.first, sequence, hole.start, start, hole.counted),
            Hole(sequence + 1, hole.stop, end, hole.end, hole.counted),
        ]
        self.holes[at : at + 1] = [part for part in parts if part.first < part.stop]

    def forget_holes(self, before: int) -> None:
        """Drop holes whose samples all lie before `before`."""
        self.holes = [hole for hole in self.holes if hole.end > before]

    def _hold(self, packet: Arrival, repeated: bool) -> Admission:
        held = self.held
        if held is None or not self._continues(held, packet):
            if held is not None and held.run > 1 and held.strangers < held.run:
                # A run that has begun well is not given up for the first stranger.
                held.strangers += 1
                self.bad += 1
                return Admission.BAD
            self._discard_held()
            self.held = Held(first=packet, last=packet, looks_repeated=repeated)
            # A stream that was never heard has nothing to contradict it.
            return Admission.PROMOTE if self.origin is None else Admission.HOLD
        held.packets += 1
        if signed16(packet.sequence - held.last.sequence) > 0:
            held.run += 1
            held.last = packet
        return Admission.PROMOTE if held.run >= self._needed(held, packet.arrival_ns) else Admission.HOLD

    def _continues(self, held: Held, packet: Arrival) -> bool:
        step = signed16(packet.sequence - held.last.sequence)
        frames = signed32(packet.timestamp - held.last.timestamp)
        if packet.origin != held.last.origin or not -RUN_REORDER <= step <= RUN_REORDER or step == 0:
            return False
        widest = max(held.last.length // 4, self.rate_hz // 50) * abs(step)
        return 0 < frames * (1 if step > 0 else -1) <= widest

    def _needed(self, held: Held, arrival_ns: int) -> int:
        if arrival_ns - self.arrival_ns > IDLE_NS:
            return CONFIRM_IDLE
        if held.last.origin != self.origin:
            return CONFIRM_ORIGIN
        return CONFIRM_REPEAT if held.looks_repeated else CONFIRM_JUMP

    def pending(self) -> bool:
        """True when a held run would be taken for a timeline if nothing else came."""
        held = self.held
        return held is not None and held.run >= CONFIRM_IDLE and not held.looks_repeated

    def reason(self) -> str:
        """Why the held run is a new epoch: one of the names that the files use."""
        held = self.held
        if self.origin is None or held is None:
            return "start"
        if held.first.origin != self.origin or (held.first.marker and held.first.sequence < START_REORDER):
            return "radiod_restart"
        return "timestamp_jump"

    def begin(self, epoch: int, first: Arrival) -> None:
        """Start `epoch`, an RTP timeline whose first packet is `first`; admit it next."""
        self.epoch = epoch
        self.origin = first.origin
        self.held = None
        self.sealed = NOTHING_SEALED
        # Extended values begin at the wire's, so that they differ from it by whole wraps only.
        self.sequence, self.timestamp, self.length = first.sequence - 1, first.timestamp, 0
        self.end = first.timestamp
        self._next_sequence, self._next_timestamp = first.sequence, first.timestamp
        self.arrival_ns = first.arrival_ns
        reach = START_REORDER * max(1, self.rate_hz // 50)
        at = first.timestamp
        self.holes = [Hole(first.sequence - START_REORDER, first.sequence, at - reach, at, counted=False)]
