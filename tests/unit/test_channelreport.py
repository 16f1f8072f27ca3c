"""What a worker says of its channel."""

from __future__ import annotations

import math

import pytest
from ka9q.types import StatusType

from pipeline.briefstatus import BriefStatus, brief_status
from pipeline.channelreport import Progress, RadiodWords, describe, overload_age_s
from pipeline.config import Channel
from pipeline.records import FLAG_AGC
from pipeline.simulator.status import integer_bytes
from pipeline.stream.timeline import SECOND
from streams import T0, Recording, Sent


def test_level_is_told_though_statuses_came_after_the_packets() -> None:
    to, stream = Recording(), Sent(T0)
    for number in range(50):
        stream.send(to, number)
    for _ in range(3):
        stream.pair(to, 50)
    to.intake.scan()
    channel = Channel("X", 10e6, to.ssrc)
    record = describe(channel, to.intake, to.cutter, Progress(0), 0, 1, to.host, False)
    assert math.isfinite(record.level_dbfs)


def test_a_successor_goes_on_from_what_was_said() -> None:
    to = Recording()
    said = Progress(1, written=2, dropped=3, last_minute_s=60, last_write_ns=4, last_packet_ns=5, completeness_pct=99.0)
    said.socket_dropped, said.gaps, said.bytes, said.free_bytes = 6, 7, 8, 9
    record = describe(Channel("X", 10e6, to.ssrc), to.intake, to.cutter, said, 10, 11, to.host, False)
    said.started_ns = 12
    assert Progress.after(record, 12) == said


FIELDS = {
    StatusType.AGC_ENABLE: 1, StatusType.AD_OVER: 5, StatusType.SAMPLES_SINCE_OVER: 400, StatusType.INPUT_SAMPRATE: 100,
}  # fmt: skip


def status(ssrc: int) -> BriefStatus:
    """A status of this channel with these fields."""
    fields = {StatusType.OUTPUT_SSRC: ssrc, **FIELDS}
    values = ((kind, integer_bytes(value)) for kind, value in fields.items())
    found = brief_status(b"\0" + b"".join(bytes((kind, len(value))) + value for kind, value in values))
    assert found is not None
    return found


def test_radiods_words_are_looked_up_now_and_then_and_forgotten_with_its_statuses() -> None:
    to, stream = Recording(), Sent(T0)
    for number in range(50):
        stream.send(to, number)
    stream.pair(to, 50)
    to.intake.announcements.latest = status(to.ssrc)
    words = RadiodWords()
    words.look(to.intake, 5 * SECOND, 6 * SECOND, 0)
    assert (words.flags, words.overload_age_s) == (FLAG_AGC, 4.0)
    assert words.offset_ms == 0.0, "the pair came when it was made"
    to.intake.announcements.latest = None
    words.look(to.intake, 5 * SECOND, 15 * SECOND, 0)
    assert words.flags == FLAG_AGC, "not yet time for another look"
    words.look(to.intake, 5 * SECOND, 16 * SECOND, 0)
    assert words.flags == 0 and math.isnan(words.overload_age_s)


@pytest.mark.parametrize(
    ("shift_s", "expected_ms"), [(0, 3000.0), (3, 0.0), (3600, 3000.0)], ids=["ahead", "our clock was set", "neither"]
)
def test_radiods_clock_is_wrong_only_if_it_is_by_either_clock_of_ours(shift_s: int, expected_ms: float) -> None:
    to, stream = Recording(), Sent(T0)
    for number in range(50):
        stream.send(to, number)
    stream.pair(to, 50)
    row = to.intake.epoch.evidence.pairs.rows[-1]  # type: ignore[union-attr]
    to.intake.epoch.evidence.pairs.rows[-1] = (row[0], row[1] + 3 * SECOND, row[2])  # type: ignore[union-attr]
    to.intake.announcements.latest = status(to.ssrc)
    words = RadiodWords()
    words.look(to.intake, 5 * SECOND, 6 * SECOND, shift_s * SECOND)
    assert words.offset_ms == expected_ms


def test_no_overload_no_age() -> None:
    assert overload_age_s(FIELDS) == 4.0
    assert math.isnan(overload_age_s({**FIELDS, StatusType.AD_OVER: 0}))
    assert math.isnan(overload_age_s({}))
