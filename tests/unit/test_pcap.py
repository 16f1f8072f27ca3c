"""pcap files: what is written is read, what is damaged is named."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import PipelineError
from pipeline.pcap import Datagram, PcapError, PcapReader, build_frame, parse_frame, write_pcap

DATA = Path(__file__).resolve().parents[1] / "data"
ONE = Datagram(1_795_321_020_123_456_000, ("192.0.2.10", 51286), ("239.101.9.47", 5004), b"payload")

endpoints = st.tuples(st.sampled_from(["10.0.0.1", "239.1.2.3", "192.0.2.255"]), st.integers(0, 65535))
datagrams = st.builds(Datagram, st.integers(0, 2**32 * 10**9 - 1), endpoints, endpoints, st.binary(max_size=1500))


def read(path: Path) -> list[Datagram]:
    with PcapReader(path) as reader:
        return list(reader)


def header(order: str, magic: int = 0xA1B2C3D4, link: int = 1) -> bytes:
    return struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, link)


def record(order: str, frame: bytes, seconds: int = 5, fraction: int = 7) -> bytes:
    return struct.pack(order + "IIII", seconds, fraction, len(frame), len(frame)) + frame


@given(st.lists(datagrams, max_size=5))
def test_written_is_read_to_the_nanosecond(tmp_path_factory: pytest.TempPathFactory, wanted: list[Datagram]) -> None:
    path = tmp_path_factory.mktemp("pcap") / "x.pcap"
    assert write_pcap(path, wanted, nanoseconds=True) == len(wanted)
    assert read(path) == wanted


def test_microsecond_files_round_down(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    write_pcap(path, [Datagram(1_000_000_999, ONE.src, ONE.dst, b"")])
    assert [d.t_ns for d in read(path)] == [1_000_000_000]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "t_ns"), [(0xA1B2C3D4, 5_000_007_000), (0xA1B23C4D, 5_000_000_007)])
def test_byte_orders_and_resolutions(tmp_path: Path, order: str, magic: int, t_ns: int) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(header(order, magic) + record(order, build_frame(ONE)))
    assert read(path) == [Datagram(t_ns, ONE.src, ONE.dst, ONE.payload)]


@pytest.mark.parametrize(
    ("link", "prefix"),
    [
        (101, b""),
        (12, b""),
        (0, b"\2\0\0\0"),
        (113, struct.pack("!HHHQH", 0, 772, 0, 0, 0x0800)),
        (1, bytes(12) + b"\x81\x00\x00\x05\x08\x00"),
    ],
    ids=["raw", "raw-bsd", "loopback", "cooked", "vlan"],
)
def test_link_types(tmp_path: Path, link: int, prefix: bytes) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(header("<", link=link) + record("<", prefix + build_frame(ONE)[14:]))
    assert [(d.src, d.dst, d.payload) for d in read(path)] == [(ONE.src, ONE.dst, ONE.payload)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a pcap"),
        (b"PK\3\4" + bytes(40), "not a pcap"),
        (b"\x0a\x0d\x0d\x0a" + bytes(40), "pcapng"),
        (header("<")[:20], "cut short in the file header"),
        (header("<", link=127), "link type 127"),
    ],
)
def test_what_is_no_capture_is_refused_with_the_reason(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(content)
    with pytest.raises(PcapError, match=says) as caught:
        PcapReader(path)
    assert isinstance(caught.value, PipelineError)
    assert str(path) in str(caught.value)


def test_missing_file_is_a_pipeline_error(tmp_path: Path) -> None:
    with pytest.raises(PcapError, match="No such file"):
        PcapReader(tmp_path / "none.pcap")


@pytest.mark.parametrize("cut", [1, 15, 17, 40])
def test_last_record_cut_short_is_reported_and_the_rest_is_read(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.pcap"
    whole = record("<", build_frame(ONE))
    path.write_bytes(header("<") + whole + whole[:cut])
    with PcapReader(path) as reader:
        assert len(list(reader)) == 1
        assert reader.problem is not None
        assert f"at byte {24 + len(whole)}" in reader.problem


def test_record_longer_than_any_capture_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(header("<") + struct.pack("<IIII", 0, 0, 2**31, 2**31) + bytes(100))
    with pytest.raises(PcapError, match="damaged at byte 24"):
        read(path)


@pytest.mark.parametrize("cut", [1, 7, 8, 30])
def test_packets_the_capture_cut_short_are_passed_over(cut: int) -> None:
    assert parse_frame(build_frame(ONE)[:-cut], 1, 0) is None


@pytest.mark.parametrize(("first", "length"), [(0x45, 27), (0x4F, 64), (0x44, 40), (0x45, 20)])
def test_headers_without_room_for_udp_are_passed_over(first: int, length: int) -> None:
    packet = bytes([first]) + build_frame(ONE)[15:34] + bytes(100)
    assert parse_frame(packet[:length], 101, 0) is None


def test_fragments_and_other_protocols_are_passed_over() -> None:
    frame = bytearray(build_frame(ONE))
    assert parse_frame(bytes(frame), 1, 0) is not None
    fragment = bytes(frame[:20]) + b"\x20\x00" + bytes(frame[22:])
    assert parse_frame(fragment, 1, 0) is None
    frame[23] = 6
    assert parse_frame(bytes(frame), 1, 0) is None


@given(st.binary(max_size=80), st.sampled_from([0, 1, 101, 113]))
def test_arbitrary_frames_do_no_harm(frame: bytes, link: int) -> None:
    parse_frame(frame, link, 0)


@given(st.binary(max_size=200))
def test_arbitrary_files_raise_nothing_else(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    path = tmp_path_factory.mktemp("pcap") / "x.pcap"
    path.write_bytes(header("<") + tail)
    try:
        read(path)
    except PcapError as error:
        assert "damaged" in str(error)


def test_ip_checksum_of_a_built_frame_is_valid() -> None:
    total = sum(struct.unpack("!10H", build_frame(ONE)[14:34]))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def test_real_capture_holds_150_packets_a_channel_in_three_seconds() -> None:
    rtp = [d for d in read(DATA / "one-s16-3s.pcap") if d.dst[1] == 5004]
    sequence = [int.from_bytes(d.payload[2:4], "big") for d in rtp]
    assert sequence == list(range(sequence[0], sequence[0] + len(rtp)))
    assert len(rtp) == 149
    assert {len(d.payload) for d in rtp} == {1292}
