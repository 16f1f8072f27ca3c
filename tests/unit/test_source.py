"""Which timeline a packet belongs to: wraps, copies, strangers, restarts; one odd packet decides nothing."""

from __future__ import annotations

import json

import pytest

from pipeline.stream.candidates import MAX_CANDIDATES, REACH, Arrival
from pipeline.stream.lot import Lot
from pipeline.stream.source import (
    CONFIRM_JUMP,
    CONFIRM_ORIGIN,
    CONFIRM_REPEAT,
    START_REORDER,
    Admission,
    Origin,
    Source,
)

HOME: Origin = ("127.0.0.1", 40_000)
OTHER: Origin = ("127.0.0.1", 40_001)
THIRD: Origin = ("10.1.2.3", 40_000)
PLACE, REORDERED, HOLD, PROMOTE = Admission.PLACE, Admission.REORDERED, Admission.HOLD, Admission.PROMOTE
DUPLICATE, LATE, BAD = Admission.DUPLICATE, Admission.LATE, Admission.BAD
BLOCK_NS = 20_000_000


def packet(
    n: int,
    origin: Origin = HOME,
    *,
    base: int = 0,
    first: int = 0,
    frames: int = 320,
    length: int = 1280,
    at: float | None = None,
    marker: bool = False,
) -> Arrival:
    """Packet `n` of a stream of blocks; `at` is when it arrives, in blocks."""
    arrival = round((n if at is None else at) * BLOCK_NS)
    return Arrival(marker, (first + n) & 0xFFFF, (base + n * frames) & 0xFFFFFFFF, length, origin, arrival)


def begun(packets: int = 10, base: int = 0, first: int = 0, frames: int = 320, length: int = 1280) -> Source:
    """A source that has heard packets 0 to `packets` - 1."""
    source = Source(16_000, 4)
    start = packet(0, base=base, first=first, frames=frames, length=length)
    assert source.admit(start) is PROMOTE
    source.candidates.clear()
    source.begin(1, start)
    for n in range(packets):
        assert source.admit(packet(n, base=base, first=first, frames=frames, length=length)) is PLACE
    return source


def admit(source: Source, *packets: Arrival) -> list[Admission]:
    return [source.admit(p) for p in packets]


# -- the next one --


def lot(*packets: Arrival) -> Lot:
    return Lot(
        [(0x80, 97, p.sequence, p.timestamp, 7) for p in packets],
        [p.length for p in packets],
        [p.arrival_ns for p in packets],
        [p.origin for p in packets],
    )


def test_a_run_is_placed_as_its_packets_would_be() -> None:
    run, single = begun(3), begun(3)
    sizes = [(960, 1280), (1280, 720), (1460, 560)]
    packets = [Arrival(False, n, timestamp, length, HOME, 7) for n, (timestamp, length) in enumerate(sizes, 3)]
    assert run.run_end(lot(*packets), 0, 7, 9000) == 3
    assert run.place_run([1280, 720, 560], 7) == [960, 1280, 1460]
    assert admit(single, *packets) == [PLACE] * 3
    assert run.to_json() == single.to_json()


def test_a_run_wraps_both_counters() -> None:
    source = begun(5, base=(1 << 32) - 10 * 320, first=65_530)
    packets = [packet(n, base=(1 << 32) - 10 * 320, first=65_530) for n in range(5, 15)]
    assert source.run_end(lot(*packets), 0, 7, 1 << 20) == 10
    starts = source.place_run([1280] * 10, 0)
    assert starts[-1] == (1 << 32) + 4 * 320 and source.sequence == 65_544


def test_a_run_has_so_many_bytes_at_most() -> None:
    packets = lot(*(packet(n) for n in range(3, 9)))
    assert [begun(3).run_end(packets, 0, 7, size) for size in (1279, 1280, 2560, 2561)] == [0, 1, 2, 2]


@pytest.mark.parametrize(
    "odd",
    [
        packet(4),
        packet(5)._replace(timestamp=1601),
        packet(5, length=1281),
        packet(5, origin=OTHER),
        packet(5, length=0),
    ],
    ids=["again", "timestamp", "half a sample", "stranger", "empty"],
)
def test_a_run_ends_before_anything_else(odd: Arrival) -> None:
    source = begun(3)
    packets = lot(packet(3), packet(4), odd, packet(6))
    assert source.run_end(packets, 0, 7, 9000) == 2
    assert source.run_end(packets, 2, 7, 9000) == 2
    assert source.run_end(packets, 0, 8, 9000) == 0, "another SSRC"


def test_there_is_no_run_while_strangers_are_followed() -> None:
    source = begun(3)
    admit(source, packet(0, origin=OTHER))
    assert source.run_end(lot(packet(3)), 0, 7, 9000) == 0


def test_wraps_of_both_counters_are_extended() -> None:
    source = begun(10, base=(1 << 32) - 5 * 320, first=65_530)
    assert source.sequence == 65_539
    assert source.end == (1 << 32) + 5 * 320
    assert source.lost == 0


@pytest.mark.parametrize("frames", [1, 140, 180, 240, 360])
def test_any_packet_size_is_contiguous(frames: int) -> None:
    source = begun(50, frames=frames, length=4 * frames)
    assert (source.end, source.lost, len(source.holes)) == (50 * frames, 0, 1)


def test_first_packet_keeps_the_configured_width() -> None:
    assert begun(1).bytes_per_frame == 4
    assert begun(1).end == 320


# -- what is missing --


def test_loss_is_counted_and_remembered() -> None:
    source = begun(10)
    assert source.admit(packet(13)) is PLACE
    assert source.lost == 3
    hole = list(source.holes)[-1]
    assert (hole.first, hole.stop, hole.start, hole.end) == (10, 13, 3200, 4160)


def test_loss_of_the_packet_that_wraps_either_counter() -> None:
    source = begun(4, base=(1 << 32) - 5 * 320, first=65_531)
    assert source.admit(packet(6, base=(1 << 32) - 5 * 320, first=65_531)) is PLACE
    assert source.lost == 2 and source.sequence == 65_537 and source.end == (1 << 32) + 2 * 320


def test_late_one_fills_its_place_and_is_no_longer_lost() -> None:
    source = begun(10)
    assert admit(source, packet(13), packet(11), packet(12), packet(10)) == [PLACE, REORDERED, REORDERED, REORDERED]
    assert (source.lost, len(source.holes)) == (0, 1)
    assert (source.extended_sequence, source.extended_timestamp) == (10, 3200)
    assert source.run_end(lot(packet(14)), 0, 7, 9000) == 1


def test_swap_at_the_wraps() -> None:
    base = (1 << 32) - 5 * 320
    source = begun(5, base=base, first=65_531)
    assert source.admit(packet(6, base=base, first=65_531)) is PLACE
    assert source.admit(packet(5, base=base, first=65_531)) is REORDERED
    assert (source.extended_sequence, source.extended_timestamp) == (65_536, 1 << 32)


def test_packets_before_the_first_one_are_welcome() -> None:
    source = Source(16_000, 4)
    source.begin(1, packet(5))
    assert admit(source, packet(5), packet(6), packet(0), packet(4)) == [PLACE, PLACE, REORDERED, REORDERED]
    assert source.lost == 0


def test_packets_long_before_the_first_one_are_not() -> None:
    source = Source(16_000, 4)
    source.begin(1, packet(START_REORDER + 1))
    source.admit(packet(START_REORDER + 1))
    assert source.admit(packet(0)) in (HOLD, DUPLICATE)


def test_mute_is_no_loss() -> None:
    source = begun(10)
    after = Arrival(True, 10, 3200 + 3 * 16_000, 1280, HOME, 160 * BLOCK_NS)
    assert source.admit(after) is PLACE
    assert source.lost == 0 and source.end == 3200 + 3 * 16_000 + 320


def test_mute_whose_marked_packet_was_lost() -> None:
    source = begun(10)
    after = Arrival(False, 11, 3520 + 3 * 16_000, 1280, HOME, 161 * BLOCK_NS)
    assert source.admit(after) is PLACE
    assert source.lost == 1


def test_long_mute_with_one_loss_is_not_a_wrap_of_the_sequence() -> None:
    source = begun(10)
    mute = 15 * 60 * 16_000
    assert source.admit(Arrival(False, 11, 3520 + mute, 1280, HOME, (11 + 45_000) * BLOCK_NS)) is PLACE
    assert source.lost == 1


@pytest.mark.parametrize("lost", [32_766, 32_767, 32_768, 32_780, 40_000, 65_535, 65_536, 70_000, 200_000])
def test_outage_of_any_length_is_counted_in_full(lost: int) -> None:
    source = begun(10)
    assert source.admit(packet(10 + lost)) is PLACE
    assert source.lost == lost
    assert (source.sequence, source.end) == (10 + lost, (11 + lost) * 320)


def test_outage_of_f32_in_packets_of_two_sizes() -> None:
    source = Source(16_000, 8)
    source.begin(1, packet(0))
    at = 0
    for n in range(20):
        frames = 180 - 40 * (n % 2)
        assert source.admit(Arrival(False, n, at, 8 * frames, HOME, n * 10_000_000)) is PLACE
        at += frames
    lost = 70_000
    later = Arrival(False, (20 + lost) & 0xFFFF, at + lost * 160, 1440, HOME, (20 + lost) * 10_000_000)
    assert source.admit(later) is PLACE
    assert source.lost == lost


# -- copies --


def test_copies_of_recent_packets_are_known_at_once() -> None:
    source = begun(100)
    assert admit(source, packet(99, at=100), packet(98, at=100), packet(60, at=100)) == [DUPLICATE] * 3
    assert source.duplicates == 3 and not source.candidates.runs


def test_duplicate_of_a_reordered_packet() -> None:
    source = begun(10)
    assert admit(source, packet(11), packet(10), packet(10), packet(11)) == [PLACE, REORDERED, DUPLICATE, DUPLICATE]


def test_duplicate_after_loss_does_not_rewind() -> None:
    source = begun(2000)
    source.admit(packet(100, at=2000))
    assert source.admit(packet(2001)) is PLACE
    assert (source.lost, source.end, source.sequence) == (1, 2002 * 320, 2001)


def test_stale_copy_is_counted_once_the_stream_goes_on() -> None:
    source = begun(2000)
    assert source.admit(packet(100, at=2000)) is HOLD
    for n in range(2000, 2000 + REACH + 2):
        assert source.admit(packet(n)) is PLACE
    assert (source.duplicates, source.bad, source.candidates.runs) == (1, 0, [])


def test_burst_of_old_packets_after_a_silence_is_no_restart() -> None:
    source = begun(2000)
    verdicts = [source.admit(packet(n, at=5000 + n)) for n in range(100, 100 + CONFIRM_REPEAT - 1)]
    assert PROMOTE not in verdicts
    assert source.pending() is None
    assert source.admit(packet(2000)) is PLACE


def test_burst_of_the_timeline_before_is_no_restart() -> None:
    source = begun(2000)
    source.begin(2, packet(0, OTHER, base=1 << 30))
    for n in range(50):
        source.admit(packet(n, OTHER, base=1 << 30))
    verdicts = [source.admit(packet(n, at=5000 + n)) for n in range(100, 110)]
    assert verdicts == [HOLD] * 10
    assert source.pending() is None


# -- strangers --


def test_foreign_sender_between_the_packets_costs_nothing() -> None:
    source = begun(10)
    for n in range(10, 500):
        assert source.admit(packet(n)) is PLACE
        assert source.admit(packet(n, OTHER, base=77_000, first=999)) is HOLD
    assert source.admit(packet(500)) is PLACE
    assert source.bad == 490 and source.lost == 0


def test_foreign_sender_with_the_very_same_numbers() -> None:
    source = begun(10)
    assert [source.admit(packet(n, THIRD)) for n in range(10, 13)] == [HOLD] * 3
    assert source.admit(packet(10)) is PLACE
    assert source.end == 11 * 320


def test_foreign_sender_takes_over_when_the_known_one_is_mute() -> None:
    source = begun(10)
    verdicts = [source.admit(packet(n, OTHER, base=77_000)) for n in range(10, 10 + CONFIRM_ORIGIN)]
    assert verdicts == [HOLD] * (CONFIRM_ORIGIN - 1) + [PROMOTE]


def test_two_new_senders_at_once_do_not_keep_each_other_out() -> None:
    source = begun(10)
    for n in range(300, 308):
        first = source.admit(packet(n, OTHER, base=77_000))
        if first is PROMOTE:
            break
        source.admit(packet(n, THIRD, base=1 << 31, first=500))
    assert first is PROMOTE


def test_stray_before_a_restart_does_not_cost_its_first_packet() -> None:
    source = begun(10)
    source.admit(packet(4242, THIRD, at=400))
    assert admit(source, packet(0, OTHER, at=401), packet(1, OTHER, at=402)) == [HOLD, PROMOTE]
    run = next(run for run in source.candidates.runs if run.number == source.held_number)
    assert (run.first.sequence, run.packets) == (0, 2)


def test_copies_do_not_push_out_a_restart() -> None:
    source = begun(2000)
    for n in range(MAX_CANDIDATES):
        source.admit(packet(100 + 100 * n, at=3000))
    assert source.admit(packet(0, OTHER, base=1 << 31, at=3000)) is HOLD
    source.admit(packet(900, at=3000))
    assert source.admit(packet(1, OTHER, base=1 << 31, at=3001)) is PROMOTE
    run = next(run for run in source.candidates.runs if run.number == source.held_number)
    assert run.packets == 2


def test_one_odd_packet_of_the_known_sender_decides_nothing() -> None:
    source = begun(10)
    for odd in (
        Arrival(False, 30_010, 3300, 1280, HOME, 10 * BLOCK_NS),
        Arrival(False, 11, 1 << 31, 1280, HOME, 10 * BLOCK_NS),
        Arrival(False, 40_000, 5, 1280, HOME, 10 * BLOCK_NS),
        Arrival(False, 20_010, 3200 + 20_000 * 320, 1280, HOME, 10 * BLOCK_NS),
        Arrival(True, 10, 3200 + 600 * 16_000, 1280, HOME, 10 * BLOCK_NS),
    ):
        assert source.admit(odd) is HOLD
    assert source.admit(packet(10)) is PLACE
    assert source.lost == 0


@pytest.mark.parametrize("length", [0, 1, 2, 3, 1281, 1282, 1283])
def test_payload_that_is_no_whole_sample_is_bad(length: int) -> None:
    source = begun(10)
    assert source.admit(packet(10, length=length)) is BAD
    assert source.bad == 1
    assert source.admit(packet(11)) is PLACE
    assert source.lost == 1


# -- new timelines --


def test_first_packet_ever_is_a_timeline() -> None:
    source = Source(16_000, 4)
    assert source.admit(packet(7)) is PROMOTE
    assert source.reason(source.candidates.runs[0]) == "start"


def test_restart_from_another_port_with_the_same_numbers() -> None:
    source = begun(2000)
    verdicts = [source.admit(packet(n, OTHER, at=2300 + n, marker=n == 0)) for n in range(2)]
    assert verdicts == [HOLD, PROMOTE]
    assert source.reason(source.candidates.runs[0]) == "radiod_restart"


def test_restart_on_the_same_port_with_the_same_numbers_needs_a_second() -> None:
    source = begun(2000)
    verdicts = [source.admit(packet(n, at=2300 + n)) for n in range(CONFIRM_REPEAT)]
    assert verdicts == [HOLD] * (CONFIRM_REPEAT - 1) + [PROMOTE]
    assert source.candidates.runs[0].packets == CONFIRM_REPEAT


@pytest.mark.parametrize("base", [1 << 31, 5_000_000, (1 << 32) - 400_000])
def test_rate_change_goes_on_in_sequence_with_other_timestamps(base: int) -> None:
    source = begun(10)
    verdicts = [source.admit(packet(n, base=base)) for n in range(10, 10 + CONFIRM_JUMP)]
    assert verdicts == [HOLD] * (CONFIRM_JUMP - 1) + [PROMOTE]
    assert source.reason(source.candidates.runs[0]) == "timestamp_jump"


def test_last_packet_of_the_old_timeline_may_come_after_the_first_of_the_new() -> None:
    source = begun(10)
    new = [packet(n, base=1 << 31) for n in range(11, 16)]
    assert admit(source, new[0], new[1]) == [HOLD, HOLD]
    assert source.admit(packet(10)) is PLACE
    assert admit(source, *new[2:]) == [HOLD, HOLD, PROMOTE]
    assert source.candidates.runs[0].packets == 5


def test_reordered_and_repeated_packets_at_a_restart() -> None:
    source = begun(10)
    order = [1, 1, 0, 0, 2]
    verdicts = [source.admit(packet(n, OTHER, base=99, at=500)) for n in order]
    assert verdicts == [HOLD, DUPLICATE, HOLD, HOLD, PROMOTE]


def test_mute_shortly_after_a_restart_does_not_cost_its_first_packet() -> None:
    source = begun(10)
    late = Arrival(True, 1, 15_000, 1280, OTHER, 501 * BLOCK_NS)
    assert admit(source, packet(0, OTHER, at=500), late) == [HOLD, PROMOTE]


def test_old_epochs_numbers_do_not_count_in_the_new_one() -> None:
    source = begun(10)
    source.sealed = 3200
    source.begin(2, packet(0, OTHER, base=100, first=50))
    assert admit(source, packet(0, OTHER, base=100, first=50), packet(1, OTHER, base=100, first=50)) == [PLACE] * 2
    assert (source.epoch, source.sequence, source.end, source.lost) == (2, 51, 740, 0)


# -- widths --


def test_width_is_measured_where_packets_follow_each_other() -> None:
    source = begun(10)
    wide = [Arrival(False, 10, 3200, 1440, HOME, 0), Arrival(False, 11, 3380, 1120, HOME, 0)]
    assert admit(source, *wide) == [PLACE] * 2
    assert (source.bytes_per_frame, source.end, source.lost) == (8, 3520, 0)
    assert admit(source, packet(12, base=-320), packet(13, base=-320)) == [PLACE] * 2
    assert (source.bytes_per_frame, source.end) == (4, 4160)


def test_a_width_learned_from_a_stranger_moves_no_packet() -> None:
    """A forged packet far ahead makes samples look wider; the next one of the stream still goes where it says."""
    source = begun(10, length=960, frames=240)
    source.admit(Arrival(False, 1009, 9 * 240 + 130, 960, HOME, 0))
    source.give_up_held()
    found = packet(10, length=960, frames=240)
    assert source.run_end(lot(found), 0, 7, 9000) == 0
    assert source.admit(found) is PLACE and source.extended_timestamp == 2400


def test_first_wide_packet_followed_by_a_loss() -> None:
    source = begun(10)
    source.admit(Arrival(False, 10, 3200, 1440, HOME, 0))
    assert source.admit(Arrival(False, 12, 3520, 1440, HOME, 0)) is PLACE
    assert (source.bytes_per_frame, source.lost) == (8, 1)


def test_packet_right_behind_a_first_wide_one_may_come_late() -> None:
    source = begun(10)
    source.admit(Arrival(False, 10, 3200, 1440, HOME, 0))
    assert source.admit(Arrival(False, 13, 3700, 1120, HOME, 0)) is PLACE
    assert source.admit(Arrival(False, 11, 3380, 1120, HOME, 0)) is REORDERED


def test_wide_packet_may_come_after_the_change_to_narrow_ones() -> None:
    source = Source(16_000, 8)
    source.begin(1, packet(0))
    for n, at in ((0, 0), (1, 320), (3, 960), (4, 1280)):
        source.admit(Arrival(False, n, at, 2560 if n < 3 else 1280, HOME, 0))
    assert source.bytes_per_frame == 4
    assert source.admit(Arrival(False, 2, 640, 2560, HOME, 0)) is REORDERED


# -- sealed --


def test_packet_of_a_minute_that_was_cut_is_late_and_stays_lost() -> None:
    source = begun(10)
    source.admit(packet(12))
    source.sealed = 11 * 320
    assert admit(source, packet(10), packet(11)) == [LATE, REORDERED]
    assert source.lost == 1


def test_packet_over_the_seal_is_placed_and_stays_lost() -> None:
    source = begun(10)
    source.admit(packet(12))
    source.sealed = 11 * 320 - 1
    assert admit(source, packet(10)) == [REORDERED]
    assert source.lost == 2


def test_next_packets_after_a_silent_seal_are_late() -> None:
    source = begun(10)
    source.sealed = 12 * 320
    assert source.run_end(lot(packet(10)), 0, 7, 9000) == 0
    assert admit(source, packet(10), packet(11), packet(12)) == [LATE, LATE, PLACE]
    assert source.lost == 0


# -- a successor --


def test_successor_decides_as_its_predecessor_would() -> None:
    source = begun(100)
    for odd in (packet(105), packet(103), packet(7, at=200), packet(0, OTHER, base=99, at=201)):
        source.admit(odd)
    heir = Source(16_000, 4)
    heir.load_json(json.loads(json.dumps(source.to_json())))
    following = [packet(101), packet(103), packet(106), packet(102), packet(1, OTHER, base=99, at=500), packet(107)]
    assert admit(heir, *following) == admit(source, *following)
    assert heir.to_json() == source.to_json()
