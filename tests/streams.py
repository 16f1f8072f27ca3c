"""Feeds packets and statuses straight into the pure stream code, with synthetic times, and cuts minutes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline import radiod
from pipeline.stream.cutter import Cutter
from pipeline.stream.intake import Intake, Settings
from pipeline.stream.journal import Geometry, Journal, JournalFull, geometry
from pipeline.stream.minute import Minute
from pipeline.stream.recovery import checkpoint, restore
from pipeline.stream.samples import Samples
from pipeline.stream.source import Arrival, Origin
from pipeline.stream.timeline import SECOND, HostClock

SSRC = 10_000_000
ORIGIN: Origin = ("127.0.0.1", 40_000)
# Memory is for as many minutes as a recorder's, where that is cheap.
LOW_RATE_HZ = 4_000
# A minute boundary, UTC.
T0 = 1_795_320_960 * SECOND


@dataclass(frozen=True)
class FakeStatus:
    """What the stream code needs of a radiod status."""

    gps_time_utc_ns: int | None
    rtp_timesnap: int | None
    sample_rate_hz: int | None = None
    encoding: str | None = None
    ssrc: int = SSRC
    output_channels: int | None = None


@dataclass
class Recording:
    """One channel's pure recorder over a plain buffer; `minutes` collects what was cut."""

    rate_hz: int = 16_000
    encoding: str = "S16BE"
    ssrc: int = SSRC
    grace_s: float = 2.0
    shape: Geometry | None = None
    host: HostClock = field(default_factory=lambda: HostClock(0, 1_000_000))
    decode: Callable[[bytes], Any] = radiod.decode_status
    minutes: list[tuple[Minute, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = field(default_factory=list)
    saved: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.shape = self.shape or geometry(self.rate_hz, 10 if self.rate_hz <= LOW_RATE_HZ else 4)
        self.buffer = bytearray(self.shape.size)
        self.journal = Journal.format(memoryview(self.buffer), self.shape, self.ssrc)
        self._statuses: dict[bytes, FakeStatus] = {}
        self._attach()

    def _attach(self) -> None:
        settings = Settings(self.ssrc, self.rate_hz, self.encoding, round(self.grace_s * SECOND), 0)
        self.intake = Intake(self.journal, settings, lambda data: self._statuses.get(data) or self.decode(data))
        self.cutter = Cutter(self.intake)
        restore(self.intake, self.cutter, self.saved)

    def crash(self) -> None:
        """The worker dies and a successor takes over what is in the buffer."""
        journal = Journal.attach(memoryview(self.buffer), self.ssrc)
        assert journal is not None
        self.journal = journal
        self._attach()

    def packet(
        self,
        sequence: int,
        timestamp: int,
        payload: bytes,
        arrival_ns: int,
        origin: Origin = ORIGIN,
        marker: bool = False,
    ) -> None:
        """One RTP packet arrives; extended numbers are wrapped as on the wire."""
        at = self.journal.room()
        self.journal.heap[at : at + len(payload)] = payload
        self.intake.packet(Arrival(marker, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, len(payload), origin, arrival_ns))

    def packet_of(
        self, sequence: int, timestamp: int, length: int, arrival_ns: int, port: int, marker: bool = False
    ) -> None:
        """One RTP packet arrives, its payload whatever lies in the heap."""
        self.journal.room()
        self.intake.packet(
            Arrival(marker, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, length, (ORIGIN[0], port), arrival_ns)
        )

    def cut_labels(self, flush: bool = False, silent_ns: int = 0) -> list[Minute]:
        """Cut every minute that is over, or all with `flush`, without looking at its samples."""
        self.intake.follow()
        found: list[Minute] = []
        while (due := self.cutter.due(silent_ns, self.host, flush=flush)) is not None:
            cut = self.cutter.cut(due, self.host, "stop" if flush else "unknown")
            found += cut.minutes
            self.cutter.done(cut)
            self.cutter.release()
        if self.cutter.crowded():
            self.cutter.release()
        return found

    def said(self, status: FakeStatus, arrival_ns: int, shift_ns: int) -> None:
        """What a status says, without the datagram."""
        self.intake.announcements.learn(status, arrival_ns, shift_ns, timed=not self.intake.untimed)

    def status(self, status: FakeStatus | bytes, arrival_ns: int) -> bool:
        """One status datagram arrives."""
        data = status if isinstance(status, bytes) else repr(status).encode()
        if not isinstance(status, bytes):
            self._statuses[data] = status
        at = self.journal.room()
        self.journal.heap[at : at + len(data)] = data
        return self.intake.status(len(data), arrival_ns)

    def advance(self, silent_ns: int = 0, crash: str = "") -> None:
        """Cut every minute that is over.

        With `crash` a worker dies between the first cut and its being done: "said" after the
        checkpoint that tells of the cut, "unsaid" before it.
        """
        self.intake.follow()
        while (due := self.cutter.due(silent_ns, self.host)) is not None:
            if crash:
                self.cutter.cut(due, self.host, "unknown")
                if crash == "said":
                    self.save()
                self.crash()
                self.intake.follow()
                crash = ""
                continue
            self._take(due, "unknown")
        if self.cutter.crowded():
            self.save()
            self.cutter.release()

    def save(self) -> None:
        """Take a checkpoint, as it is after being written and read."""
        self.saved = json.loads(json.dumps(checkpoint(self.intake, self.cutter)))

    def finish(self) -> list[tuple[Minute, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """Stop: everything that is left becomes minutes."""
        self.intake.flush_held()
        self.intake.follow()
        before = 0
        while (due := self.cutter.due(0, self.host, flush=True)) is not None:
            self._take(due, "stop")
            before += 1
            assert before < 10_000, "the same minute is due for ever"
        return self.minutes

    def _take(self, due: int, tail: str) -> None:
        cut = self.cutter.cut(due, self.host, tail)
        for minute in cut.minutes:
            iq, extra = Samples(minute.runs, minute.samples), Samples(minute.extra, minute.extra_samples)
            self.minutes.append((minute, np.asarray(iq), np.asarray(extra)))
        self.cutter.done(cut)
        self.save()
        self.cutter.release()


def counter_payload(first: int, frames: int) -> bytes:
    """S16BE frames that say which they are: I and Q hold the low 30 bits of the frame's number, plus one."""
    n = np.arange(first + 1, first + 1 + frames)
    pairs = np.stack((n & 0x7FFF, n >> 15 & 0x7FFF), axis=1)
    return pairs.astype(">i2").tobytes()


def counter_iq(first: int, frames: int) -> np.ndarray[Any, Any]:
    """What those frames decode to."""
    n = np.arange(first + 1, first + 1 + frames)
    return ((n & 0x7FFF) / 32768 + 1j * ((n >> 15 & 0x7FFF) / 32768)).astype(np.complex64)


@dataclass
class Sent:
    """A stream in which frame k was sampled at `start_ns` + k / rate; packets of `frames` frames."""

    start_ns: int
    rate_hz: int = 16_000
    frames: int = 320
    first_rtp: int = (1 << 32) - 320
    first_sequence: int = 0

    def time_ns(self, frame: int) -> int:
        """When a frame was sampled, ns since 1970."""
        return self.start_ns + frame * SECOND // self.rate_hz

    def send(self, to: Recording, number: int, delay_ns: int = 0, origin: Origin = ORIGIN) -> None:
        """Packet `number` arrives, one packet's length after its first frame plus `delay_ns`."""
        first = number * self.frames
        to.packet(
            self.first_sequence + number,
            self.first_rtp + first,
            counter_payload(first, self.frames),
            self.time_ns(first + self.frames) + delay_ns,
            origin,
            marker=number == 0,
        )

    def pair(self, to: Recording, number: int, late_ns: int = 0, **facts: Any) -> None:
        """The status that radiod sends when packet `number` is next, `late_ns` after it could."""
        at = self.time_ns(number * self.frames) + late_ns
        rtp = (self.first_rtp + number * self.frames) & 0xFFFFFFFF
        to.status(FakeStatus(at, rtp, **{"sample_rate_hz": self.rate_hz, "encoding": "S16BE", **facts}), at)


def play(to: Recording, stream: Sent, numbers: Iterable[int], statuses: bool = True) -> None:
    """Packets in the order given, a status pair each 25th, minutes cut as they become due."""
    for count, number in enumerate(numbers):
        stream.send(to, number)
        if statuses and count % 25 == 0:
            stream.pair(to, number + 1)
        if count % 50 == 0:
            to.advance()
    to.advance()


__all__ = ["SSRC", "T0", "FakeStatus", "JournalFull", "Recording", "Sent", "counter_iq", "counter_payload", "play"]
