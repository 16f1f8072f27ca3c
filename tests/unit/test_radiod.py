"""radiod's status judged, its commands, and when which is sent."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import socket
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ka9q.control import encode_double, encode_eol, encode_float, encode_int, encode_string
from ka9q.types import Encoding, StatusType

from pipeline import radiod
from pipeline.config import Channel, Radiod
from pipeline.pcap import PcapReader
from pipeline.radiod import Action, ChannelStatus, Control, Keeper, create_commands, decode_status, renew_command
from pipeline.records import ChannelRecord
from pipeline.sockets import SocketError, multicast_interface

REAL = Path(__file__).parents[1] / "data" / "radiod-status.pcap"
PID = os.getpid()
CONTROL = f"239.{64 + (PID >> 16) % 64}.{PID >> 8 & 255}.{PID & 255}"
CHANNEL = Channel(name="WWV 10 MHz", frequency_hz=1e7, ssrc=10_000_000, data_address="239.1.2.55:5004")
S = 10**9


@cache
def captured() -> tuple[tuple[int, bytes], ...]:
    """(capture time in ns, datagram)"""
    return tuple((d.t_ns, d.payload) for d in PcapReader(REAL))


@cache
def real() -> bytes:
    return next(p for _, p in captured() if len(p) > 270 and (s := decode_status(p)) and s.ssrc == 777)


def tlv(kind: int, *fields: tuple[int, object]) -> bytes:
    out = bytearray([kind])
    for number, value in fields:
        if isinstance(value, bytes):
            length = bytes([len(value)]) if len(value) < 128 else b"\x82" + len(value).to_bytes(2, "big")
            out += bytes([number]) + length + value
        elif isinstance(value, str):
            encode_string(out, number, value)
        elif isinstance(value, float):
            encode_double(out, number, value)
        elif isinstance(value, int):
            encode_int(out, number, value)
    encode_eol(out)
    return bytes(out)


def status(*fields: tuple[int, object]) -> ChannelStatus:
    found = decode_status(tlv(0, (StatusType.OUTPUT_SSRC, 5), *fields))
    assert found is not None
    return found


# -- status -----------------------------------------------------------------------------


def test_real_status_says_what_the_capture_notes_say() -> None:
    first = decode_status(captured()[1][1])
    assert first is not None
    assert (first.ssrc, first.rtp_timesnap, first.sample_rate_hz) == (777, 2**32 - 240, 16000)
    nine = [s for _, p in captured()[-36:] if (s := decode_status(p))]
    assert {s.ssrc for s in nine} == {2500, 3330, 5000, 7850, 10000, 14670, 15000, 20000, 25000}
    for each in nine:
        assert (each.sample_rate_hz, each.encoding, each.encoding_number, each.output_channels) == (
            16000,
            "S16BE",
            2,
            2,
        )
        assert (each.preset, each.frequency_hz, each.filter_drops) == ("iq", each.ssrc * 1000.0, 0)
        assert each.detail["gain"] == 20.0 and each.detail["agc_enable"] is False
        assert (each.detail["low_edge"], each.detail["high_edge"]) == (-7500.0, 7500.0)
        assert each.detail["description"] == "siggen timesig" and each.detail["input_samprate"] == 25_600_000
        assert each.detail["rtp_pt"] == 120
        assert -200 < float(each.detail["noise_density"]) < 0 and -200 < float(each.detail["baseband_power"]) < 0


def test_gps_time_is_the_capture_time() -> None:
    """The stamp is taken while the packet is built (research: 0.0 to 0.06 ms before it is captured)."""
    for t_ns, datagram in captured():
        found = decode_status(datagram)
        if found is not None:
            assert found.gps_time_utc_ns is not None
            assert 0 <= t_ns - found.gps_time_utc_ns < 1_000_000


def test_gps_time_counts_leap_seconds() -> None:
    # 2017-01-01 00:00:18 GPS is 00:00:00 UTC, UNIX 1483228800.
    assert radiod.gps_to_utc_ns((1_483_228_818 - 315_964_800) * S) == 1_483_228_800 * S


def test_live_changes_of_rate_and_encoding_are_seen() -> None:
    seen = [(s.sample_rate_hz, s.encoding) for _, p in captured()[:-36] if (s := decode_status(p)) and s.ssrc == 777]
    changes = [b for a, b in zip([None, *seen], seen, strict=False) if a != b]
    assert changes[:4] == [(16000, "S16BE"), (16000, "F32LE"), (24000, "F32LE"), (16000, "S16BE")]


def test_commands_are_not_status() -> None:
    commands = [p for _, p in captured() if p[0] == 1]
    assert commands and not any(decode_status(c) for c in commands)


def test_a_timesnap_of_zero_is_not_an_absent_one() -> None:
    assert status((StatusType.RTP_TIMESNAP, 0)).rtp_timesnap == 0
    assert status((StatusType.RTP_TIMESNAP, b"")).rtp_timesnap == 0
    assert status().rtp_timesnap is None
    assert status((StatusType.RTP_TIMESNAP, 0xFFFFFFFF)).rtp_timesnap == 0xFFFFFFFF
    assert status((StatusType.RTP_TIMESNAP, 1 << 32)).rtp_timesnap is None


def test_a_drop_count_of_zero_is_not_an_absent_one() -> None:
    assert status((StatusType.FILTER_DROPS, 0)).filter_drops == 0
    assert status().filter_drops is None
    assert status((StatusType.LIFETIME, 0)).lifetime_blocks == 0
    assert status().lifetime_blocks is None


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "S16LE"), (2, "S16BE"), (4, "F32LE"), (6, "F16LE"), (8, "F32BE"), (9, "F16BE"), (3, "OPUS"), (10, "MULAW")],
)
def test_encodings_have_ka9qs_names(number: int, name: str) -> None:
    found = status((StatusType.OUTPUT_ENCODING, number))
    assert (found.encoding, found.encoding_number) == (name, number)


def test_an_encoding_nobody_knows_has_a_name_that_no_decoder_has() -> None:
    assert status((StatusType.OUTPUT_ENCODING, 99)).encoding == "enc#99"
    assert status().encoding is None


@pytest.mark.parametrize("rate", [0, 10_000_001, 2**40])
def test_absurd_rates_are_unknown(rate: int) -> None:
    assert status((StatusType.OUTPUT_SAMPRATE, rate)).sample_rate_hz is None


@pytest.mark.parametrize("rate", [1, 16_000, 10_000_000])
def test_possible_rates_are_kept(rate: int) -> None:
    assert status((StatusType.OUTPUT_SAMPRATE, rate)).sample_rate_hz == rate


@pytest.mark.parametrize(
    ("utc_s", "kept"),
    [(946_684_799, False), (946_684_800, True), (1_795_321_452, True), (4_102_444_800, True), (4_102_444_801, False)],
)
def test_times_outside_2000_to_2100_are_unknown(utc_s: int, kept: bool) -> None:
    gps_ns = (utc_s - 315_964_800 + 18) * S
    assert (status((StatusType.GPS_TIME, gps_ns)).gps_time_utc_ns == utc_s * S) is kept
    assert status((StatusType.GPS_TIME, 0)).gps_time_utc_ns is None
    assert status((StatusType.GPS_TIME, 2**64 - 1)).gps_time_utc_ns is None


@pytest.mark.parametrize("hz", [math.nan, math.inf, -math.inf, -1.0, 1e12])
def test_absurd_frequencies_are_unknown_and_leave_the_detail_finite(hz: float) -> None:
    found = status((StatusType.RADIO_FREQUENCY, hz))
    assert found.frequency_hz is None
    json.dumps(found.detail, allow_nan=False)


def test_a_frequency_in_4_bytes_is_read_as_what_it_is() -> None:
    out = bytearray([0])
    encode_int(out, StatusType.OUTPUT_SSRC, 5)
    encode_float(out, StatusType.LOW_EDGE, -5000.0)
    found = decode_status(bytes(out))
    assert found is not None and found.detail["low_edge"] == -5000.0


def test_text_from_the_network_is_short_and_printable() -> None:
    found = status((StatusType.DESCRIPTION, b"a\x1b[31m\0b\n" + b"x" * 500), (StatusType.PRESET, "i\x07q"))
    assert found.detail["description"] == ("a[31mb" + "x" * 500)[: 200 - 3]
    assert found.preset == "iq"


def test_a_status_that_names_no_channel_is_none() -> None:
    assert decode_status(tlv(0, (StatusType.GPS_TIME, 1))) is None
    assert decode_status(tlv(0, (StatusType.OUTPUT_SSRC, 1 << 32))) is None
    assert decode_status(b"") is None
    assert decode_status(b"\0") is None


def test_the_last_command_tells_whose_channel_it_is() -> None:
    assert status((StatusType.COMMAND_TAG, radiod.COMMAND_TAG)).is_ours
    assert not status((StatusType.COMMAND_TAG, 1)).is_ours
    assert not status().is_ours


def test_long_datagrams_cost_nothing() -> None:
    assert decode_status(tlv(0, (StatusType.OUTPUT_SSRC, 5)) + bytes(radiod.MAX_STATUS_BYTES)) is None


def survives(datagram: bytes) -> None:
    found = decode_status(datagram)
    if found is not None:
        json.dumps(found.detail, allow_nan=False)
        assert 0 <= found.ssrc < 2**32
        assert found.rtp_timesnap is None or 0 <= found.rtp_timesnap < 2**32
        assert found.sample_rate_hz is None or 1 <= found.sample_rate_hz <= 10**7


def test_every_truncation_of_real_status_is_survived() -> None:
    for size in range(len(real()) + 1):
        survives(real()[:size])


def test_every_flipped_bit_of_real_status_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    for bit in range(8 * len(real())):
        broken = bytearray(real())
        broken[bit >> 3] ^= 1 << (bit & 7)
        survives(bytes(broken))
    assert caplog.records == []


def test_random_fields_are_survived_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(1)
    for _ in range(3000):
        out = bytearray([0, StatusType.OUTPUT_SSRC, 1, 5])
        while len(out) < 300:
            length = rng.choice((0, 1, 3, 4, 5, 6, 8, 9, 10, 30, 0x81, 0xFF))
            out += bytes([rng.randrange(1, 256), length]) + rng.randbytes(min(length, 30))
        survives(bytes(out))
    assert caplog.records == []


@given(st.binary(max_size=400))
def test_any_bytes_are_survived(noise: bytes) -> None:
    survives(noise)
    survives(b"\0" + noise)
    survives(b"\0\x12\x01\x05" + noise)


def test_a_decoder_that_fails_in_a_new_way_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: bytes) -> None:
        raise RuntimeError

    monkeypatch.setattr(radiod, "decode_status_packet", broken)
    assert decode_status(real()) is None


# -- commands ---------------------------------------------------------------------------


def fields_of(command: bytes) -> list[tuple[int, bytes]]:
    assert command[0] == 1 and command[-1] == StatusType.EOL
    found, at = [], 1
    while command[at] != StatusType.EOL:
        found.append((command[at], command[at + 2 : at + 2 + command[at + 1]]))
        at += 2 + command[at + 1]
    assert at == len(command) - 1
    return found


def test_the_creating_command_has_everything_and_the_preset_first() -> None:
    fields = fields_of(create_commands(CHANNEL, "239.1.2.55", 5004)[0])
    assert fields[0] == (StatusType.PRESET, b"iq")
    values = dict(fields)
    assert len(values) == len(fields)
    assert struct.unpack(">d", values[StatusType.RADIO_FREQUENCY].rjust(8, b"\0"))[0] == 1e7
    assert values[StatusType.OUTPUT_SAMPRATE] == (16000).to_bytes(2, "big")
    assert values[StatusType.OUTPUT_ENCODING] == bytes([Encoding.S16BE])
    assert values[StatusType.AGC_ENABLE] == b""
    assert values[StatusType.OUTPUT_DATA_DEST_SOCKET] == socket.inet_aton("239.1.2.55") + struct.pack(">H", 5004)
    assert values[StatusType.OUTPUT_SSRC] == (10_000_000).to_bytes(3, "big")
    assert values[StatusType.COMMAND_TAG] == b"GRAP"
    assert values[StatusType.LIFETIME] == (3000).to_bytes(2, "big")


@pytest.mark.parametrize("encoding", ["S16LE", "S16BE", "F32LE", "F16LE", "F32BE", "F16BE"])
def test_the_encoding_is_sent_again_by_itself(encoding: str) -> None:
    channel = Channel(name="x", frequency_hz=1e7, ssrc=1, encoding=encoding)
    for command in create_commands(channel, "239.1.2.55", 5004):
        assert dict(fields_of(command))[StatusType.OUTPUT_ENCODING] == bytes([getattr(Encoding, encoding)])
    again = {number for number, _ in fields_of(create_commands(channel, "239.1.2.55", 5004)[1])}
    addressed = {StatusType.OUTPUT_SSRC, StatusType.COMMAND_TAG, StatusType.LIFETIME}
    assert again == addressed | {StatusType.OUTPUT_ENCODING}


def test_a_renewal_changes_nothing_but_the_lifetime() -> None:
    assert [number for number, _ in fields_of(renew_command(5))] == [
        StatusType.OUTPUT_SSRC, StatusType.COMMAND_TAG, StatusType.LIFETIME,
    ]  # fmt: skip


# -- when -------------------------------------------------------------------------------


class Scene:
    """A keeper, a worker's record and a clock in s."""

    def __init__(self) -> None:
        self.keeper = Keeper()
        self.values: dict[str, Any] = {"started_monotonic_ns": 1000 * S}
        self.sent: list[tuple[float, Action]] = []

    def run(self, begin: float, end: float, packets: bool = False, worker: bool = True, **fields: Any) -> None:
        """Poll each second in [begin, end)."""
        self.values |= fields
        now = begin
        while now < end:
            if packets:
                self.values["last_packet_monotonic_ns"] = round((1000 + now) * S) - S // 10
            if worker:
                self.values["heartbeat_monotonic_ns"] = round((1000 + now) * S) - S // 4
            action = self.keeper.decide(round((1000 + now) * S), ChannelRecord(**self.values))
            if action is not None:
                self.sent.append((now, action))
            now += 1.0

    def times(self, action: Action) -> list[float]:
        return [at for at, what in self.sent if what is action]


def test_a_channel_that_exists_is_never_sent_anything() -> None:
    scene = Scene()
    scene.run(0, 3600, packets=True)
    assert scene.sent == []


def test_status_alone_means_that_it_exists() -> None:
    scene = Scene()
    for second in range(600):
        scene.run(second, second + 1, last_status_monotonic_ns=(1000 + second) * S)
    assert scene.sent == []


def test_a_channel_never_heard_is_asked_for_after_2_s_with_growing_pauses() -> None:
    scene = Scene()
    scene.run(0, 300)
    assert scene.times(Action.CREATE) == [3, 4, 6, 10, 18, 34, 66, 126, 186, 246]
    assert scene.times(Action.RENEW) == []


def test_a_channel_that_falls_silent_is_asked_for_after_5_s() -> None:
    scene = Scene()
    scene.run(0, 100, packets=True)
    scene.run(100, 106)
    assert scene.sent == [(104, Action.CREATE), (105, Action.CREATE)]  # the last packet came at 98.9


def test_the_workers_start_counts_not_ours() -> None:
    scene = Scene()
    scene.run(0, 10, started_monotonic_ns=1009 * S)
    assert scene.sent == []
    scene.run(10, 13)
    assert scene.sent == [(12, Action.CREATE)]


def test_nothing_is_concluded_from_a_dead_workers_record() -> None:
    scene = Scene()
    scene.run(0, 50, packets=True)
    scene.run(50, 200, worker=False)
    assert scene.sent == []
    scene.run(200, 203)  # a successor looks, and until it has looked for a while nothing is known
    assert scene.sent == []
    scene.run(203, 204)
    assert scene.times(Action.CREATE) == [203]


def test_a_worker_that_has_not_begun_is_waited_for() -> None:
    scene = Scene()
    for now in range(100):
        assert scene.keeper.decide(now * S, ChannelRecord()) is None


def test_a_channel_of_ours_is_renewed_well_before_it_ends() -> None:
    scene = Scene()
    scene.run(0, 4)
    scene.run(4, 604, packets=True)
    renewals = scene.times(Action.RENEW)
    assert scene.times(Action.CREATE) == [3]
    times = [3.0, *renewals, 604.0]
    assert max(b - a for a, b in zip(times, times[1:], strict=False)) <= radiod.LIFETIME_BLOCKS * 0.02 / 3
    assert len(renewals) == 40


def test_a_channel_of_an_earlier_run_of_ours_is_renewed_at_once() -> None:
    scene = Scene()
    scene.run(0, 31, packets=True, owned=1)
    assert scene.sent == [(0, Action.RENEW), (15, Action.RENEW), (30, Action.RENEW)]


def test_a_channel_that_may_be_gone_is_not_renewed() -> None:
    """A renewal that meets an unknown SSRC would create a channel from radiod's template."""
    scene = Scene()
    scene.run(0, 14, packets=True, owned=1)
    scene.run(14, 20)
    assert scene.times(Action.RENEW) == [0]  # due at 15, not heard since 12.9
    assert scene.times(Action.CREATE) == [18, 19]


def test_pauses_begin_anew_after_a_channel_was_heard_for_a_while() -> None:
    scene = Scene()
    scene.run(0, 40)
    assert scene.times(Action.CREATE)[-1] == 34
    scene.run(40, 60, packets=True)
    scene.run(60, 75)
    assert scene.times(Action.CREATE)[6:] == [64, 65, 67, 71]


def test_an_answer_alone_does_not_shorten_the_pauses() -> None:
    scene = Scene()
    now = 0.0
    while now < 300:
        scene.run(now, now + 1)
        if scene.sent and scene.sent[-1] == (now, Action.CREATE):
            scene.values["last_status_monotonic_ns"] = round((1000 + now) * S)
        now += 1
    assert len(scene.times(Action.CREATE)) <= 12


# -- on the wire ------------------------------------------------------------------------


@pytest.fixture
def ear() -> Iterator[socket.socket]:
    """radiod's control socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((CONTROL, 5006))
        index, _ = multicast_interface("lo")
        member = struct.pack("=4s4si", socket.inet_aton(CONTROL), bytes(4), index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        yield sock


def heard(ear: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(ear.recv(2048))
        except BlockingIOError:
            return found


def record(now_s: float, **values: Any) -> ChannelRecord:
    return ChannelRecord(heartbeat_monotonic_ns=round(now_s * S), started_monotonic_ns=1, **values)


def test_a_missing_channel_is_asked_for_on_the_control_group(
    ear: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    control = Control(Radiod(interface="lo", status_address=CONTROL))
    alive = Channel(name="alive", frequency_hz=5e6, ssrc=2)
    for now in range(100, 106):
        control.poll(now * S, [(CHANNEL, record(now)), (alive, record(now, last_packet_monotonic_ns=now * S))])
    assert heard(ear) == list(create_commands(CHANNEL, "239.1.2.55", 5004)) * 2
    assert [r.getMessage() for r in caplog.records] == [
        f"channel WWV 10 MHz: not heard from radiod; asked {CONTROL}:5006 for ssrc 10000000 (attempt 1, next in 1 s)",
        f"channel WWV 10 MHz: not heard from radiod; asked {CONTROL}:5006 for ssrc 10000000 (attempt 2, next in 2 s)",
    ]
    control.close()


def test_our_channel_is_renewed_on_the_control_group(ear: socket.socket) -> None:
    control = Control(Radiod(interface="lo", status_address=CONTROL))
    control.poll(100 * S, [(CHANNEL, record(100, last_packet_monotonic_ns=100 * S, owned=1))])
    assert heard(ear) == [renew_command(CHANNEL.ssrc)]
    control.close()


@pytest.mark.parametrize(
    "settings", [Radiod(interface="lo"), Radiod(interface="lo", status_address=CONTROL, create_channels=False)]
)
def test_without_permission_or_address_nothing_is_sent(ear: socket.socket, settings: Radiod) -> None:
    control = Control(settings)
    for now in range(100, 200):
        control.poll(now * S, [(CHANNEL, record(now))])
    assert heard(ear) == []
    control.close()


def test_a_channel_that_was_dropped_and_comes_back_starts_anew(ear: socket.socket) -> None:
    control = Control(Radiod(interface="lo", status_address=CONTROL))
    for now in range(100, 140):
        control.poll(now * S, [(CHANNEL, record(now))])
    heard(ear)
    control.poll(140 * S, [])
    for now in range(141, 145):
        control.poll(now * S, [(CHANNEL, record(now))])
    assert heard(ear) == list(create_commands(CHANNEL, "239.1.2.55", 5004))
    control.close()


def test_a_control_group_that_cannot_be_reached_is_a_log_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nowhere(address: str, port: int) -> tuple[str, int]:
        raise SocketError("name 'gone.local' cannot be resolved")

    monkeypatch.setattr(radiod, "resolve_group", nowhere)
    control = Control(Radiod(interface="lo", status_address="gone.local"))
    for now in range(100, 110):
        control.poll(now * S, [(CHANNEL, record(now))])
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 3
    assert "WWV 10 MHz: radiod cannot be asked for it: name 'gone.local'" in caplog.text
    control.close()
