"""A captured radiod, sent again: the same packets to the same groups with the capture's timing.

The schedule is absolute on CLOCK_MONOTONIC, so lateness never adds up. Status packets get their GPS_TIME
moved to now; everything else leaves as it was captured. RTP, status and commands are told apart by their
first byte, as radiod's listeners do, since ports can be anything.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import PipelineError
from pipeline.pcap import Datagram, Endpoint, PcapReader
from pipeline.simulator.spec import SimulatorError
from pipeline.simulator.status import COMMAND, STATUS, build_tlvs, integer, integer_bytes, parse_tlvs
from pipeline.simulator.wire import find_interface, is_multicast, sender

_GPS_TIME, _DATA_DEST = 3, 17  # ka9q-radio status.h
_RTP_HEADER_BYTES = 12
_LONGEST_SLEEP_S = 0.1
_MINUTE_NS = 60_000_000_000


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What to replay and how; None for an address means: as captured."""

    capture: Path
    data_address: Endpoint | None = None
    status_address: Endpoint | None = None
    interface: str = "lo"
    ttl: int = 0
    speed: float = 1.0
    as_recorded: bool = False
    with_commands: bool = False
    start_second: float | None = None


@dataclass(slots=True)
class Summary:
    """What was sent. `shift_ns` was added to GPS_TIME; `start_utc_ns` is when the first packet left."""

    rtp_packets: dict[int, int] = field(default_factory=dict)
    statuses: int = 0
    commands: int = 0
    skipped: int = 0
    shift_ns: int = 0
    start_utc_ns: int = 0
    capture_start_ns: int = 0
    max_late_ms: float = 0.0
    stopped: bool = False
    notes: list[str] = field(default_factory=list)


def is_rtp(payload: bytes) -> bool:
    """Whether this can only be RTP: version 2 in the first two bits (RFC 3550 section 5.1)."""
    return len(payload) >= _RTP_HEADER_BYTES and payload[0] >> 6 == 2


def shift_status(packet: bytes, shift_ns: int, data_address: Endpoint | None = None) -> bytes:
    """`packet` with GPS_TIME moved by `shift_ns` and, if given, its data destination replaced.

    Lengths change where the number of significant bytes does. A packet that is no sound TLV list is
    returned as it is.
    """
    try:
        fields = parse_tlvs(packet)
    except SimulatorError:
        return packet
    out = []
    for number, value in fields:
        if number == _GPS_TIME:
            out.append((number, integer_bytes(max(0, integer(value) + shift_ns))))
        elif number == _DATA_DEST and data_address is not None:
            out.append((number, socket.inet_aton(data_address[0]) + data_address[1].to_bytes(2, "big")))
        else:
            out.append((number, value))
    return build_tlvs(packet[0], out)


class _Routes:
    """Where a captured datagram goes. The data group is the one that RTP goes to."""

    def __init__(self, plan: ReplayPlan) -> None:
        self._plan = plan
        self._data_groups: set[str] = set()

    def learn(self, capture: Path) -> None:
        with PcapReader(capture) as reader:
            for datagram in reader:
                if is_rtp(datagram.payload) and is_multicast(datagram.dst[0]):
                    self._data_groups.add(datagram.dst[0])
        if not self._data_groups:
            raise PipelineError(f"{capture}: no multicast RTP in it")

    def destination(self, datagram: Datagram) -> Endpoint | None:
        """None if it is not to be sent."""
        group, port = datagram.dst
        kind = datagram.payload[:1]
        if not is_multicast(group):
            return None
        if is_rtp(datagram.payload):
            return self._plan.data_address or (group, port)
        if kind == bytes([COMMAND]) and not self._plan.with_commands:
            return None
        if kind not in (bytes([STATUS]), bytes([COMMAND])):
            return None
        if group in self._data_groups:
            return (self._plan.data_address[0], port) if self._plan.data_address else (group, port)
        return self._plan.status_address or (group, port)


class _Sockets:
    """One source socket per captured source, so that a restarted radiod is seen as one."""

    def __init__(self, plan: ReplayPlan) -> None:
        self._interface, self._ttl = find_interface(plan.interface), plan.ttl
        self._by_source: dict[Endpoint, socket.socket] = {}

    def send(self, source: Endpoint, data: bytes, destination: Endpoint) -> None:
        sock = self._by_source.get(source)
        if sock is None:
            sock = self._by_source[source] = sender(self._interface, self._ttl)
        try:
            sock.sendto(data, destination)
        except OSError as error:
            where = f"{destination[0]}:{destination[1]} through {self._interface.name}"
            raise PipelineError(f"replay: sending to {where}: {error.strerror}") from error

    def close(self) -> None:
        for sock in self._by_source.values():
            sock.close()


def play(
    plan: ReplayPlan, stop: Callable[[], bool] = lambda: False, progress: Callable[[float], None] = lambda _: None
) -> Summary:
    """Send the capture; returns when it is through or `stop()` is true (asked at least every 0.1 s).

    `progress` gets the fraction done, 0..1. Raises PipelineError (its subclasses say which part).
    """
    summary = Summary()
    routes = _Routes(plan)
    routes.learn(plan.capture)
    sockets = _Sockets(plan)
    try:
        with PcapReader(plan.capture) as reader:
            _play(plan, reader, routes, sockets, summary, stop, progress)
            if reader.problem:
                summary.notes.append(reader.problem)
    finally:
        sockets.close()
    return summary


def _play(
    plan: ReplayPlan,
    reader: PcapReader,
    routes: _Routes,
    sockets: _Sockets,
    summary: Summary,
    stop: Callable[[], bool],
    progress: Callable[[float], None],
) -> None:
    begin_ns = 0
    shift_known = False
    for datagram in reader:
        destination = routes.destination(datagram)
        if destination is None:
            summary.skipped += 1
            continue
        if not begin_ns:
            begin_ns, summary.start_utc_ns = _begin(plan.start_second)
            summary.capture_start_ns = datagram.t_ns
        after_ns = round((datagram.t_ns - summary.capture_start_ns) / plan.speed)
        payload = datagram.payload
        if payload[0] == STATUS and not plan.as_recorded:
            if not shift_known:
                # At other speeds only the first status can look live; at speed 1 all do.
                summary.shift_ns, shift_known = summary.start_utc_ns + after_ns - datagram.t_ns, True
            payload = shift_status(payload, summary.shift_ns, plan.data_address)
        if not _sleep_until(begin_ns + after_ns, stop):
            summary.stopped = True
            return
        sockets.send(datagram.src, payload, destination)
        summary.max_late_ms = max(summary.max_late_ms, (time.monotonic_ns() - begin_ns - after_ns) / 1e6)
        _count(summary, payload)
        progress(reader.offset / reader.size)


def _count(summary: Summary, payload: bytes) -> None:
    if is_rtp(payload):
        ssrc = int.from_bytes(payload[8:12], "big")
        summary.rtp_packets[ssrc] = summary.rtp_packets.get(ssrc, 0) + 1
    elif payload[0] == STATUS:
        summary.statuses += 1
    else:
        summary.commands += 1


def _begin(start_second: float | None) -> tuple[int, int]:
    """(CLOCK_MONOTONIC, UTC) in ns at which the first packet leaves."""
    monotonic_ns, utc_ns = time.monotonic_ns(), time.time_ns()
    wait_ns = 0
    if start_second is not None:
        wait_ns = (round(start_second * 1e9) - utc_ns) % _MINUTE_NS
    return monotonic_ns + wait_ns, utc_ns + wait_ns


def _sleep_until(monotonic_ns: int, stop: Callable[[], bool]) -> bool:
    """False if told to stop before."""
    while True:
        if stop():
            return False
        wait_s = (monotonic_ns - time.monotonic_ns()) / 1e9
        if wait_s <= 0:
            return True
        time.sleep(min(wait_s, _LONGEST_SLEEP_S))
