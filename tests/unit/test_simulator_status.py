"""Status and command packets, held against ka9q-python's decoder and a real radiod's packets."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ka9q.status import decode_status_packet
from ka9q.types import StatusType

from pipeline.pcap import PcapReader
from pipeline.simulator.commands import CREATED_PAYLOAD_TYPE, apply, read_command
from pipeline.simulator.spec import SimulatorError
from pipeline.simulator.status import (
    COMMAND,
    ChannelState,
    Counters,
    build_tlvs,
    encode_status,
    gps_time_ns,
    integer,
    integer_bytes,
    parse_tlvs,
    real,
)

DATA = Path(__file__).resolve().parents[1] / "data"
STATE = ChannelState(
    ssrc=10_000_000,
    description="d",
    frequency_hz=10e6,
    sample_rate_hz=16_000,
    encoding="S16BE",
    preset="iq",
    channels=2,
    gain_db=20.0,
    agc=False,
    low_edge_hz=-7500.0,
    high_edge_hz=7500.0,
    payload_type=120,
    status_interval=25,
    data_address=("239.1.2.55", 5004),
    status_address=("239.1.2.54", 5006),
    source_port=40_000,
    ttl=0,
)
COUNTERS = Counters(1_479_356_370_000_000_001, 320, 512_000, 1, 320, 1, 3, 0, 0xABCF1A02, 4, -10.0, -103.5)
TEMPLATE = replace(STATE, ssrc=777, preset="am", channels=1, sample_rate_hz=12_000, frequency_hz=0.0)


def real_statuses() -> list[bytes]:
    packets = []
    for path in sorted(DATA.glob("*.pcap")):
        with PcapReader(path) as reader:
            packets += [d.payload for d in reader if d.payload[0] == 0]
    return packets


def command(*fields: tuple[int, bytes], ssrc: int = 777) -> bytes:
    return build_tlvs(COMMAND, [*fields, (StatusType.OUTPUT_SSRC, integer_bytes(ssrc))])


def obeyed(*fields: tuple[int, bytes], state: ChannelState = TEMPLATE) -> ChannelState:
    return apply(state, read_command(parse_tlvs(command(*fields))))


def test_ka9q_python_reads_what_is_meant() -> None:
    status = decode_status_packet(encode_status(STATE, COUNTERS))
    assert status is not None
    assert status.output_ssrc == 10_000_000
    assert status.gps_time == COUNTERS.gps_time_ns
    assert status.rtp_timesnap == 320
    assert (status.output_samprate, status.output_encoding, status.output_channels) == (16_000, 2, 2)
    assert (status.frequency, status.preset, status.gain, status.agc_enable) == (10e6, "iq", 20.0, False)
    assert (status.low_edge, status.high_edge) == (-7500.0, 7500.0)
    assert (status.rtp_pt, status.status_interval, status.lifetime) == (120, 25, 0)
    assert (status.output_data_packets, status.output_samples, status.filter_drops) == (1, 320, 3)
    assert (status.command_tag, status.cmd_cnt) == (0xABCF1A02, 4)
    assert status.output_data_dest_socket == {"family": "IPv4", "address": "239.1.2.55", "port": 5004}
    assert status.status_dest_socket == {"family": "IPv4", "address": "239.1.2.54", "port": 5006}
    assert status.frontend.input_samprate == 25_600_000
    assert status.frontend.input_samples == 512_000
    assert status.baseband_power == -30.0
    assert status.noise_density == -103.5


def test_same_fields_in_the_same_order_as_the_real_radiod() -> None:
    with PcapReader(DATA / "one-s16-3s.pcap") as reader:
        packet = next(d.payload for d in reader if d.payload[0] == 0)
    theirs = [number for number, _ in parse_tlvs(packet)]
    ours = [number for number, _ in parse_tlvs(encode_status(STATE, COUNTERS))]
    assert ours == theirs


def test_zero_has_length_zero() -> None:
    fields = dict(parse_tlvs(encode_status(STATE, replace(COUNTERS, rtp_timesnap=0))))
    assert fields[StatusType.RTP_TIMESNAP] == b""


def test_gps_time_of_a_known_instant() -> None:
    # 2017-01-01T00:00:00Z, the last leap second: GPS week 1930, 18 s into the week's first day.
    assert gps_time_ns(1_483_228_800 * 10**9) == (1930 * 604_800 + 18) * 10**9


def test_gps_time_of_real_packets_is_their_capture_time() -> None:
    with PcapReader(DATA / "one-s16-3s.pcap") as reader:
        statuses = [d for d in reader if d.payload[0] == 0]
    for datagram in statuses:
        gps = integer(dict(parse_tlvs(datagram.payload))[StatusType.GPS_TIME])
        assert 0 <= gps_time_ns(datagram.t_ns) - gps < 100_000


def test_every_real_status_survives_parsing_and_building_bit_by_bit() -> None:
    packets = real_statuses()
    assert len(packets) > 80
    for packet in packets:
        assert build_tlvs(packet[0], parse_tlvs(packet)) == packet


@pytest.mark.parametrize("length", [0, 1, 127, 128, 255, 256, 65_536])
def test_long_values_have_an_escaped_length(length: int) -> None:
    packet = build_tlvs(0, [(85, bytes(length)), (18, b"\7")])
    assert parse_tlvs(packet) == [(85, bytes(length)), (18, b"\7")]
    assert packet[2] == length if length < 128 else packet[2] == 0x80 | len(integer_bytes(length))


@given(st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=70_000)), max_size=4))
def test_tlvs_round_trip_at_every_length(fields: list[tuple[int, bytes]]) -> None:
    assert parse_tlvs(build_tlvs(0, fields)) == fields


@given(st.integers(0, 2**64 - 1))
def test_integers_round_trip_without_leading_zeros(value: int) -> None:
    data = integer_bytes(value)
    assert integer(data) == value
    assert not data.startswith(b"\0")


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("", 0.0),
        ("41a00000", 20.0),
        ("416312d000000000", 10e6),
        ("01", struct.unpack(">f", b"\0\0\0\1")[0]),
        ("0100000000", struct.unpack(">d", b"\0\0\0\1\0\0\0\0")[0]),
    ],
)
def test_floats_of_either_width(data: str, value: float) -> None:
    assert real(bytes.fromhex(data)) == value


@given(st.binary(max_size=200))
def test_arbitrary_commands_change_something_or_nothing_but_never_fail(data: bytes) -> None:
    try:
        command = read_command(parse_tlvs(b"\1" + data))
    except SimulatorError:
        return
    state = apply(STATE, command)
    assert decode_status_packet(encode_status(state, COUNTERS)) is not None


def test_command_of_the_real_client_is_understood() -> None:
    with PcapReader(DATA / "dynamic-create.pcap") as reader:
        packet = next(d.payload for d in reader if d.payload[0] == COMMAND)
    order = read_command(parse_tlvs(packet))
    state = apply(TEMPLATE, order)
    assert (order.ssrc, order.lifetime, order.tag) == (777, 1000, 0xABCF1A02)
    assert (state.preset, state.channels, state.sample_rate_hz) == ("iq", 2, 16_000)
    assert (state.frequency_hz, state.gain_db, state.agc) == (10e6, 20.0, False)
    assert (state.low_edge_hz, state.high_edge_hz) == (-7500.0, 7500.0)


def test_preset_acts_first_wherever_it_stands() -> None:
    edge = struct.pack(">f", -1000.0)
    state = obeyed((StatusType.LOW_EDGE, edge), (StatusType.PRESET, b"iq"))
    assert (state.low_edge_hz, state.channels) == (-1000.0, 2)


@pytest.mark.parametrize(
    "field",
    [
        (StatusType.OUTPUT_SAMPRATE, b"\x0b"),
        (StatusType.OUTPUT_SAMPRATE, b"\xff" * 8),
        (StatusType.OUTPUT_ENCODING, b"\x03"),
        (StatusType.OUTPUT_CHANNELS, b"\x07"),
        (StatusType.RADIO_FREQUENCY, struct.pack(">d", math.nan)),
        (StatusType.GAIN, struct.pack(">d", 1e300)),
        (StatusType.LOW_EDGE, b"\1" * 9),
        (StatusType.OUTPUT_DATA_DEST_SOCKET, bytes([192, 0, 2, 1, 0x13, 0x8C])),
        (StatusType.OUTPUT_DATA_DEST_SOCKET, b"\1\2"),
    ],
)
def test_unusable_fields_are_left_out(field: tuple[int, bytes]) -> None:
    assert obeyed(field) == TEMPLATE


def test_the_largest_numbers_still_fit_a_status_packet() -> None:
    state = obeyed((StatusType.STATUS_INTERVAL, b"\xff" * 200), (StatusType.GAIN, struct.pack(">d", 1e12)))
    assert state.status_interval == 1_000_000
    assert decode_status_packet(encode_status(state, COUNTERS)) is not None


def test_destination_may_be_another_group() -> None:
    state = obeyed((StatusType.OUTPUT_DATA_DEST_SOCKET, bytes([239, 9, 8, 7, 0x13, 0x8C])))
    assert state.data_address == ("239.9.8.7", 5004)


@pytest.mark.parametrize("ssrc", [0, 2**32])
def test_command_without_a_channel_is_refused(ssrc: int) -> None:
    with pytest.raises(SimulatorError, match="OUTPUT_SSRC"):
        read_command(parse_tlvs(command(ssrc=ssrc)))


def test_created_channels_announce_the_payload_type_that_lies() -> None:
    with PcapReader(DATA / "dynamic-create.pcap") as reader:
        packet = next(d.payload for d in reader if d.payload[0] == 0)
    assert integer(dict(parse_tlvs(packet))[StatusType.RTP_PT]) == CREATED_PAYLOAD_TYPE
