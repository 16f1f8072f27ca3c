"""What a time daemon on this host, or the kernel, says about the host's clock.

A source is a function of the configuration that returns a `Reading` or the `Absence` of
one with its reason, within a fraction of a second, and raises nothing. To add one, write
the function and name it in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.config import Ntp
from pipeline.ntp import chronyd, ntpd, programs
from pipeline.ntp.reading import Absence, Reading


def _chronyd(config: Ntp) -> Reading | Absence:
    return chronyd.read(*split_address(config.chronyd_address))


def _ntpd(config: Ntp) -> Reading | Absence:
    return ntpd.read(*split_address(config.ntpd_address))


def _chronyc(config: Ntp) -> Reading | Absence:
    return programs.chronyc(*split_address(config.chronyd_address))


def _ntpq(config: Ntp) -> Reading | Absence:
    return programs.ntpq(split_address(config.ntpd_address)[0])


SOURCES: dict[str, Callable[[Ntp], Reading | Absence]] = {
    "chronyd": _chronyd,
    "ntpd": _ntpd,
    "chronyc": _chronyc,
    "ntpq": _ntpq,
}


def split_address(address: str) -> tuple[str, int]:
    """`127.0.0.1:323` or `[::1]:323` as host and port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
