"""Classic pcap files: UDP datagrams out of them, and into them.

Source: the pcap file format (IETF draft-ietf-opsawg-pcap). Both byte orders, microsecond and nanosecond
stamps; Ethernet, raw IPv4 and Linux cooked captures. IPv4 only; fragments and other protocols are passed over.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline import PipelineError

LINK_NULL, LINK_ETHERNET, LINK_RAW, LINK_COOKED = 0, 1, 101, 113
_RAW_TYPES = (LINK_RAW, 12, 14, 228)
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_MAGICS = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}  # to nanoseconds
_FILE_HEADER, _RECORD_HEADER = "HHiIII", "IIII"
_MAX_RECORD = 1 << 18  # libpcap's largest snapshot length
_ETHERTYPE_IPV4, _ETHERTYPE_VLAN = 0x0800, 0x8100
_UDP = 17
_FRAGMENT_MASK = 0x3FFF  # more-fragments flag and offset

Endpoint = tuple[str, int]


class PcapError(PipelineError):
    """The file cannot be read as a capture; the text says why."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram over IPv4; `t_ns` is the capture's time, ns since the Unix epoch."""

    t_ns: int
    src: Endpoint
    dst: Endpoint
    payload: bytes


class PcapReader:
    """Iterates over the datagrams of `path`.

    Raises PcapError at once for what is no classic pcap, and while iterating for a record that cannot be.
    A last record that is cut short ends the iteration; `problem` then says so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        self.size = 0
        self.offset = 0
        try:
            self._file: BinaryIO = path.open("rb")
            self.size = path.stat().st_size
        except OSError as error:
            raise PcapError(f"{path}: {error.strerror}") from error
        try:
            self._order, self._to_ns, self._link = self._read_header()
        except PcapError:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> PcapReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_header(self) -> tuple[str, int, int]:
        data = self._file.read(24)
        if data[:4] == _PCAPNG:
            raise PcapError(f"{self.path}: pcapng; convert it with: editcap -F pcap {self.path.name} out.pcap")
        for order in "<>":
            scale = _MAGICS.get(struct.unpack(order + "I", data[:4])[0]) if len(data) >= 4 else None
            if scale is None:
                continue
            if len(data) < 24:
                raise PcapError(f"{self.path}: cut short in the file header: {len(data)} of 24 bytes")
            link = struct.unpack(order + _FILE_HEADER, data[4:])[5] & 0x0FFFFFFF
            if link not in (LINK_NULL, LINK_ETHERNET, LINK_COOKED, *_RAW_TYPES):
                raise PcapError(f"{self.path}: link type {link}; only Ethernet, raw IP, loopback and Linux cooked v1")
            self.offset = 24
            return order, scale, link
        raise PcapError(f"{self.path}: not a pcap file")

    def __iter__(self) -> Iterator[Datagram]:
        header = struct.Struct(self._order + _RECORD_HEADER)
        while data := self._file.read(header.size):
            if len(data) < header.size:
                self.problem = f"{self.path}: the last record is cut short at byte {self.offset}"
                return
            seconds, fraction, captured, _length = header.unpack(data)
            if captured > _MAX_RECORD:
                raise PcapError(f"{self.path}: damaged at byte {self.offset}: a record of {captured} bytes")
            frame = self._file.read(captured)
            if len(frame) < captured:
                self.problem = f"{self.path}: the last record is cut short at byte {self.offset}"
                return
            self.offset += header.size + captured
            datagram = parse_frame(frame, self._link, seconds * 1_000_000_000 + fraction * self._to_ns)
            if datagram is not None:
                yield datagram


def parse_frame(frame: bytes, link: int, t_ns: int) -> Datagram | None:
    """The UDP datagram in a captured frame; None if it holds none or not all of it."""
    packet = _ip_packet(frame, link)
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != _UDP:
        return None
    if int.from_bytes(packet[6:8], "big") & _FRAGMENT_MASK:
        return None
    header = (packet[0] & 15) * 4
    if header < 20 or len(packet) < header + 8:
        return None
    src_port, dst_port, length = struct.unpack_from("!HHH", packet, header)
    payload = packet[header + 8 : header + length]
    if length < 8 or len(payload) != length - 8:
        return None
    src, dst = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    return Datagram(t_ns, (src, src_port), (dst, dst_port), payload)


def _ip_packet(frame: bytes, link: int) -> bytes:
    """The IPv4 packet in a frame; empty if it carries something else."""
    if link in _RAW_TYPES:
        return frame
    if link == LINK_NULL:
        return frame[4:]
    at = 14 if link == LINK_COOKED else 12
    kind = int.from_bytes(frame[at : at + 2], "big")
    while link == LINK_ETHERNET and kind == _ETHERTYPE_VLAN:
        at += 4
        kind = int.from_bytes(frame[at : at + 2], "big")
    return frame[at + 2 :] if kind == _ETHERTYPE_IPV4 else b""


def build_frame(datagram: Datagram) -> bytes:
    """An Ethernet frame around `datagram`, with the group's MAC address and a valid IP header checksum."""
    length = 8 + len(datagram.payload)
    group = ipaddress.IPv4Address(datagram.dst[0])
    mac = b"\x01\x00\x5e" + (int(group) & 0x7FFFFF).to_bytes(3, "big") if group.is_multicast else bytes(6)
    ip = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 1, _UDP, 0))
    ip += socket.inet_aton(datagram.src[0]) + socket.inet_aton(datagram.dst[0])
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip[10:12] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    udp = struct.pack("!HHHH", datagram.src[1], datagram.dst[1], length, 0)  # no checksum: allowed over IPv4
    return mac + bytes(6) + _ETHERTYPE_IPV4.to_bytes(2, "big") + bytes(ip) + udp + datagram.payload


def write_pcap(path: Path, datagrams: Iterable[Datagram], nanoseconds: bool = False) -> int:
    """Write an Ethernet capture of `datagrams`, little-endian; returns how many. Microseconds round down."""
    count = 0
    scale = 1 if nanoseconds else 1000
    with path.open("wb") as out:
        magic = next(magic for magic, to_ns in _MAGICS.items() if to_ns == scale)
        out.write(struct.pack("<I" + _FILE_HEADER, magic, 2, 4, 0, 0, _MAX_RECORD, LINK_ETHERNET))
        for datagram in datagrams:
            frame = build_frame(datagram)
            seconds, ns = divmod(datagram.t_ns, 1_000_000_000)
            out.write(struct.pack("<" + _RECORD_HEADER, seconds, ns // scale, len(frame), len(frame)) + frame)
            count += 1
    return count
