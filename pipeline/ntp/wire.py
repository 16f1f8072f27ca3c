"""One NTP exchange: the request, the checks a reply must pass, the sample it gives.

RFC 5905 sections 7.3, 8, 9.2 and figure 22. All four timestamps are integers modulo
2**64 and only ever subtracted, so nothing here knows an era and 2036 is a day like any
other. theta is server - host, as in the RFC; the sign of what is published is made in
`pipeline.ntp.verdict`.

The order of the checks is a matter of security. Whatever comes before the origin check
can be sent by anyone who knows that we ask, so it is ignored and waiting goes on; in
particular a kiss-o'-death counts only from somebody who has seen our request. Whatever
comes after it consumes the request: one request, at most one reply.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import ntplib

PACKET_SIZE = 48
# Leap 0, version 4, mode 3, and the precision byte that chronyd sends; everything else
# zero, so that a request tells nothing about this host and its clock (data minimization
# as chronyd and ntpd-rs do it). T1 stays here.
REQUEST_HEADER = bytes.fromhex("23000020") + bytes(36)
TIMESTAMPS = struct.Struct("!QQQQ")  # reference, origin, receive, transmit; from byte 16

UNIX_EPOCH_NTP_S = 2_208_988_800
WRAP = 1 << 64
HALF = 1 << 63

PHI = 15e-6  # frequency tolerance, s/s (RFC 5905 figure 5)
MAX_DISPERSION_S = 16.0  # RFC 5905 MAXDISP
MAX_STRATUM = 15
MAX_SERVER_INTERVAL_S = 4.0  # between receiving and answering (chrony MAX_SERVER_INTERVAL)
MAX_REFERENCE_AGE_S = 86_400.0  # RFC 1305 NTP.MAXAGE
HOST_STEP_S = 1e-3
# Stamps of server and host have a finite resolution; a delay more negative than this
# needs a clock that ran between the stamps.
NEGATIVE_DELAY_S = 100e-6
LOCAL_REFERENCES = frozenset({b"LOCL", b"FREE"})  # ntplib's table: uncalibrated local clock


class Refusal(StrEnum):
    """Why a reply gave no sample; these words appear in logs, tables and JSON."""

    SHORT = "short"  # fewer than 48 bytes
    MODE = "mode"  # not a server's answer
    VERSION = "version"  # neither 3 nor 4
    BOGUS = "bogus"  # origin is not our nonce: not an answer to this request
    ZERO_TIMESTAMP = "zero-ts"
    UNSYNC = "unsync"  # leap 3 or stratum above 15
    HEADER = "header"  # root distance of 16 s or more, or a reference from the future
    STALE_REFERENCE = "stale-ref"  # the server has not heard its reference for a day
    LOCAL_REFERENCE = "local-ref"  # a free-running clock that calls itself a server
    LOOP = "loop"  # the server follows this host
    SERVER_INTERVAL = "server-interval"
    HOST_STEP = "host-step"  # our clock moved while the packet was under way
    NEGATIVE_DELAY = "neg-delay"
    DELAY = "delay"
    DISTANCE = "distance"


@dataclass(frozen=True, slots=True)
class Instant:
    """One reading of the host's clocks, in ns.

    `raw` is CLOCK_MONOTONIC_RAW: nothing steps or slews it, so it carries measurements
    through whatever is done to `realtime`. `monotonic` is for timers and ages;
    `boottime` differs from it by the time spent suspended.
    """

    realtime: int
    raw: int
    monotonic: int
    boottime: int

    @property
    def base(self) -> int:
        """realtime - raw: moves with every step and slew of the host's clock."""
        return self.realtime - self.raw


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sample must meet to be kept at all; the relaxed thresholds, in seconds."""

    max_delay_s: float = 1.5
    max_distance_s: float = 1.5
    precision_s: float = 1e-6
    allow_local_reference: bool = False
    own_addresses: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Sample:
    """One good exchange.

    `utc_minus_raw_ns` is theta + (realtime - raw): the server's clock seen from
    CLOCK_MONOTONIC_RAW. Subtracting the (realtime - raw) of any later moment gives theta
    then, whatever was done to the host's clock in between.
    """

    utc_minus_raw_ns: int
    raw_ns: int
    theta_s: float
    delay_s: float
    dispersion_s: float
    root_delay_s: float
    root_dispersion_s: float
    leap: int
    stratum: int
    reference: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """Not an answer to our request; keep waiting."""

    reason: Refusal


@dataclass(frozen=True, slots=True)
class Refused:
    """The server's answer, and it is no good."""

    reason: Refusal


@dataclass(frozen=True, slots=True)
class Kiss:
    """A kiss-o'-death from the server itself (RFC 5905 section 7.4)."""

    code: str


Outcome = Sample | Ignored | Refused | Kiss


def request(nonce: bytes) -> bytes:
    """A mode 3 request of 48 bytes whose transmit stamp is the 8 random bytes of `nonce`."""
    if len(nonce) != 8:
        raise ValueError(f"nonce of {len(nonce)} bytes")
    return REQUEST_HEADER + nonce


def ntp_timestamp(realtime_ns: int) -> int:
    """Unix ns as a 64-bit NTP timestamp of whatever era."""
    return (((realtime_ns + UNIX_EPOCH_NTP_S * 10**9) << 32) // 10**9) % WRAP


def difference(a: int, b: int) -> int:
    """a - b of two timestamps, in 2**-32 s, right while they are less than 68 years apart."""
    return (a - b + HALF) % WRAP - HALF


def arrival(stamp_ns: int | None, sent: Instant, now: Instant) -> Instant:
    """When the reply came: the kernel's stamp where it can be believed, else `now`.

    The stamp is CLOCK_REALTIME. It is wrong when that clock was stepped in between and
    under a faked clock; then it lies outside of [T1, now].
    """
    if stamp_ns is None or not sent.realtime <= stamp_ns <= now.realtime:
        return now
    ago = now.realtime - stamp_ns
    return replace(now, realtime=stamp_ns, raw=now.raw - ago, monotonic=now.monotonic - ago)


@dataclass(frozen=True, slots=True)
class _Reply:
    """A decoded reply with everything that the checks need, in seconds."""

    header: ntplib.NTPPacket
    reference_ts: int
    receive_ts: int
    transmit_ts: int
    reference_id: bytes
    theta_ns: int
    delay_s: float
    dispersion_s: float
    server_interval_s: float
    reference_age_s: float
    host_moved_s: float
    limits: Limits

    @property
    def distance_s(self) -> float:
        root = self.header.root_delay / 2 + self.header.root_dispersion
        return float(max(self.delay_s, self.limits.precision_s) / 2 + self.dispersion_s + root)


def _is_local(r: _Reply) -> bool:
    return r.reference_id in LOCAL_REFERENCES or r.reference_id[:3] == b"\x7f\x7f\x01"


# A sample must pass every line; the first that fires names the refusal.
CHECKS: tuple[tuple[Refusal, Callable[[_Reply], bool]], ...] = (
    (Refusal.ZERO_TIMESTAMP, lambda r: not r.receive_ts or not r.transmit_ts),
    (Refusal.UNSYNC, lambda r: r.header.leap == 3 or r.header.stratum > MAX_STRATUM),
    (Refusal.HEADER, lambda r: r.header.root_delay / 2 + r.header.root_dispersion >= MAX_DISPERSION_S),
    (Refusal.HEADER, lambda r: bool(r.reference_ts) and r.reference_age_s < -1.0),
    (Refusal.STALE_REFERENCE, lambda r: bool(r.reference_ts) and r.reference_age_s > MAX_REFERENCE_AGE_S),
    (Refusal.LOCAL_REFERENCE, lambda r: not r.limits.allow_local_reference and _is_local(r)),
    (Refusal.LOOP, lambda r: r.header.stratum > 1 and r.reference_id in r.limits.own_addresses),
    (Refusal.SERVER_INTERVAL, lambda r: not -1e-3 <= r.server_interval_s <= MAX_SERVER_INTERVAL_S),
    (Refusal.HOST_STEP, lambda r: r.host_moved_s > HOST_STEP_S),
    (Refusal.NEGATIVE_DELAY, lambda r: r.delay_s < -max(2.0**r.header.precision, NEGATIVE_DELAY_S)),
    (Refusal.DELAY, lambda r: r.delay_s > r.limits.max_delay_s),
    (Refusal.DISTANCE, lambda r: r.distance_s > r.limits.max_distance_s),
)


def check(data: bytes, nonce: bytes, sent: Instant, received: Instant, limits: Limits) -> Outcome:
    """What a datagram that came in on a request's socket is.

    `sent` and `received` are T1 and T4 with the other clocks of the same moments. Takes
    any bytes; raises nothing.
    """
    if len(data) < PACKET_SIZE:
        return Ignored(Refusal.SHORT)
    header = ntplib.NTPPacket()
    header.from_data(data)
    if header.mode != 4:
        return Ignored(Refusal.MODE)
    if header.version not in (3, 4):
        return Ignored(Refusal.VERSION)
    if data[24:32] != nonce:
        return Ignored(Refusal.BOGUS)
    if header.stratum == 0:
        # An unsynchronised chronyd says stratum 0, too, but has no kiss code.
        code = data[12:16].rstrip(b"\0")
        return Kiss(code.decode()) if code.isalnum() and code.isascii() else Refused(Refusal.UNSYNC)
    reply = _decode(data, header, sent, received, limits)
    for refusal, fails in CHECKS:
        if fails(reply):
            return Refused(refusal)
    return _sample(reply, sent, received)


def _decode(data: bytes, header: ntplib.NTPPacket, sent: Instant, received: Instant, limits: Limits) -> _Reply:
    reference_ts, _, t2, t3 = TIMESTAMPS.unpack_from(data, 16)
    t1, t4 = ntp_timestamp(sent.realtime), ntp_timestamp(received.realtime)
    elapsed_s = (received.raw - sent.raw) / 1e9
    moved_s = abs((received.realtime - sent.realtime) - (received.raw - sent.raw)) / 1e9
    return _Reply(
        header=header,
        reference_ts=reference_ts,
        receive_ts=t2,
        transmit_ts=t3,
        reference_id=data[12:16],
        theta_ns=(difference(t2, t1) + difference(t3, t4)) * 10**9 >> 33,
        delay_s=(difference(t4, t1) - difference(t3, t2)) / 2**32,
        dispersion_s=2.0**header.precision + limits.precision_s + PHI * max(elapsed_s, 0.0),
        server_interval_s=difference(t3, t2) / 2**32,
        reference_age_s=difference(t3, reference_ts) / 2**32,
        host_moved_s=HOST_STEP_S * 2 if received.realtime < sent.realtime else moved_s,
        limits=limits,
    )


def _sample(reply: _Reply, sent: Instant, received: Instant) -> Sample:
    header = reply.header
    return Sample(
        utc_minus_raw_ns=reply.theta_ns + (sent.base + received.base) // 2,
        raw_ns=(sent.raw + received.raw) // 2,
        theta_s=reply.theta_ns / 1e9,
        delay_s=max(reply.delay_s, reply.limits.precision_s),
        dispersion_s=reply.dispersion_s,
        root_delay_s=header.root_delay,
        root_dispersion_s=header.root_dispersion,
        leap=header.leap,
        stratum=header.stratum,
        reference=reference_text(reply.reference_id, header.stratum),
    )


def _printable(code: bytes) -> str:
    return "".join(chr(b) if 0x20 < b < 0x7F else "" for b in code) or "none"


def reference_text(reference_id: bytes, stratum: int) -> str:
    """The reference as people write it: a source's letters at stratum 1, else an IPv4 address or hash."""
    if stratum <= 1:
        return _printable(reference_id)
    return str(ntplib.ref_id_to_text(int.from_bytes(reference_id, "big"), stratum))
