"""radiod's status and command packets (TLV), written and read; pure.

Source: ka9q-radio status.h (types), status.c (encoding), radio_status.c (which fields in which order).
Integers are big-endian without leading zeros, so that zero has length 0; floats likewise.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

from ka9q.control import (
    encode_double,
    encode_eol,
    encode_float,
    encode_int64,
    encode_socket,
    encode_string,
)
from ka9q.types import StatusType

from pipeline.simulator.spec import ENCODINGS, SimulatorError

STATUS, COMMAND = 0, 1
GPS_EPOCH_S = 315_964_800
LEAP_SECONDS = 18
INPUT_RATE_HZ = 25_600_000
_LONG_LENGTH = 0x80


@dataclass(frozen=True, slots=True)
class ChannelState:
    """What a status packet says about a channel; changes only by command, counters apart."""

    ssrc: int
    description: str
    frequency_hz: float
    sample_rate_hz: int
    encoding: str
    preset: str
    channels: int
    gain_db: float
    agc: bool
    low_edge_hz: float
    high_edge_hz: float
    payload_type: int
    status_interval: int
    data_address: tuple[str, int]
    status_address: tuple[str, int]
    source_port: int
    ttl: int


@dataclass(frozen=True, slots=True)
class Counters:
    """What changes from one status packet to the next."""

    gps_time_ns: int
    rtp_timesnap: int  # timestamp of the next packet, not of the last
    input_samples: int
    data_packets: int
    output_samples: int
    status_packets: int
    filter_drops: int
    lifetime: int  # blocks left; 0 = for ever
    command_tag: int
    command_count: int
    output_level_db: float
    noise_density_db: float


def gps_time_ns(utc_ns: int) -> int:
    """Nanoseconds since 1980-01-06 including leap seconds, as GPS_TIME counts (ka9q-radio misc.c)."""
    return utc_ns - (GPS_EPOCH_S - LEAP_SECONDS) * 1_000_000_000


@lru_cache(maxsize=4096)
def _fixed(kind: str, number: int, value: object) -> bytes:
    return _tlv(kind, number, value)


def _tlv(kind: str, number: int, value: object) -> bytes:
    out = bytearray()
    match value:
        case (str(address), int(port)):
            encode_socket(out, number, address, port)
        case str():
            encode_string(out, number, value)
        case float() if kind == "double":
            encode_double(out, number, value)
        case float():
            encode_float(out, number, value)
        case int():
            encode_int64(out, number, int(value))
        case _:
            raise AssertionError(f"no TLV for {value!r}")
    return bytes(out)


def encode_status(state: ChannelState, counters: Counters) -> bytes:
    """A status packet with the fields of a linear demodulator, in radiod's order."""
    t, c = StatusType, counters
    half_band = INPUT_RATE_HZ * 0.4766
    double, single, whole = "double", "float", "int"
    parts = [
        b"\0",
        _fixed(whole, t.OUTPUT_SSRC, state.ssrc),
        _tlv(whole, t.COMMAND_TAG, c.command_tag),
        _tlv(whole, t.CMD_CNT, c.command_count),
        _fixed("text", t.DESCRIPTION, state.description),
        _tlv(whole, t.LIFETIME, c.lifetime),
        _fixed("socket", t.STATUS_DEST_SOCKET, state.status_address),
        _tlv(whole, t.GPS_TIME, c.gps_time_ns),
        _tlv(whole, t.INPUT_SAMPLES, c.input_samples),
        _fixed(whole, t.INPUT_SAMPRATE, INPUT_RATE_HZ),
        _fixed(whole, t.FE_ISREAL, 0),
        _fixed(double, t.CALIBRATE, 0.0),
        _fixed(whole, t.RF_AGC, 0),
        _fixed(single, t.FE_LOW_EDGE, -half_band),
        _fixed(single, t.FE_HIGH_EDGE, half_band),
        _fixed(whole, t.AD_BITS_PER_SAMPLE, 16),
        _fixed(double, t.RADIO_FREQUENCY, state.frequency_hz),
        _fixed(double, t.FIRST_LO_FREQUENCY, INPUT_RATE_HZ / 2),
        _fixed(double, t.SECOND_LO_FREQUENCY, INPUT_RATE_HZ / 2 - state.frequency_hz),
        _fixed(whole, t.FILTER_BLOCKSIZE, INPUT_RATE_HZ // 50),
        _fixed(whole, t.FILTER_FIR_LENGTH, INPUT_RATE_HZ // 200 + 1),
        _tlv(whole, t.FILTER_DROPS, c.filter_drops),
        _fixed(single, t.IF_POWER, -29.9),
        _fixed(whole, t.AD_OVER, 0),
        _tlv(single, t.NOISE_DENSITY, c.noise_density_db),
        _fixed(whole, t.DEMOD_TYPE, 0),
        _fixed("text", t.PRESET, state.preset),
        _fixed(single, t.KAISER_BETA, 11.0),
        _fixed(single, t.LOW_EDGE, state.low_edge_hz),
        _fixed(single, t.HIGH_EDGE, state.high_edge_hz),
        _fixed(whole, t.OUTPUT_SAMPRATE, state.sample_rate_hz),
        _tlv(single, t.BASEBAND_POWER, c.output_level_db - state.gain_db),
        _fixed(whole, t.OUTPUT_CHANNELS, state.channels),
        _fixed(whole, t.PLL_ENABLE, 0),
        _fixed(whole, t.ENVELOPE, 0),
        _fixed(double, t.SHIFT_FREQUENCY, 0.0),
        _fixed(whole, t.AGC_ENABLE, int(state.agc)),
        _fixed(whole, t.INDEPENDENT_SIDEBAND, 0),
        _fixed(single, t.GAIN, state.gain_db),
        _fixed(whole, t.SNR_SQUELCH, 0),
        _fixed(single, t.SQUELCH_OPEN, 8.0),
        _fixed(single, t.SQUELCH_CLOSE, 7.0),
        _tlv(whole, t.RTP_TIMESNAP, c.rtp_timesnap),
        _tlv(whole, t.OUTPUT_DATA_PACKETS, c.data_packets),
        _fixed(whole, t.FILTER2, 0),
        _tlv(single, t.OUTPUT_LEVEL, c.output_level_db),
        _tlv(whole, t.OUTPUT_SAMPLES, c.output_samples),
        _fixed(single, t.HEADROOM, -15.0),
        _fixed(double, t.DOPPLER_FREQUENCY, 0.0),
        _fixed(double, t.DOPPLER_FREQUENCY_RATE, 0.0),
        _fixed("socket", t.OUTPUT_DATA_SOURCE_SOCKET, ("0.0.0.0", state.source_port)),
        _fixed("socket", t.OUTPUT_DATA_DEST_SOCKET, state.data_address),
        _fixed(whole, t.OUTPUT_TTL, state.ttl),
        _fixed(whole, t.RTP_PT, state.payload_type),
        _fixed(whole, t.STATUS_INTERVAL, state.status_interval),
        _fixed(whole, t.OUTPUT_ENCODING, ENCODINGS[state.encoding]),
        _fixed(whole, t.MAXDELAY, 0),
        _tlv(whole, t.OUTPUT_METADATA_PACKETS, c.status_packets),
        _fixed(whole, t.SETOPTS, 0),
        _fixed(whole, t.OUTPUT_ERRORS, 0),
    ]
    end = bytearray()
    encode_eol(end)
    return b"".join(parts) + end


def parse_tlvs(packet: bytes) -> list[tuple[int, bytes]]:
    """The (type, value) pairs after a packet's type byte, up to the end mark. Raises SimulatorError if cut short."""
    fields: list[tuple[int, bytes]] = []
    at = 1
    while at < len(packet) and packet[at] != StatusType.EOL:
        number, at = packet[at], at + 1
        length = packet[at] if at < len(packet) else _LONG_LENGTH
        at += 1
        if length & _LONG_LENGTH:
            size = length & ~_LONG_LENGTH
            length, at = int.from_bytes(packet[at : at + size], "big"), at + size
        if at + length > len(packet):
            raise SimulatorError(f"TLV type {number} is cut short: {length} bytes announced, {len(packet) - at} there")
        fields.append((number, packet[at : at + length]))
        at += length
    return fields


def build_tlvs(kind: int, fields: list[tuple[int, bytes]]) -> bytes:
    """The inverse of `parse_tlvs`; lengths of 128 and more are escaped (ka9q-radio status.c)."""
    out = bytearray([kind])
    for number, value in fields:
        out.append(number)
        if len(value) < _LONG_LENGTH:
            out.append(len(value))
        else:
            size = (len(value).bit_length() + 7) // 8
            out.append(_LONG_LENGTH | size)
            out += len(value).to_bytes(size, "big")
        out += value
    out.append(StatusType.EOL)
    return bytes(out)


def integer(value: bytes) -> int:
    """A TLV integer; zero is empty."""
    return int.from_bytes(value, "big")


def integer_bytes(value: int) -> bytes:
    """The TLV value of a non-negative integer, without leading zeros."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def real(value: bytes) -> float:
    """A TLV float of either width, by its length. Raises SimulatorError if it has more than 8 bytes."""
    if len(value) > 8:
        raise SimulatorError(f"TLV float of {len(value)} bytes")
    if len(value) > 4:
        return float(struct.unpack(">d", value.rjust(8, b"\0"))[0])
    return float(struct.unpack(">f", value.rjust(4, b"\0"))[0])
