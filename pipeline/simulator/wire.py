"""Bytes and sockets of the simulated radiod: RTP headers, sample encodings, multicast by explicit interface.

Interface and TTL are set on every socket: a default route must never decide where simulated packets go.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from dataclasses import dataclass

import numpy as np

from pipeline.simulator.signal import Iq
from pipeline.simulator.spec import SimulatorError

RTP_HEADER = struct.Struct("!BBHII")
RTP_VERSION_2 = 0x80
RTP_MARKER = 0x80
MAX_PAYLOAD = 1440
"""radiod's largest payload in bytes (ka9q-radio audio.c, BYTES_PER_PKT)."""

_EXPEDITED = 0xB8
_SIOCGIFADDR = 0x8915
_MREQN = struct.Struct("4s4si")
_DTYPES = {"S16LE": "<i2", "S16BE": ">i2", "F32LE": "<f4", "F32BE": ">f4", "F16LE": "<f2", "F16BE": ">f2"}


@dataclass(frozen=True, slots=True)
class Interface:
    """Where multicast goes in and out; `address` is this host's on it."""

    name: str
    index: int
    address: str


def encode_samples(iq: Iq, encoding: str) -> bytes:
    """Payload bytes of `iq` in one of radiod's encodings; floats are int16 / 32768, exact but for F16."""
    dtype = _DTYPES[encoding]
    if dtype[1] == "i":
        return iq.astype(dtype).tobytes()
    return (iq.astype(np.float32) / np.float32(32768)).astype(dtype).tobytes()


def frame_bytes(encoding: str, channels: int) -> int:
    """Bytes of one frame: every channel's sample at one instant."""
    return int(_DTYPES[encoding][2]) * channels


def block_packets(frames: int, bytes_per_frame: int) -> tuple[int, ...]:
    """How radiod cuts one block into packets: as many whole frames as fit, the rest in the last."""
    most = MAX_PAYLOAD // bytes_per_frame
    return (most,) * (frames // most) + ((frames % most,) if frames % most else ())


def find_interface(name_or_address: str) -> Interface:
    """The interface of that name, or with that IPv4 address. Raises SimulatorError if there is none."""
    for index, name in socket.if_nameindex():
        address = _address_of(name)
        if address is not None and name_or_address in (name, address):
            return Interface(name, index, address)
    try:
        if ipaddress.ip_address(name_or_address).is_loopback:
            return Interface("lo", socket.if_nametoindex("lo"), name_or_address)
    except ValueError:
        pass
    names = ", ".join(name for _, name in socket.if_nameindex())
    raise SimulatorError(f"interface {name_or_address!r}: no such name or IPv4 address here; there are {names}")


def _address_of(name: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


def is_multicast(address: str) -> bool:
    """Whether `address` is an IPv4 multicast group."""
    try:
        return ipaddress.IPv4Address(address).is_multicast
    except ValueError:
        return False


def sender(interface: Interface, ttl: int) -> socket.socket:
    """A UDP socket that multicasts through `interface` with `ttl`, heard on this machine too."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        mreqn = _MREQN.pack(bytes(4), socket.inet_aton(interface.address), interface.index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _EXPEDITED)
        sock.bind((interface.address, 0))
    except OSError:
        sock.close()
        raise
    return sock


def receiver(interface: Interface, group: str, port: int) -> socket.socket:
    """A non-blocking UDP socket that hears `group`:`port` on `interface` only."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((group, port))
        mreqn = _MREQN.pack(socket.inet_aton(group), socket.inet_aton(interface.address), interface.index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreqn)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise SimulatorError(f"cannot listen on {group}:{port} ({interface.name}): {error}") from error
    return sock


def parse_address(text: str, default_port: int) -> tuple[str, int]:
    """'239.1.2.3:5004' or '239.1.2.3' -> (group, port). Raises SimulatorError if it is no multicast group."""
    host, _, port = text.partition(":")
    if not is_multicast(host) or (port and not port.isdecimal()) or not 0 < int(port or default_port) < 65536:
        raise SimulatorError(f"address {text!r}: expected an IPv4 multicast group with an optional port")
    return host, int(port or default_port)
