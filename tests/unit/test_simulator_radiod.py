"""The simulated radiod on a clock of its own, heard through real sockets on loopback."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ka9q.status import ChannelStatus, decode_status_packet
from ka9q.types import StatusType

from helpers import new_names
from pipeline.pcap import PcapReader
from pipeline.simulator.radiod import Radiod
from pipeline.simulator.roster import Clock, Run
from pipeline.simulator.signal import counter_value
from pipeline.simulator.spec import TIMESTAMPS, ChannelSpec, FaultPlan, SimulatorError, SimulatorSpec
from pipeline.simulator.status import COMMAND, build_tlvs, gps_time_ns, integer_bytes
from pipeline.simulator.truth import Timeline, Truth, TruthFile, expected_iq
from pipeline.simulator.wire import RTP_HEADER, encode_samples, find_interface, frame_bytes, receiver, sender

DATA = Path(__file__).resolve().parents[1] / "data"
UTC0 = 1_795_321_260_000_000_000 - 700_000_123
BLOCK_NS = 20_000_000


@dataclass(frozen=True)
class Rtp:
    """A received packet."""

    ssrc: int
    seq: int
    ts: int
    pt: int
    marker: bool
    payload: bytes
    port: int
    at_ns: int

    @property
    def frames(self) -> int:
        return len(self.payload) // 4


@dataclass
class Bench:
    """A radiod, its ears and its clock; `go` lets time pass."""

    spec: SimulatorSpec
    truth_path: Path
    now_ns: int = 1_000_000_000
    rtp: list[Rtp] = field(default_factory=list)
    statuses: list[tuple[int, ChannelStatus]] = field(default_factory=list)
    answers: list[ChannelStatus] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lo = find_interface("lo")
        self._data = receiver(self._lo, *self.spec.data_address)
        self._status = receiver(self._lo, self.spec.data_address[0], self.spec.status_port)
        self._control = receiver(self._lo, *self.spec.status_address)
        self._client = sender(self._lo, 0)
        self._truth = TruthFile(self.truth_path)
        self.clock = Clock(self.now_ns, UTC0, lambda: self.now_ns)
        self.run = Run(self.spec, self._lo, self.clock, self._truth)
        self.radiod = Radiod(self.run, 0, self.now_ns)

    def go(self, seconds: float) -> None:
        """In steps of 5 ms, so that receive buffers never fill."""
        end = self.now_ns + round(seconds * 1e9)
        while self.now_ns < end:
            self.now_ns = min(end, self.now_ns + 5_000_000)
            self.radiod.run_due(self.now_ns)
            self._hear()

    def tell(self, data: bytes) -> None:
        self._client.sendto(data, self.spec.status_address)
        self.radiod.handle_commands()
        self._hear()

    def command(self, ssrc: int, *fields: tuple[int, bytes]) -> None:
        self.tell(build_tlvs(COMMAND, [*fields, (StatusType.OUTPUT_SSRC, integer_bytes(ssrc))]))

    def of(self, ssrc: int) -> list[Rtp]:
        return [packet for packet in self.rtp if packet.ssrc == ssrc]

    def truth(self) -> Truth:
        return Truth.read(self.truth_path)

    def close(self) -> None:
        self.radiod.close()
        self._truth.close()
        for sock in (self._data, self._status, self._control, self._client):
            sock.close()

    def _hear(self) -> None:
        for data, port in _drain(self._data):
            _, kind, seq, ts, ssrc = RTP_HEADER.unpack_from(data)
            self.rtp.append(Rtp(ssrc, seq, ts, kind & 0x7F, bool(kind & 0x80), data[12:], port, self.now_ns))
        for data, _ in _drain(self._status):
            self.statuses.append((self.now_ns, _decoded(data)))
        self.answers += [_decoded(data) for data, _ in _drain(self._control) if data[0] == 0]


def _drain(sock: socket.socket) -> Iterator[tuple[bytes, int]]:
    while True:
        try:
            data, address = sock.recvfrom(65536)
        except BlockingIOError:
            return
        yield data, address[1]


def _decoded(data: bytes) -> ChannelStatus:
    status = decode_status_packet(data)
    assert status is not None
    return status


Open = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Open]:
    """`bench(faults, encoding, rate, count, **SimulatorSpec fields)` opens one, closed after the test."""
    with _benches(tmp_path) as open_bench:
        yield open_bench


@contextmanager
def _benches(folder: Path) -> Iterator[Open]:
    opened: list[Bench] = []

    def open_bench(
        faults: FaultPlan | None = None, encoding: str = "S16BE", rate: int = 16_000, count: int = 1, **facts: Any
    ) -> Bench:
        channels = tuple(
            ChannelSpec(f"C{n}", 1e6 * n, n, sample_rate_hz=rate, encoding=encoding, faults=faults)
            for n in range(1, count + 1)
        )
        facts = {"programme": "counter", "channels": channels, "jitter_ms": 0.0, "latency_ms": 0.0, **facts}
        spec = SimulatorSpec(data_address=(new_names().group, 5004), status_address=(new_names().group, 5006), **facts)
        opened.append(Bench(spec, folder / f"truth{len(opened)}.jsonl"))
        return opened[-1]

    try:
        yield open_bench
    finally:
        for one in opened:
            one.close()


def check_payloads(b: Bench) -> None:
    """Every received payload is what the truth file promises for its timestamp."""
    truth = b.truth()
    for packet in b.rtp:
        timeline = holding(truth, packet)
        size = frame_bytes(timeline.encoding, timeline.channels)
        frames = len(packet.payload) // size
        assert packet.payload == encode_samples(expected_iq(timeline, packet.ts, frames), timeline.encoding)


def holding(truth: Truth, packet: Rtp) -> Timeline:
    """The timeline of a packet: the last one of its channel that had begun."""
    begun = [t for t in truth.of(packet.ssrc) if t.start_utc_ns < UTC0 + packet.at_ns - 1_000_000_000]
    return begun[-1]


def test_first_packets_are_those_of_the_real_radiod(bench: Open) -> None:
    with PcapReader(DATA / "restart-s16.pcap") as reader:
        packets = [d for d in reader if d.payload[0] == 0x80]
    port = packets[-1].src[1]
    theirs = [RTP_HEADER.unpack_from(d.payload) + (len(d.payload),) for d in packets if d.src[1] == port]
    b = bench(channels=(ChannelSpec("WWV 10 MHz", 10e6, 10_000),))
    b.go(len(theirs) * 0.02)
    ours = [(128, p.pt | p.marker << 7, p.seq, p.ts, p.ssrc, 12 + len(p.payload)) for p in b.rtp]
    assert ours == theirs


def test_f32_blocks_are_cut_as_by_the_real_radiod(bench: Open) -> None:
    with PcapReader(DATA / "nine-f32-0.6s.pcap") as reader:
        packets = [d.payload for d in reader if d.payload[0] == 0x80 and d.payload[8:12] == struct.pack("!I", 10_000)]
    theirs = [len(p) - 12 for p in packets]
    b = bench(encoding="F32LE")
    b.go(0.6)
    ours = [len(p.payload) for p in b.rtp]
    assert theirs in (ours[: len(theirs)], ours[1 : len(theirs) + 1])
    assert [p.ts for p in b.rtp[:4]] == [TIMESTAMPS - 320, TIMESTAMPS - 140, 0, 180]


@pytest.mark.parametrize("encoding", ["S16LE", "S16BE", "F32LE", "F32BE", "F16LE", "F16BE"])
@pytest.mark.parametrize("rate", [8_000, 12_000, 44_100, 96_000])
def test_every_encoding_and_rate_is_gapless_and_small_enough(bench: Open, encoding: str, rate: int) -> None:
    b = bench(encoding=encoding, rate=rate)
    b.go(0.2)
    check_payloads(b)
    size = frame_bytes(encoding, 2)
    expected = b.rtp[0].ts
    for number, packet in enumerate(b.rtp):
        assert (packet.seq, packet.ts) == (number, expected)
        assert len(packet.payload) <= 1440
        expected = (expected + len(packet.payload) // size) % TIMESTAMPS
    assert (expected - b.rtp[0].ts) % TIMESTAMPS == rate // 5


def test_wwv_payloads_are_what_the_truth_file_promises_over_many_seconds(bench: Open) -> None:
    b = bench(programme="wwv", count=3)
    b.go(3.1)
    assert len(b.rtp) == 3 * 155
    check_payloads(b)


def test_packets_leave_when_their_last_sample_exists_and_not_before(bench: Open) -> None:
    b = bench(ppm=50.0)
    b.go(2.0)
    timeline = b.truth().timelines[0]
    for packet in b.rtp:
        exists_ns = timeline.utc_ns(timeline.frame(packet.ts) + packet.frames)
        assert 0 <= b.clock.utc(packet.at_ns) - exists_ns < 5_000_001


def test_jitter_is_one_sided_and_keeps_the_order(bench: Open) -> None:
    b = bench(latency_ms=5.0, jitter_ms=40.0)
    b.go(4.0)
    late_ms = [(b.clock.utc(p.at_ns) - UTC0) / 1e6 - 20 * (p.seq + 1) for p in b.rtp]
    assert min(late_ms) >= 5.0
    assert max(late_ms) > 30.0
    assert [p.seq for p in b.rtp] == list(range(len(b.rtp)))


def test_status_pairs_name_the_next_packet_and_are_late_only(bench: Open) -> None:
    b = bench(latency_ms=2.0, jitter_ms=10.0, ppm=-20.0)
    b.go(5.0)
    timeline = b.truth().timelines[0]
    assert [s.rtp_timesnap for _, s in b.statuses] == [25 * 320 * n for n in range(10)]
    for _, status in b.statuses:
        assert status.gps_time is not None and status.rtp_timesnap is not None
        true_gps = gps_time_ns(timeline.utc_ns(timeline.frame(status.rtp_timesnap)))
        assert 2_000_000 <= status.gps_time - true_gps < 17_000_001


def test_no_channel_is_always_served_after_another(bench: Open) -> None:
    b = bench(count=5)
    b.go(30.0)
    heard = [s.output_ssrc or 0 for _, s in b.statuses]
    for turns in ([p.ssrc for p in b.rtp], heard):
        blocks = [turns[n : n + 5] for n in range(0, len(turns), 5)]
        assert {block[0] for block in blocks} == {block[-1] for block in blocks} == {1, 2, 3, 4, 5}
        assert all(sorted(block) == [1, 2, 3, 4, 5] for block in blocks)


def test_truth_says_how_late_pairs_are_and_how_late_packets_left(bench: Open) -> None:
    b = bench(latency_ms=2.0, stalls=((1.0, 0.4),))
    b.go(2.0)
    b.now_ns += 300_000_000  # the machine did something else
    b.go(1.0)
    (timeline,) = b.truth().timelines
    noted = [e for e in b.truth().events if e["kind"] == "progress"]
    for event, (_, status) in zip(noted, b.statuses, strict=True):
        true_gps = gps_time_ns(timeline.utc_ns(timeline.frame(status.rtp_timesnap or 0)))
        assert (event["rtp_next"], event["pair_late_ns"]) == (status.rtp_timesnap, (status.gps_time or 0) - true_gps)
    # Blocks end at multiples of 20 ms, leave 2 ms later, and this clock goes in steps of 5 ms.
    late_ms = [(e["overdue_ns"] / 1e6, e["pair_late_ns"] / 1e6) for e in noted]
    assert late_ms == [(3, 5), (3, 5), (3, 385), (3, 5), (303, 285), (263, 5), (3, 5)]
    assert b.run.overdue_ns == 303_000_000


def test_input_samples_agree_with_the_timestamp(bench: Open) -> None:
    b = bench()
    b.go(2.0)
    for _, status in b.statuses:
        assert status.rtp_timesnap is not None and status.frontend.input_samples is not None
        assert status.frontend.input_samples / 25_600_000 == status.rtp_timesnap / 16_000


def test_host_clock_offset_shows_in_gps_time_alone(bench: Open) -> None:
    b = bench(clock_offset_s=-2.5)
    b.go(0.1)
    at_ns, status = b.statuses[0]
    assert status.gps_time is not None
    assert status.gps_time == gps_time_ns(b.clock.utc(at_ns)) - 2_500_000_000
    assert b.truth().timelines[0].start_utc_ns == UTC0


def test_late_status_pairs_are_late_by_what_the_truth_says(bench: Open) -> None:
    b = bench(FaultPlan(late_status=1.0, late_status_s=(0.1, 0.8)))
    b.go(5.0)
    noted = [e for e in b.truth().events if e["kind"] == "late_status"]
    timeline = b.truth().timelines[0]
    late = {
        s.rtp_timesnap: ((s.gps_time or 0) - gps_time_ns(timeline.utc_ns(timeline.frame(s.rtp_timesnap or 0)))) / 1e6
        for _, s in b.statuses
    }
    assert len(late) >= 8
    assert all(100 <= ms <= 806 for ms in late.values())
    assert {e["rtp"] for e in noted} >= set(late)


def test_mute_moves_the_timestamp_alone_and_marks_the_next_packet(bench: Open) -> None:
    b = bench(FaultPlan(mutes=((0.1, 0.2),)))
    b.go(0.5)
    assert [p.seq for p in b.rtp] == list(range(15))
    assert [p.marker for p in b.rtp] == [n in (0, 5) for n in range(15)]
    assert (b.rtp[5].ts - b.rtp[4].ts) % TIMESTAMPS == 320 + 10 * 320
    muted = [(s.rtp, s.frames) for s in b.truth().stretches(0) if s.cause == "mute"]
    assert muted == [((b.rtp[4].ts + 320 * n) % TIMESTAMPS, 320) for n in range(1, 11)]
    check_payloads(b)


def test_zero_blocks_are_sent_counted_and_noted(bench: Open) -> None:
    b = bench(FaultPlan(zeros=((0.1, 0.04),)))
    b.go(1.0)
    zero = [p.seq for p in b.rtp if not any(p.payload)]
    assert zero == [5, 6]
    assert [(s.rtp, s.frames, s.cause) for s in b.truth().stretches(0)] == [(b.rtp[n].ts, 320, "zero") for n in (5, 6)]
    assert b.statuses[-1][1].filter_drops == 2


def test_odd_packet_sizes_cycle_and_lose_nothing(bench: Open) -> None:
    b = bench(FaultPlan(packet_frames=(100, 361, 7)))
    b.go(3.0)
    assert [p.frames for p in b.rtp[:6]] == [100, 361, 7, 100, 361, 7]
    data = np.frombuffer(b"".join(p.payload for p in b.rtp), ">i2").astype(np.int16).reshape(-1, 2)
    assert set(np.diff(counter_value(data)) % 2**30) == {1}
    check_payloads(b)


def test_packets_over_several_blocks_and_seconds(bench: Open) -> None:
    b = bench(FaultPlan(packet_frames=(7_777,)))
    b.go(3.0)
    assert [p.frames for p in b.rtp] == [7_777] * 6
    check_payloads(b)


def test_mute_sends_what_was_waiting_for_a_full_packet(bench: Open) -> None:
    b = bench(FaultPlan(packet_frames=(500,), mutes=((0.1, 0.1),)))
    b.go(0.5)
    assert [(p.frames, p.marker) for p in b.rtp[:5]] == [
        (500, True),
        (500, False),
        (500, False),
        (100, False),
        (500, True),
    ]
    assert (b.rtp[4].ts - b.rtp[3].ts) % TIMESTAMPS == 100 + 5 * 320
    check_payloads(b)


def test_start_timestamp_forces_a_wrap_in_mid_run(bench: Open) -> None:
    b = bench(FaultPlan(start_rtp=TIMESTAMPS - 1000))
    b.go(0.2)
    assert [p.ts for p in b.rtp[:5]] == [(TIMESTAMPS - 1000 + 320 * n) % TIMESTAMPS for n in range(5)]
    check_payloads(b)


def test_faults_in_the_truth_file_are_those_on_the_wire(bench: Open) -> None:
    plan = FaultPlan(
        loss=0.05, reorder=0.05, duplicate=0.05, duplicate_delay_s=0.3, late=0.05, late_s=0.5, drops=((1.0, 7),)
    )
    b = bench(plan, count=2)
    b.go(6.0)
    b.radiod.halt("stop")
    b.go(1.0)
    truth = b.truth()
    for ssrc in (1, 2):
        (timeline,) = truth.of(ssrc)
        fates = [(e["seq"], e["fate"]) for e in truth.events if e["kind"] == "packet" and e["ssrc"] == ssrc]
        dropped = {seq for seq, fate in fates if fate == "dropped"}
        twice = {seq for seq, fate in fates if fate == "duplicate"}
        got = [p.seq for p in b.of(ssrc)]
        end = truth.rtp_next(timeline.number)
        assert end is not None
        assert len(dropped) > 7 and twice
        assert sorted(got) == sorted([*(set(range(timeline.frame(end) // 320)) - dropped), *twice])
    check_payloads(b)


def test_stalled_sender_catches_up_in_a_burst(bench: Open) -> None:
    b = bench(stalls=((0.5, 0.4),))
    b.go(1.5)
    assert [p.seq for p in b.rtp] == list(range(75))
    burst = [p for p in b.rtp if 1_900_000_000 <= p.at_ns < 1_920_000_000]
    assert len(burst) >= 20
    assert not [p for p in b.rtp if 1_500_000_000 < p.at_ns < 1_895_000_000]


def test_machine_that_cannot_keep_up_does_not_keep_it_from_stopping(bench: Open) -> None:
    b = bench()
    looks = count(b.now_ns, 10_000_000)  # each look at the clock is 10 ms after the one before
    b.run.clock = replace(b.clock, now_ns=lambda: next(looks))
    b.now_ns += 10_000_000_000
    b.radiod.run_due(b.now_ns)
    b._hear()
    assert 0 < len(b.rtp) < 10
    assert b.radiod.due_ns is not None and b.radiod.due_ns < b.now_ns
    b.radiod.halt("stop")
    assert b.truth().rtp_next(0) == (b.rtp[-1].ts + 320) % TIMESTAMPS


def test_stalled_front_end_makes_no_samples_and_the_truth_says_so(bench: Open) -> None:
    b = bench(frontend_stalls=((0.5, 0.3),), programme="wwv")
    b.go(1.5)
    first, second = b.truth().timelines
    assert second.reason == "frontend_stall"
    assert second.start_utc_ns - first.utc_ns(first.frame(second.start_rtp)) == 300_000_000
    assert [p.seq for p in b.rtp] == list(range(60))
    assert [p.ts for p in b.rtp] == [(320 * (n - 1)) % TIMESTAMPS for n in range(60)]
    check_payloads(b)


def test_command_creates_a_channel_and_both_groups_hear_the_answer(bench: Open) -> None:
    b = bench(channels=())
    b.go(0.033)
    b.command(
        777,
        (StatusType.COMMAND_TAG, integer_bytes(0xABCF1A02)),
        (StatusType.PRESET, b"iq"),
        (StatusType.OUTPUT_SAMPRATE, integer_bytes(16_000)),
        (StatusType.RADIO_FREQUENCY, struct.pack(">d", 10e6)),
    )
    answer = b.answers[-1]
    assert (answer.output_ssrc, answer.command_tag, answer.rtp_timesnap) == (777, 0xABCF1A02, TIMESTAMPS - 240)
    assert [s.command_tag for _, s in b.statuses] == [0xABCF1A02]
    b.go(0.1)
    assert [(p.seq, p.ts, p.pt, p.marker) for p in b.rtp[:2]] == [(0, TIMESTAMPS - 320, 123, True), (1, 0, 123, False)]
    assert b.statuses[1][1].rtp_timesnap == 0
    check_payloads(b)


def test_poll_of_an_unknown_channel_creates_it_from_the_template_untuned(bench: Open) -> None:
    b = bench(channels=())
    b.command(5)
    answer = b.answers[-1]
    assert (answer.preset, answer.output_samprate, answer.output_channels, answer.frequency) == ("am", 12_000, 1, 0.0)
    b.go(0.5)
    assert not b.rtp


def test_poll_of_all_names_every_channel_and_creates_none(bench: Open) -> None:
    b = bench(count=3)
    b.go(0.1)
    b.command(0xFFFFFFFF)
    assert sorted(s.output_ssrc or 0 for s in b.answers) == [1, 2, 3]


def test_lifetime_counts_down_in_blocks_and_a_command_reloads_it(bench: Open) -> None:
    b = bench(channels=())
    create = (
        (StatusType.PRESET, b"iq"),
        (StatusType.RADIO_FREQUENCY, struct.pack(">d", 10e6)),
        (StatusType.LIFETIME, integer_bytes(50)),
    )
    b.command(9, *create)
    b.go(0.6)
    assert b.statuses[-1][1].lifetime is not None and b.statuses[-1][1].lifetime < 50
    b.command(9)
    assert b.answers[-1].lifetime == 50
    b.go(2.0)
    last_ns = max(p.at_ns for p in b.of(9))
    assert abs(last_ns - 2_600_000_000) <= 25_000_000
    assert [e["reason"] for e in b.truth().events if e["kind"] == "removed"] == ["lifetime"]


def test_encoding_change_keeps_sequence_and_timestamps_without_marker(bench: Open) -> None:
    b = bench()
    b.go(0.5)
    b.command(1, (StatusType.OUTPUT_ENCODING, integer_bytes(4)))
    b.go(0.5)
    before, after = b.rtp[:25], b.rtp[25:]
    assert {len(p.payload) for p in before} == {1280}
    assert {len(p.payload) for p in after} == {1440, 1120}
    assert [p.seq for p in b.rtp] == list(range(25 + 50))
    assert after[0].ts == (before[-1].ts + 320) % TIMESTAMPS
    assert not any(p.marker for p in b.rtp[1:])
    assert after[0].pt != before[0].pt
    (noted,) = [e for e in b.truth().events if e["kind"] == "encoding"]
    assert (noted["rtp"], noted["encoding"]) == (after[0].ts, "F32LE")
    samples = np.frombuffer(b"".join(p.payload for p in after), "<f4").reshape(-1, 2) * 32768
    expected = expected_iq(b.truth().timelines[0], after[0].ts, len(samples))
    assert np.array_equal(samples.astype(np.int16), expected)


def test_rate_change_restarts_timestamps_but_neither_sequence_nor_marker(bench: Open) -> None:
    b = bench()
    b.go(0.5)
    b.command(1, (StatusType.OUTPUT_SAMPRATE, integer_bytes(24_000)))
    assert b.answers[-1].output_samprate == 24_000
    b.go(0.5)
    after = b.rtp[25:]
    assert (after[0].seq, after[0].ts, after[0].marker, after[0].pt) == (25, TIMESTAMPS - 480, False, b.rtp[0].pt)
    assert b.truth().timelines[1].reason == "rate_change"
    (ended,) = [e for e in b.truth().events if e["kind"] == "removed"]
    assert (ended["timeline"], ended["reason"], ended["seq_next"]) == (0, "rate_change", 25)
    assert ended["rtp_next"] == (b.rtp[24].ts + 320) % TIMESTAMPS
    assert b.truth().timelines[1].first_seq == 25
    check_payloads(b)


def test_retuning_out_of_band_and_back_is_a_mute(bench: Open) -> None:
    b = bench()
    b.go(0.1)
    b.command(1, (StatusType.RADIO_FREQUENCY, struct.pack(">d", 27e6)))
    b.go(0.2)
    b.command(1, (StatusType.RADIO_FREQUENCY, struct.pack(">d", 10e6)))
    b.go(0.1)
    assert [(p.seq, p.marker) for p in b.rtp[4:7]] == [(4, False), (5, True), (6, False)]
    assert (b.rtp[5].ts - b.rtp[4].ts) % TIMESTAMPS == 11 * 320
    check_payloads(b)


def test_channel_may_be_sent_to_another_group(bench: Open) -> None:
    b = bench(count=2)
    other = new_names().group
    ears = receiver(find_interface("lo"), other, 5004)
    try:
        b.command(2, (StatusType.OUTPUT_DATA_DEST_SOCKET, socket.inet_aton(other) + struct.pack("!H", 5004)))
        b.go(0.1)
        assert len(list(_drain(ears))) == 5
    finally:
        ears.close()
    assert len(b.of(1)) == 5
    assert not b.of(2)


def test_channels_may_have_groups_of_their_own_for_samples_and_status(bench: Open) -> None:
    other = new_names().group
    ears = receiver(find_interface("lo"), other, 5004)
    status = receiver(find_interface("lo"), other, 5006)
    try:
        b = bench(channels=(ChannelSpec("A", 1e6, 1), ChannelSpec("B", 2e6, 2, data_address=(other, 5004))))
        b.go(0.1)
        assert [data[8:12] for data, _ in _drain(ears)] == [struct.pack("!I", 2)] * 5
        assert [_decoded(data).output_ssrc for data, _ in _drain(status)] == [2]
    finally:
        ears.close()
        status.close()
    assert (len(b.of(1)), len(b.of(2)), [s.output_ssrc for _, s in b.statuses]) == (5, 0, [1])


def test_garbage_on_the_control_group_does_no_harm(bench: Open) -> None:
    b = bench()
    rng = random.Random(3)
    for length in range(1, 60):
        b.tell(b"\1" + rng.randbytes(length))
        b.tell(rng.randbytes(length))
    b.tell(b"\1")
    b.go(0.1)
    assert len(b.of(1)) == 5


def test_restart_is_a_new_socket_a_new_timeline_and_other_samples(bench: Open) -> None:
    b = bench()
    b.go(0.5)
    b.radiod.halt("restart")
    b.radiod.close()
    b.radiod = Radiod(b.run, 1, b.now_ns + 100_000_000)
    b.go(0.5)
    before, after = b.rtp[:25], b.rtp[25:]
    assert (after[0].seq, after[0].ts, after[0].marker) == (0, TIMESTAMPS - 320, True)
    assert after[0].port != before[0].port
    assert after[0].payload != before[0].payload
    assert [t.reason for t in b.truth().timelines] == ["start", "restart"]
    assert b.truth().timelines[1].start_utc_ns == UTC0 + 600_000_000
    check_payloads(b)


def test_delayed_packets_of_a_dead_radiod_still_arrive(bench: Open) -> None:
    b = bench(FaultPlan(late=1.0, late_s=0.3))
    b.go(0.1)
    b.radiod.halt("restart")
    assert b.radiod.due_ns is not None
    b.go(0.4)
    assert len(b.rtp) == 5
    assert b.radiod.due_ns is None


def test_truth_is_complete_up_to_the_last_event_at_any_moment(bench: Open) -> None:
    b = bench(FaultPlan(loss=0.5))
    for _ in range(20):
        b.go(0.1)
        lines = b.truth_path.read_bytes()
        assert lines.endswith(b"\n")
        dropped = sum(json.loads(line).get("fate") == "dropped" for line in lines.splitlines())
        assert dropped + len(b.rtp) == (b.now_ns - 1_000_000_000) // BLOCK_NS


@pytest.mark.parametrize(
    "wrong",
    [{"sample_rate_hz": 11_025}, {"encoding": "OPUS"}, {"ssrc": 2**32 - 1}, {"programme": "jazz"}],
)
def test_impossible_channels_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SimulatorError):
        ChannelSpec("x", 1e6, **wrong)


def test_channels_that_share_an_ssrc_are_refused() -> None:
    twice = ChannelSpec("a", 1e6, 5)
    with pytest.raises(SimulatorError, match="share the ssrc 5"):
        SimulatorSpec(channels=(twice, replace(twice, name="b")))
