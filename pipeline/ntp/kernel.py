"""The kernel's own idea of its clock: adjtimex(2), reading only.

It says whether some daemon keeps the clock and how fast the oscillator was found to be;
it does not say what the offset is. STA_UNSYNC is not asked: chronyd leaves it set unless
told `rtcsync`. maxerror grows 500 ppm when nobody calls and stops at 16 s.
"""

from __future__ import annotations

import ctypes

from pipeline.ntp.reading import KernelState

UNSYNCHRONISED_US = 16_000_000
STA_INS, STA_DEL = 0x10, 0x20
NOMINAL_TICK_US = 10_000


class _Timex(ctypes.Structure):
    """struct timex of <sys/timex.h> up to tick; `rest` has room for what follows."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", ctypes.c_long * 2),
        ("tick", ctypes.c_long),
        ("rest", ctypes.c_byte * 256),
    )


def read() -> KernelState | None:
    """The kernel's state; None where it cannot be asked."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    timex = _Timex()
    if adjtimex(ctypes.byref(timex)) < 0:
        return None
    # freq is in 2**-16 ppm; one us of tick is 100 ppm.
    ppm = timex.freq / 65_536 + (timex.tick - NOMINAL_TICK_US) * 100
    leap = 1 if timex.status & STA_INS else 2 if timex.status & STA_DEL else 0
    return KernelState(timex.maxerror < UNSYNCHRONISED_US, timex.maxerror / 1e6, ppm * 1e-6, leap)
