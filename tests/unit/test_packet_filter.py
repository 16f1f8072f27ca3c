"""The kernel runs the filters: what it lets through against what the decoder and a plain model say."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from ka9q.control import encode_eol, encode_int, encode_string
from ka9q.types import StatusType

from pipeline import packet_filter
from pipeline.packet_filter import FIELDS_WALKED, rtp_filter, status_filter
from pipeline.pcap import PcapReader
from pipeline.radiod import decode_status
from pipeline.sockets import attach_filter

REAL = Path(__file__).parents[1] / "data" / "radiod-status.pcap"
RTP_REAL = Path(__file__).parents[1] / "data" / "one-s16-3s.pcap"
SSRC = 10_000_000


@contextmanager
def filtered(code: bytes) -> Iterator[tuple[socket.socket, socket.socket]]:
    """(sender, receiver) on loopback with `code` before the receiver's queue."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.setblocking(False)
        attach_filter(receiver, code)
        receiver.bind(("127.0.0.1", 0))
        sender.connect(receiver.getsockname())
        yield sender, receiver


def passes(pair: tuple[socket.socket, socket.socket], datagram: bytes) -> bool:
    """Loopback delivers within send(): what is not there now will not come."""
    pair[0].send(datagram)
    try:
        received = pair[1].recv(65536)
    except BlockingIOError:
        return False
    assert received == datagram
    return True


@cache
def real_status() -> tuple[bytes, ...]:
    return tuple(d.payload for d in PcapReader(REAL))


def model(datagram: bytes, ssrc: int) -> bool:
    """The filter's promise, said plainly."""
    if not datagram or datagram[0] != 0:
        return False
    at = 1
    for _ in range(FIELDS_WALKED):
        if at >= len(datagram) or datagram[at] == StatusType.EOL:
            return False
        if at + 1 >= len(datagram):
            return False
        length = datagram[at + 1]
        if datagram[at] == StatusType.OUTPUT_SSRC:
            if length > 4:
                return True
            value = datagram[at + 2 : at + 2 + length]
            return len(value) == length and int.from_bytes(value, "big") == ssrc
        if length >= 128:
            return True
        at += 2 + length
    return True


def rtp(ssrc: int, version: int = 2, payload: bytes = b"") -> bytes:
    return struct.pack("!BBHII", version << 6, 120, 1, 2, ssrc) + payload


def status(ssrc: int, before: int = 0) -> bytes:
    out = bytearray([0])
    for i in range(before):
        encode_int(out, StatusType.GAIN, i)
    encode_int(out, StatusType.OUTPUT_SSRC, ssrc)
    encode_string(out, StatusType.PRESET, "iq")
    encode_eol(out)
    return bytes(out)


def test_only_the_channels_own_rtp_passes() -> None:
    with filtered(rtp_filter(SSRC)) as pair:
        assert passes(pair, rtp(SSRC))
        assert passes(pair, rtp(SSRC, payload=bytes(1280)))
        assert not passes(pair, rtp(SSRC + 1))
        assert not passes(pair, rtp(SSRC, version=1))
        assert not passes(pair, rtp(SSRC, version=3))
        assert not passes(pair, rtp(SSRC)[:11])
        assert not passes(pair, b"")


@pytest.mark.parametrize("ssrc", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_any_ssrc_can_be_filtered(ssrc: int) -> None:
    with filtered(rtp_filter(ssrc)) as pair:
        assert passes(pair, rtp(ssrc))
        assert not passes(pair, rtp(ssrc ^ 1))
    with filtered(status_filter(ssrc)) as pair:
        assert passes(pair, status(ssrc))
        assert not passes(pair, status(ssrc ^ 1))
        assert not passes(pair, status(ssrc ^ 0x80000000))


def test_real_rtp_passes_its_own_filter_and_no_other() -> None:
    packets = [d.payload for d in PcapReader(RTP_REAL) if d.dst[1] == 5004][:20]
    ssrc = struct.unpack_from("!I", packets[0], 8)[0]
    with filtered(rtp_filter(ssrc)) as own, filtered(rtp_filter(ssrc + 1)) as other:
        assert all(passes(own, p) for p in packets)
        assert not any(passes(other, p) for p in packets)


def test_real_status_passes_its_own_filter_and_no_other() -> None:
    packets = real_status()
    channels = {s.ssrc for s in map(decode_status, packets) if s}
    assert {777, 10000, 25000} <= channels
    for ssrc in channels:
        with filtered(status_filter(ssrc)) as pair:
            for packet in packets:
                found = decode_status(packet)
                assert passes(pair, packet) == (found is not None and found.ssrc == ssrc), packet.hex()


def test_commands_do_not_pass() -> None:
    commands = [p for p in real_status() if p[0] == 1]
    assert len(commands) >= 5
    with filtered(status_filter(777)) as pair:
        assert not any(passes(pair, c) for c in commands)


@pytest.mark.parametrize("ssrc", [0, 0x12, 0x1234, 0x123456, 0x12345678])
@pytest.mark.parametrize("before", [0, 1, 2, FIELDS_WALKED - 1])
def test_ssrc_is_found_in_every_width_and_place(ssrc: int, before: int) -> None:
    with filtered(status_filter(ssrc)) as pair:
        assert passes(pair, status(ssrc, before))
        assert not passes(pair, status(ssrc ^ 0x100, before))


def test_leading_zeros_of_an_ssrc_do_not_matter() -> None:
    with filtered(status_filter(0x1234)) as pair:
        assert passes(pair, b"\0\x12\x04\0\0\x12\x34\0")
        assert passes(pair, b"\0\x12\x03\0\x12\x34\0")


def test_what_the_walk_cannot_decide_is_left_to_the_decoder() -> None:
    with filtered(status_filter(SSRC)) as pair:
        assert passes(pair, status(SSRC + 1, before=FIELDS_WALKED))
        assert passes(pair, b"\0\x04\x81\x80" + bytes(128) + status(SSRC + 1)[1:])
        assert passes(pair, b"\0\x12\x05\0" + struct.pack("!I", SSRC + 1))


def test_a_status_that_names_no_channel_does_not_pass() -> None:
    with filtered(status_filter(0)) as pair:
        for datagram in (b"", b"\0", b"\0\0", b"\0\x12", b"\0\x12\x04\0\0", b"\0\x21\x02\0\0\0", b"\0\x21\x7f\0"):
            assert not passes(pair, datagram), datagram.hex()


def test_damaged_and_hostile_status_is_judged_as_the_model_says() -> None:
    rng = random.Random(5006)
    base = next(p for p in real_status() if (s := decode_status(p)) and s.ssrc == 777 and len(p) > 270)
    cases = [base[:n] for n in range(len(base))]
    for _ in range(3000):
        broken = bytearray(base)
        for _ in range(rng.choice((1, 1, 2, 8))):
            broken[rng.randrange(rng.choice((8, 40, len(base))))] ^= 1 << rng.randrange(8)
        cases.append(bytes(broken))
    cases += [bytes(1) + rng.randbytes(rng.randrange(300)) for _ in range(1000)]
    verdicts = set()
    with filtered(status_filter(777)) as pair:
        for case in cases:
            verdict = passes(pair, case)
            assert verdict == model(case, 777), case.hex()
            verdicts.add(verdict)
    assert verdicts == {True, False}


@pytest.mark.parametrize("build", [rtp_filter, status_filter])
def test_only_the_stated_sender_passes(build: Callable[[int, int], bytes]) -> None:
    ours, theirs = (struct.unpack("!I", socket.inet_aton(a))[0] for a in ("127.0.0.1", "127.0.0.2"))
    datagram = rtp(SSRC) if build is rtp_filter else status(SSRC)
    with filtered(build(SSRC, ours)) as pair:
        assert passes(pair, datagram)
    with filtered(build(SSRC, theirs)) as pair:
        assert not passes(pair, datagram)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.2", 0))
            other.connect(pair[1].getsockname())
            assert passes((other, pair[1]), datagram)


def test_programs_fit_the_kernels_limit() -> None:
    for code in (rtp_filter(SSRC, 1), status_filter(SSRC, 1)):
        assert len(code) % 8 == 0
        assert len(code) // 8 <= packet_filter.MAX_INSTRUCTIONS


def test_programs_fit_the_memory_of_older_kernels() -> None:
    """net.core.optmem_max was 20480 before Linux 6.7; the kernel's own form takes about 16 bytes an instruction."""
    assert len(status_filter(SSRC, 1)) // 8 <= 800
