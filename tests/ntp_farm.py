"""NTP servers for tests, on loopback: replies good and bad, and who sends them."""

from __future__ import annotations

import heapq
import itertools
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from helpers import free_port
from pipeline.config import Ntp, Server
from pipeline.ntp import wire

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

# Answers whose header or stamps must not be used, by number and name of the case, with the word for why.
REFUSED = {
    "02 leap 3": (Reply(leap=3), "unsync"),
    "03 stratum 16": (Reply(stratum=16), "unsync"),
    "03 stratum 255": (Reply(stratum=255), "unsync"),
    "08 receive stamp 0": (Reply(zero_receive=True), "zero-ts"),
    "08 transmit stamp 0": (Reply(zero_transmit=True), "zero-ts"),
    "09 root dispersion 16 s": (Reply(root_dispersion_s=16.0), "header"),
    "09 root delay 65535 s": (Reply(root_delay_s=65535.0), "header"),
    "10 reference in the future": (Reply(reference_age_s=-100.0), "header"),
    "10 reference two days old": (Reply(reference_age_s=2 * 86400.0), "stale-ref"),
    "11 local clock of ntpd": (Reply(stratum=6, refid=bytes([127, 127, 1, 0])), "local-ref"),
    "11 local stratum 1 of chronyd": (Reply(refid=bytes([127, 127, 1, 1]), root_dispersion_s=0), "local-ref"),
    "11 refid LOCL": (Reply(refid=b"LOCL"), "local-ref"),
    "11 refid FREE": (Reply(refid=b"FREE"), "local-ref"),
    "12 answered before it was asked": (Reply(interval_s=-0.5), "server-interval"),
    "12 held for ten seconds": (Reply(interval_s=10.0), "server-interval"),
    "13 delay negative": (Reply(interval_s=0.5), "neg-delay"),
    "34 distance 1.6 s": (Reply(root_dispersion_s=1.6), "distance"),
    "34 precision of a year": (Reply(precision=25), "distance"),
}
# What is no answer to our request at all: it is ignored and waiting goes on.
IGNORED = {
    "06 kiss from a stranger": (replace(KISS_RATE, origin=bytes(8)), "bogus"),
    "14 our own packet": (Reply(mode=3), "mode"),
    "14 broadcast": (Reply(mode=5), "mode"),
    "14 control": (Reply(mode=6), "mode"),
    "15 version 1": (Reply(version=1), "version"),
    "15 version 7": (Reply(version=7), "version"),
    "16 origin zero": (Reply(origin=bytes(8)), "bogus"),
    "16 origin random": (Reply(origin=b"whatever"), "bogus"),
}


@dataclass(frozen=True, slots=True)
class Later:
    """A packet that leaves after so many seconds."""

    seconds: float
    packet: bytes


# What a server makes of a request and the time at which it came, Unix ns.
Answer = Callable[[bytes, int], Sequence[bytes | Later]]


def good(request: bytes, receive_ns: int) -> list[bytes]:
    """A right clock's answer."""
    return [Reply().to_bytes(request, receive_ns)]


def saying(reply: Reply) -> Answer:
    """A server that always says `reply`."""
    return lambda request, receive_ns: [reply.to_bytes(request, receive_ns)]


def distant(there_s: float, back_s: float, reply: Reply = Reply()) -> Answer:
    """A server that far away."""

    def answer(request: bytes, receive_ns: int) -> list[Later]:
        packet = reply.to_bytes(request, receive_ns + round(there_s * SECOND))
        return [Later(there_s + back_s, packet)]

    return answer


def silent(_request: bytes, _receive_ns: int) -> list[bytes]:
    """A dead server."""
    return []


class Fakes:
    """UDP servers in one thread. `requests` has what each has received, `clients` from where;
    `waiting` what will be sent later.
    """

    def __init__(self, answers: Sequence[Answer], host: str = "127.0.0.1") -> None:
        self.requests: list[list[bytes]] = [[] for _ in answers]
        self.clients: list[list[tuple[str, int]]] = [[] for _ in answers]
        self._answers = answers
        self.waiting: list[tuple[float, int, int, bytes, tuple[str, int]]] = []
        self._serial = itertools.count()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sockets = [socket.socket(family, socket.SOCK_DGRAM) for _ in answers]
        for s in self.sockets:
            s.bind((host, 0))
        self.servers = tuple(Server(host, s.getsockname()[1]) for s in self.sockets)
        self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            wait_s = max(self.waiting[0][0] - time.monotonic(), 0) if self.waiting else 30
            ready, _, _ = select.select([self._stop[0], *self.sockets], [], [], wait_s)
            if self._stop[0] in ready:
                return
            for s in ready:
                self._answer(self.sockets.index(s))
            while self.waiting and self.waiting[0][0] <= time.monotonic():
                _, _, i, packet, client = heapq.heappop(self.waiting)
                self.sockets[i].sendto(packet, client)

    def _answer(self, i: int) -> None:
        data, client = self.sockets[i].recvfrom(1024)
        now = time.time_ns()
        self.requests[i].append(data)
        self.clients[i].append(client)
        for packet in self._answers[i](data, now):
            if isinstance(packet, Later):
                due = time.monotonic() + packet.seconds
                heapq.heappush(self.waiting, (due, next(self._serial), i, packet.packet, client))
            else:
                self.sockets[i].sendto(packet, client)

    def close(self) -> None:
        self._stop[1].send(b"x")
        self._thread.join()
        for s in (*self.sockets, *self._stop):
            s.close()


@contextmanager
def fakes(*answers: Answer, host: str = "127.0.0.1") -> Iterator[Fakes]:
    """Servers for the length of a block."""
    farm = Fakes(answers, host)
    try:
        yield farm
    finally:
        farm.close()


def closed_port() -> Server:
    """A server on 127.0.0.1 that is not there."""
    return Server("127.0.0.1", free_port())


def asking(farm: Fakes, *more: Server, **changes: object) -> Ntp:
    """A configuration that asks these servers alone, and soon gives up on the silent."""
    base = Ntp(sources=("servers",), servers=(*farm.servers, *more), timeout_s=0.3)
    return replace(base, **changes)  # type: ignore[arg-type]
