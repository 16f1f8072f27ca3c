"""The few fields of a status that are picked by hand are what ka9q-python says they are."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ka9q.types import StatusType

from pipeline import briefstatus
from pipeline.briefstatus import brief_status
from pipeline.pcap import PcapReader
from pipeline.radiod import COMMAND_TAG, MAX_STATUS_BYTES, decode_status

FACTS = (
    "ssrc", "gps_time_utc_ns", "rtp_timesnap", "sample_rate_hz", "encoding", "output_channels", "command_tag",
    "is_ours",
)  # fmt: skip


@cache
def captured() -> tuple[bytes, ...]:
    """What a radiod sent to its status group."""
    return tuple(d.payload for d in PcapReader(Path(__file__).parents[1] / "data" / "radiod-status.pcap"))


def agree(datagram: bytes) -> None:
    whole, brief = decode_status(datagram), brief_status(datagram)
    if whole is None:
        # A field that is not looked at may be what spoils it, or nothing.
        assert brief is None or not brief.detail()
        return
    assert brief is not None
    assert [getattr(brief, name) for name in FACTS] == [getattr(whole, name) for name in FACTS]
    assert brief.detail() == whole.detail


def field(kind: int, value: bytes) -> bytes:
    return bytes([kind, len(value)]) + value


def test_they_agree_on_all_that_a_radiod_sent() -> None:
    assert sum(brief_status(datagram) is not None for datagram in captured()) > 20
    for datagram in captured():
        agree(datagram)


def test_they_agree_on_every_truncation_and_flipped_bit() -> None:
    datagram = max(captured(), key=len)
    for size in range(len(datagram) + 1):
        agree(datagram[:size])
    for bit in range(8 * len(datagram)):
        broken = bytearray(datagram)
        broken[bit >> 3] ^= 1 << (bit & 7)
        agree(bytes(broken))


def test_they_agree_on_random_fields() -> None:
    rng, kinds = random.Random(1), sorted(briefstatus._WANTED)
    for _ in range(3000):
        out = bytearray([0, StatusType.OUTPUT_SSRC, 1, 5])
        while len(out) < 100:
            length = rng.choice((0, 1, 3, 4, 5, 6, 8, 9, 10, 30, 0x81, 0x82, 0xFF))
            out += bytes([rng.choice((rng.randrange(256), *kinds)), length]) + rng.randbytes(min(length, 30))
        agree(bytes(out))


@given(st.binary(max_size=400))
def test_they_agree_on_any_bytes(noise: bytes) -> None:
    agree(noise)
    agree(b"\0" + noise)
    agree(b"\0\x12\x01\x05" + noise)


@pytest.mark.parametrize("length", [b"\x82\x00\x02", b"\x81\x02", b"\x80", b"\x85\0\0\0\0\x02", b"\x82\x00", b"\xff"])
def test_long_lengths_are_read_alike(length: bytes) -> None:
    agree(
        b"\0\x12\x01\x05"
        + bytes([StatusType.DESCRIPTION])
        + length
        + b"ab"
        + field(StatusType.OUTPUT_SAMPRATE, b"\x03\xe8")
    )


def test_whose_channel_it_is() -> None:
    tag = field(StatusType.COMMAND_TAG, COMMAND_TAG.to_bytes(4, "big"))
    ours, other = brief_status(b"\0\x12\x01\x05" + tag), brief_status(b"\0\x12\x01\x05")
    assert ours is not None and other is not None
    assert ours.is_ours and not other.is_ours


def test_long_datagrams_cost_nothing() -> None:
    assert brief_status(b"\0\x12\x01\x05" + bytes(MAX_STATUS_BYTES)) is None
