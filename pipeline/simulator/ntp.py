"""A farm of NTP servers on loopback, good and bad, for clients that want to be tested.

It only ever answers. Stamps follow RFC 5905: T2 is the kernel's receive stamp, T3 is taken right before
the reply leaves; a simulated network delays both ways of a packet around them, so that a client sees
offset and delay as from a distant server. One selector loop; it belongs in a process of its own, away
from anything that computes.
"""

from __future__ import annotations

import heapq
import os
import random
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import NamedTuple

from pipeline.simulator.spec import NtpServerSpec, SimulatorError

_HEADER = struct.Struct("!BBbbII4sQQQQ")  # RFC 5905 section 7.3
_CLIENT, _SERVER = 3, 4
_UNIX_TO_NTP_S = 2_208_988_800  # RFC 5905 section 6
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; also the control message's type
_TIMESPEC = struct.Struct("@ll")
_SANE_STAMP_NS = 1_000_000_000
_REFERENCE_AGE_NS = 16_000_000_000
_PASS_LIMIT = 64

Address = tuple[str, int]


def ntp_timestamp(utc_ns: int) -> int:
    """64-bit NTP timestamp (seconds since 1900 mod 2^32, binary fraction) of Unix nanoseconds."""
    seconds, ns = divmod(utc_ns, 1_000_000_000)
    return ((seconds + _UNIX_TO_NTP_S) % (1 << 32)) << 32 | (ns << 32) // 1_000_000_000


def ntp_short(seconds: float) -> int:
    """32-bit NTP short format of a non-negative duration in seconds."""
    return min(round(seconds * 65536), 0xFFFFFFFF)


def build_reply(request: bytes, spec: NtpServerSpec, receive_ns: int, transmit_ns: int) -> bytes | None:
    """The answer to a client request whose true stamps are given (Unix ns, offset not yet applied).

    None for what a server must not answer: short packets and other modes (RFC 5905 section 8).
    """
    if len(request) < _HEADER.size or request[0] & 7 != _CLIENT:
        return None
    version, poll = request[0] >> 3 & 7, request[2]
    origin = int.from_bytes(request[40:48], "big")
    offset_ns = round(spec.offset_s * 1e9)
    kissed = bool(spec.kiss)
    return _HEADER.pack(
        (3 if kissed else spec.leap) << 6 | version << 3 | _SERVER,
        0 if kissed else spec.stratum,
        poll if poll < 128 else poll - 256,
        spec.precision,
        ntp_short(spec.root_delay_s),
        ntp_short(spec.root_dispersion_s),
        _refid(spec.kiss or spec.refid, kissed or spec.stratum <= 1),
        ntp_timestamp(transmit_ns + offset_ns - _REFERENCE_AGE_NS),
        origin ^ 0x5555_5555 if spec.wrong_origin else origin,
        ntp_timestamp(receive_ns + offset_ns),
        0 if spec.zero_transmit else ntp_timestamp(transmit_ns + offset_ns),
    )


def _refid(text: str, is_code: bool) -> bytes:
    if is_code:
        return text.encode("ascii").ljust(4, b"\0")
    return random.Random(text).randbytes(4)  # of a secondary server: looks like its source's address


class _Pending(NamedTuple):
    """A reply that waits for its time; `order` keeps the heap from comparing sockets."""

    due_ns: int  # CLOCK_MONOTONIC
    order: int
    sock: socket.socket
    client: Address
    request: bytes
    spec: NtpServerSpec
    receive_ns: int
    back_ns: int  # the way back, which the transmit stamp does not see


class NtpFarm:
    """Bound sockets and pending replies of all servers. `addresses`, then `serve` until told to stop."""

    def __init__(self, specs: Sequence[NtpServerSpec], seed: int = 1) -> None:
        self._random = random.Random(f"{seed} ntp")
        self._pending: list[_Pending] = []
        self._order = count()
        self._servers: dict[int, tuple[socket.socket, NtpServerSpec]] = {}
        self._poll = select.poll()
        self.addresses: tuple[Address, ...] = ()
        for spec in specs:
            self._bind(spec)

    def _bind(self, spec: NtpServerSpec) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._servers[sock.fileno()] = (sock, spec)
        try:
            sock.bind((spec.host, spec.port))
        except OSError as error:
            self.close()
            raise SimulatorError(f"NTP server {spec.host}:{spec.port}: {error.strerror}") from error
        self._poll.register(sock, select.POLLIN)
        self.addresses += (sock.getsockname(),)

    def close(self) -> None:
        """Release the sockets."""
        for sock, _ in self._servers.values():
            sock.close()

    def serve(self, stop_fd: int) -> None:
        """Answer until `stop_fd` becomes readable or its other end closes."""
        self._poll.register(stop_fd, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll(self._timeout_ms()):
                if fd == stop_fd:
                    return
                self._receive(*self._servers[fd])
            self._send_due()

    def _timeout_ms(self) -> int | None:
        if not self._pending:
            return None
        return max(0, (self._pending[0].due_ns - time.monotonic_ns()) // 1_000_000)

    def _receive(self, sock: socket.socket, spec: NtpServerSpec) -> None:
        for _ in range(_PASS_LIMIT):
            try:
                request, controls, _flags, client = sock.recvmsg(2048, 128)
            except (BlockingIOError, InterruptedError, ConnectionRefusedError):
                return
            now_ns = time.time_ns()
            stamp_ns = _kernel_stamp(controls)
            arrived_ns = stamp_ns if stamp_ns is not None and 0 <= now_ns - stamp_ns < _SANE_STAMP_NS else now_ns
            if spec.silent or self._random.random() < spec.loss:
                continue
            jitter_s = self._random.expovariate(1 / spec.jitter_s) if spec.jitter_s > 0 else 0.0
            back_ns = round((spec.reply_delay_s + jitter_s) * 1e9)
            receive_ns = arrived_ns + round(spec.request_delay_s * 1e9)
            wait_ns = round((spec.request_delay_s + spec.processing_s) * 1e9) + back_ns - (now_ns - arrived_ns)
            due_ns = time.monotonic_ns() + wait_ns
            pending = _Pending(due_ns, next(self._order), sock, client, request, spec, receive_ns, back_ns)
            heapq.heappush(self._pending, pending)

    def _send_due(self) -> None:
        while self._pending:
            wait_ns = self._pending[0].due_ns - time.monotonic_ns()
            if wait_ns > 1_000_000:
                return
            if wait_ns > 0:
                time.sleep(wait_ns / 1e9)  # poll counts whole milliseconds
            item = heapq.heappop(self._pending)
            reply = build_reply(item.request, item.spec, item.receive_ns, time.time_ns() - item.back_ns)
            if reply is not None:
                with suppress(OSError):  # a client that has gone is no fault of the server
                    item.sock.sendto(reply, item.client)


def _kernel_stamp(controls: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in controls:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) >= _TIMESPEC.size:
            seconds, ns = _TIMESPEC.unpack_from(data)
            return int(seconds) * 1_000_000_000 + int(ns)
    return None


@contextmanager
def running_farm(specs: Sequence[NtpServerSpec], seed: int = 1) -> Iterator[tuple[Address, ...]]:
    """Serve in a forked child for the length of the block; yields the servers' addresses.

    The child ends when the block does or when this process dies. Raises SimulatorError if a port is taken.
    """
    if not specs:
        yield ()
        return
    farm = NtpFarm(specs, seed)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(farm, read_end, write_end)
    os.close(read_end)
    farm.close()
    try:
        yield farm.addresses
    finally:
        os.close(write_end)
        os.waitpid(pid, 0)


def _child(farm: NtpFarm, read_end: int, write_end: int) -> None:
    """Never returns: the parent's code must not run twice."""
    status = 1
    try:
        # The parent's end of the pipe says when to stop; a terminal's Ctrl-C reaches both.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(write_end)
        farm.serve(read_end)
        status = 0
    finally:
        os._exit(status)
