"""RTP headers, wraps, and payload bytes to samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream import rtp
from pipeline.stream.rtp import RtpError, parse, signed16, signed32, wrap16, wrap32


def header(flags: int = 0x80, kind: int = 120, sequence: int = 7, timestamp: int = 9, ssrc: int = 11) -> bytes:
    return rtp.HEADER.pack(flags, kind, sequence, timestamp, ssrc)


def test_plain_packet() -> None:
    packet = parse(header(kind=0x80 | 77, sequence=65535, timestamp=2**32 - 1, ssrc=2**32 - 2) + b"abcd")
    assert (packet.marker, packet.payload_type, packet.sequence) == (True, 77, 65535)
    assert (packet.timestamp, packet.ssrc) == (2**32 - 1, 2**32 - 2)
    assert (packet.payload_start, packet.payload_end) == (12, 16)


def test_header_alone_has_an_empty_payload() -> None:
    packet = parse(header())
    assert packet.payload_start == packet.payload_end == 12


def test_contributing_sources_extension_and_padding_are_not_payload() -> None:
    extension = b"\xbe\xde\x00\x02" + bytes(8)
    data = header(flags=0x80 | 0x20 | 0x10 | 2) + bytes(8) + extension + b"PAYLOAD!" + b"\x00\x00\x03"
    packet = parse(data)
    assert data[packet.payload_start : packet.payload_end] == b"PAYLOAD!"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "RTP header is truncated: 0 bytes"),
        (header()[:11], "RTP header is truncated: 11 bytes"),
        (header(flags=0x40), "RTP version is 1, not 2"),
        (header(flags=0xC0), "RTP version is 3, not 2"),
        (header(flags=0x8F) + bytes(59), "RTP contributing sources are truncated"),
        (header(flags=0x90) + bytes(3), "RTP extension header is truncated"),
        (header(flags=0x90) + b"\x00\x00\x00\x02" + bytes(7), "RTP extension is truncated"),
        (header(flags=0xA0) + b"abc\x00", "RTP padding of 0 bytes does not fit"),
        (header(flags=0xA0) + b"abc\x05", "RTP padding of 5 bytes does not fit"),
    ],
)
def test_each_fault_is_named(data: bytes, text: str) -> None:
    with pytest.raises(RtpError) as error:
        parse(data)
    assert str(error.value) == text


def test_every_truncation_of_a_full_packet_parses_or_is_an_rtp_error() -> None:
    data = header(flags=0x80 | 0x20 | 0x10 | 3) + bytes(12) + b"\x00\x01\x00\x03" + bytes(12) + b"xyz" + b"\x01"
    assert parse(data).payload_end == len(data) - 1
    for size in range(40):
        with pytest.raises(RtpError):
            parse(data[:size])


@given(st.integers(0, 0xFFFF), st.integers(-0x8000, 0x7FFF))
def test_sequence_distance_survives_the_wrap(sequence: int, step: int) -> None:
    assert signed16(wrap16(sequence + step) - sequence) == step


@given(st.integers(0, 0xFFFFFFFF), st.integers(-(2**31), 2**31 - 1))
def test_timestamp_distance_survives_the_wrap(timestamp: int, step: int) -> None:
    assert signed32(wrap32(timestamp + step) - timestamp) == step


@pytest.mark.parametrize("encoding", list(rtp.ENCODING_NUMBERS))
def test_each_encoding_decodes_what_was_encoded(encoding: str) -> None:
    values = np.array([0.0, 0.5, -0.5, -1.0, 0.25, 32767 / 32768, -0.75, 1 / 32768], np.float32)
    kind = {"S": "i2", "F": {"16": "f2", "32": "f4"}.get(encoding[1:3])}[encoding[0]]
    scaled = values * 32768 if encoding[0] == "S" else values
    payload = scaled.astype((">" if encoding.endswith("BE") else "<") + str(kind)).tobytes()
    out = np.empty(4, np.complex64)
    rtp.decode(payload, encoding, out)
    expected = np.float16(values) if kind == "f2" else values
    assert np.array_equal(out.view(np.float32), expected.astype(np.float32))
    assert rtp.bytes_per_frame(encoding) == len(payload) // 4
    assert rtp.is_s16(encoding) == (encoding[0] == "S")


@pytest.mark.parametrize("encoding", ["S16BE", "S16LE"])
def test_16_bit_samples_stay_integers(encoding: str) -> None:
    values = np.array([-32768, 32767, 1, -1], np.int16)
    out = np.empty((2, 2), np.int16)
    rtp.decode_s16(values.astype((">" if encoding == "S16BE" else "<") + "i2").tobytes(), encoding, out)
    assert out.reshape(-1).tolist() == values.tolist()


def test_silent_packets_are_those_without_any_bit() -> None:
    parts = [bytes(8), b"\x00\x00\x00\x01", bytes(4), b"\x80" + bytes(7)]
    lengths = np.array([len(part) for part in parts], np.int64)
    assert rtp.silent(b"".join(parts), lengths).tolist() == [True, False, True, False]
    assert rtp.silent(b"", np.zeros(0, np.int64)).tolist() == []


@pytest.mark.parametrize(("encoding", "code"), [("S16LE", "<i2"), ("S16BE", ">i2"), ("F32LE", "<f4"), ("F16BE", ">f2")])
def test_mean_power_is_that_of_the_decoded_samples(encoding: str, code: str) -> None:
    values = np.random.default_rng(5).uniform(-0.9, 0.9, 600)
    payload = memoryview((np.rint(values * 32768) if code[1] == "i" else values).astype(code).tobytes())
    iq = np.empty(300, np.complex64)
    rtp.decode(payload, encoding, iq)
    expected = float(np.mean(np.abs(iq[:200].astype(complex)) ** 2))
    assert rtp.mean_power(payload, encoding, 200) == pytest.approx(expected, rel=1e-9)
