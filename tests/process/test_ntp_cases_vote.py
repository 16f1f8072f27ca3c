"""What several servers together may say, over real sockets: the numbered cases of the vote."""

from __future__ import annotations

import math

import pytest

from ntp_farm import Answer, Reply, asking, distant, fakes, good, saying
from pipeline.ntp.once import Measurement, measure_once
from pipeline.ntp.rows import RowState
from pipeline.records import NtpQuality

AHEAD = saying(Reply(offset_s=1.0))


def measured(*answers: Answer, **changes: object) -> Measurement:
    with fakes(*answers) as farm:
        return measure_once(asking(farm, **changes))


def falsetickers(found: Measurement) -> list[int]:
    return [i for i, row in enumerate(found.servers) if row.state is RowState.FALSETICKER]


def check(found: Measurement, *liars: int) -> None:
    """The liars are found, and the others' offset, that of one and the same clock, comes out."""
    assert falsetickers(found) == list(liars)
    assert found.record.synced and found.record.falsetickers == len(liars)
    assert abs(found.record.offset_ms) <= found.record.uncertainty_ms < 60


def no_verdict(found: Measurement, reason: str) -> None:
    assert not found.record.valid and not found.record.synced and math.isnan(found.record.offset_ms)
    assert {row.reason for row in found.servers} == {reason}


def test_case_26_one_falseticker() -> None:
    found = measured(AHEAD, *[good] * 4)
    check(found, 0)
    assert found.servers[0].offset_ms == pytest.approx(-1000.0, abs=50)


def test_case_27_falseticker_that_claims_to_be_perfect() -> None:
    check(measured(saying(Reply(offset_s=0.03, root_dispersion_s=0.0)), *[good] * 4), 0)


def test_case_28_two_of_five_collude() -> None:
    check(measured(AHEAD, good, AHEAD, good, good), 0, 2)


@pytest.mark.parametrize("each", [1, 2], ids=["one_against_one", "two_against_two"])
def test_case_29_half_is_no_majority(each: int) -> None:
    no_verdict(measured(*[good] * each, *[AHEAD] * each), "no-majority")


def test_case_30_too_few() -> None:
    no_verdict(measured(good), "too-few")
    no_verdict(measured(good, good, fallback=False), "too-few")
    relaxed = measured(good, good)
    check(relaxed)
    assert relaxed.record.quality == NtpQuality.RELAXED


def test_case_31_three_of_five_collude_and_win() -> None:
    """A limit of every vote: 2f + 1 servers are needed against f liars. chronyd follows them, too (case 59)."""
    found = measured(AHEAD, good, AHEAD, good, AHEAD)
    assert falsetickers(found) == [1, 3]
    assert found.record.valid and found.record.offset_ms == pytest.approx(-1000.0, abs=50)


def test_case_32_smeared_server() -> None:
    check(measured(saying(Reply(offset_s=-0.4)), *[good] * 4), 0)


def test_case_39_server_that_lives_after_2036() -> None:
    """Its stamps are of the next era: ten years off, and nothing else."""
    found = measured(saying(Reply(offset_s=10 * 365.25 * 86400)), *[good] * 4)
    check(found, 0)
    assert found.servers[0].offset_ms == pytest.approx(-10 * 365.25 * 86400e3, rel=1e-6)


@pytest.mark.parametrize(("warning", "leap"), [(3, 1), (2, 0)])
def test_case_33_leap_warning_of_a_majority(warning: int, leap: int) -> None:
    """When it is acted on: tests/unit/test_ntp_engine.py."""
    found = measured(*[saying(Reply(leap=1))] * warning, *[good] * (5 - warning))
    check(found)
    assert found.record.leap == leap


def test_case_34_slow_servers() -> None:
    slow = [distant(0.15, 0.15)] * 4
    no_verdict(measured(*slow, timeout_s=2.0, fallback=False), "delay")
    found = measured(*slow, timeout_s=2.0)
    assert (found.record.valid, found.record.quality, found.record.truechimers) == (1, NtpQuality.RELAXED, 4)
    assert abs(found.record.offset_ms) < 60 and found.record.uncertainty_ms >= 150
    assert not found.record.synced, "150 ms are not within 100 ms"


def test_case_35_paths_that_are_longer_there_than_back() -> None:
    """Nobody can know: all are 20 ms wrong, and the uncertainty covers it."""
    found = measured(*[distant(0.04, 0.0)] * 5)
    assert found.record.synced and not falsetickers(found)
    assert found.record.offset_ms == pytest.approx(-20.0, abs=15.0)
    assert found.record.uncertainty_ms >= 20.0


def test_case_36_host_three_seconds_slow() -> None:
    found = measured(*[saying(Reply(offset_s=3.0))] * 5)
    assert (found.record.valid, found.record.synced) == (1, 0)
    assert found.record.offset_ms == pytest.approx(-3000.0, abs=50.0)


def test_one_after_the_other() -> None:
    with fakes(good, lambda request, receive_ns: [], good, good) as farm:
        found = measure_once(asking(farm, parallel=False))
    assert found.record.synced and found.record.truechimers == 3
    assert found.servers[1].reason == "timeout"


def test_advanced_mode_takes_the_sample_of_least_delay() -> None:
    """The first of three answers comes late by 0.2 s; the third says what the servers really think."""
    asked: list[int] = []

    def jittery(request: bytes, receive_ns: int) -> list[object]:
        asked.append(1)
        return list((distant(0.2, 0.0) if len(asked) == 1 else distant(0.0, 0.0))(request, receive_ns))

    with fakes(jittery, good, good) as farm:  # type: ignore[arg-type]
        found = measure_once(asking(farm, mode="advanced", samples=3, timeout_s=2.0))
    assert [len(r) for r in farm.requests] == [3, 3, 3]
    assert [row.reach for row in found.servers] == [7, 7, 7]
    assert found.servers[0].delay_ms is not None and found.servers[0].delay_ms < 50
    assert found.record.synced and abs(found.record.offset_ms) < 50
