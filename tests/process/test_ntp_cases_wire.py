"""What a single server may send, over real sockets: the numbered cases of the wire.

In each, four good servers must not suffer from the bad one.
"""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from ntp_farm import (
    IGNORED,
    KISS_RATE,
    REFUSED,
    Answer,
    Fakes,
    Later,
    Reply,
    asking,
    closed_port,
    distant,
    fakes,
    good,
    saying,
    silent,
)
from pipeline.ntp.loop import Loop
from pipeline.ntp.once import Measurement, measure_once
from pipeline.ntp.report import Report
from pipeline.ntp.rows import Row, RowState

GOOD_STATES = (RowState.SYSTEM_PEER, RowState.COMBINED, RowState.NOT_COMBINED)


def measured(*answers: Answer, **changes: object) -> tuple[Measurement, Fakes]:
    with fakes(*answers) as farm:
        return measure_once(asking(farm, **changes)), farm


def only_bad(answer: Answer, **changes: object) -> Row:
    """The row of a bad server among four good ones, of which nothing may suffer."""
    found, _ = measured(answer, *[good] * 4, **changes)
    return check_good(found)


def check_good(found: Measurement) -> Row:
    """The first row; the last four must be good, and the verdict right."""
    assert found.record.synced and found.record.truechimers >= 4
    assert abs(found.record.offset_ms) <= found.record.uncertainty_ms < 60
    assert all(row.state in GOOD_STATES for row in found.servers[-4:])
    return found.servers[0]


def ids(cases: dict[str, tuple[Reply, str]]) -> list[str]:
    return [f"case_{name.replace(' ', '_')}" for name in cases]


def test_case_01_five_good() -> None:
    found, farm = measured(*[good] * 5)
    assert found.record.synced and found.record.truechimers == 5
    assert abs(found.record.offset_ms) <= found.record.uncertainty_ms
    assert [len(r) for r in farm.requests] == [1] * 5
    nonces = {r[0][40:] for r in farm.requests}
    assert len(nonces) == 5
    assert len({c[0][1] for c in farm.clients}) == 5, "a port of its own for every request"


@pytest.mark.parametrize(("reply", "reason"), REFUSED.values(), ids=ids(REFUSED))
def test_refused(reply: Reply, reason: str) -> None:
    row = only_bad(saying(reply))
    assert (row.state, row.reason, row.reach) == (RowState.UNUSABLE, reason, 0)


@pytest.mark.parametrize(("reply", "reason"), IGNORED.values(), ids=ids(IGNORED))
def test_ignored(reply: Reply, reason: str) -> None:
    row = only_bad(saying(reply))
    assert (row.state, row.reason, row.reach) == (RowState.UNUSABLE, f"timeout ({reason})", 0)


def test_case_06_forged_kiss_does_not_stop_us_from_listening() -> None:
    """A stranger says DENY before the server answers; the server is used, and is going to be asked again."""

    def after_a_forgery(request: bytes, receive_ns: int) -> list[bytes]:
        forged = replace(KISS_RATE, refid=b"DENY", origin=bytes(8)).to_bytes(request, receive_ns)
        return [forged, *good(request, receive_ns)]

    found, _ = measured(after_a_forgery, *[good] * 4)
    assert check_good(found).state in GOOD_STATES
    assert found.report.counters["kisses"] == 0


def test_case_14_echo() -> None:
    assert only_bad(lambda request, receive_ns: [request]).reason == "timeout (mode)"


@pytest.mark.parametrize("code", ["RATE", "DENY", "RSTR", "XFOO"], ids=lambda code: f"case_04_05_07_{code}")
def test_kiss_of_death(code: str) -> None:
    """What each does to the interval: tests/unit/test_ntp_peer.py and test_ntp_engine_sources.py."""
    assert only_bad(saying(replace(KISS_RATE, refid=code.encode()))).reason == f"kiss:{code}"


@pytest.mark.parametrize("size", [0, 47])
def test_case_17_short(size: int) -> None:
    assert only_bad(lambda request, receive_ns: [bytes(size)]).reason == "timeout (short)"


def test_case_18_extension_fields() -> None:
    row = only_bad(lambda request, receive_ns: [good(request, receive_ns)[0].ljust(1200, b"\7")])
    assert row.state in GOOD_STATES


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"], ids=["other_port", "other_address"])
def test_case_19_answer_from_elsewhere(host: str) -> None:
    """The kernel drops it: the request's socket is connected."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((host, 0))

        def answer(request: bytes, receive_ns: int) -> list[bytes]:
            other.sendto(Reply(offset_s=5.0).to_bytes(request, receive_ns), farm.clients[0][-1])
            return []

        with fakes(answer, *[good] * 4) as farm:
            assert check_good(measure_once(asking(farm))).reason == "timeout"


def test_case_20_closed_port_is_known_at_once() -> None:
    with fakes(*[good] * 4) as farm:
        found = measure_once(asking(farm, closed_port(), timeout_s=30.0))
    assert found.record.synced and found.servers[4].reason == "refused"


def test_case_21_silent() -> None:
    assert only_bad(silent).reason == "timeout"


def test_case_21_verdict_does_not_wait_for_dead_servers() -> None:
    """The loop publishes with the last live answer that matters, seconds before the dead ones time out."""
    synced: list[Report] = []

    def publish(report: Report) -> None:
        if report.record.synced:
            synced.append(report)

    with fakes(*[good] * 8, silent, silent) as farm:
        loop = Loop(asking(farm, timeout_s=20.0), publish)
        loop.run(lambda: bool(synced))
        pending = sum(p.pending for p in loop.engine.pool.peers)
        loop.close()
    assert pending >= 2


def test_case_22_drip_of_forgeries_does_not_move_the_deadline() -> None:
    """One in 0.1 s for ten seconds; ntplib's timeout starts again with each."""

    def drip(request: bytes, _receive_ns: int) -> list[Later]:
        forged = Reply(origin=bytes(8)).to_bytes(request, 0)
        return [Later(0.1 * i, forged) for i in range(100)]

    with fakes(drip, *[good] * 4) as farm:
        row = check_good(measure_once(asking(farm)))
        assert len(farm.waiting) > 50, "it is over long before the drip is"
    assert row.reason == "timeout (bogus)"


def test_case_23_flood_of_forgeries_is_given_up() -> None:
    def flood(request: bytes, receive_ns: int) -> list[bytes]:
        return [Reply(origin=bytes(8)).to_bytes(request, receive_ns)] * 500 + good(request, receive_ns)

    assert only_bad(flood).reason == "bogus"


def test_case_23_true_answer_after_ten_forged_ones_is_taken() -> None:
    def among_forgeries(request: bytes, receive_ns: int) -> list[bytes]:
        forged = Reply(origin=bytes(8), offset_s=5.0).to_bytes(request, receive_ns)
        return [forged] * 10 + good(request, receive_ns)

    assert only_bad(among_forgeries).state in GOOD_STATES


def test_case_24_second_answer_counts_for_nothing() -> None:
    def twice(request: bytes, receive_ns: int) -> list[bytes]:
        return [*good(request, receive_ns), Reply(offset_s=5.0).to_bytes(request, receive_ns)]

    row = only_bad(twice)
    assert row.state in GOOD_STATES and row.offset_ms is not None and abs(row.offset_ms) < 50


def test_case_25_replay_of_the_last_round() -> None:
    """Yesterday's answer carries yesterday's nonce."""
    old: list[bytes] = []

    def replay(request: bytes, receive_ns: int) -> list[bytes]:
        old.extend(Reply(offset_s=5.0).to_bytes(request, receive_ns) for _ in range(not old))
        return old

    with fakes(replay, *[good] * 4) as farm:
        first = measure_once(asking(farm))
        assert first.servers[0].state is RowState.FALSETICKER
        assert check_good(measure_once(asking(farm))).reason == "timeout (bogus)"


def test_distant_server_over_ipv6() -> None:
    with fakes(good, good, distant(0.01, 0.01), saying(Reply(offset_s=1.0)), silent, host="::1") as farm:
        found = measure_once(asking(farm))
    assert found.record.synced and found.record.truechimers == 3
    assert [row.reason for row in found.servers] == ["", "", "", "falseticker", "timeout"]
    assert found.servers[2].delay_ms is not None and found.servers[2].delay_ms >= 20
    assert found.servers[0].name == f"[::1]:{farm.servers[0].port}"


def test_both_families_at_once() -> None:
    with fakes(good, good) as four, fakes(good, good, host="::1") as six:
        found = measure_once(asking(four, *six.servers))
    assert found.record.synced and found.record.truechimers == 4
