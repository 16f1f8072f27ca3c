"""The NTP servers: RFC 5905 replies, and faults that can be told from outside."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from pathlib import Path

import ntplib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import free_port
from pipeline.simulator.ntp import NtpFarm, build_reply, ntp_short, ntp_timestamp, running_farm
from pipeline.simulator.spec import NtpServerSpec, SimulatorError, ntp_farm

NOW_NS = 1_795_321_260_123_456_789
ORIGIN = 0xEE1F_0000_1234_5678


def request(mode: int = 3, version: int = 4, poll: int = 6) -> bytes:
    return bytes([version << 3 | mode, 0, poll, 0]) + bytes(36) + ORIGIN.to_bytes(8, "big")


def reply(spec: NtpServerSpec, data: bytes | None = None, spent_ns: int = 1000) -> ntplib.NTPPacket:
    answer = build_reply(request() if data is None else data, spec, NOW_NS, NOW_NS + spent_ns)
    assert answer is not None
    assert len(answer) == 48
    packet = ntplib.NTPPacket()
    packet.from_data(answer)
    return packet


def ask(address: tuple[str, int], deadline_s: float = 5.0) -> tuple[float, float, bytes]:
    """(offset s, delay s, reply): one exchange as RFC 5905 section 8 computes it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        t1 = time.time_ns()
        sock.send(request()[:40] + ntp_timestamp(t1).to_bytes(8, "big"))
        assert select.select([sock], [], [], deadline_s)[0], "no reply"
        data = sock.recv(1024)
        t4 = time.time_ns()
    t2, t3 = ((stamp * 10**9 >> 32) - 2_208_988_800 * 10**9 for stamp in struct.unpack("!QQ", data[32:48]))
    return (t2 - t1 + t3 - t4) / 2e9, (t4 - t1 - (t3 - t2)) / 1e9, data


def test_reply_carries_what_the_specification_says() -> None:
    spec = NtpServerSpec(stratum=2, leap=1, root_delay_s=0.25, root_dispersion_s=0.5, offset_s=0.5, precision=-23)
    packet = reply(spec)
    assert (packet.version, packet.mode, packet.leap, packet.stratum, packet.poll) == (4, 4, 1, 2, 6)
    assert (packet.root_delay, packet.root_dispersion, packet.precision) == (0.25, 0.5, -23)
    assert packet.recv_timestamp == pytest.approx(NOW_NS / 1e9 + 2_208_988_800 + 0.5, abs=1e-6)
    assert packet.tx_timestamp - packet.recv_timestamp == pytest.approx(1e-6, abs=1e-6)
    assert packet.ref_timestamp < packet.recv_timestamp


def test_origin_is_echoed_bit_by_bit_unless_it_shall_not() -> None:
    good = build_reply(request(), NtpServerSpec(), NOW_NS, NOW_NS)
    bad = build_reply(request(), NtpServerSpec(wrong_origin=True), NOW_NS, NOW_NS)
    assert good is not None and bad is not None
    assert good[24:32] == ORIGIN.to_bytes(8, "big") != bad[24:32]


def test_kiss_code_has_stratum_0_and_the_alarm() -> None:
    packet = reply(NtpServerSpec(kiss="RATE"))
    assert (packet.stratum, packet.leap, packet.ref_id) == (0, 3, int.from_bytes(b"RATE", "big"))


def test_zero_transmit_and_versions() -> None:
    assert reply(NtpServerSpec(zero_transmit=True)).tx_timestamp == 0
    assert reply(NtpServerSpec(), request(version=3)).version == 3
    negative = build_reply(request(poll=0xFD), NtpServerSpec(), NOW_NS, NOW_NS)
    assert negative is not None
    assert negative[2] == 0xFD


@pytest.mark.parametrize("data", [b"", request()[:47], request(mode=4), request(mode=6), request(mode=1)])
def test_what_is_no_client_request_gets_no_answer(data: bytes) -> None:
    assert build_reply(data, NtpServerSpec(), NOW_NS, NOW_NS) is None


@given(st.binary(max_size=100))
def test_arbitrary_requests_do_no_harm(data: bytes) -> None:
    build_reply(data, NtpServerSpec(), NOW_NS, NOW_NS)


def test_timestamps_of_known_instants() -> None:
    assert ntp_timestamp(0) == 2_208_988_800 << 32
    assert ntp_timestamp(500_000_000) & 0xFFFFFFFF == 1 << 31
    assert ntp_timestamp(2_085_978_496 * 10**9) == 0  # 2036-02-07T06:28:16Z, the first era's end
    assert ntp_short(1.5) == 0x18000
    assert ntp_short(1e9) == 0xFFFFFFFF


def test_offset_and_delay_are_seen_by_a_client() -> None:
    """Bounds are one-sided where a busy machine can only add delay."""
    specs = (
        NtpServerSpec(offset_s=0.5),
        NtpServerSpec(offset_s=-3.0, request_delay_s=0.02, reply_delay_s=0.02),
        NtpServerSpec(request_delay_s=0.0, reply_delay_s=0.1),
        NtpServerSpec(processing_s=0.1),
    )
    with running_farm(specs) as addresses:
        results = [ask(address) for address in addresses]
    for (offset_s, delay_s, _), true_s, network_s in zip(
        results, (0.5, -3.0, -0.05, 0.0), (0.0, 0.04, 0.1, 0.0), strict=True
    ):
        assert delay_s >= network_s
        # Whatever else delays an exchange moves the offset by at most half of it (RFC 5905 section 8).
        assert abs(offset_s - true_s) <= (delay_s - network_s) / 2 + 1e-4


def test_silent_servers_are_silent_and_others_answer_beside_them() -> None:
    with running_farm((NtpServerSpec(silent=True), NtpServerSpec(loss=1.0), NtpServerSpec())) as addresses:
        socks = []
        for address in addresses:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.connect(address)
            sock.send(request())
            socks.append(sock)
        for _ in range(2):
            # One process answers for all: by its second answer it has long had its turn with the others.
            assert select.select([socks[2]], [], [], 5)[0]
            socks[2].recv(1024)
            socks[2].send(request())
        assert not select.select(socks[:2], [], [], 0)[0]
        for sock in socks:
            sock.close()


def test_farm_uses_the_ports_asked_for_and_names_a_taken_one() -> None:
    port = free_port()
    with running_farm(ntp_farm(1, port)) as addresses:
        assert addresses == (("127.0.0.1", port),)
        with pytest.raises(SimulatorError, match=f"127.0.0.1:{port}"):
            NtpFarm((NtpServerSpec(port=port),))


def test_farm_has_servers_with_different_addresses_and_small_offsets() -> None:
    with running_farm(ntp_farm(10)) as addresses:
        assert len(set(addresses)) == 10
        for address in addresses:
            offset_s, delay_s, data = ask(address)
            assert abs(offset_s) < 0.001 + delay_s / 2
            assert data[1] in (1, 2)


def test_farm_ends_with_the_block_and_leaves_no_child() -> None:
    def children() -> set[str]:
        task = Path("/proc/self/task") / str(os.getpid()) / "children"
        return set(task.read_text().split())

    before = children()
    with running_farm((NtpServerSpec(),)):
        assert len(children() - before) == 1
    assert children() == before


@pytest.mark.parametrize("wrong", [{"host": "192.0.2.1"}, {"refid": "TOOLONG"}])
def test_impossible_servers_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(SimulatorError):
        NtpServerSpec(**wrong)  # type: ignore[arg-type]
