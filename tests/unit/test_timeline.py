"""One RTP timeline: which statuses are its own, and what they say of its format."""

from __future__ import annotations

import json

from pipeline.stream.anchor import SECOND
from pipeline.stream.timeline import Epoch
from streams import T0
from timelines import RATE, anchor, arrivals, epoch, paired

# -- which timeline a status speaks of --


def test_status_is_of_the_packets_around_it() -> None:
    found = epoch()
    found.end, found.last_arrival_ns = 1000 + 100 * RATE, T0 + 100 * SECOND
    now = T0 + 100 * SECOND
    assert found.owns_status(found.end & 0xFFFFFFFF, now, True)
    assert found.owns_status(found.end + 3 * 320, now, True)
    assert found.owns_status(found.end - 3 * RATE, now, True)
    assert not found.owns_status(found.end + 2 * RATE, now, True)
    assert not found.owns_status(found.end - 11 * RATE, now, True)
    assert not found.owns_status(found.end, now + 11 * SECOND, True)
    assert not found.owns_status(found.end, now + SECOND, False)


def test_status_may_come_shortly_before_the_first_packet() -> None:
    found = epoch()
    assert found.owns_status(1000, T0 - 50_000, True)
    assert not found.owns_status(1000, T0 - 11 * SECOND, True)


def test_status_across_the_wrap_is_near() -> None:
    found = epoch((1 << 32) - 320)
    found.end = (1 << 32) + 640
    found.learn(640, RATE, "S16BE")
    assert found.formats == [((1 << 32) + 640, "S16BE")]


def test_formats_are_kept_in_order_without_repetition() -> None:
    found = epoch()
    found.end = 100_000
    for at, name in ((1000, "S16BE"), (3000, "S16BE"), (9000, "F32LE"), (20_000, "S16BE"), (7000, "F32LE")):
        found.learn(at, None, name)
    assert found.formats == [(1000, "S16BE"), (7000, "F32LE"), (20_000, "S16BE")]
    found.forget_formats(6999)
    assert len(found.formats) == 3
    found.forget_formats(7000)
    assert found.formats[0] == (7000, "F32LE")


def test_first_status_may_correct_the_rate_and_the_reason() -> None:
    found = Epoch(2, "timestamp_jump", 1000, T0, RATE, end=1000)
    arrivals(found, [0] * 10)
    found.learn(1000, 24_000, "F32LE")
    assert (found.rate_hz, found.rate_known, found.reason, len(found.evidence.arrivals.rows)) == (
        24_000,
        True,
        "rate_change",
        0,
    )


def test_epoch_survives_json() -> None:
    found = paired([0, 5, 7])
    arrivals(found, [0] * 10)
    found.learn(1000, RATE, "S16BE")
    found.anchor = anchor()
    found.previous_sequence, found.previous_end = 12, 13
    assert Epoch.from_json(json.loads(json.dumps(found.to_json()))) == found
