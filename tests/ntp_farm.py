"""NTP servers for tests: in threads on loopback, and in a simulated world without sockets."""

from __future__ import annotations

import heapq
import itertools
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from pipeline.config import Ntp, Server
from pipeline.ntp import wire
from pipeline.ntp.engine import Ask, AskLocal, Engine, Resolve
from pipeline.ntp.peer import Address
from pipeline.ntp.reading import Absence, KernelState, Reading
from pipeline.ntp.report import Note, Report
from pipeline.ntp.verdict import Basis
from pipeline.ntp.wire import Instant

SECOND = 10**9
# 22 November 2026, 12:00 UTC: no leap second anywhere near.
NOON_NS = 1_795_348_800 * SECOND
HEADER = struct.Struct("!BBbbII4sQQQQ")


@dataclass(frozen=True, slots=True)
class Reply:
    """A good stratum 1 answer; change what a test is about. Seconds."""

    leap: int = 0
    version: int = 4
    mode: int = 4
    stratum: int = 1
    precision: int = -20
    root_delay_s: float = 0.0
    root_dispersion_s: float = 0.001
    refid: bytes = b"GPS\0"
    reference_age_s: float = 8.0
    offset_s: float = 0.0
    interval_s: float = 0.0
    zero_receive: bool = False
    zero_transmit: bool = False
    origin: bytes | None = None

    def to_bytes(self, request: bytes, receive_ns: int, transmit_ns: int | None = None) -> bytes:
        """The packet; stamps are Unix ns of a right clock, to which `offset_s` is added."""
        offset_ns = round(self.offset_s * SECOND)
        t2 = receive_ns + offset_ns
        t3 = (receive_ns if transmit_ns is None else transmit_ns) + offset_ns + round(self.interval_s * SECOND)
        stamp = wire.ntp_timestamp
        reference = stamp(t3 - round(self.reference_age_s * SECOND)) if self.reference_age_s else 0
        packet = HEADER.pack(
            self.leap << 6 | self.version << 3 | self.mode,
            self.stratum,
            6,
            self.precision,
            round(self.root_delay_s * 65536),
            round(self.root_dispersion_s * 65536),
            self.refid,
            reference,
            0,
            0 if self.zero_receive else stamp(t2),
            0 if self.zero_transmit else stamp(t3),
        )
        origin = request[40:48] if self.origin is None else self.origin
        return packet[:24] + origin + packet[32:]


KISS_RATE = Reply(stratum=0, leap=3, refid=b"RATE", zero_receive=True, zero_transmit=True, reference_age_s=0)

Answer = Callable[[bytes, int], Sequence[bytes]]


def good(request: bytes, receive_ns: int) -> list[bytes]:
    """A right clock's answer."""
    return [Reply().to_bytes(request, receive_ns)]


def saying(reply: Reply) -> Answer:
    """A server that always says `reply`."""
    return lambda request, receive_ns: [reply.to_bytes(request, receive_ns)]


def silent(_request: bytes, _receive_ns: int) -> list[bytes]:
    """A dead server."""
    return []


class Fakes:
    """UDP servers in one thread. `requests` has what each has received."""

    def __init__(self, answers: Sequence[Answer], host: str = "127.0.0.1") -> None:
        self.requests: list[list[bytes]] = [[] for _ in answers]
        self.clients: list[list[tuple[str, int]]] = [[] for _ in answers]
        self._answers = answers
        self.sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in answers]
        for s in self.sockets:
            s.bind((host, 0))
        self.servers = tuple(Server(host, s.getsockname()[1]) for s in self.sockets)
        self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._stop[0], *self.sockets], [], [], 30)
            if self._stop[0] in ready or not ready:
                return
            for s in ready:
                data, client = s.recvfrom(1024)
                now = time.time_ns()
                i = self.sockets.index(s)
                self.requests[i].append(data)
                self.clients[i].append(client)
                for packet in self._answers[i](data, now):
                    s.sendto(packet, client)

    def close(self) -> None:
        self._stop[1].send(b"x")
        self._thread.join()
        for s in (*self.sockets, *self._stop):
            s.close()


@contextmanager
def fakes(*answers: Answer) -> Iterator[Fakes]:
    """Servers for the length of a block."""
    farm = Fakes(answers)
    try:
        yield farm
    finally:
        farm.close()


def closed_port() -> Server:
    """A server on 127.0.0.1 that is not there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        return Server("127.0.0.1", s.getsockname()[1])


# A server in the simulated world: (request, true UTC ns) -> packets; its way is `rtt_s`.
@dataclass(slots=True)
class Simulated:
    """A server; `up` and `reply` may be changed while the world runs."""

    reply: Reply = Reply()
    up: bool = True
    rtt_s: float = 0.02
    jitter_s: float = 0.0
    asked_s: list[float] = field(default_factory=list)


class World:
    """An engine with simulated servers and a simulated host clock; seconds from the start at noon.

    `offset_s` is host - UTC, `ppm` the rate at which the raw clock gains on UTC (and the host's clock with it).
    """

    def __init__(
        self,
        servers: Sequence[Simulated],
        config: Ntp | None = None,
        offset_s: float = 0.0,
        ppm: float = 0.0,
        utc_ns: int = NOON_NS,
        carried: Basis | None = None,
        lan: bool = False,
    ) -> None:
        self.servers = list(servers)
        self.offset_ns = round(offset_s * SECOND)
        self.ppm = ppm
        self.asleep_ns = 0
        self.start_utc_ns = utc_ns
        self.t = 0
        self.kernel = KernelState(False, 16.0, 0.0, 0)
        self.sources: dict[str, Callable[[Instant], Reading | Absence]] = {}
        self.unreachable: set[str] = set()
        self.names: dict[str, tuple[Address, ...]] = {}
        self.reports: list[tuple[float, Report]] = []
        self.notes: list[tuple[float, Note]] = []
        self.local_asked_s: list[float] = []
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._random = random.Random(4)
        given = config or Ntp(sources=("servers",))
        if config is None or not config.servers or config.servers == Ntp().servers:
            addresses = tuple(Server(f"192.0.2.{i + 1}", lan=lan) for i in range(len(servers)))
            given = replace(given, servers=addresses)
        self.config = given
        self.engine = Engine(given, self.now(), carried)

    def utc_ns(self) -> int:
        return self.start_utc_ns + self.t

    def now(self) -> Instant:
        """The host's clocks."""
        raw = 1_000 * SECOND + self.t - self.asleep_ns + round(self.t * self.ppm * 1e-6)
        realtime = self.utc_ns() + self.offset_ns + round(self.t * self.ppm * 1e-6)
        return Instant(realtime, raw, raw, raw + self.asleep_ns)

    @property
    def true_offset_ms(self) -> float:
        return (self.now().realtime - self.utc_ns()) / 1e6

    @property
    def record(self):  # type: ignore[no-untyped-def]
        """The record as published last."""
        return self.reports[-1][1].record

    @property
    def seconds(self) -> float:
        return self.t / SECOND

    def step(self, seconds: float) -> None:
        """Somebody sets the host's clock."""
        self.offset_ns += round(seconds * SECOND)

    def suspend(self, seconds: float) -> None:
        """The host sleeps: real time goes on, monotonic clocks do not."""
        self.t += round(seconds * SECOND)
        self.asleep_ns += round(seconds * SECOND)

    def run(self, seconds: float) -> None:
        """Let that much time pass."""
        end = self.t + round(seconds * SECOND)
        while True:
            for action in self.engine.tick(self.now()):
                self._perform(action)
            report = self.engine.publication(self.now())
            self.notes += [(self.seconds, note) for note in self.engine.notes]
            self.engine.notes.clear()
            if report is not None:
                self.reports.append((self.seconds, report))
            wait = max(self.engine.next_ns() - self.now().monotonic, 0)
            following = min(self.t + min(max(wait, 1_000), SECOND), end)
            if self._queue and self._queue[0][0] <= following:
                at, _, event = heapq.heappop(self._queue)
                self.t = max(self.t, at)
                event()
                continue
            if self.t >= end:
                return
            self.t = following

    def _later(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.t + round(seconds * SECOND), next(self._serial), event))

    def _perform(self, action: Ask | Resolve | AskLocal) -> None:
        if isinstance(action, Ask):
            self._ask(action.index, action.address.host)
        elif isinstance(action, Resolve):
            found, index = self.names.get(action.server.address), action.index
            if found is None:
                self._later(0.01, lambda: self.engine.pool.unresolved(index, "name: unknown", self.now()))
            else:
                self._later(0.01, lambda: self.engine.pool.resolved(index, found, self.now()))
        elif action.source == "kernel":
            self.local_asked_s.append(self.seconds)
            self.engine.kernel(self.kernel)
        else:
            source = action.source
            absent = Absence(source, "absent")
            answer = self.sources[source](self.now()) if source in self.sources else absent
            self._later(0.0001, lambda: self.engine.local(source, answer, self.now()))

    def _ask(self, index: int, host: str) -> None:
        server = self.servers[index]
        server.asked_s.append(self.seconds)
        pool = self.engine.pool
        if host in self.unreachable:
            pool.missed(index, "enetunreach", self.now(), unreachable=True)
            return
        if not server.up:
            self._later(self.config.timeout_s, lambda: pool.missed(index, "timeout", self.now()))
            return
        sent, nonce = self.now(), self._random.randbytes(8)
        forward_s = server.rtt_s / 2 + self._random.expovariate(1 / server.jitter_s) if server.jitter_s else 0.0
        forward_s = forward_s or server.rtt_s / 2
        packet = server.reply.to_bytes(wire.request(nonce), self.utc_ns() + round(forward_s * SECOND))

        def arrive() -> None:
            now = self.now()
            outcome = wire.check(packet, nonce, sent, now, self.engine.limits)
            assert not isinstance(outcome, wire.Ignored)
            pool.outcome(index, outcome, now, forward_s + server.rtt_s / 2)

        self._later(forward_s + server.rtt_s / 2, arrive)
