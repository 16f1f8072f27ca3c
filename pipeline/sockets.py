"""A channel's sockets: joined, filtered and dimensioned before the first datagram can arrive.

Rules. A socket is bound to the *group*, never to 0.0.0.0, and joined on the configured
interface alone, so that neither another group on the same port nor another network
reaches it. The filter comes before the bind: no foreign datagram is ever queued. The
kernel stamps every datagram (SO_TIMESTAMPNS). Sockets are made by the supervisor and
outlive the workers that read them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import ipaddress
import logging
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline import PipelineError
from pipeline.addresses import RTP_PORT, STATUS_PORT, is_address, split_endpoint
from pipeline.config import Channel, Radiod
from pipeline.packet_filter import foreign_filter, rtp_filter, status_filter

log = logging.getLogger(__name__)

# Linux include/uapi/asm-generic/socket.h and linux/in.h; the socket module lacks these.
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
IP_MULTICAST_ALL = 49
_SIOCGIFCONF = 0x8912
_IFREQ = struct.Struct("16sHH4s16x") if struct.calcsize("P") == 8 else struct.Struct("16sHH4s8x")

DATA_BUFFER_BYTES = 16 << 20
STATUS_BUFFER_BYTES = 256 << 10
# Time that a worker may be away (killed, started again, loaded) without losing a packet.
BUFFER_WARNING_S = 10.0
# radiod sends a packet per 20 ms block and splits at 1440 bytes (ka9q-radio audio.c); the
# kernel charges a datagram of up to 1500 bytes with 2304 (loopback) to 4096 bytes (drivers).
_BLOCKS_PER_S = 50
_BYTES_PER_PACKET = 1440
_CHARGE_PER_PACKET = 4096
_FAILED_LOOKUP_KEPT_S = 30.0


class SocketError(PipelineError):
    """A group cannot be heard as configured: what, where and what to do."""


@dataclass(frozen=True)
class ChannelSockets:
    """One channel's open sockets; `buffer_bytes` is what the kernel granted for data."""

    data: socket.socket
    status: tuple[socket.socket, ...]
    buffer_bytes: int
    interface: int = 0
    # What others send under our SSRC, when `radiod.source_address` says that it is not wanted: to be counted.
    foreign: socket.socket | None = None

    @property
    def all(self) -> tuple[socket.socket, ...]:
        """Every socket."""
        return (self.data, *self.status, *([self.foreign] if self.foreign else []))

    def close(self) -> None:
        """Close them all; other processes' copies stay open."""
        for each in self.all:
            each.close()


def open_channel(channel: Channel, radiod: Radiod, kept: Mapping[str, socket.socket] | None = None) -> ChannelSockets:
    """Sockets for one channel's RTP and for radiod's status of it.

    Status comes to the data group (every 0.5 s) and, in answer to a command, to the
    control group as well. A control group whose name cannot be resolved is left out with
    a warning, since the channel can be recorded without it. `kept` are sockets that an
    earlier run of the program made for the same purpose: "data", "status0", "status1".
    Raises SocketError.
    """
    kept = kept or {}
    interface, _ = multicast_interface(radiod.interface)
    source = _source(radiod.source_address)
    group, port = resolve_group(channel.data_address, RTP_PORT)
    who = f"channel {channel.name}"
    with contextlib.ExitStack() as opened:
        data = opened.enter_context(
            kept.get("data") or _open(who, interface, group, port, rtp_filter(channel.ssrc, source))
        )
        granted = _grant_buffer(data, DATA_BUFFER_BYTES)
        _warn_small_buffer(channel, granted)
        status = []
        for i, (status_group, status_port) in enumerate(_status_groups(group, port, radiod.status_address)):
            code = status_filter(channel.ssrc, source)
            each = opened.enter_context(
                kept.get(f"status{i}") or _open(who, interface, status_group, status_port, code)
            )
            _grant_buffer(each, STATUS_BUFFER_BYTES)
            status.append(each)
        foreign = None
        if source is not None:
            # Apart, so that a stranger's flood takes no room from the stream.
            foreign = opened.enter_context(_open(who, interface, group, port, foreign_filter(channel.ssrc, source)))
        opened.pop_all()
        return ChannelSockets(data, tuple(status), granted, interface, foreign)


def rejoin(channels: Sequence[ChannelSockets], interface: str) -> None:
    """Leave the channels' groups and join them again on the interface that now has the name; SocketError.

    All leave before one joins: the kernel tells the network of a group's first member only.
    """
    index, _ = multicast_interface(interface)
    sockets = [(each, sock, sock.getsockname()) for each in channels for sock in each.all]
    for each, sock, (group, _port) in sockets:
        for old in {each.interface, index}:
            with contextlib.suppress(OSError):  # gone with its interface
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, _membership(group, old))
    for _each, sock, (group, port) in sockets:
        try:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _membership(group, index))
        except OSError as error:
            raise _explain(error, "silent channel", f"{group}:{port}", index) from error


def _membership(group: str, interface: int) -> bytes:
    return struct.pack("=4s4si", socket.inet_aton(group), b"\0" * 4, interface)


def _status_groups(group: str, port: int, control: str | None) -> list[tuple[str, int]]:
    """Where status of a channel with this data group arrives, each once.

    radiod uses port 5006 beside 5004 (ka9q-radio rtp.h). Data on another port does not
    come from an unchanged radiod; two above it then keeps several streams apart.
    """
    found = [(group, STATUS_PORT if port == RTP_PORT else port + 2)]
    if control:
        try:
            found.append(resolve_group(control, STATUS_PORT))
        except SocketError as error:
            log.warning("radiod.status_address: %s; answers to commands will not be heard", error)
    return list(dict.fromkeys(found))


def open_listener(interface: str, group: str, port: int) -> socket.socket:
    """A socket that hears everything sent to a group and port on one interface; SocketError."""
    index, _ = multicast_interface(interface)
    sock = _open("listener", index, group, port, None)
    _grant_buffer(sock, DATA_BUFFER_BYTES)
    return sock


def _open(who: str, interface: int, group: str, port: int, code: bytes | None) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if code is not None:
            attach_filter(sock, code)
        # REUSEADDR lets each channel's socket have the group; REUSEPORT would give every datagram to one of them.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.bind((group, port))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _membership(group, interface))
    except OSError as error:
        sock.close()
        raise _explain(error, who, f"{group}:{port}", interface) from error
    return sock


def _explain(error: OSError, who: str, where: str, interface: int) -> SocketError:
    device = _interface_name(interface)
    hints = {
        errno.EADDRINUSE: "another program holds that port for itself; stop it or choose another data_address",
        errno.ENODEV: f"interface {device} is gone; check `ip link`",
        errno.ENOBUFS: "too many groups joined; raise net.ipv4.igmp_max_memberships",
        errno.ENOMEM: "the packet filter needs 20 KiB; raise net.core.optmem_max",
        errno.EACCES: "ports below 1024 need privileges; choose another data_address",
        errno.EMFILE: "too many open files; raise LimitNOFILE",
    }
    hint = hints.get(error.errno or 0, f"check that {device} is up: `ip link show {device}`")
    return SocketError(f"{who}: cannot listen to {where} on {device}: {os.strerror(error.errno or 0)}; {hint}")


def attach_filter(sock: socket.socket, code: bytes) -> None:
    """Put a classic BPF program (packet_filter) before the socket's queue."""
    program = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: count, padding, pointer; the kernel copies the program within the call.
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(code) // 8, ctypes.addressof(program)))


def _grant_buffer(sock: socket.socket, wanted: int) -> int:
    """Ask for a receive buffer; what was granted, in bytes as sysctl counts them."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, wanted)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
    return granted_bytes(sock)


def granted_bytes(sock: socket.socket) -> int:
    """The receive buffer that a socket has, in bytes as sysctl counts them."""
    # The kernel doubles the request for its own bookkeeping (man 7 socket, SO_RCVBUF).
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def buffer_seconds(channel: Channel, buffer_bytes: int) -> float:
    """How long the granted buffer holds the channel's stream, in s; a cautious estimate."""
    sample_bytes = {"F32": 8, "F16": 4, "S16": 4}.get(channel.encoding[:3], 8)
    block_bytes = channel.sample_rate_hz * sample_bytes / _BLOCKS_PER_S
    packets_per_s = _BLOCKS_PER_S * max(1, -(-block_bytes // _BYTES_PER_PACKET))
    return 2 * buffer_bytes / (packets_per_s * _CHARGE_PER_PACKET)


def _warn_small_buffer(channel: Channel, granted: int) -> None:
    holds = buffer_seconds(channel, granted)
    if holds < BUFFER_WARNING_S:
        log.warning(
            "channel %s: receive buffer of %d KiB holds %.1f s of the stream, %.0f s are wanted: "
            "net.core.rmem_max is too small; run: sudo sysctl -w net.core.rmem_max=%d",
            channel.name, granted >> 10, holds, BUFFER_WARNING_S, DATA_BUFFER_BYTES,
        )  # fmt: skip


def _source(address: str | None) -> int | None:
    if not address:
        return None
    try:
        return int(ipaddress.IPv4Address(address))
    except ValueError:
        raise SocketError(
            f"radiod.source_address {address!r} is not an IPv4 address; state radiod's own address"
        ) from None


def resolve_group(address: str, default_port: int) -> tuple[str, int]:
    """(IPv4 multicast address, port) of `239.1.2.3:5004`, `hf.local` and the like.

    Names, mDNS names too, go through the system's resolver and may take seconds; raises SocketError.
    """
    try:
        host, port = split_endpoint(address, default_port)
    except ValueError as error:
        raise SocketError(f"address {address!r}: {error}") from None
    group = _lookup(host)
    numeric = ipaddress.ip_address(group)
    if numeric.version != 4 or not numeric.is_multicast:
        shown = group if group == host else f"{host} ({group})"
        raise SocketError(
            f"{shown} is not a multicast IPv4 address (224.0.0.0 to 239.255.255.255); radiod's groups are"
        )
    return group, port


# Every channel asks for the same few names; an mDNS name that is not there takes seconds each time.
_answers: dict[str, str] = {}
_failures: dict[str, tuple[float, str]] = {}


def _lookup(host: str) -> str:
    if is_address(host):
        return host
    if host in _answers:
        return _answers[host]
    failed_at, reason = _failures.get(host, (-_FAILED_LOOKUP_KEPT_S, ""))
    if time.monotonic() - failed_at >= _FAILED_LOOKUP_KEPT_S:
        try:
            found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_DGRAM)
            _answers[host] = str(found[0][4][0])
            return _answers[host]
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            _failures[host] = (time.monotonic(), reason)
    raise SocketError(
        f"name {host!r} cannot be resolved ({reason}); for a .local name install libnss-mdns "
        "and start avahi-daemon, or state the numeric group that radiod logs"
    )


def multicast_interface(name_or_address: str) -> tuple[int, str]:
    """(index, IPv4 address) of an interface given by name or by one of its addresses.

    The address is 0.0.0.0 for an interface that has none. Raises SocketError, naming the interfaces there are.
    """
    addresses = _interface_addresses()
    name = name_or_address
    with contextlib.suppress(ValueError):
        wanted = ipaddress.IPv4Address(name_or_address)
        name = "lo" if wanted.is_loopback else next((n for n, a in addresses if a == str(wanted)), "")
    try:
        index = socket.if_nametoindex(name)
    except (OSError, ValueError):
        known = dict.fromkeys(n for _, n in socket.if_nameindex())
        listed = ", ".join(" ".join([n, *(a for m, a in addresses if m == n)]) for n in known)
        raise SocketError(
            f"radiod.interface {name_or_address!r} does not exist on this machine; there are: {listed}"
        ) from None
    return index, next((a for n, a in addresses if n == name), "0.0.0.0")


def _interface_addresses() -> list[tuple[str, str]]:
    """(interface, IPv4 address) of all addresses, secondary ones too (man 7 netdevice, SIOCGIFCONF)."""
    size = 128 * _IFREQ.size
    room = ctypes.create_string_buffer(size)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe, _SIOCGIFCONF, struct.pack("iP", size, ctypes.addressof(room)))
    used = struct.unpack_from("i", answer)[0]
    return [
        (name.rstrip(b"\0").decode().partition(":")[0], socket.inet_ntoa(address))
        for name, _family, _port, address in _IFREQ.iter_unpack(room.raw[:used])
    ]


def _interface_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"


def sender(interface: str, ttl: int | None = None) -> socket.socket:
    """A non-blocking UDP socket that sends multicast on `interface` and nowhere else.

    TTL is 0 on loopback, so that nothing leaves the machine, else 1 (or `ttl`, when the
    operator has a router between himself and radiod). Raises SocketError.
    """
    index, address = multicast_interface(interface)
    hops = 0 if ipaddress.IPv4Address(address).is_loopback else 1 if ttl is None else ttl
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    # With the address stated it is the source too; by itself Linux gives multicast on lo another interface's.
    mreqn = struct.pack("=4s4si", b"\0" * 4, socket.inet_aton(address), index)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, hops)
    return sock
