"""chronyd's own view through its UDP monitoring protocol (candm.h, protocol version 6).

The tracking report is one datagram each way, needs no privilege and is declared stable.
Its "system time" is what chronyd has still to slew: theta, positive = host slow. That is
the opposite sign of its "last offset" and of everything in `chronyc sources`.

Two states look healthy and are not: "not synchronised" (reference 00000000, all zeros)
and the `local` directive (7F7F01xx, leap normal, no dispersion).
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from dataclasses import dataclass

from pipeline.ntp import clock
from pipeline.ntp.reading import Absence, Reading, overdue_s
from pipeline.ntp.wire import Instant

NAME = "chronyd"
VERSION = 6
REQUEST, REPLY = 1, 2
TRACKING, TRACKING_REPLY = 33, 5
REQUEST_HEADER = struct.Struct("!BBBBHHIII")
REPLY_HEADER = struct.Struct("!BBBBHHHHHHIII")
TRACKING_BODY = struct.Struct("!I16sHHHHIII9I")
# A request shorter than the reply is refused, so that it cannot amplify.
SIZE = REPLY_HEADER.size + TRACKING_BODY.size
TIMEOUT_S = 0.25
MAX_FOREIGN = 16


def request(sequence: int) -> bytes:
    """A tracking request."""
    return REQUEST_HEADER.pack(VERSION, REQUEST, 0, 0, TRACKING, 0, sequence, 0, 0).ljust(SIZE, b"\0")


def number(word: int) -> float:
    """chrony's float: 7-bit signed exponent, 25-bit signed coefficient."""
    exponent, coefficient = word >> 25, word & (1 << 25) - 1
    exponent -= (exponent & 1 << 6) << 1
    coefficient -= (coefficient & 1 << 24) << 1
    return float(coefficient * 2.0 ** (exponent - 25))


def answers(data: bytes, sequence: int) -> bool:
    """True for a reply to our request, good or bad."""
    if len(data) < REPLY_HEADER.size:
        return False
    head = REPLY_HEADER.unpack_from(data)
    return bool(head[1] == REPLY and head[4] == TRACKING and head[10] == sequence)


@dataclass(frozen=True, slots=True)
class Tracking:
    """chronyd's tracking report; seconds, theta positive = host slow, `updated_s` Unix time."""

    refid: int
    reference: str
    stratum: int
    leap: int
    updated_s: float
    theta_s: float
    rms_s: float
    skew: float
    root_delay_s: float
    root_dispersion_s: float
    interval_s: float


def parse(data: bytes, now: Instant) -> Reading | Absence:
    """A tracking reply that `answers` has let through. Takes any bytes of at least a header."""
    head = REPLY_HEADER.unpack_from(data)
    if head[0] != VERSION:
        return Absence(NAME, f"speaks monitoring protocol {head[0]}, not {VERSION}")
    if head[6] != 0 or head[5] != TRACKING_REPLY or len(data) < SIZE:
        return Absence(NAME, f"refused to report (status {head[6]})")
    refid, ip, family, _, stratum, leap, high, low, nsec, *words = TRACKING_BODY.unpack_from(data, REPLY_HEADER.size)
    theta_s, _, rms_s, _, _, skew_ppm, root_delay_s, root_dispersion_s, interval_s = map(number, words)
    tracking = Tracking(
        refid=refid,
        reference=_reference(refid, ip, family),
        stratum=stratum,
        leap=leap,
        updated_s=(high << 32 | low) + nsec / 1e9,
        theta_s=theta_s,
        rms_s=rms_s,
        skew=skew_ppm * 1e-6,
        root_delay_s=root_delay_s,
        root_dispersion_s=root_dispersion_s,
        interval_s=interval_s,
    )
    return assess(NAME, tracking, now)


def assess(source: str, t: Tracking, now: Instant) -> Reading | Absence:
    """Is the daemon synchronised to something other than itself, and since when?"""
    if t.leap == 3 or t.refid == 0:
        return Absence(source, "not synchronised")
    if t.refid >> 8 == 0x7F7F01:
        return Absence(source, "follows its own clock (local)")
    if not 1 <= t.stratum <= 15:
        return Absence(source, f"stratum {t.stratum}")
    age_s = max(now.realtime / 1e9 - t.updated_s, 0.0)
    overdue = overdue_s(age_s, t.interval_s)
    if overdue is None:
        return Absence(source, f"last heard from its servers {age_s:.0f} s ago")
    return Reading(
        source=source,
        at=now,
        theta_s=t.theta_s,
        bound_s=t.root_dispersion_s + t.root_delay_s / 2 + overdue,
        jitter_s=max(t.rms_s, t.skew * age_s),
        stratum=t.stratum,
        leap=t.leap,
        reference=t.reference,
        age_s=age_s,
    )


def _reference(refid: int, ip: bytes, family: int) -> str:
    if family == 1:
        return str(ipaddress.IPv4Address(ip[:4]))
    if family == 2:
        return str(ipaddress.IPv6Address(ip))
    text = refid.to_bytes(4, "big").rstrip(b"\0")
    return text.decode() if text.isalnum() and text.isascii() else f"{refid:08X}"


def read(host: str, port: int, timeout_s: float = TIMEOUT_S) -> Reading | Absence:
    """Ask the daemon at host:port; an absent one costs nothing, a hung one `timeout_s`."""
    sequence = int.from_bytes(os.urandom(4), "big")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.connect((host, port))
            s.send(request(sequence))
            deadline = clock.read().monotonic + int(timeout_s * 1e9)
            for _ in range(MAX_FOREIGN):
                s.settimeout(max((deadline - clock.read().monotonic) / 1e9, 1e-3))
                data = s.recv(1024)
                if answers(data, sequence):
                    return parse(data, clock.read())
    except ConnectionRefusedError:
        return Absence(NAME, "absent")
    except TimeoutError:
        return Absence(NAME, "does not answer")
    except OSError as error:
        return Absence(NAME, f"cannot be asked: {error.strerror or error}")
    return Absence(NAME, "answers with garbage")
