"""ntpd's (and ntpsec's) own view through mode 6, the control protocol (RFC 9327).

One request for the system variables; the answer is text in one or more fragments.
`offset` is theta in ms as of the last update. An unsynchronised ntpd says offset=0.0:
only leap, the source in the status word and the age say whether it means anything.
ntpsec built with reference clocks leaves the source unspecified while it follows an NTP
server (ctlsysstatus in ntpd/ntp_control.c); there the system peer tells.
"""

from __future__ import annotations

import math
import os
import re
import socket
import struct

from pipeline.ntp import clock
from pipeline.ntp.reading import Absence, Reading, overdue_s
from pipeline.ntp.wire import Instant

NAME = "ntpd"
HEADER = struct.Struct("!BBHHHHH")  # LI VN mode, R E M op, sequence, status, association, offset, count
MODE = 6
READ_VARIABLES = 2
RESPONSE, ERROR, MORE = 0x80, 0x40, 0x20
# Sources of RFC 9327 table 2: PPS, LF and HF radio, UHF radio, NTP, and other; not 0
# (unspecified), not 5 (local clock).
GOOD_SOURCES = frozenset({1, 2, 3, 4, 6, 7})
TIMEOUT_S = 0.25
MAX_FRAGMENTS = 32
MAX_SIZE = 65_536
VARIABLE = re.compile(r'(\w+)=("[^"]*"|[^,\r\n]*)')


def request(sequence: int) -> bytes:
    """A request for the system variables."""
    return HEADER.pack(2 << 3 | MODE, READ_VARIABLES, sequence, 0, 0, 0, 0)


class Assembly:
    """Fragments of one answer, in whatever order they come."""

    def __init__(self, sequence: int) -> None:
        self.status = 0
        self.error: int | None = None
        self._sequence = sequence
        self._parts: dict[int, bytes] = {}
        self._size: int | None = None

    def add(self, data: bytes) -> None:
        """Take one datagram; what is not part of the answer is ignored."""
        if len(data) < HEADER.size:
            return
        first, operation, sequence, status, _, offset, count = HEADER.unpack_from(data)
        wanted = operation & RESPONSE and operation & 0x1F == READ_VARIABLES and first & 7 == MODE
        if not wanted or sequence != self._sequence or offset + count > MAX_SIZE:
            return
        self.status = status
        if operation & ERROR:
            self.error = status >> 8
            return
        self._parts[offset] = data[HEADER.size : HEADER.size + count]
        if not operation & MORE:
            self._size = offset + count

    def text(self) -> str | None:
        """The whole answer; None while parts of it are missing."""
        joined = b""
        for offset in sorted(self._parts):
            if offset > len(joined):
                return None
            joined = joined[:offset] + self._parts[offset]
        return joined.decode("latin-1") if len(joined) == self._size else None


def parse(text: str, status: int, now: Instant, source: str = NAME) -> Reading | Absence:
    """The system variables as a reading. Takes any text."""
    values = {key: value.strip().strip('"') for key, value in VARIABLE.findall(text)}
    leap, kind = status >> 14, status >> 8 & 0x3F
    refid = values.get("refid", "")
    if leap == 3:
        return Absence(source, "not synchronised")
    if kind == 5 or refid.startswith("127.127.1."):
        return Absence(source, "follows its own clock (LOCAL)")
    if kind not in GOOD_SOURCES and not (kind == 0 and values.get("peer", "0") != "0"):
        return Absence(source, "not synchronised")
    try:
        stratum = int(values["stratum"])
        offset_s, delay_s, dispersion_s, jitter_s = (
            float(values[key]) / 1e3 for key in ("offset", "rootdelay", "rootdisp", "sys_jitter")
        )
        # With a single peer sys_jitter is 0.0, which says nothing.
        jitter_s = max(jitter_s, float(values.get("clk_jitter", "0")) / 1e3)
        age_s = _age_s(values["clock"], values["reftime"])
        interval_s = 2.0 ** min(int(values.get("tc", "6")), 17)
    except (KeyError, ValueError):
        return Absence(source, "answers with garbage")
    if not 1 <= stratum <= 15 or not all(map(math.isfinite, (offset_s, delay_s, dispersion_s, jitter_s))):
        return Absence(source, f"stratum {stratum}")
    overdue = overdue_s(age_s, interval_s)
    if overdue is None:
        return Absence(source, f"last heard from its servers {age_s:.0f} s ago")
    bound_s = dispersion_s + delay_s / 2 + abs(offset_s) + overdue
    return Reading(source, now, offset_s, bound_s, jitter_s, stratum, leap, refid, age_s)


def _age_s(clock_text: str, reftime_text: str) -> float:
    """Difference of two `0xssssssss.ffffffff` NTP timestamps (ntpq leaves the 0x out) of whatever era, s."""
    now, then = (int(t.removeprefix("0x").split(".")[0], 16) for t in (clock_text, reftime_text))
    return float(max((now - then + (1 << 31)) % (1 << 32) - (1 << 31), 0))


def read(host: str, port: int, timeout_s: float = TIMEOUT_S) -> Reading | Absence:
    """Ask the daemon at host:port; an absent one costs nothing, a hung one `timeout_s`."""
    assembly = Assembly(sequence := int.from_bytes(os.urandom(2), "big"))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.connect((host, port))
            s.send(request(sequence))
            deadline = clock.read().monotonic + int(timeout_s * 1e9)
            for _ in range(MAX_FRAGMENTS):
                s.settimeout(max((deadline - clock.read().monotonic) / 1e9, 1e-3))
                assembly.add(s.recv(2048))
                if assembly.error is not None:
                    return Absence(NAME, f"refused to report (error {assembly.error})")
                if (text := assembly.text()) is not None:
                    return parse(text, assembly.status, clock.read())
    except ConnectionRefusedError:
        return Absence(NAME, "absent")
    except TimeoutError:
        return Absence(NAME, "does not answer")
    except OSError as error:
        return Absence(NAME, f"cannot be asked: {error.strerror or error}")
    return Absence(NAME, "answers with garbage")
