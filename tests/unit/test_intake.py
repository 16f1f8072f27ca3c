"""What comes in: where packets and statuses go, what is counted, and what a flood may cost."""

from __future__ import annotations

import pytest

from pipeline.stream.announcements import PENDING_STATUSES
from pipeline.stream.candidates import Origin
from pipeline.stream.intake import HELD_SHARE
from pipeline.stream.journal import FLAG_LATE, FLAG_REORDERED, Geometry, JournalFull, Kind
from pipeline.stream.source import CONFIRM_JUMP
from pipeline.stream.timeline import SECOND
from streams import ORIGIN, SSRC, T0, FakeStatus, Recording, Sent, counter_payload

OTHER: Origin = ("127.0.0.1", 40_001)
BLOCK_NS = 20_000_000


def kinds(to: Recording) -> list[str]:
    return [Kind(kind).name for kind in to.journal.records(0)["kind"]]


def total(to: Recording) -> int:
    """Packets that are accounted for."""
    intake = to.intake
    held = sum(run.packets for run in intake.source.candidates.runs)
    return intake.received + sum(intake.rejected) + held


def test_first_packet_begins_epoch_one() -> None:
    to, stream = Recording(), Sent(T0)
    stream.send(to, 0)
    assert kinds(to) == ["HELD", "EPOCH", "DATA"]
    assert to.intake.epoch is not None
    assert (to.intake.epoch.id, to.intake.epoch.reason) == (1, "start")
    assert (to.intake.received, to.intake.next_epoch) == (1, 2)


def test_placed_packets_are_records_with_extended_numbers() -> None:
    to, stream = Recording(), Sent(T0, first_sequence=65_534)
    for n in range(4):
        stream.send(to, n)
    rows = to.journal.records(0)
    rows = rows[rows["kind"] == Kind.DATA]
    assert rows["sequence"].tolist() == [65_534, 65_535, 65_536, 65_537]
    assert rows["timestamp"].tolist() == [(1 << 32) + 320 * n for n in range(-1, 3)]
    assert rows["port"].tolist() == [40_000] * 4 and hex(rows["address"][0]) == "0x7f000001"


def test_reordered_and_duplicate_packets_are_counted_and_noted() -> None:
    to, stream = Recording(), Sent(T0)
    for n in (0, 1, 3, 2, 2, 3, 4):
        stream.send(to, n)
    assert kinds(to) == ["HELD", "EPOCH", "DATA", "DATA", "DATA", "DATA", "DUPLICATE", "DATA"]
    assert (to.intake.received, to.intake.reordered, to.intake.source.duplicates) == (5, 1, 2)
    assert to.journal.records(0)["flags"][5] & FLAG_REORDERED
    assert to.journal.records(0)["length"][6] == 2


def test_each_rejected_packet_is_noted_once() -> None:
    to, stream = Recording(), Sent(T0)
    for n in range(30):
        stream.send(to, n)
        if n % 3 == 0:
            to.packet(500 + n, 12_345_678, bytes(1280), stream.time_ns(320 * n), OTHER)
        if n % 3 == 1:
            to.packet(n, n * 320, bytes(1279), stream.time_ns(320 * n))
        if n % 3 == 2:
            to.intake.bad(stream.time_ns(320 * n))
    stream.send(to, 30)
    rows = to.journal.records(0)
    noted = int(rows["length"][rows["kind"] == Kind.BAD].sum())
    assert noted == to.intake.source.bad == 30
    assert total(to) == 61


def test_late_packet_keeps_its_record_but_not_its_place() -> None:
    to, stream = Recording(), Sent(T0)
    for n in range(70 * 50):
        if n != 100:
            stream.send(to, n)
    to.advance()
    assert len(to.minutes) == 1
    stream.send(to, 100, delay_ns=69 * SECOND)
    assert to.intake.late == 1
    assert to.journal.records(to.journal.count - 1)["flags"][0] & FLAG_LATE
    assert total(to) == 3500


# -- new timelines --


def test_all_packets_of_a_held_run_are_in_the_new_epoch() -> None:
    to, stream = Recording(), Sent(T0)
    for n in range(10):
        stream.send(to, n)
    restarted = Sent(T0 + 6 * SECOND, first_rtp=1 << 31, first_sequence=7)
    for n in (1, 0, 2, 3):
        restarted.send(to, n, origin=OTHER)
    rows = to.journal.records(0)
    new = rows[(rows["kind"] == Kind.DATA) & (rows["epoch"] == 2)]
    assert sorted(new["sequence"].tolist()) == [7, 8, 9, 10]
    assert total(to) == 14 and to.intake.source.bad == 0


def test_payloads_of_promoted_packets_are_theirs() -> None:
    to = Recording()
    Sent(T0).send(to, 0)
    for n in range(5):
        payload = counter_payload(1000 * n, 320)
        to.packet(50 + n, (1 << 30) + 320 * n, payload, T0 + 5 * SECOND + n * BLOCK_NS, OTHER)
    rows = to.journal.records(0)
    new = rows[(rows["kind"] == Kind.DATA) & (rows["epoch"] == 2)]
    for n, row in enumerate(new):
        assert bytes(to.journal.payload(int(row["position"]), int(row["length"]))) == counter_payload(1000 * n, 320)


def test_jump_of_the_same_sender_is_an_epoch_after_three() -> None:
    to, stream = Recording(), Sent(T0)
    for n in range(10):
        stream.send(to, n)
    jumped = Sent(T0, first_rtp=1 << 31)
    for n in range(10, 10 + CONFIRM_JUMP):
        assert len(to.intake.epochs) == 1
        jumped.send(to, n)
    assert to.intake.epochs[-1].reason == "timestamp_jump"


def test_end_of_the_stream_confirms_a_run_of_two() -> None:
    to = Recording()
    for n in range(10):
        Sent(T0).send(to, n)
    for n in (10, 11):
        Sent(T0, first_rtp=1 << 31).send(to, n)
    to.intake.flush_held()
    assert len(to.intake.epochs) == 2 and total(to) == 12


def test_no_room_for_a_promotion_only_puts_it_off() -> None:
    shape = Geometry(records=4096 // 16, heap=1 << 22)
    to = Recording(shape=shape)
    stream = Sent(T0)
    n = 0
    while to.journal.room_for(4):
        stream.send(to, n)
        n += 1
    restarted = Sent(T0 + 60 * SECOND, first_rtp=1 << 31)
    with pytest.raises(JournalFull):
        for k in range(20):
            restarted.send(to, k, origin=OTHER)
    assert len(to.intake.epochs) == 1
    to.finish()
    assert len(to.minutes) == 1
    k = to.intake.source.candidates.runs[0].packets
    restarted.send(to, k, origin=OTHER)
    assert len(to.intake.epochs) == 2 and total(to) == n + k + 1


# -- floods --


def small(minutes: float = 0.5) -> Recording:
    return Recording(shape=Geometry(records=4096, heap=round(minutes * 60 * 64_000) // 4096 * 4096))


def test_flood_of_strangers_may_fill_its_share_only() -> None:
    to, stream = small(), Sent(T0)
    for n in range(50):
        stream.send(to, n)
        for k in range(40):
            stranger = (f"10.0.0.{k}", 5)
            to.packet(n * 977 + k * 31, n * 7_777_777 + k * 99_999_999, bytes(1400), stream.time_ns(n * 320), stranger)
    heap = to.journal.shape.heap
    assert to.journal.used_fraction() < 1 / HELD_SHARE + 50 * 1280 / heap + 0.01
    assert to.intake.received == 50 and total(to) == 50 * 41


def test_flood_after_the_stream_ended_does_not_keep_a_restart_out() -> None:
    to, stream = small(), Sent(T0)
    for n in range(50):
        stream.send(to, n)
    to.advance(silent_ns=70 * SECOND)
    for k in range(5000):
        at = T0 + 80 * SECOND + k
        to.packet(k * 977, k * 99_999_999, bytes(1400), at, (f"10.0.{k % 200}.1", 5))
        to.advance()
    restarted = Sent(T0 + 90 * SECOND)
    for n in range(200):
        restarted.send(to, n, origin=OTHER)
        to.advance()
    assert to.intake.received == 250
    assert to.intake.epochs[-1].reason == "radiod_restart"


def test_statuses_of_a_mute_channel_do_not_fill_the_journal() -> None:
    to, stream = small(), Sent(T0)
    for n in range(50):
        stream.send(to, n)
    to.advance(silent_ns=70 * SECOND)
    for k in range(10_000):
        at = T0 + SECOND + k * SECOND // 2
        to.status(FakeStatus(at, k * 8000 & 0xFFFFFFFF, 16_000, "S16BE"), at)
        to.advance(silent_ns=70 * SECOND)
    awake = T0 + 5_001 * SECOND
    to.packet(50, 320 * 49 + 5_000 * 16_000, bytes(1280), awake, marker=True)
    assert to.intake.received == 51
    assert to.journal.used_fraction() < 0.6


# -- statuses --


def status(stream: Sent, n: int, **facts: object) -> FakeStatus:
    plain = {"sample_rate_hz": 16_000, "encoding": "S16BE", **facts}
    return FakeStatus(stream.time_ns(n * 320), (stream.first_rtp + n * 320) & 0xFFFFFFFF, **plain)  # type: ignore[arg-type]


def test_status_belongs_to_the_packets_around_it() -> None:
    to, stream = Recording(), Sent(T0)
    for n in range(10):
        stream.send(to, n)
    assert to.status(status(stream, 10), stream.time_ns(3200))
    epoch = to.intake.epochs[0]
    assert (
        len(epoch.evidence.pairs.rows) == 1
        and epoch.rate_known
        and epoch.formats == [((1 << 32) - 320 + 3200, "S16BE")]
    )


def test_status_of_another_channel_leaves_no_trace() -> None:
    to, stream = Recording(), Sent(T0)
    stream.send(to, 0)
    count = to.journal.count
    assert not to.status(status(stream, 1, ssrc=SSRC + 1), T0)
    assert to.journal.count == count and not to.intake.announcements.pending


def test_status_before_the_first_packet_waits_for_it() -> None:
    to, stream = Recording(), Sent(T0)
    to.status(status(stream, 0), T0 - 1000)
    assert len(to.intake.announcements.pending) == 1
    stream.send(to, 0)
    assert not to.intake.announcements.pending and len(to.intake.epochs[0].evidence.pairs.rows) == 1


def test_status_of_a_new_timeline_is_not_given_to_the_old() -> None:
    """A restart with the same numbers, within ten seconds of packets of the old."""
    to, stream = Recording(), Sent(T0)
    for n in range(100):
        stream.send(to, n)
    again = Sent(T0 + 5 * SECOND)
    again.send(to, 0, origin=OTHER)
    to.status(status(again, 1, encoding="F32LE"), again.time_ns(320))
    again.send(to, 1, origin=OTHER)
    old, new = to.intake.epochs
    assert not old.evidence.pairs.rows and not old.formats
    assert len(new.evidence.pairs.rows) == 1 and new.formats[0][1] == "F32LE"


def test_status_with_another_rate_waits_for_the_timeline_of_that_rate() -> None:
    to, stream = Recording(), Sent(T0)
    for n in range(100):
        stream.send(to, n)
    to.status(status(stream, 100), stream.time_ns(32_000))
    changed = Sent(stream.time_ns(32_000), rate_hz=24_000, frames=480, first_rtp=(1 << 32) - 480, first_sequence=100)
    changed.send(to, 0)
    changed_status = FakeStatus(changed.time_ns(480), 0, 24_000, "S16BE")
    to.status(changed_status, changed.time_ns(480))
    for n in (1, 2):
        changed.send(to, n)
    old, new = to.intake.epochs
    assert (old.rate_hz, new.rate_hz, new.reason) == (16_000, 24_000, "rate_change")
    assert to.intake.source.rate_hz == 24_000


@pytest.mark.parametrize(
    "facts",
    [
        {"sample_rate_hz": 0}, {"sample_rate_hz": 1}, {"sample_rate_hz": 10_000_000}, {"sample_rate_hz": None},
        {"encoding": None}, {"gps_time_utc_ns": None}, {"rtp_timesnap": None},
    ],
)  # fmt: skip
def test_facts_that_cannot_be_used_are_left_out(facts: dict[str, object]) -> None:
    to, stream = Recording(), Sent(T0)
    for n in range(100):
        stream.send(to, n)
    plain = {"gps_time_utc_ns": stream.time_ns(32_000), "rtp_timesnap": 31_680, "sample_rate_hz": 16_000}
    to.status(FakeStatus(**{**plain, "encoding": "S16BE", **facts}), stream.time_ns(32_000))  # type: ignore[arg-type]
    for n in range(100, 4000):
        stream.send(to, n)
    minute, _, _ = to.finish()[0]
    assert minute.rate_hz == 16_000 and minute.gaps == []


@pytest.mark.parametrize("facts", [{"encoding": "OPUS"}, {"encoding": "UNKNOWN_99"}, {"output_channels": 1}])
def test_what_cannot_be_decoded_is_in_no_file_and_not_kept(facts: dict[str, object]) -> None:
    to, stream = Recording(), Sent(T0)
    for n in range(8000):
        said = facts if 1500 <= n < 7000 else {}
        if n % 25 == 0:
            to.status(status(stream, n, **said), stream.time_ns(n * 320))
            to.advance()
        stream.send(to, n)
    minutes = [minute for minute, _, _ in to.finish()]
    assert [(m.utc_ns, m.segments[0].samples) for m in minutes] == [(T0, 1500 * 320), (T0 + 120 * SECOND, 1000 * 320)]
    assert to.journal.used_fraction() < 0.01


def test_statuses_nobody_claims_are_dropped_and_counted() -> None:
    to, stream = Recording(), Sent(T0)
    stream.send(to, 0)
    for k in range(3 * PENDING_STATUSES):
        to.status(FakeStatus(T0, 1 << 30, 16_000, "S16BE"), T0 + k)
    assert len(to.intake.announcements.pending) == PENDING_STATUSES
    assert to.intake.announcements.unmatched == 2 * PENDING_STATUSES
    stream.send(to, 1)
    to.status(FakeStatus(T0, 1 << 30, 16_000, "S16BE"), T0 + 60 * SECOND)
    to.advance()
    assert to.intake.announcements.unmatched == 3 * PENDING_STATUSES and len(to.intake.announcements.pending) == 1


def test_short_timelines_that_no_scan_saw_have_an_anchor() -> None:
    to = Recording()
    for k in range(5):
        stream = Sent(T0 + k * 10 * SECOND, first_rtp=k << 28)
        for n in range(10):
            stream.send(to, n, origin=("127.0.0.1", 40_000 + k))
    minutes = to.finish()
    assert sum(minute.packets_received for minute, _, _ in minutes) == 50
    assert [s.epoch_id for minute, _, _ in minutes for s in minute.segments] == [1, 2, 3, 4, 5]


def test_origin_of_a_packet_is_its_senders() -> None:
    to = Recording()
    to.packet(0, 0, bytes(1280), T0, ("192.168.254.17", 65_535))
    assert to.intake.source.origin == ("192.168.254.17", 65_535) != ORIGIN
