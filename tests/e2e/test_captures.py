"""Real radiod traffic through the pure stream code: every frame at its place, everything else zero and listed.

The expectation is worked out from the packets alone, by other arithmetic than the recorder's.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import REPOSITORY
from pipeline.pcap import PcapReader
from pipeline.stream.source import Arrival
from streams import Recording

DATA = REPOSITORY / "tests" / "data"


@dataclass(frozen=True)
class Seen:
    """One RTP packet of a capture."""

    t_ns: int
    origin: tuple[str, int]
    marker: bool
    sequence: int
    timestamp: int
    payload: bytes


def packets(path: Path) -> dict[int, list[Seen | tuple[int, bytes]]]:
    """RTP packets and status datagrams of a capture, by SSRC; statuses go to every SSRC, as on the wire."""
    streams: dict[int, list[Seen | tuple[int, bytes]]] = defaultdict(list)
    statuses = []
    for datagram in PcapReader(path):
        if datagram.dst[1] == 5004:
            flags, kind, sequence, timestamp, ssrc = struct.unpack_from("!BBHII", datagram.payload)
            assert flags == 0x80
            seen = Seen(datagram.t_ns, datagram.src, kind > 127, sequence, timestamp, datagram.payload[12:])
            streams[ssrc].append(seen)
        elif datagram.dst[1] == 5006:
            statuses.append((datagram.t_ns, datagram.payload))
    return {
        ssrc: sorted([*mine, *statuses], key=lambda e: e.t_ns if isinstance(e, Seen) else e[0])
        for ssrc, mine in streams.items()
    }


def record(ssrc: int, events: list[Seen | tuple[int, bytes]], rate_hz: int = 16_000) -> Recording:
    """Feed a channel's events to a recorder and stop."""
    to = Recording(rate_hz=rate_hz, ssrc=ssrc)
    for event in events:
        if isinstance(event, Seen):
            at = to.journal.room()
            to.journal.heap[at : at + len(event.payload)] = event.payload
            to.intake.packet(
                Arrival(event.marker, event.sequence, event.timestamp, len(event.payload), event.origin, event.t_ns)
            )
        else:
            to.status(event[1], event[0])
            to.advance()
    to.finish()
    return to


def widths_of(mine: list[Seen]) -> list[int]:
    """Bytes per frame of each packet: its length over the distance to the next, or as the one before of that length."""
    widths: list[int] = []
    known: dict[int, int] = {}
    for seen, following in zip(mine, [*mine[1:], None], strict=True):
        length = len(seen.payload)
        step = (following.timestamp - seen.timestamp) & 0xFFFFFFFF if following is not None else 0
        if step and length in (4 * step, 8 * step):
            known[length] = length // step
        widths.append(known.get(length, 4))
    return widths


def decoded(seen: Seen, width: int) -> np.ndarray[Any, Any]:
    """A packet's samples: F32LE when 8 bytes wide, S16BE when 4; radiod sent nothing else here."""
    if width == 8:
        return np.frombuffer(seen.payload, "<c8")
    pairs = np.frombuffer(seen.payload, ">i2").astype(np.float32) / np.float32(32768)
    return pairs.view(np.complex64)


def check(to: Recording, mine: list[Seen]) -> None:
    """Every frame of `mine` is in a minute at the index its timestamp dictates, and nothing else is."""
    found = [np.zeros(minute.samples, bool) for minute, _, _ in to.minutes]
    for number, (seen, width) in enumerate(zip(mine, widths_of(mine), strict=True)):
        assert place(to, seen, decoded(seen, width), found), f"packet {number} ({seen.timestamp}) is in no file"
    for (minute, iq, _), mask in zip(to.minutes, found, strict=True):
        listed = np.zeros(minute.samples, bool)
        for gap in minute.gaps:
            assert not listed[gap.index : gap.index + gap.samples].any(), "gaps overlap"
            listed[gap.index : gap.index + gap.samples] = True
        assert not iq[~mask].any()
        assert (listed == ~mask).all()


def place(to: Recording, seen: Seen, samples: np.ndarray[Any, Any], found: list[np.ndarray[Any, Any]]) -> bool:
    """Find the packet's samples in the minutes by timestamp and compare; True when each is there."""
    left = len(samples)
    for (minute, iq, extra), mask in zip(to.minutes, found, strict=True):
        for segment in minute.segments:
            reach = segment.samples + (len(extra) if segment is minute.segments[-1] else 0)
            offset = (seen.timestamp - segment.timestamp + (1 << 31)) % (1 << 32) - (1 << 31)
            a, b = max(0, offset), min(reach, offset + len(samples))
            if a >= b:
                continue
            whole = np.concatenate((iq[segment.index : segment.index + segment.samples], extra))[: max(reach, 0)]
            if not np.array_equal(whole[a:b], samples[a - offset : b - offset]):
                continue
            inside = min(b, segment.samples)
            mask[segment.index + a : segment.index + max(a, inside)] = True
            left -= b - a
    return left <= 0


@pytest.fixture
def excerpt(request: pytest.FixtureRequest) -> Path:
    """A file of tests/data by name."""
    return DATA / request.param


def test_one_channel_over_three_minutes(captures: Path) -> None:
    """The two whole minutes of the long capture are complete and without a gap."""
    ((ssrc, events),) = packets(captures / "one-s16-150s.pcap").items()
    to = record(ssrc, events)
    check(to, [e for e in events if isinstance(e, Seen)])
    whole = [m for m, _, _ in to.minutes if not m.gaps]
    assert [m.utc_ns // 1_000_000_000 for m in whole] == [1795320960, 1795321020]
    assert all(m.packets_received == 3000 and m.packets_lost == 0 for m in whole)
    assert [gap.cause for m, _, _ in to.minutes for gap in m.gaps] == ["start", "stop"]


@pytest.mark.parametrize("name", ["nine-s16-20s.pcap", "nine-f32-5s.pcap"])
def test_nine_channels(captures: Path, name: str) -> None:
    streams = packets(captures / name)
    assert len(streams) == 9
    for ssrc, events in streams.items():
        check(record(ssrc, events), [e for e in events if isinstance(e, Seen)])


def test_restarts_are_epochs_of_their_own(captures: Path) -> None:
    for ssrc, events in packets(captures / "restart-s16.pcap").items():
        to = record(ssrc, events)
        check(to, [e for e in events if isinstance(e, Seen)])
        assert [e.reason for e in to.intake.epochs] == ["radiod_restart"]
        assert sorted({s.epoch_id for m, _, _ in to.minutes for s in m.segments}) == [1, 2, 3]


def test_rate_change_makes_an_epoch_and_no_wrong_rate_data(captures: Path) -> None:
    ((ssrc, events),) = packets(captures / "dynamic.pcap").items()
    to = record(ssrc, events)
    mine = [e for e in events if isinstance(e, Seen)]
    check(to, mine)
    assert [(m.rate_hz, m.epoch_reason) for m, _, _ in to.minutes] == [(16000, "start"), (24000, "rate_change")]
    assert [g.samples for g in to.minutes[0][0].gaps if g.cause == "mute"] == [48000]
    sent = sum(len(seen.payload) // width for seen, width in zip(mine, widths_of(mine), strict=True))
    assert sum(s.samples for m, _, _ in to.minutes for s in m.segments) - 48000 == sent


def test_late_first_status_does_not_move_the_label(captures: Path) -> None:
    """One pair was 72 to 82 ms late: the label is within its bound of what the other pairs say."""
    for ssrc, events in packets(captures / "late-first-status-s16-20s.pcap").items():
        to = record(ssrc, events)
        anchor = to.minutes[-1][0].anchor
        pairs = sorted(
            utc - anchor.utc_at(at) for epoch in to.intake.epochs for at, utc, _ in epoch.evidence.pairs.rows
        )
        assert abs(pairs[len(pairs) // 2]) <= anchor.uncertainty_ns
        assert anchor.uncertainty_ns < 60_000_000


@pytest.mark.parametrize("excerpt", sorted(p.name for p in DATA.glob("*.pcap")), indirect=True)
def test_excerpts_in_the_repository(excerpt: Path) -> None:
    """The same with what a clone alone has."""
    streams = packets(excerpt)
    for ssrc, events in streams.items():
        mine = [e for e in events if isinstance(e, Seen)]
        to = record(ssrc, events)
        check(to, mine)
