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
from itertools import accumulate
from typing import Any

from pipeline.stream.candidates import Arrival, Candidate, Candidates, Origin
from pipeline.stream.holes import Hole, Holes
from pipeline.stream.lot import Lot
from pipeline.stream.rtp import SEQUENCE_MODULUS, VERSION_BITS, signed16, signed32

__all__ = ["NOTHING_SEALED", "Admission", "Arrival", "Origin", "Source"]

# Runs that turn held packets into a timeline. A rate change or a jump of the same sender
# is certain after three; another sender must keep on for 160 ms of radiod's 20 ms blocks
# in which the known one is mute, and any after a silence for two packets. Packets that look
# like copies of old ones (a restart on the same port may) can be a burst that some switch
# repeated, so a second's worth.
CONFIRM_JUMP = 3
CONFIRM_ORIGIN = 8
CONFIRM_REPEAT = 50
CONFIRM_IDLE = 2
IDLE_NS = 1_000_000_000
# Sequence numbers before the first packet of a timeline that may still come after it.
START_REORDER = 64
# A packet so little behind the newest one was received before; one from further back, or
# after a silence, may also be the start of a new timeline that looks like the old.
REPEAT_WINDOW = 64
# So many may be missing whatever their size; more must be worth the samples that are missing.
ANY_SIZE = 64
NOTHING_SEALED = -(1 << 62)
# Earlier timelines whose copies are known as such: more than may begin while a network keeps a packet.
KEPT_PAST = 4
# Packets may have waited somewhere for so long before those that follow them.
EARLY_S = 10
# All encodings have two or four bytes per number.
UNIT = 4


class Admission(IntEnum):
    """What to do with a packet."""

    PLACE = 1  # at `Source.extended_timestamp` in the current epoch
    REORDERED = 2  # the same, but it came after a later one
    HOLD = 3  # keep it aside, in the run `Source.held_number`
    PROMOTE = 4  # keep it too, then begin a new epoch with that run
    DUPLICATE = 5
    LATE = 6  # it has its place, but what lies there was cut already
    BAD = 7


@dataclass(frozen=True, slots=True)
class Past:
    """What an earlier timeline covered: a packet of the same sender in [first, last] is a copy, as it seems."""

    origin: Origin
    first: int
    last: int

    def covers(self, packet: Arrival) -> bool:
        """True when the packet may be one of that timeline."""
        at = self.last + signed32(packet.timestamp - self.last)
        return packet.origin == self.origin and self.first <= at <= self.last


@dataclass(slots=True)
class Source:
    """The state of one SSRC; `admit` is the only way in. `rate_hz` is nominal, for plausibility only."""

    rate_hz: int
    bytes_per_frame: int
    epoch: int = 0
    origin: Origin | None = None
    sequence: int = 0
    timestamp: int = 0
    first: int = 0
    length: int = 0
    before: int = 0
    end: int = 0
    arrival_ns: int = 0
    sealed: int = NOTHING_SEALED
    lost: int = 0
    duplicates: int = 0
    bad: int = 0
    extended_sequence: int = 0
    extended_timestamp: int = 0
    held_number: int = 0
    holes: Holes = field(default_factory=Holes)
    candidates: Candidates = field(default_factory=Candidates)
    past: list[Past] = field(default_factory=list)
    _next_sequence: int = 0
    _next_timestamp: int = 0

    def run_end(self, lot: Lot, begin: int, ssrc: int, size: int) -> int:
        """The common case, quickly: the row before which a run ends that begins with `begin`; `begin` if there is none.

        A run's packets are each the very next one, with nothing to be weighed, `size` payload bytes at most.
        """
        if self.end < self.sealed or self.candidates.runs:
            return begin
        home, width, sequence, timestamp = self.origin, self.bytes_per_frame, self._next_sequence, self._next_timestamp
        for row in range(begin, len(lot.lengths)):
            bits, _, found_sequence, found_timestamp, found_ssrc = lot.headers[row]
            length = lot.lengths[row]
            size -= length
            if (
                found_sequence != sequence
                or found_timestamp != timestamp
                or lot.origins[row] != home
                or bits != VERSION_BITS
                or found_ssrc != ssrc
                or length <= 0
                or length % UNIT
                or size < 0
            ):
                return row
            sequence, timestamp = (sequence + 1) & 0xFFFF, (timestamp + length // width) & 0xFFFF_FFFF
        return len(lot.lengths)

    def place_run(self, lengths: list[int], arrival_ns: int) -> list[int]:
        """Place the packets of a run; `lengths` are their payloads' in bytes, `arrival_ns` is the last one's.

        Returns their extended timestamps.
        """
        width = self.bytes_per_frame
        starts = list(accumulate((length // width for length in lengths[:-1]), initial=self.end))
        if len(lengths) > 1:
            self.length = lengths[-2]
        self._place(self.sequence + len(lengths), starts[-1], lengths[-1], arrival_ns)
        return starts

    def admit(self, packet: Arrival) -> Admission:
        """Decide on one packet.

        After PLACE, REORDERED and LATE, `extended_sequence` and `extended_timestamp` are
        the packet's. After PROMOTE the caller calls `begin` with the run's first packet and
        admits all its packets again.
        """
        if packet.length <= 0 or packet.length % UNIT:
            self.bad += 1
            return Admission.BAD
        if packet.origin != self.origin:
            return self._hold(packet)
        step = signed16(packet.sequence - self.sequence)
        ahead = signed32(packet.timestamp - self.end)
        if step <= 0 and ahead > 60 * self.rate_hz and self._elapsed(ahead, packet.arrival_ns):
            # More than 2^15 packets are missing; the sequence number alone looks like an old one.
            step += SEQUENCE_MODULUS
        return self._admit_ahead(packet, step) if step > 0 else self._admit_behind(packet, step)

    def _place(self, sequence: int, timestamp: int, length: int, arrival_ns: int) -> None:
        self.extended_sequence = self.sequence = sequence
        self.extended_timestamp = self.timestamp = timestamp
        self.before = self.length
        self.length = length
        self.end = end = timestamp + length // self.bytes_per_frame
        self._next_sequence = (sequence + 1) & 0xFFFF
        self._next_timestamp = end & 0xFFFF_FFFF
        self.arrival_ns = arrival_ns
        if self.candidates.runs:
            self._count_dropped(self.candidates.moved(self.origin))

    def _count_dropped(self, runs: list[Candidate]) -> None:
        for run in runs:
            if run.looks_repeated:
                self.duplicates += run.packets
            else:
                self.bad += run.packets

    def _admit_ahead(self, packet: Arrival, step: int) -> Admission:
        self._learn_width(packet, step)
        ahead = signed32(packet.timestamp - self.end)
        lost = self._lost(step, ahead, packet.marker)
        room = ahead >= 0 and (lost <= ANY_SIZE or 4 * ahead >= lost * self._usual_frames())
        plausible = room and (
            ahead <= self.rate_hz
            or (((step == 1 and packet.marker) or self._fits(lost, ahead)) and self._past(ahead, packet.arrival_ns))
            or self._elapsed(ahead, packet.arrival_ns)
        )
        if not plausible:
            return self._hold(packet)
        first = self.sequence + 1
        if lost:
            self.holes.add(Hole(first, first + lost, self.end, self.end + ahead, slack=self._slack(self.length)))
            self.lost += lost
        self._place(first + lost, self.end + ahead, packet.length, packet.arrival_ns)
        return Admission.LATE if self.end <= self.sealed else Admission.PLACE

    def _learn_width(self, packet: Arrival, step: int) -> None:
        """The distance to the packet before says how wide its samples are, whatever was announced."""
        frames = signed32(packet.timestamp - self.timestamp)
        for width in (4, 8):
            # Between packets that do not follow each other, only that narrow samples would overlap.
            exact = step == 1 and frames * width == self.length > 0
            overlap = width == 8 and self.length <= frames * 8 and frames * 4 < self.length
            if width != self.bytes_per_frame and (exact or overlap):
                self.bytes_per_frame = width
                self.end = self.timestamp + self.length // width
                self._next_timestamp = self.end & 0xFFFF_FFFF
                return

    def _usual_frames(self) -> int:
        # radiod splits a block into packets of unequal size (180 + 140).
        return max(1, (self.length + (self.before or self.length)) // (2 * self.bytes_per_frame))

    def _lost(self, step: int, ahead: int, marker: bool) -> int:
        """Packets missing before this one: known modulo 2^16, the timestamps tell which multiple."""
        lost, frames = step - 1, self._usual_frames()
        # radiod marks the first packet after a mute (ka9q-radio src/audio.c).
        wraps = round((ahead / frames - lost) / SEQUENCE_MODULUS) if lost or not marker else 0
        more = lost + wraps * SEQUENCE_MODULUS
        # Much more time than packets: the stream was mute besides.
        return more if wraps > 0 and abs(more * frames - ahead) <= ahead // 32 else lost

    def _fits(self, lost: int, ahead: int) -> bool:
        """True when `lost` packets of about the usual size fill `ahead` samples; what wrapped is only a guess."""
        frames = self._usual_frames()
        return 0 < lost < SEQUENCE_MODULUS and 0.5 * lost * frames <= ahead <= 2 * lost * frames + self.rate_hz // 10

    def _past(self, ahead: int, arrival_ns: int) -> bool:
        """True unless the samples that are missing are of the future."""
        passed = (arrival_ns - self.arrival_ns) * self.rate_hz // 1_000_000_000
        return passed < 0 or ahead <= passed + EARLY_S * self.rate_hz

    def _elapsed(self, ahead: int, arrival_ns: int) -> bool:
        """True when the samples that are missing are about the time that passed."""
        passed = (arrival_ns - self.arrival_ns) * self.rate_hz // 1_000_000_000
        return abs(passed - ahead) <= self.rate_hz + ahead // 50 and ahead < 1 << 31

    def _admit_behind(self, packet: Arrival, step: int) -> Admission:
        extended = self.sequence + step
        at = self.timestamp + signed32(packet.timestamp - self.timestamp)
        hole = self.holes.find(extended)
        if hole is None:
            if self._just_received(packet, step, at):
                self.duplicates += 1
                return Admission.DUPLICATE
            return self._hold(packet)
        stop = at + packet.length // self.bytes_per_frame
        if stop > hole.end:
            # It may be of before a change to samples half as wide.
            stop = at + packet.length // 8
        if at < hole.start - hole.slack or stop > hole.end:
            return self._hold(packet)
        self.holes.fill(hole, extended, at, stop, self._slack(packet.length))
        self.extended_sequence, self.extended_timestamp = extended, at
        if stop <= self.sealed:
            return Admission.LATE
        # A packet that reaches over the seal is in its minute's file as lost.
        if hole.counted and at >= self.sealed:
            self.lost -= 1
        return Admission.REORDERED

    def _just_received(self, packet: Arrival, step: int, at: int) -> bool:
        near = -REPEAT_WINDOW <= step <= 0 and self.timestamp - self.rate_hz <= at <= self.timestamp
        return near and packet.arrival_ns - self.arrival_ns <= IDLE_NS

    def _slack(self, length: int) -> int:
        return length // 8 if self.bytes_per_frame == 4 else 0

    def _hold(self, packet: Arrival) -> Admission:
        if self.candidates.repeated(packet):
            self.duplicates += 1
            return Admission.DUPLICATE
        run = self.candidates.find(packet, self.rate_hz)
        if run is None:
            known = [Past(self.origin, self.first, self.timestamp), *self.past] if self.origin else self.past
            run, dropped = self.candidates.start(packet, any(past.covers(packet) for past in known))
            self._count_dropped(dropped)
        else:
            run.add(packet)
        self.held_number = run.number
        # A stream that was never heard has nothing to contradict it.
        needed = 1 if self.origin is None else self._needed(run, packet.arrival_ns)
        return Admission.PROMOTE if run.run >= needed else Admission.HOLD

    def _needed(self, run: Candidate, arrival_ns: int) -> int:
        if run.looks_repeated:
            return CONFIRM_REPEAT
        if arrival_ns - self.arrival_ns > IDLE_NS:
            return CONFIRM_IDLE
        return CONFIRM_JUMP if run.last.origin == self.origin else CONFIRM_ORIGIN

    def give_up_held(self) -> None:
        """There is no room for packets that may be nothing."""
        self._count_dropped(self.candidates.clear())

    def pending(self) -> Candidate | None:
        """The run that would be taken for a timeline if nothing else came."""
        runs = [run for run in self.candidates.runs if run.run >= CONFIRM_IDLE and not run.looks_repeated]
        return max(runs, key=lambda run: run.run, default=None)

    def reason(self, run: Candidate) -> str:
        """Why the run is a new epoch: one of the names that the files use."""
        if self.origin is None:
            return "start"
        if run.first.origin != self.origin or (run.first.marker and run.first.sequence < START_REORDER):
            return "radiod_restart"
        return "timestamp_jump"

    def begin(self, epoch: int, first: Arrival) -> None:
        """Start `epoch`, an RTP timeline whose first packet is `first`; admit it next."""
        if self.origin is not None:
            self.past = [Past(self.origin, self.first, self.timestamp), *self.past[: KEPT_PAST - 1]]
        self.epoch = epoch
        self.origin = first.origin
        self.first = first.timestamp
        self.sealed = NOTHING_SEALED
        # Extended values begin at the wire's, so that they differ from it by whole wraps only.
        self.sequence, self.timestamp, self.length, self.before = first.sequence - 1, first.timestamp, 0, 0
        self.end = first.timestamp
        self._next_sequence, self._next_timestamp = first.sequence, first.timestamp
        self.arrival_ns = first.arrival_ns
        reach = START_REORDER * max(1, self.rate_hz // 50, first.length // self.bytes_per_frame)
        at = first.timestamp
        self.holes = Holes([Hole(first.sequence - START_REORDER, first.sequence, at - reach, at, counted=False)])

    def to_json(self) -> dict[str, Any]:
        """Everything a successor needs, as plain values."""
        state = {name: getattr(self, name) for name in _PLAIN}
        past = [[past.origin, past.first, past.last] for past in self.past]
        return {**state, "holes": self.holes.to_json(), "candidates": self.candidates.to_json(), "past": past}

    def load_json(self, state: dict[str, Any]) -> None:
        """Become the source that `to_json` described."""
        for name in _PLAIN:
            setattr(self, name, state[name])
        self.origin = (state["origin"][0], state["origin"][1]) if state["origin"] else None
        self.holes = Holes.from_json(state["holes"])
        self.candidates = Candidates.from_json(state["candidates"])
        self.past = [Past((origin[0], origin[1]), first, last) for origin, first, last in state["past"]]


_PLAIN = (
    "rate_hz", "bytes_per_frame", "epoch", "origin", "sequence", "timestamp", "first", "length", "before", "end",
    "arrival_ns", "sealed", "lost", "duplicates", "bad", "_next_sequence", "_next_timestamp",
)  # fmt: skip
