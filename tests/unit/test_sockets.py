"""Sockets on loopback, TTL 0: what arrives, what does not, and what the operator is told."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import sockets
from pipeline.config import Channel, Radiod
from pipeline.sockets import ChannelSockets, SocketError, multicast_interface, open_channel, resolve_group, sender

PID = os.getpid()
GROUP = f"239.{64 + (PID >> 16) % 64}.{PID >> 8 & 255}.{PID & 255}"
OTHER = f"239.{128 + (PID >> 16) % 64}.{PID >> 8 & 255}.{PID & 255}"
SSRC = 10_000_000
LO = Radiod(interface="lo", data_address=f"{GROUP}:5004")


def channel(**changes: Any) -> Channel:
    values: dict[str, Any] = {"name": "WWV 10 MHz", "frequency_hz": 1e7, "ssrc": SSRC, "data_address": f"{GROUP}:5004"}
    return Channel(**(values | changes))


def rtp(ssrc: int = SSRC, payload: bytes = b"data") -> bytes:
    return struct.pack("!BBHII", 0x80, 120, 1, 2, ssrc) + payload


def status(ssrc: int = SSRC) -> bytes:
    return b"\0\x12\x04" + struct.pack("!I", ssrc) + b"\0"


def receive(sock: socket.socket) -> list[bytes]:
    """All that is queued; loopback delivers within send()."""
    found = []
    while True:
        try:
            found.append(sock.recv(65536))
        except BlockingIOError:
            return found


@pytest.fixture
def lo() -> Iterator[socket.socket]:
    with sender("lo") as sock:
        yield sock


@pytest.fixture
def opened() -> Iterator[ChannelSockets]:
    made = open_channel(channel(), LO)
    yield made
    made.close()


# -- what arrives -----------------------------------------------------------------------


def test_the_channels_packets_arrive_and_no_others(opened: ChannelSockets, lo: socket.socket) -> None:
    lo.sendto(rtp(SSRC + 1), (GROUP, 5004))
    lo.sendto(b"garbage", (GROUP, 5004))
    lo.sendto(rtp(), (GROUP, 5004))
    lo.sendto(rtp(payload=b"elsewhere"), (OTHER, 5004))
    assert receive(opened.data) == [rtp()]


def test_status_of_the_channel_arrives_beside_its_data(opened: ChannelSockets, lo: socket.socket) -> None:
    assert len(opened.status) == 1
    for datagram in (status(SSRC + 1), b"\x01" + status()[1:], status()):
        lo.sendto(datagram, (GROUP, 5006))
    assert receive(opened.status[0]) == [status()]
    assert receive(opened.data) == []


def test_answers_to_commands_arrive_on_the_control_group(lo: socket.socket) -> None:
    opened = open_channel(channel(), Radiod(interface="lo", status_address=f"{OTHER}:5016"))
    assert [s.getsockname() for s in opened.status] == [(GROUP, 5006), (OTHER, 5016)]
    lo.sendto(status(), (OTHER, 5016))
    assert [receive(s) for s in opened.status] == [[], [status()]]
    opened.close()


def test_one_group_for_data_and_control_is_listened_to_once() -> None:
    opened = open_channel(channel(), Radiod(interface="lo", status_address=GROUP))
    assert [s.getsockname() for s in opened.status] == [(GROUP, 5006)]
    opened.close()


def test_status_port_of_a_stream_on_another_port_is_two_above() -> None:
    opened = open_channel(channel(data_address=f"{GROUP}:6004"), LO)
    assert opened.data.getsockname() == (GROUP, 6004)
    assert [s.getsockname() for s in opened.status] == [(GROUP, 6006)]
    opened.close()


def test_every_channel_of_a_group_gets_its_own(lo: socket.socket) -> None:
    opened = [open_channel(channel(ssrc=ssrc), LO) for ssrc in (1, 2, 3)]
    for ssrc in (3, 1, 2):
        lo.sendto(rtp(ssrc), (GROUP, 5004))
        lo.sendto(status(ssrc), (GROUP, 5006))
    assert [receive(o.data) for o in opened] == [[rtp(1)], [rtp(2)], [rtp(3)]]
    assert [receive(o.status[0]) for o in opened] == [[status(1)], [status(2)], [status(3)]]
    for each in opened:
        each.close()


def test_only_the_stated_source_is_heard(lo: socket.socket) -> None:
    here = open_channel(channel(), Radiod(interface="lo", source_address="127.0.0.1"))
    elsewhere = open_channel(channel(), Radiod(interface="lo", source_address="127.0.0.2"))
    lo.sendto(rtp(), (GROUP, 5004))
    lo.sendto(status(), (GROUP, 5006))
    assert (receive(here.data), receive(here.status[0])) == ([rtp()], [status()])
    assert (receive(elsewhere.data), receive(elsewhere.status[0])) == ([], [])
    # What is not wanted is there to be counted, and only that.
    assert here.foreign is not None and elsewhere.foreign is not None
    assert (receive(here.foreign), receive(elsewhere.foreign)) == ([], [rtp()[:12]])
    here.close()
    elsewhere.close()


def test_datagrams_carry_the_kernels_time(opened: ChannelSockets, lo: socket.socket) -> None:
    lo.sendto(rtp(), (GROUP, 5004))
    lo.sendto(status(), (GROUP, 5006))
    for sock in (opened.data, opened.status[0]):
        _, control, _, _ = sock.recvmsg(2048, 256)
        assert [(level, kind) for level, kind, _ in control] == [(socket.SOL_SOCKET, sockets.SO_TIMESTAMPNS)]


def test_the_group_is_joined_on_the_configured_interface_alone(opened: ChannelSockets) -> None:
    joined: dict[str, set[str]] = {}
    for line in Path("/proc/net/igmp").read_text().splitlines()[1:]:
        if not line.startswith("\t"):
            device = line.split()[1]
        else:
            joined.setdefault(device, set()).add(line.split()[0])
    wanted = f"{struct.unpack('=I', socket.inet_aton(GROUP))[0]:08X}"
    assert [device for device, groups in joined.items() if wanted in groups] == ["lo"]
    assert opened.data.getsockopt(socket.IPPROTO_IP, sockets.IP_MULTICAST_ALL) == 0


def test_the_filter_is_there_before_the_first_packet_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = []
    attach = sockets.attach_filter

    def watch(sock: socket.socket, code: bytes) -> None:
        bound.append(sock.getsockname())
        attach(sock, code)

    monkeypatch.setattr(sockets, "attach_filter", watch)
    open_channel(channel(), LO).close()
    assert bound == [("0.0.0.0", 0)] * 2


def test_sockets_do_not_block_and_close_together(opened: ChannelSockets) -> None:
    everything = (opened.data, *opened.status)
    assert not any(s.getblocking() for s in everything)
    opened.close()
    assert all(s.fileno() == -1 for s in everything)


# -- the buffer -------------------------------------------------------------------------


class Unprivileged:
    """A socket whose owner may not exceed net.core.rmem_max."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if option == sockets.SO_RCVBUFFORCE:
            raise PermissionError(1, "Operation not permitted")
        self._sock.setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int) -> int:
        return self._sock.getsockopt(level, option)


def test_the_reported_buffer_is_what_the_kernel_granted(opened: ChannelSockets) -> None:
    assert opened.buffer_bytes == opened.data.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
        granted = sockets._grant_buffer(Unprivileged(sock), limit * 2)  # type: ignore[arg-type]
        assert granted == limit


def test_a_small_buffer_is_reported_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sockets, "_grant_buffer", lambda sock, wanted: 212_992)
    open_channel(channel(), LO).close()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert "WWV 10 MHz" in text and "208 KiB holds 2.1 s" in text
    assert "run: sudo sysctl -w net.core.rmem_max=16777216" in text


def test_a_large_enough_buffer_is_not_mentioned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sockets, "_grant_buffer", lambda sock, wanted: 2 << 20)
    open_channel(channel(), LO).close()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("changes", "packets_per_s"),
    [
        ({}, 50),
        ({"encoding": "F32LE"}, 100),
        ({"encoding": "F16BE"}, 50),
        ({"sample_rate_hz": 192_000}, 550),
        ({"sample_rate_hz": 12_000}, 50),
    ],
)
def test_buffer_time_follows_rate_and_encoding(changes: dict[str, Any], packets_per_s: int) -> None:
    assert sockets.buffer_seconds(channel(**changes), 1 << 20) == pytest.approx((2 << 20) / 4096 / packets_per_s)


def test_the_buffer_holds_at_least_what_is_promised(lo: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setblocking(False)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        granted = receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        receiver.bind(("127.0.0.1", 0))
        for _ in range(1000):
            lo.sendto(bytes(1292), receiver.getsockname())
        promised = 50 * sockets.buffer_seconds(channel(), granted)
        assert len(receive(receiver)) >= promised > 40


# -- faults -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nope0", "10.255.255.254", "", "a" * 40])
def test_an_unknown_interface_is_named_with_those_there_are(name: str) -> None:
    with pytest.raises(SocketError) as error:
        open_channel(channel(), Radiod(interface=name))
    assert f"radiod.interface {name!r} does not exist" in str(error.value)
    assert "lo 127.0.0.1" in str(error.value)


def test_a_port_that_another_program_holds_is_explained() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((GROUP, 5004))
        with pytest.raises(SocketError, match=rf"WWV 10 MHz: cannot listen to {GROUP}:5004 on lo: .*another program"):
            open_channel(channel(), LO)


def test_a_fault_at_the_second_socket_closes_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((GROUP, 5006))
        with pytest.raises(SocketError, match=f"{GROUP}:5006"):
            open_channel(channel(), LO)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("address", ["10.1.2.3:5004", "127.0.0.1", "240.0.0.1", "223.255.255.255", "[ff02::1]:5004"])
def test_a_group_must_be_multicast(address: str) -> None:
    with pytest.raises(SocketError, match="not a multicast IPv4 address"):
        resolve_group(address, 5004)


@pytest.mark.parametrize("address", ["239.1.2.3:99999", "239.1.2.3:", "239.1.2", "", "a b:5004"])
def test_a_malformed_address_is_shown(address: str) -> None:
    with pytest.raises(SocketError) as error:
        resolve_group(address, 5004)
    assert repr(address) in str(error.value)


def test_a_malformed_source_address_is_shown() -> None:
    with pytest.raises(SocketError, match="source_address 'bee1.local' is not an IPv4 address"):
        open_channel(channel(), Radiod(interface="lo", source_address="bee1.local"))


class Resolver:
    """Stands for the system's resolver; no name leaves the test."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.asked: list[str] = []

    def __call__(self, host: str, *_: object) -> list[Any]:
        self.asked.append(host)
        if host in self.names:
            return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (self.names[host], 0))]
        raise socket.gaierror(-2, "Name or service not known")


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    made = Resolver({"hf.local": GROUP, "host.local": "192.0.2.1"})
    monkeypatch.setattr("socket.getaddrinfo", made)
    monkeypatch.setattr(sockets, "_answers", {})
    monkeypatch.setattr(sockets, "_failures", {})
    return made


def test_names_are_resolved_once(resolver: Resolver) -> None:
    assert resolve_group("hf.local", 5004) == (GROUP, 5004)
    assert resolve_group("hf.local:5006", 5004) == (GROUP, 5006)
    assert resolver.asked == ["hf.local"]


def test_a_name_of_a_single_host_is_no_group(resolver: Resolver) -> None:
    with pytest.raises(SocketError, match=r"host.local \(192.0.2.1\) is not a multicast"):
        resolve_group("host.local", 5004)


def test_an_unknown_name_is_not_asked_for_again_at_once(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for _ in range(3):
        with pytest.raises(SocketError, match=r"'gone.local' cannot be resolved \(Name or service not known\)"):
            resolve_group("gone.local", 5004)
    assert resolver.asked == ["gone.local"]
    now[0] += 30
    resolver.names["gone.local"] = GROUP
    assert resolve_group("gone.local", 5004) == (GROUP, 5004)


def test_a_control_group_that_cannot_be_resolved_does_not_stop_recording(
    resolver: Resolver, caplog: pytest.LogCaptureFixture
) -> None:
    opened = open_channel(channel(), Radiod(interface="lo", status_address="gone.local"))
    assert [s.getsockname() for s in opened.status] == [(GROUP, 5006)]
    assert "radiod.status_address" in caplog.text and "gone.local" in caplog.text
    opened.close()


# -- interfaces and sending -------------------------------------------------------------


@pytest.mark.parametrize("name", ["lo", "127.0.0.1", "127.0.0.77"])
def test_loopback_by_name_or_any_of_its_addresses(name: str) -> None:
    assert multicast_interface(name) == (socket.if_nametoindex("lo"), "127.0.0.1")


def wired() -> tuple[str, str]:
    found = [(n, a) for n, a in sockets._interface_addresses() if not a.startswith("127.")]
    if not found:
        pytest.skip("no interface beside loopback has an IPv4 address")
    return found[0]


def test_an_interface_by_its_address() -> None:
    name, address = wired()
    assert multicast_interface(address) == multicast_interface(name) == (socket.if_nametoindex(name), address)


def test_what_is_sent_on_loopback_stays_on_the_machine() -> None:
    for name in ("lo", "127.0.0.1"):
        with sender(name, ttl=5) as sock:
            assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 0
            sock.connect((GROUP, 5004))
            assert sock.getsockname()[0] == "127.0.0.1"


def test_what_is_sent_elsewhere_goes_one_hop_on_that_interface() -> None:
    name, address = wired()
    with sender(name) as sock, sender(name, ttl=3) as far:
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 1
        assert far.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 3
        sock.connect((GROUP, 5004))  # chooses the route, sends nothing
        assert sock.getsockname()[0] == address


def test_a_sender_on_an_unknown_interface_says_so() -> None:
    with pytest.raises(SocketError, match="does not exist on this machine"):
        sender("nope0")
