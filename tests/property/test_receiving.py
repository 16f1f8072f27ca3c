"""What is taken in lots stands in the journal as if each packet had come alone, whoever dies in between."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import new_names
from pipeline import receiver
from pipeline.config import Channel, Recorder
from pipeline.landing import LANDING_SIZE, SLOTS, Landing
from pipeline.receiver import Receiver
from pipeline.segments import create_segment
from pipeline.shm import Segment
from pipeline.sockets import SO_TIMESTAMPNS
from pipeline.stream.cutter import Cutter
from pipeline.stream.intake import Intake, Settings
from pipeline.stream.journal import Geometry, Journal, Kind
from pipeline.stream.recovery import restore
from pipeline.stream.rtp import HEADER_SIZE, RtpError, parse
from pipeline.stream.source import Arrival

SSRC, RATE = 5_000_000, 1_000
COLUMNS = ("timestamp", "sequence", "epoch", "length", "address", "flags", "kind")
# The first packet of a timeline, and what radiod or the network or somebody else does next.
KINDS = st.sampled_from(
    ["next"] * 12 + ["lost", "again", "swap", "mute", "marker", "wide", "short", "stranger", "foreign", "empty", "odd",
                     "options", "jump", "huge"]
)  # fmt: skip


def payload(timestamp: int, length: int) -> bytes:
    return (np.arange(length) * 7 + timestamp).astype(np.uint8).tobytes()


def datagrams(kinds: list[str], first: int, base: int) -> list[tuple[int, bytes]]:  # noqa: PLR0912
    """(sender's number, datagram) for each step."""
    out: list[tuple[int, bytes]] = []
    sequence, timestamp = first, base

    def packet(frames: int = 20, width: int = 4, ssrc: int = SSRC, kind: int = 97, bits: int = 0x80) -> bytes:
        header = struct.pack("!BBHII", bits, kind, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc)
        return header + payload(timestamp, frames * width)

    for step in kinds:
        frames, sender, made = 20, 0, packet()
        match step:
            case "lost":
                out.append((1, b""))  # something else comes instead
            case "again" if out:
                out.append(out[-1])
            case "mute":
                timestamp += 400
                made = packet(kind=97 | 0x80)
            case "marker":
                made = packet(kind=97 | 0x80)
            case "wide":
                made = packet(width=8)
            case "short":
                frames, made = 13, packet(13)
            case "stranger":
                out.append((2, packet()))
            case "foreign":
                out.append((0, packet(ssrc=SSRC + 1)))
            case "empty":
                out.append((0, b""))
            case "odd":
                out.append((0, packet()[:-1]))
            case "options":
                out.append((0, packet(bits=0x90)))
                made = packet(bits=0xA0)[:-1] + b"\x04"  # four bytes of padding
                frames = 19
            case "jump":
                timestamp += 1 << 30
                made = packet()
            case "huge":
                frames = 9_000
                made = packet(frames)
        if step != "lost":
            out.append((sender, made))
        if step == "swap" and len(out) > 1:
            out[-1], out[-2] = out[-2], out[-1]
        sequence, timestamp = sequence + 1, timestamp + frames
    return out


class Station:
    """Senders, a receiving socket, and a channel's segment."""

    def __init__(self) -> None:
        self.names = new_names()
        self.sock = self._socket()
        self.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        self.senders = [self._socket() for _ in range(3)]
        channel = Channel(name="X", frequency_hz=5e6, ssrc=SSRC, sample_rate_hz=RATE)
        recorder = Recorder(instance=self.names.instance, data_dir=Path(), buffer_minutes=2)
        self.segment: Segment = create_segment(self.names.instance, channel, recorder)

    def _socket(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        return sock

    def close(self) -> None:
        for sock in (self.sock, *self.senders):
            sock.close()
        self.segment.unlink()

    def send(self, lot: list[tuple[int, bytes]]) -> None:
        for sender, datagram in lot:
            self.senders[sender].sendto(datagram, self.sock.getsockname())


@contextlib.contextmanager
def station() -> Iterator[Station]:
    made = Station()
    try:
        yield made
    finally:
        made.close()


def intake(journal: Journal) -> Intake:
    return Intake(journal, Settings(SSRC, RATE, "S16BE", 0, 0), lambda _: None)


def one_by_one(lot: list[tuple[int, bytes]], senders: list[socket.socket], arrival_ns: int) -> Intake:
    """The same packets through `Intake.packet`, which knows nothing of lots."""
    shape = Geometry(4096, 1 << 24)
    made = intake(Journal.format(memoryview(bytearray(shape.size)), shape, SSRC))
    for sender, datagram in lot:
        try:
            packet = parse(datagram)
        except RtpError:
            made.bad(arrival_ns)
            continue
        body = datagram[packet.payload_start : packet.payload_end]
        if packet.ssrc != SSRC or not body:
            made.bad(arrival_ns)
            continue
        at = made.journal.room()
        made.journal.heap[at : at + len(body)] = body
        made.packet(
            Arrival(
                packet.marker, packet.sequence, packet.timestamp, len(body), senders[sender].getsockname(), arrival_ns
            )
        )
    return made


def rows_of(journal: Journal) -> tuple[npt.NDArray[np.void], list[bytes]]:
    rows = journal.records(journal.first)
    bodies = [
        bytes(journal.payload(int(row["position"]), int(row["length"]))) for row in rows if row["kind"] <= Kind.HELD
    ]
    return rows[list(COLUMNS)], bodies


def same(found: Intake, wanted: Intake) -> None:
    (rows, bodies), (other_rows, other_bodies) = rows_of(found.journal), rows_of(wanted.journal)
    assert rows.tolist() == other_rows.tolist()
    assert bodies == other_bodies
    assert (found.received, found.late, found.reordered, found.rejected) == (
        wanted.received, wanted.late, wanted.reordered, wanted.rejected,
    )  # fmt: skip
    one, other = found.source.to_json(), wanted.source.to_json()
    for state in (one, other):
        state.pop("arrival_ns"), state.pop("candidates")
    assert one == other


@settings(max_examples=150, deadline=None)
@given(
    st.lists(KINDS, min_size=1, max_size=3 * SLOTS),
    st.sampled_from([0, 65_500]),
    st.sampled_from([0, (1 << 32) - 1_000]),
    st.lists(st.integers(1, 2 * SLOTS), max_size=4),
)
def test_lots_are_placed_as_single_packets_are(kinds: list[str], first: int, base: int, cuts: list[int]) -> None:
    lot = datagrams(["next", *kinds], first, base)
    with station() as at:
        made = intake(journal := Journal.attach(at.segment.buf, SSRC) or never())
        drains = Receiver(at.sock, (), SSRC, made, at.segment)
        begin = 0
        for size in (*cuts, len(lot)):
            at.send(lot[begin : begin + size])
            assert drains.drain() == len(lot[begin : begin + size])
            begin += size
        arrival = int(journal.records(journal.first)["arrival_ns"].max())
        same(made, one_by_one(lot, at.senders, arrival))


class Died(Exception):
    """Where a process would have been killed."""


@settings(max_examples=150, deadline=None)
@given(st.lists(KINDS, min_size=1, max_size=2 * SLOTS), st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_who_dies_between_two_steps_has_lost_and_doubled_nothing(kinds: list[str], deaths: list[int]) -> None:
    # What was only counted is counted again by a successor.
    told_apart = [kind for kind in kinds if kind not in ("again", "foreign", "empty", "odd", "lost", "options")]
    lot = datagrams(["next", *told_apart], 0, 0)
    with station() as at:
        at.send(lot)
        journal = Journal.attach(at.segment.buf, SSRC) or never()
        for death in deaths:
            drains = Receiver(at.sock, (), SSRC, successor(journal), at.segment)
            with patch.object(drains._landing, "done", dying(drains._landing.done, death)), contextlib.suppress(Died):
                drains.drain()
            journal = Journal.attach(at.segment.buf, SSRC) or never()
        made = successor(journal)
        Receiver(at.sock, (), SSRC, made, at.segment).drain()
        arrival = int(journal.records(journal.first)["arrival_ns"].max())
        same(made, one_by_one(lot, at.senders, arrival))


def dying(done: Callable[[int], None], steps: int) -> Callable[[int], None]:
    """Does it `steps` times."""
    left = iter(range(steps))

    def call(until: int) -> None:
        if next(left, None) is None:
            raise Died
        done(until)

    return call


def successor(journal: Journal) -> Intake:
    """An intake that goes on over a used journal."""
    made = intake(journal)
    restore(made, Cutter(made), None)
    return made


def never() -> Journal:
    raise AssertionError("no journal")


def test_the_longest_datagram_and_the_empty_one_come_through() -> None:
    assert receiver.BATCH > SLOTS and HEADER_SIZE == 12
    lot = datagrams(["next", "huge", "next", "empty", "next"], 0, 0)
    largest = 65_507 - 12
    lot.append((0, struct.pack("!BBHII", 0x80, 97, 5, 20 * 4 + 9_000 - 20, SSRC) + bytes(largest - largest % 4)))
    with station() as at:
        made = intake(Journal.attach(at.segment.buf, SSRC) or never())
        at.send(lot)
        assert Receiver(at.sock, (), SSRC, made, at.segment).drain() == len(lot)
        lengths = made.journal.records(made.journal.first)["length"]
        assert max(lengths) == largest - largest % 4 and 36_000 in lengths
        assert made.rejected.bad == 1


def held_kb(segment: Segment) -> int:
    return os.fstat(segment.fileno()).st_blocks // 2


def test_long_datagrams_do_not_keep_memory() -> None:
    with station() as at:
        made = intake(Journal.attach(at.segment.buf, SSRC) or never())
        drains = Receiver(at.sock, (), SSRC, made, at.segment)
        before = held_kb(at.segment)
        at.send([(0, struct.pack("!BBHII", 0x80, 97, n, 0, SSRC + 1) + bytes(60_000)) for n in range(2 * SLOTS)])
        assert drains.drain() == 2 * SLOTS
        assert held_kb(at.segment) - before < 100


def test_a_datagram_that_found_no_memory_is_one_datagram() -> None:
    """The kernel drops it and says so once; what comes after it is not touched."""
    lot = datagrams(["next"] * 10, 0, 0)
    with station() as at:
        made = intake(Journal.attach(at.segment.buf, SSRC) or never())
        drains = Receiver(at.sock, (), SSRC, made, at.segment)
        at.send(lot)
        fault = OSError(errno.EFAULT, "Bad address")
        real = drains._landing.receive
        with patch.object(drains._landing, "receive", side_effect=[fault, real(at.sock), 0]):
            assert drains.drain() == len(lot) + 1
        assert (made.rejected.bad, made.received, drains.full) == (1, len(lot), False)


def test_what_the_journal_has_no_memory_for_waits_where_it_came_down() -> None:
    lot = datagrams(["next"] * 10, 0, 0)
    with station() as at:
        made = intake(Journal.attach(at.segment.buf, SSRC) or never())
        drains = Receiver(at.sock, (), SSRC, made, at.segment)
        at.send(lot)
        with patch("os.pwritev", return_value=0):
            assert drains.drain() == 0
        assert drains.full and drains.waiting and not made.received
        assert drains.drain() == len(lot)
        assert made.received == len(lot) and not drains.waiting


def test_a_landing_that_was_being_made_is_new() -> None:
    memory = memoryview(bytearray(LANDING_SIZE))
    Landing(memory)
    half = memoryview(bytearray(LANDING_SIZE))
    half[4096 : 4096 + 32] = memory[4096 : 4096 + 32]
    assert not Landing(half).waiting
