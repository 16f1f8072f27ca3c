"""One minute cut from records: each sample at its index, each gap exact, with its cause and its lost packets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import AnchorSource
from pipeline.stream.encodings import encodings_of, in_order, uncut
from pipeline.stream.journal import FLAG_LATE, FLAG_REORDERED, FLAG_UNTIMED, RECORD_DTYPE, Kind
from pipeline.stream.minute import Gap, Minute, Piece, cut, extra_runs, lost_between
from pipeline.stream.samples import Samples
from pipeline.stream.timeline import SECOND, Anchor, Epoch
from streams import T0, counter_iq, counter_payload

RATE = 1_000
SAMPLES = 60 * RATE
FIRST = 5_000_000


class Heap:
    """Payloads one behind the other, and their records; frame 0 has timestamp FIRST."""

    def __init__(self, epoch: int = 1) -> None:
        self.data = bytearray()
        self.rows: list[tuple[Any, ...]] = []
        self.epoch = epoch

    def put(self, sequence: int, frame: int, frames: int, payload: bytes | None = None, flags: int = 0) -> None:
        payload = counter_payload(frame, frames) if payload is None else payload
        at = FIRST + frame
        self.rows.append(
            (len(self.data), at, sequence, 1000 + len(self.rows), self.epoch, len(payload), 0, 0, flags, Kind.DATA)
        )
        self.data += payload

    def records(self) -> Any:
        return np.array(self.rows, RECORD_DTYPE)

    def payload(self, position: int, length: int) -> memoryview:
        return memoryview(self.data)[position : position + length]


def epoch(number: int = 1, reason: str = "start", cut_at: int = -(1 << 62)) -> Epoch:
    return Epoch(number, reason, FIRST, T0, RATE, cut=cut_at)


def anchor(frame: int, utc_ns: int = T0) -> Anchor:
    return Anchor(FIRST + frame, utc_ns, RATE, AnchorSource.RADIOD, 1_000_000, T0)


def piece(heap: Heap, frame_at_minute: int = 0, of: Epoch | None = None) -> Piece:
    """The heap's records with index 0 at a frame."""
    of = of or epoch(heap.epoch)
    rest = uncut(heap.records(), of, "S16BE")
    return Piece(of, anchor(frame_at_minute), FIRST + frame_at_minute, rest.records, rest.encodings, rest.names)


def cut_one(heap: Heap, frame_at_minute: int = 0, of: Epoch | None = None, tail: str = "unknown") -> Minute:
    return cut(T0, RATE, [piece(heap, frame_at_minute, of)], heap.payload, 1 << 30, tail)


def samples(minute: Minute) -> np.ndarray[Any, Any]:
    return np.asarray(Samples(minute.runs, minute.samples))


def full(packets: int = 121, size: int = 500, without: tuple[int, ...] = ()) -> Heap:
    heap = Heap()
    for n in range(packets):
        if n not in without:
            heap.put(n, n * size, size)
    return heap


def test_whole_minute_is_one_run() -> None:
    minute = cut_one(full())
    assert np.array_equal(samples(minute), counter_iq(0, SAMPLES))
    assert (minute.gaps, len(minute.runs), minute.packets_received, minute.packets_lost) == ([], 1, 120, 0)
    assert [(s.index, s.samples, s.timestamp, s.utc_ns) for s in minute.segments] == [(0, SAMPLES, FIRST, T0)]


def test_packets_over_both_edges_are_split() -> None:
    minute = cut_one(full(130), frame_at_minute=777)
    assert np.array_equal(samples(minute), counter_iq(777, SAMPLES))
    assert minute.gaps == [] and minute.packets_received == 120


def test_packets_are_placed_in_whatever_order_they_came() -> None:
    heap = Heap()
    for n in (3, 0, 1, 4, 2, *range(119, 4, -1)):
        heap.put(n, n * 500, 500, flags=FLAG_REORDERED if n == 2 else 0)
    minute = cut_one(heap)
    assert np.array_equal(samples(minute), counter_iq(0, SAMPLES))
    assert minute.gaps == [] and minute.packets_reordered == 1


def test_lost_packets_are_zero_and_listed() -> None:
    minute = cut_one(full(without=(7, 8, 50)))
    expected = counter_iq(0, SAMPLES)
    expected[3500:4500] = expected[25_000:25_500] = 0
    assert np.array_equal(samples(minute), expected)
    assert minute.gaps == [
        Gap(3500, 1000, FIRST + 3500, 2, "network"),
        Gap(25_000, 500, FIRST + 25_000, 1, "network"),
    ]


def test_mute_is_contiguous_in_sequence() -> None:
    heap = Heap()
    for n in range(100):
        heap.put(n, n * 500 + (10_000 if n >= 40 else 0), 500)
    assert cut_one(heap).gaps == [Gap(20_000, 10_000, FIRST + 20_000, 0, "mute")]


def test_head_of_the_first_minute_has_the_cause_start() -> None:
    minute = cut_one(full(), frame_at_minute=-25_000)
    assert minute.gaps[0] == Gap(0, 25_000, FIRST - 25_000, 0, "start")
    assert minute.segments[0].utc_ns == T0 + 25 * SECOND


@pytest.mark.parametrize(("reason", "cause"), [("radiod_restart", "restart"), ("timestamp_jump", "epoch")])
def test_head_before_a_later_epoch_says_why(reason: str, cause: str) -> None:
    minute = cut_one(full(), -1000, epoch(reason=reason))
    assert minute.gaps[0] == Gap(0, 1000, FIRST - 1000, 0, cause)


def test_tail_with_nothing_after_it_has_the_callers_cause() -> None:
    assert cut_one(full(100), tail="stop").gaps == [Gap(50_000, 10_000, FIRST + 50_000, 0, "stop")]


def test_loss_over_the_boundary_is_shared_without_counting_twice() -> None:
    heap = full(240, without=tuple(range(110, 131)))
    first = cut_one(heap)
    assert first.gaps == [Gap(55_000, 5_000, FIRST + 55_000, 10, "network")]
    of = epoch(cut_at=FIRST + SAMPLES)
    of.previous_sequence, of.previous_end = 109, FIRST + 55_000
    second = cut_one(heap, SAMPLES, of)
    assert second.gaps == [Gap(0, 5_500, FIRST + SAMPLES, 11, "network")]


def test_mute_over_the_boundary_is_a_mute_on_both_sides() -> None:
    heap = Heap()
    for n in range(240):
        heap.put(n, n * 500 + (10_000 if n >= 110 else 0), 500)
    of = epoch(cut_at=FIRST + SAMPLES)
    of.previous_sequence, of.previous_end = 109, FIRST + 55_000
    assert cut_one(heap).gaps == [Gap(55_000, 5_000, FIRST + 55_000, 0, "mute")]
    assert cut_one(heap, SAMPLES, of).gaps == [Gap(0, 5_000, FIRST + SAMPLES, 0, "mute")]


def test_what_the_file_before_holds_by_another_label_is_not_a_mute() -> None:
    of = epoch(cut_at=FIRST)
    of.previous_sequence, of.previous_end = -1, FIRST
    minute = cut_one(full(), -20_000, of)
    assert minute.gaps == [Gap(0, 20_000, FIRST - 20_000, 0, "unknown")]


def test_zero_blocks_are_listed_beside_the_other_gaps() -> None:
    heap = Heap()
    for n in range(120):
        if n != 30:
            heap.put(n, n * 500, 500, bytes(2000) if n in (10, 11, 31) else None)
    gaps = cut_one(heap).gaps
    assert [(g.index, g.samples, g.cause) for g in gaps] == [
        (5000, 1000, "zero_block"),
        (15_000, 500, "network"),
        (15_500, 500, "zero_block"),
    ]


def test_packet_with_half_a_sample_does_not_shift_the_next() -> None:
    heap = full(120, without=(5,))
    heap.put(5, 2500, 500, counter_payload(2500, 500) + b"\x7f\x7f")
    heap.rows.sort(key=lambda row: row[2])
    ordered = Heap()
    for row in heap.rows:
        ordered.put(row[2], row[1] - FIRST, 500, bytes(heap.data[row[0] : row[0] + row[5]]))
    assert np.array_equal(samples(cut_one(ordered)), counter_iq(0, SAMPLES))


def test_run_ends_where_the_heap_wraps() -> None:
    heap = full()
    single = piece(heap)
    minute = cut(T0, RATE, [single], heap.payload, 2000 * 40, "unknown")
    assert [run.index for run in minute.runs] == [0, 20_000, 40_000]


def test_late_records_are_in_no_file() -> None:
    heap = full(without=(5,))
    heap.put(5, 2500, 500, flags=FLAG_LATE)
    minute = cut_one(heap)
    assert minute.gaps == [Gap(2500, 500, FIRST + 2500, 1, "network")]
    assert minute.packets_received == 119


def test_newest_arrival_of_the_minute_is_its_evidence() -> None:
    minute = cut_one(full(130))
    assert (minute.last_arrival_ns, minute.last_timestamp) == (1000 + 119, FIRST + SAMPLES)
    assert minute.samples_per_packet == 500


def test_stamp_of_while_the_clock_was_set_is_no_evidence() -> None:
    heap = full(20)
    heap.put(20, 10_000, 500, flags=FLAG_UNTIMED)
    minute = cut_one(heap)
    assert (minute.last_arrival_ns, minute.last_timestamp) == (1000 + 19, FIRST + 10_000)
    assert minute.packets_received == 21


# -- several timelines --


def two(gap: int) -> tuple[Heap, list[Piece]]:
    """Two epochs of 20 000 frames; the second begins `gap` samples after the first ended."""
    heap = Heap()
    for n in range(40):
        heap.put(n, n * 500, 500)
    heap.epoch = 2
    for n in range(40):
        heap.put(n, 700_000 + n * 500, 500)
    other = epoch(2, "radiod_restart")
    return heap, [piece(heap, 0, epoch(1)), piece(heap, 700_000 - 20_000 - gap, other)]


def test_gap_between_timelines_has_its_cause() -> None:
    heap, pieces = two(5_000)
    minute = cut(T0, RATE, pieces, heap.payload, 1 << 30, "stop")
    assert minute.gaps == [
        Gap(20_000, 5_000, FIRST + 20_000, 0, "restart"),
        Gap(45_000, 15_000, FIRST + 675_000 + 45_000, 0, "stop"),
    ]
    assert [(s.epoch_id, s.index, s.samples, s.timestamp) for s in minute.segments] == [
        (1, 0, 20_000, FIRST),
        (2, 25_000, 20_000, FIRST + 700_000),
    ]
    iq = samples(minute)
    assert np.array_equal(iq[:20_000], counter_iq(0, 20_000))
    assert np.array_equal(iq[25_000:45_000], counter_iq(700_000, 20_000))
    assert minute.epoch_id == 1 and minute.packets_received == 80


def test_timelines_that_meet_leave_no_gap() -> None:
    heap, pieces = two(0)
    assert cut(T0, RATE, pieces, heap.payload, 1 << 30, "stop").gaps[0].cause == "stop"


def test_timelines_that_overlap_never_make_gaps_that_do() -> None:
    for overlap in (1, 700, 19_999, 20_000, 20_001):
        heap, pieces = two(-overlap)
        minute = cut(T0, RATE, pieces, heap.payload, 1 << 30, "stop")
        listed = np.zeros(SAMPLES, int)
        for gap in minute.gaps:
            listed[gap.index : gap.index + gap.samples] += 1
        assert listed.max() == 1
        assert not samples(minute)[listed == 1].any()
        assert samples(minute)[listed == 0].all()


# -- between the files --


def test_extra_runs_begin_where_the_file_ends() -> None:
    heap = full(130)
    runs = extra_runs(piece(heap), SAMPLES + 777, SAMPLES, heap.payload, 1 << 30)
    assert np.array_equal(Samples(runs, 777), counter_iq(SAMPLES, 777))


@given(st.integers(0, 500), st.integers(1, 5000), st.lists(st.integers(-100, 6000), min_size=1, max_size=6))
def test_shares_of_a_loss_add_up(lost: int, length: int, cuts: list[int]) -> None:
    edges = [0, *sorted(min(length, max(0, at)) for at in cuts), length]
    parts = [lost_between(lost, 0, length, a, b) for a, b in zip(edges, edges[1:], strict=False)]
    assert sum(parts) == lost and min(parts) >= 0


# -- which records, and how they are encoded --


def test_records_are_sorted_and_copies_left_out() -> None:
    heap = Heap()
    for frame, frames in ((1000, 500), (0, 500), (1000, 1), (500, 500), (0, 500)):
        heap.put(frame // 500, frame, frames)
    assert in_order(heap.records()).tolist() == [1, 3, 0]


def test_zero_length_forgery_does_not_displace_a_packet() -> None:
    heap = Heap()
    heap.put(0, 0, 1, counter_payload(0, 1))
    heap.put(1, 1, 0, b"")
    heap.put(2, 1, 500)
    assert in_order(heap.records()).tolist() == [0, 2]


def test_uncut_begins_at_the_cut_in_samples_not_in_bytes() -> None:
    heap = full(10)
    rest = uncut(heap.records(), epoch(cut_at=FIRST + 2500), "S16BE")
    assert rest.numbers.tolist() == [5, 6, 7, 8, 9]
    rest = uncut(heap.records(), epoch(cut_at=FIRST + 2499), "S16BE")
    assert rest.numbers.tolist() == [4, 5, 6, 7, 8, 9]
    assert not len(uncut(heap.records(), epoch(2), "S16BE").records)


def mixed(*parts: tuple[int, int]) -> Any:
    """Records of 500 frames, (how many, bytes per frame) of each width, contiguous."""
    heap, n = Heap(), 0
    for count, width in parts:
        for _ in range(count):
            heap.put(n, n * 500, 500, bytes(500 * width))
            n += 1
    return heap.records()


def test_encoding_is_what_the_status_says_where_nothing_changes() -> None:
    rows, names = encodings_of(mixed((5, 8)), [(FIRST + 1000, "F32LE")], "S16BE")
    assert [names[row] for row in rows] == ["F32LE"] * 5
    rows, names = encodings_of(mixed((5, 4)), [], "S16LE")
    assert [names[row] for row in rows] == ["S16LE"] * 5


def test_packets_before_the_status_of_a_change_tell_by_their_size() -> None:
    formats = [(FIRST, "S16BE"), (FIRST + 7000, "F32LE"), (FIRST + 15_000, "S16BE")]
    rows, names = encodings_of(mixed((10, 4), (10, 8), (10, 4)), formats, "S16BE")
    assert [names[row] for row in rows] == ["S16BE"] * 10 + ["F32LE"] * 10 + ["S16BE"] * 10


def test_packet_before_a_hole_at_a_change_is_like_its_kind() -> None:
    records = mixed((10, 4), (10, 8))
    formats = [(FIRST, "S16BE"), (FIRST + 9000, "F32LE")]
    for missing in range(8, 14):
        rows, names = encodings_of(np.delete(records, missing), formats, "S16BE")
        kinds = ["S16BE"] * 10 + ["F32LE"] * 10
        del kinds[missing]
        assert [names[row] for row in rows] == kinds
