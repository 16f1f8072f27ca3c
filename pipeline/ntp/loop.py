"""The monitor's one loop: sockets, clocks and threads around the engine.

Every request has a socket of its own, connected: a random port per request (RFC 9109),
and the kernel drops what comes from another address or port and reports a closed port at
once. T4 is the kernel's receive stamp, which does not care how busy the machine is.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import logging
import os
import selectors
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pipeline.config import Ntp
from pipeline.ntp import clock, kernel, local, wire
from pipeline.ntp.engine import KERNEL, Action, AskLocal, Engine
from pipeline.ntp.peer import Address
from pipeline.ntp.pool import Ask, Resolve
from pipeline.ntp.reading import Absence, Reading
from pipeline.ntp.report import Note, Report
from pipeline.ntp.resolve import Background, lookup
from pipeline.ntp.verdict import Basis
from pipeline.ntp.wire import Ignored, Instant

log = logging.getLogger(__name__)

SO_TIMESTAMPNS = 35  # asm-generic/socket.h; not in the socket module
TIMESPEC = struct.Struct("@ll")
# Somebody who floods us with answers must not keep the request alive.
MAX_BOGUS = 16
# How often the clocks are looked at when nothing happens: a step shows within this.
LOOK_S = 1.0


def _log(note: Note) -> None:
    log.log(logging.WARNING if note.warning else logging.INFO, "%s", note.text)


@dataclass(slots=True)
class _Flight:
    """A request that is under way."""

    index: int
    sock: socket.socket
    nonce: bytes
    sent: Instant
    deadline_ns: int
    bogus: int = 0
    last_bogus: str = ""


@dataclass(frozen=True, slots=True)
class Outside:
    """What the loop takes from the world, for tests to replace."""

    clock: Callable[[], Instant] = clock.read
    lookup: Callable[[str, int], tuple[Address, ...]] = lookup
    sources: Mapping[str, Callable[[Ntp], Reading | Absence]] = field(default_factory=lambda: local.SOURCES)
    kernel: Callable[[], Any] = kernel.read


class Loop:
    """Runs an engine until told to stop.

    `publish` gets every report, `tell` every line for the log; errors in them end the loop.
    """

    def __init__(
        self,
        config: Ntp,
        publish: Callable[[Report], None],
        carried: Basis | None = None,
        outside: Outside | None = None,
        tell: Callable[[Note], None] = _log,
        steps: int = 0,
    ) -> None:
        self._outside = outside or Outside()
        self._config = config
        self._publish = publish
        self._tell = tell
        self._timeout_ns = int(config.timeout_s * 1e9)
        self._selector = selectors.DefaultSelector()
        self._flights: dict[int, _Flight] = {}
        self._own_addresses: set[bytes] = set()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._background = Background(self._wake)
        self.watch(self._wake_read)
        self.engine = Engine(config, self._outside.clock(), carried, steps)

    def watch(self, fd: int) -> None:
        """End the loop's sleep when `fd` becomes readable; what it holds is read and dropped."""
        self._selector.register(fd, selectors.EVENT_READ, None)

    def close(self) -> None:
        """Give back all sockets; threads that still wait for a resolver are left behind."""
        for flight in list(self._flights.values()):
            self._land(flight)
        self._selector.close()
        os.close(self._wake_read)
        # The writing end stays open for threads that may yet call `_wake`.

    def run(self, stopping: Callable[[], bool]) -> None:
        """Measure and publish until `stopping()`, which is asked at least once in `LOOK_S`."""
        while not stopping():
            self.turn()

    def turn(self) -> None:
        """Do what is due, publish what is new, then sleep until something happens."""
        now = self._outside.clock()
        for action in self.engine.tick(now):
            self._perform(action)
        self._report()
        self._sleep()

    def _report(self) -> None:
        report = self.engine.publication(self._outside.clock())
        for note in self.engine.notes:
            self._tell(note)
        self.engine.notes.clear()
        if report is not None:
            self._publish(report)

    def _sleep(self) -> None:
        now = self._outside.clock()
        times = [self.engine.next_ns(), *(f.deadline_ns for f in self._flights.values())]
        timeout_s = min(max(min(times) - now.monotonic, 0) / 1e9, LOOK_S)
        for key, _ in self._selector.select(timeout_s):
            if isinstance(key.data, _Flight):
                self._receive(key.data)
            else:
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, 512)
        self._take_results()
        self._expire()

    # Actions

    def _perform(self, action: Action) -> None:
        if isinstance(action, Ask):
            self._ask(action)
        elif isinstance(action, Resolve):
            job = partial(self._outside.lookup, action.server.address, action.server.port)
            self._background.submit(action.index, job)
        elif action.source == KERNEL:
            self.engine.kernel(self._outside.kernel())
        else:
            self._ask_local(action)

    def _ask_local(self, action: AskLocal) -> None:
        self._background.submit(action.source, partial(self._outside.sources[action.source], self._config))

    def _ask(self, ask: Ask) -> None:
        nonce = os.urandom(8)
        packet = wire.request(nonce)
        sock = None
        try:
            sock = _connect(ask.address)
            sent = self._outside.clock()
            sock.send(packet)
        except OSError as error:
            if sock is not None:
                sock.close()
            self._missed(ask.index, error, sent=False)
            return
        self._remember_own(sock)
        flight = _Flight(ask.index, sock, nonce, sent, sent.monotonic + self._timeout_ns)
        self._flights[ask.index] = flight
        self._selector.register(sock, selectors.EVENT_READ, flight)

    def _missed(self, index: int, error: OSError, sent: bool = True) -> None:
        refused = error.errno == errno.ECONNREFUSED
        reason = "refused" if refused else errno.errorcode.get(error.errno or 0, "error").lower()
        # A closed port is an answer of sorts; without a route another address may do better.
        self.engine.pool.missed(index, reason, self._outside.clock(), unreachable=not refused, sent=sent)

    def _remember_own(self, sock: socket.socket) -> None:
        """A server whose reference is one of our addresses follows this host."""
        own = reference_id(sock.getsockname()[0])
        if own is not None and own not in self._own_addresses:
            self._own_addresses.add(own)
            self.engine.limits = replace(self.engine.limits, own_addresses=frozenset(self._own_addresses))

    # What comes back

    def _receive(self, flight: _Flight) -> None:
        while flight.index in self._flights and self._flights[flight.index] is flight:
            try:
                data, controls, _, _ = flight.sock.recvmsg(512, 128)
            except BlockingIOError:
                return
            except OSError as error:
                self._land(flight)
                self._missed(flight.index, error)
                return
            self._consider(flight, data, _kernel_stamp(controls))

    def _consider(self, flight: _Flight, data: bytes, stamp_ns: int | None) -> None:
        now = self._outside.clock()
        received = wire.arrival(stamp_ns, flight.sent, now)
        outcome = wire.check(data, flight.nonce, flight.sent, received, self.engine.limits)
        if isinstance(outcome, Ignored):
            flight.bogus += 1
            flight.last_bogus = str(outcome.reason)
            if flight.bogus >= MAX_BOGUS:
                self._land(flight)
                self.engine.pool.missed(flight.index, "bogus", now)
            return
        self._land(flight)
        self.engine.pool.outcome(flight.index, outcome, now, (received.raw - flight.sent.raw) / 1e9)

    def _land(self, flight: _Flight) -> None:
        del self._flights[flight.index]
        self._selector.unregister(flight.sock)
        flight.sock.close()

    def _expire(self) -> None:
        now = self._outside.clock()
        for flight in [f for f in self._flights.values() if now.monotonic >= f.deadline_ns]:
            self._land(flight)
            heard = f" ({flight.last_bogus})" if flight.last_bogus else ""
            self.engine.pool.missed(flight.index, f"timeout{heard}", now)

    def _take_results(self) -> None:
        now = self._outside.clock()
        for key, result in self._background.finished():
            if isinstance(key, int):
                self._take_addresses(key, result, now)
            elif isinstance(result, Exception):
                self.engine.local(str(key), Absence(str(key), f"failed: {result}"), now)
            else:
                self.engine.local(str(key), result, now)

    def _take_addresses(self, index: int, result: Any, now: Instant) -> None:
        if isinstance(result, Exception):
            text = result.strerror if isinstance(result, OSError) and result.strerror else str(result)
            self.engine.pool.unresolved(index, f"name: {text}", now)
        else:
            self.engine.pool.resolved(index, result, now)

    def _wake(self) -> None:
        """Called by other threads."""
        with contextlib.suppress(OSError):  # full: it wakes just as well; closed: nobody listens
            os.write(self._wake_write, b"\0")


def reference_id(host: str) -> bytes | None:
    """How a server that follows this address calls it (RFC 5905 section 7.3); None for loopback, which has no name."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_loopback:
        return None
    packed = address.packed
    return packed if address.version == 4 else hashlib.md5(packed, usedforsecurity=False).digest()[:4]


def _connect(address: Address) -> socket.socket:
    """A non-blocking UDP socket that talks to this address alone. OSError when there is no route."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # without stamps T4 is read in user space
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.connect((address.host, address.port))
    except OSError:
        sock.close()
        raise
    return sock


def _kernel_stamp(controls: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in controls:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) >= TIMESPEC.size:
            seconds, ns = TIMESPEC.unpack_from(data)
            return int(seconds * 10**9 + ns)
    return None
