"""Checks of the interface that radiod is heard on: up, routed, joined; the rest is the switch's."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.addresses import RTP_PORT
from pipeline.config import Config
from pipeline.diagnosis.finding import Finding, fail, ok, warn
from pipeline.sockets import SocketError, multicast_interface, resolve_group

# Linux include/uapi/linux/sockios.h, wireless.h and if.h
_SIOCGIFFLAGS, _SIOCGIWNAME = 0x8913, 0x8B01
_UP, _LOOPBACK, _RUNNING, _MULTICAST = 0x1, 0x8, 0x40, 0x1000


def interface(name_or_address: str) -> tuple[str | None, list[Finding]]:
    """The interface's name, None if there is no such thing, and what is to be said of it."""
    try:
        index, address = multicast_interface(name_or_address)
        name = socket.if_indextoname(index)
        flags = _flags(name)
    except (SocketError, OSError) as error:
        mend = "set radiod.interface to one of them, or connect it: ip -brief address"
        return None, [fail("interface", str(error), mend)]
    return name, list(_judge(name, address, flags))


def _flags(name: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe, _SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
    return int(struct.unpack_from("16sH", answer)[1])


def _judge(name: str, address: str, flags: int) -> Iterator[Finding]:
    if not flags & _UP:
        yield fail("interface", f"{name} is down", f"sudo ip link set {name} up")
    elif not flags & _RUNNING:
        yield fail("interface", f"{name} has no carrier", "connect the cable, or see: ip -statistics link show " + name)
    elif not flags & (_MULTICAST | _LOOPBACK):  # loopback takes multicast without the flag
        yield fail("interface", f"{name} does not take multicast", f"sudo ip link set {name} multicast on")
    elif address == "0.0.0.0":
        mend = f"sudo ip address add ADDRESS/24 dev {name}"
        yield warn("interface", f"{name} has no IPv4 address; switches may ignore its memberships", mend)
    else:
        yield ok("interface", f"{name} {address}, up")
    if _wireless(name):
        yield warn("interface", f"{name} is wireless, which drops multicast without a word", "use a cable to radiod")


def _wireless(name: str) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        fcntl.ioctl(probe, _SIOCGIWNAME, struct.pack("16s16x", name.encode()))
        return True
    return False


def groups(config: Config) -> list[str]:
    """The data groups of the enabled channels, as addresses; what cannot be resolved is told elsewhere."""
    found = []
    for address in dict.fromkeys(c.data_address for c in config.enabled_channels):
        with contextlib.suppress(SocketError):
            found.append(resolve_group(address, RTP_PORT)[0])
    return list(dict.fromkeys(found))


def route(name: str, group: str, heard: bool, table: Path = Path("/proc/net/route")) -> Finding:
    """Where this host sends the group to: a radiod on the same host must send to where it is heard.

    Our own sockets name their interface and need no route; so with samples coming in all is well.
    """
    device = lookup(group, table.read_text())
    mend = f"sudo ip route replace 239.0.0.0/8 dev {name}"
    if device == name:
        return ok("route", f"{group} goes to {name}")
    where = f"{group} goes to {device}" if device else f"there is no route to {group}"
    if heard:
        return ok("route", f"{where}, but it is heard on {name}")
    return warn("route", f"{where}; a radiod on this host is then not heard on {name}", mend)


def lookup(address: str, table: str) -> str | None:
    """The device of the longest matching prefix in /proc/net/route (proc_net(5)); None without a route."""
    wanted = int(ipaddress.IPv4Address(address))
    best: tuple[int, int, str] | None = None
    for line in table.splitlines()[1:]:
        fields = line.split()
        target, flags, metric, mask = _word(fields[1]), int(fields[3], 16), int(fields[6]), _word(fields[7])
        if flags & 1 and wanted & mask == target and (best is None or (mask, -metric) > best[:2]):
            best = (mask, -metric, fields[0])
    return best[2] if best else None


def _word(text: str) -> int:
    """A __be32 that the kernel printed as a number of its own byte order."""
    return int.from_bytes(int(text, 16).to_bytes(4, sys.byteorder), "big")


def memberships(igmp: str) -> dict[str, dict[str, int]]:
    """Device to group to number of sockets joined, from /proc/net/igmp."""
    found: dict[str, dict[str, int]] = {}
    device = ""
    for line in igmp.splitlines()[1:]:
        fields = line.split()
        if not line.startswith("\t"):
            device = fields[1].rstrip(":")
            found[device] = {}
        elif device:
            found[device][str(ipaddress.IPv4Address(_word(fields[0])))] = int(fields[1])
    return found


def membership(name: str, wanted: Iterable[str], running: bool, igmp: Path = Path("/proc/net/igmp")) -> Finding:
    """Whether a running instance is still a member; memberships go when an interface does, without a word."""
    if not running:
        return ok("multicast", "the instance does not run and has joined nothing yet")
    joined = memberships(igmp.read_text()).get(name, {})
    missing = [group for group in wanted if group not in joined]
    if missing:
        told = f"{name} is no member of {', '.join(missing)} although the instance runs"
        return fail("multicast", f"{told}; was the interface gone for a while?", "grape-pipeline stop, then start")
    return ok("multicast", f"{name} is a member of {', '.join(wanted)}")


def querier(name: str, heard: bool, sys_net: Path = Path("/sys/class/net")) -> Finding:
    """A switch that snoops IGMP without a querier forgets members after 4 to 5 minutes."""
    if name == "lo":
        return ok("querier", "loopback needs none")
    for bridge in sorted(sys_net.glob("*/bridge")):
        member = bridge.parent.name == name or (bridge.parent / "brif" / name).exists()
        if member and _number(bridge / "multicast_snooping") == 1 and _number(bridge / "multicast_querier") == 0:
            device = bridge.parent.name
            return warn(
                "querier", f"bridge {device} snoops IGMP and asks nobody: streams may stop after 4 to 5 minutes",
                f"sudo ip link set dev {device} type bridge mcast_querier 1",
            )  # fmt: skip
    told = "the switch's IGMP querier cannot be seen from here; streams that stop 4 to 5 minutes after the start"
    if heard:
        return ok("querier", f"{told} are for want of one")
    return warn("querier", f"{told} are for want of one", "turn on the switch's IGMP querier, or its snooping off")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
