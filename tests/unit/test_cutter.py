"""Whole recordings: the faults of the recorders before this one, minutes, anchors and what lies between them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from pipeline.records import AnchorSource
from pipeline.stream.candidates import Origin
from pipeline.stream.journal import geometry
from pipeline.stream.timeline import MINUTE, SECOND, HostClock
from stream_world import RATE, Faults, Part, World, check
from streams import ORIGIN, T0, FakeStatus, Recording, Sent, counter_iq, counter_payload, play

REAL = 16_000
BLOCK = (320,)
OTHER: Origin = ("127.0.0.1", 40_001)


def record(world: World) -> list[Any]:
    """The minutes of a world at radiod's own rate, checked against its truth."""
    rate = world.parts[0].rate_hz
    to = Recording(rate, shape=geometry(REAL, 12))
    check(world, to, world.play(to))
    return [minute for minute, _, _ in to.minutes]


def real(seconds: int, **facts: Any) -> Part:
    return Part(**{"seconds": seconds, "sizes": BLOCK, "first_rtp": (1 << 32) - 320, "rate_hz": REAL, **facts})


def world(*parts: Part, start_ns: int = T0) -> World:
    return World(parts, Faults(), start_ns)


def times(minutes: list[Any]) -> list[int]:
    return [(minute.utc_ns - T0) // SECOND for minute in minutes]


# -- what went wrong before --


def test_stream_started_in_mid_minute_has_its_minutes_at_the_boundary() -> None:
    minutes = record(world(real(100), start_ns=T0 + 25 * SECOND))
    assert times(minutes) == [0, 60, 120]
    assert minutes[0].segments[0].index == 25 * REAL
    assert (minutes[1].first_timestamp, minutes[1].gaps) == ((1 << 32) - 320 + 35 * REAL, [])


def test_stale_duplicate_and_one_loss_ten_minutes_later() -> None:
    made = world(real(640))
    made.repeat(100, 2 * SECOND)
    made.lose(30_100)
    minutes = record(made)
    gaps = [gap for minute in minutes for gap in minute.gaps if gap.cause != "stop"]
    assert [(gap.samples, gap.packets_lost, gap.cause) for gap in gaps] == [(320, 1, "network")]


def test_late_packet_and_one_loss_two_seconds_later() -> None:
    made = world(real(70))
    made.delay(1000, 40 * 20_000_000)
    made.lose(1100)
    assert [(gap.samples, gap.packets_lost) for gap in record(made)[0].gaps] == [(320, 1)]


def test_every_packet_duplicated_one_to_five_later() -> None:
    made = world(real(66))
    for number in range(3300):
        made.repeat(number, (1 + number % 5) * 20_000_000)
    minutes = record(made)
    assert minutes[0].gaps == [] and minutes[0].packets_duplicate > 2900


@pytest.mark.parametrize("reach", [1, 31, 32, 40, 64, 95])
def test_packet_delayed_by_so_many_is_in_its_place(reach: int) -> None:
    made = world(real(70))
    made.delay(1000, reach * 20_000_000 + 1)
    assert record(made)[0].gaps == []


@pytest.mark.parametrize("lost", [(0,), (1,), (2,), (1, 2, 3)])
def test_loss_at_the_timestamp_wrap(lost: tuple[int, ...]) -> None:
    made = world(real(70, first_rtp=(1 << 32) - 100 * 320))
    made.lose(*(99 + number for number in lost))
    gaps = [gap for gap in record(made)[0].gaps if gap.cause == "network"]
    assert [gap.packets_lost for gap in gaps] == [len(lost)]


@pytest.mark.parametrize("fault", ["none", "swap", "loss", "duplicate"])
def test_sequence_wrap(fault: str) -> None:
    made = world(real(70, first_sequence=65_036))
    if fault == "swap":
        made.delay(499, 20_000_001)
    if fault == "loss":
        made.lose(499, 500)
    if fault == "duplicate":
        made.repeat(499, 40_000_000)
    lost = sum(minute.packets_lost for minute in record(made))
    assert lost == (2 if fault == "loss" else 0)


@pytest.mark.parametrize("sizes", [(180, 140), (360,), (240,), (319,)])
def test_odd_packet_sizes_over_the_boundary(sizes: tuple[int, ...]) -> None:
    minutes = record(world(real(66, sizes=sizes), start_ns=T0 + 55 * SECOND))
    assert times(minutes) == [0, 60, 120]
    assert minutes[1].gaps == []


def test_packets_of_one_sample_over_the_boundary() -> None:
    minutes = record(world(real(8, sizes=(1,), rate_hz=RATE), start_ns=T0 + 55 * SECOND))
    assert [minute.packets_received for minute in minutes] == [5 * RATE, 3 * RATE]


def test_timestamp_zero_at_the_start_of_a_minute() -> None:
    minutes = record(world(real(130, first_rtp=0)))
    assert minutes[0].first_timestamp == 0 and minutes[0].gaps == []


def test_timestamp_zero_within_the_stream_at_a_boundary() -> None:
    minutes = record(world(real(130, first_rtp=(1 << 32) - 60 * REAL)))
    assert minutes[1].first_timestamp == 1 << 32 and minutes[1].gaps == []


def test_outage_over_the_boundary_is_exact_on_both_sides() -> None:
    minutes = record(world(real(130, outages=((55, 10),))))
    assert [(g.index, g.samples, g.packets_lost) for g in minutes[0].gaps] == [(55 * REAL, 5 * REAL, 250)]
    assert [(g.index, g.samples, g.packets_lost) for g in minutes[1].gaps] == [(0, 5 * REAL, 250)]


def test_first_packet_late() -> None:
    made = world(real(70))
    made.delay(0, 30 * 20_000_000)
    assert record(made)[0].gaps == []


@pytest.mark.parametrize("sequence", [0, 17])
@pytest.mark.parametrize("base", [(1 << 32) - 320, 123_456_789])
@pytest.mark.parametrize("port", [40_000, 40_001])
def test_restart(port: int, base: int, sequence: int) -> None:
    again = real(50, first_rtp=base, first_sequence=sequence, port=port, pause_s=7)
    minutes = record(world(real(20), again))
    assert [s.epoch_id for s in minutes[0].segments] == [1, 2]
    assert [gap.samples for gap in minutes[0].gaps] == [7 * REAL]
    # On the same port only the marked first packet tells a restart from a jump.
    assert minutes[1].epoch_reason == "radiod_restart"
    assert minutes[0].gaps[0].cause == "restart"


@pytest.mark.parametrize("jump", [600 * REAL, -600 * REAL, 1 << 31, -10 * REAL])
def test_jump_of_the_timestamps_is_an_epoch_and_shifts_nothing(jump: int) -> None:
    first = real(20, first_rtp=1 << 30)
    after = (1 << 30) + 20 * REAL + jump
    again = real(70, first_rtp=after, first_sequence=1000, pause_s=0)
    minutes = record(world(first, again))
    assert [s.epoch_id for s in minutes[0].segments] == [1, 2]
    assert minutes[0].gaps == [] and minutes[1].epoch_reason in ("timestamp_jump", "radiod_restart")


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("seconds", [0.02, 3, 100])
def test_mute(marked: bool, seconds: float) -> None:
    made = world(real(135, mutes=((30, round(seconds * REAL), marked),)))
    gaps = [gap for minute in record(made) for gap in minute.gaps if gap.cause != "stop"]
    assert {gap.cause for gap in gaps} == {"mute"}
    assert made.packets[-1].timestamp > made.parts[0].first_rtp


def test_foreign_sender_with_the_same_ssrc_between_and_after() -> None:
    to, stream = Recording(), Sent(T0)
    foreign = Sent(T0 + 7_000_000, first_rtp=1 << 31, first_sequence=999)
    for n in range(3100):
        stream.send(to, n)
        foreign.send(to, n, origin=OTHER)
        if n % 25 == 0:
            stream.pair(to, n + 1)
            to.advance()
    foreign.start_ns += 10 * SECOND
    for n in range(3100, 6000):
        foreign.send(to, n, origin=OTHER)
        to.advance()
    minutes = to.finish()
    first, second = minutes[0], minutes[1]
    assert first[0].gaps == [] and np.array_equal(first[1], counter_iq(0, 60 * REAL))
    assert [s.epoch_id for s in second[0].segments] == [1, 2]
    assert second[0].gaps[0].cause == "restart"


@pytest.mark.parametrize("start", [0, (1 << 32) - 320])
def test_labels_do_not_wrap_after_37_and_after_74_hours(start: int) -> None:
    """Three packets each half hour, mute between, for 80 hours."""
    to = Recording()
    for half_hour in range(160):
        for k in range(3):
            frame = half_hour * 1800 * REAL + k * 320
            at = T0 + frame * SECOND // REAL + 20_000_000
            rtp = start + frame
            to.packet(half_hour * 3 + k, rtp, counter_payload(frame, 320), at, marker=k == 0)
            to.status(FakeStatus(at, (rtp + 320) & 0xFFFFFFFF, REAL, "S16BE"), at)
        to.advance()
        to.advance(silent_ns=65 * SECOND)
    minutes = [minute for minute, _, _ in to.finish()]
    assert [minute.utc_ns for minute in minutes] == [T0 + n * 1800 * SECOND for n in range(160)]
    assert {minute.epoch_id for minute in minutes} == {1}
    assert [minute.first_timestamp for minute in minutes] == [start + n * 1800 * REAL for n in range(160)]
    for minute, iq, _ in to.minutes:
        assert np.array_equal(iq[:960], counter_iq(minute.first_timestamp - start, 960))


@pytest.mark.parametrize("minutes_long", [11, 12, 25, 50])
def test_outage_of_more_than_half_and_more_than_all_sequence_numbers(minutes_long: int) -> None:
    made = world(real(60 * minutes_long + 120, outages=((30, 60 * minutes_long),)))
    to = Recording(REAL)
    check(made, to, made.play(to))
    assert to.intake.source.lost == 60 * minutes_long * 50
    assert len(to.intake.epochs) == 1
    assert times([minute for minute, _, _ in to.minutes])[-1] == 60 * minutes_long + 60


# -- which minutes --


def test_nothing_is_due_before_the_grace_is_over() -> None:
    to, stream = Recording(grace_s=3.0), Sent(T0)
    play(to, stream, range(63 * 50 - 1))
    assert to.minutes == []
    play(to, stream, range(63 * 50 - 1, 63 * 50 + 51))
    assert [minute.utc_ns for minute, _, _ in to.minutes] == [T0]


def test_silent_stream_gets_its_minute_by_the_clock() -> None:
    to, stream = Recording(), Sent(T0)
    play(to, stream, range(40 * 50))
    to.advance(silent_ns=21 * SECOND)
    assert to.minutes == []
    to.advance(silent_ns=23 * SECOND)
    assert [gap.cause for gap in to.minutes[0][0].gaps] == ["unknown"]
    to.advance(silent_ns=500 * SECOND)
    assert len(to.minutes) == 1


def test_stream_that_goes_on_after_a_silent_cut_loses_nothing() -> None:
    to, stream = Recording(), Sent(T0)
    play(to, stream, range(55 * 50))
    to.advance(silent_ns=20 * SECOND)
    play(to, stream, range(75 * 50, 130 * 50))
    minutes = to.finish()
    assert [gap.cause for minute, _, _ in minutes[:2] for gap in minute.gaps] == ["unknown", "network"]
    assert np.array_equal(minutes[1][1][15 * REAL :], counter_iq(75 * REAL, 45 * REAL))


@pytest.mark.parametrize("grace_s", [0.0, 2.0])
@pytest.mark.parametrize("held_s", [1, 3, 6, 10, 19])
def test_packets_held_up_over_a_minutes_end_are_in_their_minute(held_s: int, grace_s: float) -> None:
    to, stream = Recording(grace_s=grace_s), Sent(T0)
    play(to, stream, range(59 * 50))
    for tenths in range(10 * held_s):
        to.advance(silent_ns=tenths * SECOND // 10)
    for number in range(59 * 50, (59 + held_s) * 50):
        stream.send(to, number, delay_ns=stream.time_ns((59 + held_s) * REAL) - stream.time_ns(number * 320))
        to.advance()
    play(to, stream, range((59 + held_s) * 50, 130 * 50))
    minutes = [minute for minute, _, _ in to.finish()]
    assert to.intake.late == 0
    assert [gap.cause for minute in minutes for gap in minute.gaps] == ["stop"]
    assert sum(minute.packets_received for minute in minutes) == 130 * 50


def test_stream_that_ends_just_before_the_minute_has_its_file_within_half_a_minute() -> None:
    to, stream = Recording(), Sent(T0)
    play(to, stream, range(60 * 50 - 1))
    for second in range(30):
        to.advance(silent_ns=second * SECOND)
    assert [minute.utc_ns for minute, _, _ in to.minutes] == [T0]


def test_packets_of_a_minute_that_was_cut_in_silence_are_late() -> None:
    to, stream = Recording(), Sent(T0)
    play(to, stream, range(55 * 50))
    to.advance(silent_ns=20 * SECOND)
    play(to, stream, range(55 * 50, 130 * 50))
    minutes = to.finish()
    assert to.intake.late == 250 and minutes[1][0].packets_late == 250
    assert minutes[1][0].gaps == [] and to.intake.received + 250 == 130 * 50


def test_minutes_of_which_nothing_came_have_no_file() -> None:
    made = world(real(300, outages=((70, 150),)))
    assert times(record(made)) == [0, 60, 180, 240]


def test_minute_of_three_timelines() -> None:
    again = [real(10, first_rtp=n << 28, port=40_000 + n, pause_s=5) for n in (1, 2)]
    minute = record(world(real(10), *again))[0]
    assert [(s.epoch_id, s.index // REAL, s.samples // REAL) for s in minute.segments] == [
        (1, 0, 10),
        (2, 15, 10),
        (3, 30, 10),
    ]
    assert [gap.cause for gap in minute.gaps] == ["restart", "restart", "stop"]


def test_change_of_rate_makes_a_file_of_each_rate() -> None:
    changed = real(35, sizes=(480,), first_rtp=(1 << 32) - 480, first_sequence=1000, pause_s=0, rate_hz=24_000)
    minutes = record(world(real(20), changed, real(40, first_rtp=1 << 31, first_sequence=5000, pause_s=0)))
    assert [(m.rate_hz, m.samples, m.epoch_reason) for m in minutes[:2]] == [
        (24_000, 60 * 24_000, "rate_change"),
        (REAL, 60 * REAL, "start"),
    ]
    assert [s.epoch_id for s in minutes[1].segments] == [1, 3]


@pytest.mark.parametrize("change_s", [29.99, 30.0, 30.01])
def test_live_change_of_the_encoding_there_and_back(change_s: float) -> None:
    part = real(130, sizes=(320,), encodings=("S16BE", "F32LE", "S16BE"))
    made = World((part,), Faults(loss=0.01, seed=5), T0 + round(change_s * SECOND))
    record(made)


def test_f32_in_pairs_of_packets_without_any_status() -> None:
    made = world(real(70, sizes=(180, 140), encodings=("F32LE",), statuses=False))
    to = Recording(REAL, encoding="F32LE")
    check(made, to, made.play(to))
    assert to.minutes[0][0].gaps == []


# -- anchors --


def corrected(by_ns: int, statuses: bool = False) -> Recording:
    """NTP finds the host's clock `by_ns` ahead after the first minute was cut; frame 0 was taken at T0."""
    to, stream = Recording(), Sent(T0, first_rtp=0)
    for n in range(190 * 50):
        stream.send(to, n)
        if n == 3500:
            to.host = HostClock(by_ns, 1_000_000)
        if n % 25 == 0:
            if statuses:
                stream.pair(to, n + 1)
            to.advance()
    to.finish()
    return to


def covered(to: Recording) -> list[tuple[int, int]]:
    """[first, stop) of timestamps in each file, with its extra samples."""
    return [
        (m.segments[0].timestamp, m.segments[-1].timestamp + m.segments[-1].samples + m.extra_samples)
        for m, _, _ in to.minutes
    ]


def check_frames(to: Recording) -> None:
    """Every sample of every file, and between files, is the one its timestamp says; timestamp 0 is frame 0."""
    for minute, iq, extra in to.minutes:
        segment = minute.segments[0]
        assert np.array_equal(iq[segment.index :][: segment.samples], counter_iq(segment.timestamp, segment.samples))
        assert np.array_equal(extra, counter_iq(segment.timestamp + segment.samples, minute.extra_samples))


@pytest.mark.parametrize("by_ms", [100, 400, 999])
def test_earlier_labels_put_what_is_between_into_extra(by_ms: int) -> None:
    to = corrected(by_ms * 1_000_000)
    extra = [minute.extra_samples for minute, _, _ in to.minutes]
    assert extra == [0, by_ms * 16, 0, 0]
    ranges = covered(to)
    assert all(a[1] == b[0] for a, b in zip(ranges, ranges[1:], strict=False))
    check_frames(to)
    assert sum(m.packets_received for m, _, _ in to.minutes) == 190 * 50


@pytest.mark.parametrize("by_ms", [100, 400, 999])
def test_later_labels_make_neighbours_overlap(by_ms: int) -> None:
    to = corrected(-by_ms * 1_000_000)
    ranges = covered(to)
    assert [a[1] - b[0] for a, b in zip(ranges, ranges[1:], strict=False)] == [0, by_ms * 16, 0]
    check_frames(to)


@pytest.mark.parametrize("wrong_s", [-3600, -95, -20, 20, 95, 3600])
def test_anchor_that_was_far_off_loses_and_repeats_nothing(wrong_s: int) -> None:
    """No status, and NTP corrects the host's clock in mid-minute."""
    to, stream = Recording(host=HostClock()), Sent(T0, first_rtp=0)
    for n in range(250 * 50):
        stream.send(to, n, delay_ns=wrong_s * SECOND)
        if n > 4000:
            to.host = HostClock(wrong_s * SECOND, 1_000_000)
        if n % 25 == 0:
            to.advance()
    to.finish()
    ranges = covered(to)
    assert ranges[0][0] == 0 and ranges[-1][1] == 250 * 50 * 320
    assert all(a[1] == b[0] for a, b in zip(ranges, ranges[1:], strict=False))
    last = to.minutes[-1][0]
    assert abs(last.segments[0].utc_ns - stream.time_ns(last.segments[0].timestamp)) <= last.anchor.uncertainty_ns
    assert last.anchor.source is AnchorSource.NTP
    assert max(minute.extra_samples for minute, _, _ in to.minutes) == 0


def test_label_does_not_follow_small_changes() -> None:
    to = corrected(5_000_000)
    assert len({minute.anchor.utc_at(0) for minute, _, _ in to.minutes}) == 1


def test_radiods_word_does_not_depend_on_the_hosts_clock() -> None:
    to = corrected(5_000_000, statuses=True)
    assert {minute.anchor.utc_at(0) for minute, _, _ in to.minutes} == {T0}


def test_what_lies_between_two_files_is_sealed_with_the_first() -> None:
    to, stream = Recording(), Sent(T0, first_rtp=0)
    for n in range(7000):
        if n == 3500:
            to.host = HostClock(400_000_000, 1_000_000)
        if n != 6010:
            stream.send(to, n)
        if n % 25 == 0:
            to.advance()
    assert to.minutes[1][0].extra_samples == 6400
    stream.send(to, 6010, delay_ns=20 * SECOND)
    assert to.intake.late == 1
    to.finish()
    assert sum(minute.packets_received for minute, _, _ in to.minutes) == to.intake.received


@pytest.mark.parametrize("pause_ms", [300, 1500, 30_000])
@pytest.mark.parametrize("end_s", [100, 119.9, 120.2])
def test_labels_move_only_where_what_lies_between_two_files_has_come(end_s: float, pause_ms: int) -> None:
    """A stream that is mute when its label should move to earlier: zeros in `iq_extra` would be in no list."""
    to, stream = Recording(), Sent(T0, first_rtp=0)
    frames = round(end_s * REAL)
    again = Sent(0, first_rtp=frames + pause_ms * 16, first_sequence=frames // 320)
    again.start_ns = stream.time_ns(again.first_rtp)
    play(to, stream, range(3500), statuses=False)
    to.host = HostClock(400_000_000, 1_000_000)
    play(to, stream, range(3500, frames // 320), statuses=False)
    to.advance(silent_ns=pause_ms * 1_000_000)
    for number in range(180 * 50):
        first = again.first_rtp + number * 320
        payload = counter_payload(first, 320)
        sequence = again.first_sequence + number
        to.packet(sequence, first, payload, again.time_ns((number + 1) * 320), marker=not number)
        if number % 50 == 0:
            to.advance()
    to.finish()
    assert all(extra.all() for _, _, extra in to.minutes)
    assert max(minute.extra_samples for minute, _, _ in to.minutes) == 6400
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(covered(to)))
    assert sum(minute.packets_received for minute, _, _ in to.minutes) == to.intake.received
    assert to.minutes[-1][0].anchor.utc_at(0) == T0 - 400_000_000


def test_new_timeline_never_begins_before_the_old_one_ended() -> None:
    to, stream = Recording(), Sent(T0, first_rtp=0)
    again = Sent(T0 + 20 * SECOND, first_rtp=1 << 31, first_sequence=1000)
    for n in range(1000):
        stream.send(to, n)
        if n % 25 == 0:
            stream.pair(to, n + 1, late_ns=5_000_000)
    for n in range(1000):
        again.send(to, n)
        if n % 25 == 0:
            again.pair(to, n + 1)
    minute, iq, _ = to.finish()[0]
    assert [s.samples for s in minute.segments] == [20 * REAL, 20 * REAL]
    begin = minute.segments[1].index
    assert begin == minute.segments[0].index + 20 * REAL
    assert np.array_equal(iq[begin : begin + 20 * REAL], counter_iq(0, 20 * REAL))


@pytest.mark.parametrize("ahead_s", [20, 40, 62, 90, 600, 86_400, -20, -90, -600])
@pytest.mark.parametrize("begin_s", [0, 36])
def test_timeline_after_one_whose_clock_was_wrong_loses_nothing(ahead_s: int, begin_s: int) -> None:
    """radiod's host gets its time right and radiod starts again: what it recorded before is not waited for."""
    to = Recording(RATE, shape=geometry(RATE, 3))
    wrong = Sent(T0 + begin_s * SECOND, RATE, 500, 0)
    right = Sent(wrong.start_ns + 23 * SECOND, RATE, 500, 1 << 31, 777)
    for stream, count, origin, off_s in ((wrong, 40, ORIGIN, ahead_s), (right, 800, OTHER, 0)):
        for n in range(count):
            stream.send(to, n, origin=origin)
            at = stream.time_ns((n + 1) * 500)
            snap = stream.first_rtp + (n + 1) * 500
            # Later than the packets by seconds, so that the second timeline is not known at once.
            if stream is wrong or n > 8:
                to.status(FakeStatus(at + off_s * SECOND, snap, RATE, "S16BE"), at)
            to.advance()
    assert to.journal.used_fraction() < 0.6
    to.finish()
    seen: dict[int, list[tuple[int, int]]] = {1: [], 2: []}
    for minute, iq, _ in to.minutes:
        for s in minute.segments:
            seen[s.epoch_id].append((s.timestamp, s.timestamp + s.samples))
            first = s.timestamp - (0, wrong.first_rtp, right.first_rtp)[s.epoch_id]
            assert np.array_equal(iq[s.index : s.index + s.samples], counter_iq(first, s.samples))
    for ranges, stream, count in ((seen[1], wrong, 40), (seen[2], right, 800)):
        ranges.sort()
        assert all(a[1] >= b[0] for a, b in zip(ranges, ranges[1:], strict=False))
        assert (ranges[0][0], ranges[-1][1]) == (stream.first_rtp, stream.first_rtp + count * 500)


def test_nothing_is_cut_before_the_timeline_is_known() -> None:
    to, stream = Recording(), Sent(T0 + 59 * SECOND)
    for n in range(4 * 50):
        stream.send(to, n)
        to.advance()
    assert to.minutes == []
    play(to, stream, range(200, 400), statuses=False)
    assert [minute.utc_ns for minute, _, _ in to.minutes] == [T0]


# -- counters --


def test_rejected_packets_are_counted_in_one_minute_each() -> None:
    to, stream = Recording(), Sent(T0)
    for n in range(200 * 50):
        stream.send(to, n)
        if n % 100 == 0:
            stream.send(to, n)
            to.intake.bad(stream.time_ns(n * 320))
        if n % 25 == 0:
            stream.pair(to, n + 1)
            to.advance()
    to.finish()
    assert sum(minute.packets_duplicate for minute, _, _ in to.minutes) == 100
    assert sum(minute.packets_bad for minute, _, _ in to.minutes) == 100


def test_released_journal_holds_the_running_minute_only() -> None:
    to, stream = Recording(), Sent(T0)
    play(to, stream, range(63 * 50))
    assert len(to.minutes) == 1
    assert to.journal.count - to.journal.first < 4 * 50 + 20
    assert to.cutter.now_utc(0, to.host) == T0 + MINUTE + 3 * SECOND
    assert to.intake.source.origin == ORIGIN
