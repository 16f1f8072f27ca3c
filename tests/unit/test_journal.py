"""The ring of records and the heap of payloads: nothing that is needed is overwritten, nothing is half there."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pipeline.stream.journal import (
    MAX_DATAGRAM,
    PAGE,
    W_COUNT,
    W_FIRST,
    Geometry,
    Journal,
    JournalFull,
    Kind,
    Row,
    geometry,
)

SMALL = Geometry(records=256, heap=4 * MAX_DATAGRAM)


def row(number: int, length: int, kind: Kind = Kind.DATA, epoch: int = 1) -> Row:
    return Row(number * 320, number, number, epoch, length, 0x7F000001, 40_000, 0, kind)


def put(journal: Journal, number: int, payload: bytes, kind: Kind = Kind.DATA) -> None:
    at = journal.room(len(payload))
    journal.heap[at : at + len(payload)] = payload
    journal.append(row(number, len(payload), kind))


@pytest.fixture
def journal() -> Journal:
    return Journal.format(memoryview(bytearray(SMALL.size)), SMALL, 7)


def payloads(journal: Journal) -> list[bytes]:
    rows = journal.records(journal.first)
    return [bytes(journal.payload(int(r["position"]), int(r["length"]))) for r in rows if r["kind"] == Kind.DATA]


def test_appended_records_are_read_back_in_order(journal: Journal) -> None:
    for n in range(5):
        put(journal, n, bytes([n]) * (n + 1))
    assert journal.records(0)["sequence"].tolist() == [0, 1, 2, 3, 4]
    assert payloads(journal) == [bytes([n]) * (n + 1) for n in range(5)]
    assert journal.records(2, 4)["sequence"].tolist() == [2, 3]


def test_payloads_that_follow_one_another_lie_one_behind_the_other(journal: Journal) -> None:
    put(journal, 0, b"abcd")
    put(journal, 1, b"efgh")
    assert bytes(journal.payload(int(journal.records(0)[0]["position"]), 8)) == b"abcdefgh"


def test_attach_finds_everything_that_was_committed(journal: Journal) -> None:
    put(journal, 0, b"abcd")
    put(journal, 1, b"efgh")
    found = Journal.attach(journal.buffer, 7)
    assert found is not None
    assert (found.count, found.first, found.position) == (2, 0, 8)
    assert payloads(found) == [b"abcd", b"efgh"]


def test_attach_refuses_another_channel_and_another_thing(journal: Journal) -> None:
    assert Journal.attach(journal.buffer, 8) is None
    assert Journal.attach(memoryview(bytearray(SMALL.size)), 7) is None
    assert Journal.attach(journal.buffer[: SMALL.size - 1], 7) is None
    assert Journal.attach(memoryview(b"short"), 7) is None


def test_uncommitted_payload_does_not_exist_for_a_successor(journal: Journal) -> None:
    put(journal, 0, b"abcd")
    at = journal.room()
    journal.heap[at : at + 4] = b"torn"
    found = Journal.attach(journal.buffer, 7)
    assert found is not None and payloads(found) == [b"abcd"]


def test_record_before_its_count_does_not_exist_for_a_successor(journal: Journal) -> None:
    put(journal, 0, b"abcd")
    put(journal, 1, b"efgh")
    journal.buffer[:4096].cast("Q")[W_COUNT] = 1
    found = Journal.attach(journal.buffer, 7)
    assert found is not None and payloads(found) == [b"abcd"] and found.position == 4


def test_full_ring_of_records_says_so_and_goes_on_after_release(journal: Journal) -> None:
    with pytest.raises(JournalFull):
        for n in range(SMALL.records):
            put(journal, n, b"abcd")
    held = journal.count
    journal.release(held - 1)
    put(journal, held, b"last")
    assert payloads(journal) == [b"abcd", b"last"]


def test_full_heap_says_so_and_overwrites_nothing(journal: Journal) -> None:
    filler = bytes(range(256)) * 128
    with pytest.raises(JournalFull):
        for n in range(60):
            put(journal, n, filler)
            journal.room()
    assert set(payloads(journal)) == {filler}


def test_payload_never_crosses_the_heaps_end(journal: Journal) -> None:
    rng = random.Random(1)
    for n in range(400):
        size = rng.randrange(1, 30_000)
        put(journal, n, bytes([n % 251]) * size)
        if n % 3 == 2:
            journal.release(journal.count - 2)
        rows = journal.records(journal.first)
        at = rows["position"] % SMALL.heap
        assert (at + rows["length"] <= SMALL.heap).all()
    assert payloads(journal)[-1] == bytes([399 % 251]) * len(payloads(journal)[-1])


def test_records_are_whole_when_they_wrap_in_the_ring(journal: Journal) -> None:
    for n in range(5 * SMALL.records):
        put(journal, n, bytes([n % 256]))
        journal.release(max(0, journal.count - 50))
    last = range(5 * SMALL.records - 50, 5 * SMALL.records)
    assert journal.records(journal.first)["sequence"].tolist() == list(last)
    assert payloads(journal) == [bytes([n % 256]) for n in last]
    found = Journal.attach(journal.buffer, 7)
    assert found is not None and payloads(found) == payloads(journal) and found.position == journal.position


def test_release_gives_back_whole_pages_once_each(journal: Journal) -> None:
    given = np.zeros(SMALL.heap // PAGE, int)
    rng = random.Random(2)
    for n in range(300):
        put(journal, n, bytes(rng.randrange(1, 5_000)))
        if n % 7 == 6:
            before = {int(p) // PAGE % len(given) for p in journal.records(journal.count - 3)["position"]}
            for offset, length in journal.release(journal.count - 3):
                assert offset % PAGE == 0 and length % PAGE == 0
                assert SMALL.heap_offset <= offset and offset + length <= SMALL.size
                pages = range((offset - SMALL.heap_offset) // PAGE, (offset - SMALL.heap_offset + length) // PAGE)
                assert not before & set(pages), "a page that is needed was given back"
                given[list(pages)] += 1
    turns = journal.position / SMALL.heap
    assert given.min() >= int(turns) - 1 and given.max() <= int(turns) + 1


def test_release_keeps_what_moved_records_point_to(journal: Journal) -> None:
    put(journal, 0, b"held", Kind.HELD)
    for n in range(1, 10):
        put(journal, n, bytes(PAGE))
    journal.append_moved([(0, row(0, 4))])
    assert journal.release(9) == ()
    assert payloads(journal)[-1] == b"held"
    with pytest.raises(JournalFull):
        for n in range(10, 60):
            put(journal, n, bytes(20_000))
    assert bytes(journal.payload(0, 4)) == b"held"


def test_release_is_idempotent_and_never_goes_back(journal: Journal) -> None:
    for n in range(10):
        put(journal, n, bytes(PAGE))
    assert journal.release(5) == ((SMALL.heap_offset, 5 * PAGE),)
    assert journal.release(5) == () and journal.release(2) == ()
    assert journal.first == 5
    journal.release(10_000)
    assert journal.first == journal.count == 10
    found = Journal.attach(journal.buffer, 7)
    assert found is not None and found.position == journal.position


def test_moved_records_are_committed_together_or_not_at_all(journal: Journal) -> None:
    rows = [(0, row(n, 4)) for n in range(SMALL.records)]
    with pytest.raises(JournalFull):
        journal.append_moved([*rows, *rows])
    assert journal.count == 0
    journal.append_moved(rows)
    assert journal.count == SMALL.records and len(journal.records(0)) == SMALL.records
    assert not journal.room_for(1)


def test_notes_of_one_kind_share_a_record_until_somebody_has_counted_them(journal: Journal) -> None:
    journal.note(Kind.BAD, 1, 1)
    journal.note(Kind.BAD, 2, 1, 3)
    journal.note(Kind.DUPLICATE, 3, 1)
    assert journal.records(0)["length"].tolist() == [4, 1]
    journal.keep_notes()
    journal.note(Kind.DUPLICATE, 4, 1)
    assert journal.records(0)["length"].tolist() == [4, 1, 1]


def test_notes_take_no_heap_and_never_the_last_records(journal: Journal) -> None:
    for n in range(800):
        journal.note(Kind.BAD if n % 2 else Kind.DUPLICATE, n, 1)
    assert journal.position == 0
    assert journal.count < SMALL.records
    journal.append(row(1, 0))


def test_release_and_first_survive_in_the_header(journal: Journal) -> None:
    for n in range(4):
        put(journal, n, b"abcd")
    journal.release(3)
    assert journal.buffer[:4096].cast("Q")[W_FIRST] == 3


def test_clean_is_kept_for_a_successor(journal: Journal) -> None:
    assert not journal.clean
    journal.clean = True
    found = Journal.attach(journal.buffer, 7)
    assert found is not None and found.clean


def test_a_run_is_appended_as_its_packets_would_be_and_wraps_in_the_index(journal: Journal) -> None:
    for n in range(SMALL.records - 3):
        put(journal, n, b"abcd")
    journal.release(SMALL.records - 4)
    at, before = journal.room(32, 7), journal.position
    journal.append_run([row(n, length) for n, length in enumerate([4, 8, 4, 4, 4, 4, 4])])
    found = journal.records(journal.count - 7)
    assert found["sequence"].tolist() == list(range(7))
    assert found["position"].tolist() == [before + n for n in (0, 4, 12, 16, 20, 24, 28)]
    assert journal.position == before + 32 and at == before % SMALL.heap
    again = Journal.attach(journal.buffer, 7)
    assert again is not None and (again.count, again.position) == (journal.count, journal.position)


def test_no_room_for_a_run_is_said_before_anything_is_written(journal: Journal) -> None:
    for n in range(SMALL.records - 4):
        put(journal, n, b"abcd")
    journal.room(4, 3)
    with pytest.raises(JournalFull):
        journal.room(4, 4)


def test_geometry_holds_its_minutes_of_the_widest_encoding_in_radiods_packets() -> None:
    shape = geometry(16_000, 10)
    assert shape.heap >= 10 * 60 * 16_000 * 8
    assert shape.records >= 10 * 60 * 100
    assert shape.index_offset % PAGE == shape.heap_offset % PAGE == shape.heap % PAGE == 0
    assert shape.size == shape.heap_offset + shape.heap


def test_used_fraction_counts_the_scarcer_of_the_two(journal: Journal) -> None:
    put(journal, 0, bytes(MAX_DATAGRAM))
    assert journal.used_fraction() == pytest.approx(0.25)
    for _ in range(127):
        journal.append(row(1, 0))
    assert journal.used_fraction() == pytest.approx(0.5)
