"""Made-up streams with known truth, what a network does to them, and whether the minutes hold exactly that.

Every frame has a number of its own and carries it, so a sample that is anywhere else than
where its RTP timestamp says is seen. The rate is low and the packets are long, which makes
minutes cheap; nothing in the stream code knows.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.records import AnchorSource
from pipeline.stream.candidates import Origin
from pipeline.stream.timeline import SECOND, HostClock
from streams import FakeStatus, Recording, counter_iq, counter_payload

RATE = 1_000
BLOCK_NS = SECOND // 2
CRASHES = ("between packets", "said", "unsaid")
# Stops without a death, to compare with: a look at what is due at the same moment.
LOOK = "look"


def encoded(first: int, frames: int, encoding: str) -> bytes:
    """Frames [first, first + frames) in one of the encodings, I first."""
    if encoding == "S16BE":
        return counter_payload(first, frames)
    parts = counter_iq(first, frames).view(np.float32)
    if encoding == "S16LE":
        return (parts * 32768).astype("<i2").tobytes()
    return parts.astype({"F32LE": "<f4", "F32BE": ">f4"}[encoding]).tobytes()


@dataclass(frozen=True)
class Part:
    """One RTP timeline: how it begins, how long it lasts, and how its packets are made."""

    seconds: int = 20
    sizes: tuple[int, ...] = (500,)
    first_rtp: int = (1 << 32) - 500
    first_sequence: int = 0
    port: int = 40_000
    pause_s: int = 5
    encodings: tuple[str, ...] = ("S16BE",)
    mutes: tuple[tuple[int, int, bool], ...] = ()
    outages: tuple[tuple[int, int], ...] = ()
    statuses: bool = True
    rate_hz: int = RATE
    ppm: float = 0.0
    late_pairs_ms: int = 0


@dataclass(frozen=True)
class Faults:
    """What the network does to each packet, by chance."""

    seed: int = 0
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    late_duplicate: float = 0.0


@dataclass
class Sent:
    """One packet as it left radiod: extended numbers, its first frame's own number, when its last frame was sampled."""

    part: int
    sequence: int
    timestamp: int
    frames: int
    number: int
    encoding: str
    marker: bool
    time_ns: int
    lost: bool = False
    prompt: bool = False


def part_ns(part: Part, frames: int) -> int:
    """How long a part's sample clock takes for so many frames."""
    return frames * SECOND // part.rate_hz - round(frames * part.ppm * 1e3 / part.rate_hz)


@dataclass
class World:
    """All packets of all parts, and the order in which what is left of them arrives."""

    parts: tuple[Part, ...]
    faults: Faults
    start_ns: int
    # (share of all events, what NTP says of the host's clock from then on in ms, which is wrong unless 0)
    lies: tuple[tuple[float, int], ...] = ()
    packets: list[Sent] = field(default_factory=list)
    starts_ns: list[int] = field(default_factory=list)
    extra: list[tuple[int, Sent]] = field(default_factory=list)

    def __post_init__(self) -> None:
        time_ns, number = self.start_ns, 1
        for i, part in enumerate(self.parts):
            time_ns += part.pause_s * SECOND if i else 0
            self.starts_ns.append(time_ns)
            time_ns, number = self._send(i, part, time_ns, number)
        rng = random.Random(self.faults.seed)
        for n, packet in enumerate(self.packets):
            # Whether samples are half as wide now is seen by packets that follow each other.
            around = {p.encoding for p in self.packets[max(0, n - 5) : n + 6] if p.part == packet.part}
            packet.lost = (packet.lost or rng.random() < self.faults.loss) and len(around) == 1
        # What comes first after a long silence ends a minute's waiting; were it not the first sent,
        # the one before would count as lost in a file and yet come for the next.
        before = None
        for packet in self.packets:
            if not packet.lost:
                packet.prompt = before is None or before.part != packet.part or packet.time_ns - before.time_ns > SECOND
                before = packet

    def lose(self, *numbers: int) -> None:
        """The packets with these numbers do not arrive."""
        for number in numbers:
            self.packets[number].lost = True

    def delay(self, number: int, by_ns: int) -> None:
        """Packet `number` arrives late by this much."""
        packet = replace(self.packets[number])
        self.packets[number].lost = True
        self.extra.append((packet.time_ns + by_ns, packet))

    def settle(self) -> None:
        """After playing: what came late has come."""
        for _, packet in self.extra:
            found = next(n for n, p in enumerate(self.packets) if p.number == packet.number)
            self.packets[found].lost = False

    def repeat(self, number: int, after_ns: int) -> None:
        """Packet `number` arrives once more, this much after the first time."""
        self.extra.append((self.packets[number].time_ns + after_ns, self.packets[number]))

    def _send(self, number: int, part: Part, time_ns: int, frame: int) -> tuple[int, int]:
        """Append a part's packets; returns the time and the frame number after it."""
        at, sequence, count = part.first_rtp, part.first_sequence, 0
        begin, end = time_ns, part.first_rtp + part.seconds * part.rate_hz
        mutes = sorted(part.mutes)
        marker = True
        change = end if len(part.encodings) < 2 else part.first_rtp + (end - part.first_rtp) // len(part.encodings)
        encoding = 0
        while at < end:
            if mutes and count > 12 and at - part.first_rtp >= mutes[0][0] * part.rate_hz:
                _, frames, marker = mutes.pop(0)
                at += frames
            if at >= change and encoding + 1 < len(part.encodings):
                encoding, change = encoding + 1, at + change - part.first_rtp
            size = part.sizes[count % len(part.sizes)]
            sampled = begin + part_ns(part, at + size - part.first_rtp)
            second = (at - part.first_rtp) / part.rate_hz
            lost = count > 20 and any(begin_s <= second < begin_s + for_s for begin_s, for_s in part.outages)
            name = part.encodings[encoding]
            self.packets.append(Sent(number, sequence, at, size, frame, name, marker, sampled, lost))
            at, sequence, count, frame, marker = at + size, sequence + 1, count + 1, frame + size, False
        return begin + part_ns(part, at - part.first_rtp), frame

    @property
    def worst_lie_ns(self) -> int:
        """How far NTP leads labels without status astray at most."""
        return max((abs(ms) for _, ms in self.lies), default=0) * 1_000_000

    def arrivals(self) -> list[tuple[int, Sent]]:
        """(time, packet) in order of arrival; reordering stays within a second and within a part."""
        rng = random.Random(self.faults.seed + 1)
        ends = {packet.part: packet.time_ns for packet in self.packets}
        found = []
        for packet in self.packets:
            if packet.lost:
                continue
            part = self.parts[packet.part]
            delay = rng.randrange(SECOND) if rng.random() < self.faults.reorder and not packet.prompt else 0
            last = ends[packet.part] - packet.time_ns
            found.append((packet.time_ns + min(delay, last), packet))
            if rng.random() < self.faults.duplicate:
                found.append((packet.time_ns + min(delay, last) + rng.randrange(5) * BLOCK_NS, packet))
            if rng.random() < self.faults.late_duplicate:
                found.append((packet.time_ns + rng.randrange(2, 90) * SECOND + part.seconds, packet))
        return sorted(found, key=lambda arrival: arrival[0])

    def events(self) -> Iterator[tuple[int, Sent | FakeStatus]]:
        """Packets, those of `extra` too, and radiod's statuses in order of time."""
        arrivals = [*self.arrivals(), *self.extra]
        events: list[tuple[int, int, Sent | FakeStatus]] = [(t, 0, p) for t, p in arrivals]
        due = list(self.starts_ns)
        rng = random.Random(self.faults.seed + 2)
        for packet in self.packets:
            part = self.parts[packet.part]
            if part.statuses and packet.time_ns >= due[packet.part]:
                due[packet.part] = packet.time_ns + BLOCK_NS
                snap = (packet.timestamp + packet.frames) & 0xFFFFFFFF
                # In half of all statuses, so that there are prompt ones too.
                late = max(0, rng.randrange(-part.late_pairs_ms, part.late_pairs_ms + 1)) * 1_000_000
                status = FakeStatus(packet.time_ns + late, snap, part.rate_hz, packet.encoding)
                events.append((packet.time_ns + late, 1, status))
        for time_ns, _, event in sorted(events, key=lambda e: e[:2]):
            yield time_ns, event

    def play(self, to: Recording, crashes: Iterable[tuple[int, str]] = ()) -> int:
        """Everything arrives; the worker stops at the given events. Returns how many packets came."""
        pending = sorted(crashes, reverse=True)
        fed = 0
        events = list(self.events())
        lies = {int(share * len(events)): ms for share, ms in self.lies}
        for n, (time_ns, event) in enumerate(events):
            if n in lies:
                to.host = HostClock(lies[n] * 1_000_000, 1_000_000)
            if isinstance(event, FakeStatus):
                to.status(event, time_ns)
            else:
                payload = encoded(event.number, event.frames, event.encoding)
                origin: Origin = ("127.0.0.1", self.parts[event.part].port)
                to.packet(event.sequence, event.timestamp, payload, time_ns, origin, event.marker)
                fed += 1
            kind = ""
            if pending and pending[-1][0] <= n:
                kind = pending.pop()[1]
            if kind == "between packets":
                to.crash()
            if kind or n % 5 == 0:
                to.advance(crash=kind if kind in ("said", "unsaid") else "")
        to.finish()
        return fed


def check(world: World, to: Recording, fed: int) -> None:
    """The minutes hold exactly what arrived, where it belongs; everything else is zero and listed."""
    world.settle()
    received = [p for p in world.packets if not p.lost]
    heard = sorted({p.part for p in received})
    epochs = dict(enumerate(heard, start=1))
    truth = {part: _Truth(part, [p for p in received if p.part == part]) for part in heard}
    for minute, iq, extra in to.minutes:
        _check_minute(world, minute, iq, extra, epochs, truth)
        _check_causes(world, minute, epochs, truth, heard)
    moved = any(known.moved for known in truth.values())
    for part, known in truth.items():
        assert known.seen.all(), f"part {part}: received samples are in no file"
    intake, source = to.intake, to.intake.source
    held = sum(run.packets for run in source.candidates.runs)
    assert intake.received == len(received)
    assert fed == intake.received + intake.late + source.duplicates + source.bad + held
    minutes = [minute for minute, _, _ in to.minutes]
    counted = sum(m.packets_received for m in minutes)
    # Where a label moved to later, two files hold the same packets.
    assert counted >= intake.received if moved else counted == intake.received
    assert sum(m.packets_duplicate for m in minutes) <= source.duplicates
    missing = sum(_missing([p for p in world.packets if p.part == part]) for part in heard)
    assert source.lost == missing
    counted = sum(m.packets_lost for m in minutes)
    assert counted <= missing or moved
    # What was lost in a minute of which nothing came is in no file.
    if not _absent(minutes) and not moved:
        assert counted == missing


def _absent(minutes: list[Any]) -> bool:
    """True when a timeline has minutes without a file."""
    found: dict[int, list[int]] = {}
    for minute in minutes:
        for segment in minute.segments:
            found.setdefault(segment.epoch_id, []).append(minute.utc_ns)
    return any(b - a > 60 * SECOND for utc in found.values() for a, b in pairwise(utc))


def _missing(packets: list[Sent]) -> int:
    """Lost packets between the first and the last that came."""
    came = [n for n, p in enumerate(packets) if not p.lost]
    return sum(p.lost for p in packets[came[0] : came[-1] + 1])


class _Truth:
    """What arrived of one part, by extended timestamp from its first sample on."""

    def __init__(self, part: int, packets: list[Sent]) -> None:
        self.first = min(p.timestamp for p in packets)
        size = max(p.timestamp + p.frames for p in packets) - self.first
        self.iq = np.zeros(size, np.complex64)
        self.present = np.zeros(size, bool)
        for p in packets:
            at = slice(p.timestamp - self.first, p.timestamp - self.first + p.frames)
            self.iq[at], self.present[at] = counter_iq(p.number, p.frames), True
        self.seen = ~self.present
        self.end = -1
        self.line: int | None = None
        self.moved = False
        self.packets = sorted(packets, key=lambda p: p.timestamp)

    def take(self, begin: int, count: int, line: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Samples and presence of [begin, begin + count), which no file by the same line may have taken before.

        `line` is the label of timestamp 0.
        """
        before, self.line = self.line, line
        self.moved |= before is not None and before != line
        if begin < self.end:
            assert before is not None and line > before, "two files hold the same samples"
        self.end = begin + count
        iq, present = np.zeros(count, np.complex64), np.zeros(count, bool)
        a, b = max(begin, self.first), min(begin + count, self.first + len(self.iq))
        if b > a:
            iq[a - begin : b - begin] = self.iq[a - self.first : b - self.first]
            present[a - begin : b - begin] = self.present[a - self.first : b - self.first]
            self.seen[a - self.first : b - self.first] = True
        return iq, present


def _check_minute(
    world: World, minute: Any, iq: Any, extra: Any, epochs: dict[int, int], truth: dict[int, _Truth]
) -> None:
    expected, present = np.zeros_like(iq), np.zeros(len(iq), bool)
    assert len(iq) == 60 * minute.rate_hz
    for segment in minute.segments:
        part = epochs[segment.epoch_id]
        assert world.parts[part].rate_hz == minute.rate_hz
        # Extended values differ from ours by whole wraps only.
        shift = (segment.timestamp - world.parts[part].first_rtp + (1 << 31) & 0xFFFFFFFF) - (1 << 31)
        begin = world.parts[part].first_rtp + shift
        line = segment.utc_ns - begin * SECOND // minute.rate_hz
        sampled = world.starts_ns[part] + part_ns(world.parts[part], shift)
        # Without status the least delayed packet is the best evidence, and here all may be delayed.
        late_ns = 0 if world.parts[part].statuses or not world.faults.reorder else SECOND
        if minute.anchor.source is not AnchorSource.RADIOD:
            late_ns += world.worst_lie_ns
        assert abs(sampled - segment.utc_ns) <= minute.anchor.uncertainty_ns + late_ns
        at = slice(segment.index, segment.index + segment.samples)
        expected[at], present[at] = truth[part].take(begin, segment.samples, line)
        if segment is minute.segments[-1] and minute.extra_samples:
            after, _ = truth[part].take(begin + len(iq) - segment.index, minute.extra_samples, line)
            assert np.array_equal(after, extra)
    assert np.array_equal(expected, iq)
    listed = np.zeros(len(iq), bool)
    for gap in minute.gaps:
        assert gap.samples > 0
        assert not listed[gap.index : gap.index + gap.samples].any(), "gaps overlap"
        listed[gap.index : gap.index + gap.samples] = True
    assert np.array_equal(listed, ~present), "listed is not what is missing"
    assert minute.packets_lost == 0 or any(gap.cause == "network" for gap in minute.gaps)


def _check_causes(
    world: World, minute: Any, epochs: dict[int, int], truth: dict[int, _Truth], heard: list[int]
) -> None:
    """A gap between packets that came is `network` where sequence numbers are missing, else `mute`."""
    for gap in minute.gaps:
        middle = gap.index + gap.samples / 2
        part, place = _place(world, minute, epochs, middle)
        packets = truth[part].packets
        before = [p for p in packets if p.timestamp + p.frames <= place]
        after = [p for p in packets if p.timestamp > place]
        if before and after:
            lost = after[0].sequence - before[-1].sequence > 1
            allowed = {"network"} if lost else {"mute"}
            # What lies there is in the file before, by an earlier label.
            allowed |= {"unknown"} if gap.index == 0 and truth[part].moved else set()
        elif before:
            allowed = {"stop", "unknown"} if part == heard[-1] else {"epoch", "restart", "stop"}
        else:
            allowed = {"start"} if part == heard[0] else {"restart", "epoch"}
        assert gap.cause in allowed, f"{gap} is not {allowed}"


def _place(world: World, minute: Any, epochs: dict[int, int], index: float) -> tuple[int, float]:
    """The part that an index of a file is nearest to, and its place on the part's own timeline."""
    segment = min(minute.segments, key=lambda s: max(s.index - index, index - s.index - s.samples))
    part = epochs[segment.epoch_id]
    first = world.parts[part].first_rtp
    shift = (segment.timestamp - first + (1 << 31) & 0xFFFFFFFF) - (1 << 31)
    return part, first + shift + index - segment.index


def summary(to: Recording) -> list[Any]:
    """Everything that a file says, to compare recordings by."""
    found = []
    for minute, iq, extra in to.minutes:
        facts = (
            minute.utc_ns,
            minute.anchor,
            minute.first_timestamp,
            minute.segments,
            minute.gaps,
            minute.epoch_reason,
        )
        counts = (
            minute.packets_received, minute.packets_reordered, minute.packets_late, minute.packets_duplicate,
            minute.packets_bad, minute.last_arrival_ns, minute.last_timestamp, minute.samples_per_packet,
        )  # fmt: skip
        found.append((facts, counts, iq.tobytes(), np.asarray(extra).tobytes()))
    source = to.intake.source
    totals = (to.intake.received, to.intake.late, to.intake.reordered, source.lost, source.duplicates, source.bad)
    return [*found, totals, source.end, source.sequence, len(source.holes)]
