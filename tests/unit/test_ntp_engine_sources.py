"""The whole monitor in a simulated world: what it makes of servers, names and local daemons."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ntp_farm import KISS_RATE, Reply
from ntp_world import OWN, Simulated, World, texts, world
from pipeline.config import Ntp, Server
from pipeline.ntp.peer import Address
from pipeline.ntp.reading import Absence, KernelState, Reading
from pipeline.ntp.report import counters_line, diagnostics, title
from pipeline.ntp.rows import RowState
from pipeline.ntp.wire import Instant
from pipeline.records import NtpQuality, NtpState


class TestServers:
    def test_rows_name_every_refusal(self) -> None:
        replies = [Reply(), Reply(), Reply(), Reply(), Reply(leap=3), Reply(offset_s=1.0), KISS_RATE]
        w = World([Simulated(r) for r in replies] + [Simulated(up=False), Simulated(rtt_s=0.3)])
        w.run(2)
        rows = w.reports[-1][1].rows
        assert [r.state for r in rows[:4]].count(RowState.SYSTEM_PEER) == 1
        assert [r.reason for r in rows[4:]] == ["unsync", "falseticker", "kiss:RATE", "timeout", "delay"]
        assert rows[5].offset_ms == pytest.approx(-1000.0, abs=0.1)
        assert rows[8].delay_ms == pytest.approx(300.0)
        assert w.engine.counters.refusals == {"unsync": 1, "kiss:RATE": 1}

    def test_case_04_kiss_rate_is_obeyed(self) -> None:
        w = world(5)
        w.servers[0].reply = KISS_RATE
        w.run(1000)
        assert len(w.servers[0].asked_s) == 2  # hold-off of 4 x 140 s
        assert w.servers[0].asked_s[1] >= 560
        assert w.record.synced

    def test_case_05_deny_is_final(self) -> None:
        w = world(5)
        w.servers[0].reply = replace(KISS_RATE, refid=b"DENY")
        w.run(3600)
        assert len(w.servers[0].asked_s) == 1

    def test_relaxed_when_strict_gives_nothing(self) -> None:
        w = World([Simulated(rtt_s=0.3) for _ in range(5)])
        w.run(5)
        assert w.record.quality == NtpQuality.RELAXED and w.record.valid
        assert w.record.uncertainty_ms >= 150
        strict = World([Simulated(rtt_s=0.3) for _ in range(5)], config=replace(OWN, fallback=False))
        strict.run(5)
        assert not strict.record.valid
        assert {r.reason for r in strict.reports[-1][1].rows} == {"delay"}

    def test_two_servers_need_the_relaxed_minimum(self) -> None:
        w = world(2)
        w.run(5)
        assert w.record.synced and w.record.quality == NtpQuality.RELAXED
        alone = world(1)
        alone.run(5)
        assert not alone.record.valid

    def test_leap_warning_is_passed_on(self) -> None:
        w = World([Simulated(Reply(leap=1)) for _ in range(3)] + [Simulated(), Simulated()])
        w.run(2)
        assert w.record.leap == 1 and "leap second announced" in texts(w)


class TestNames:
    CONFIG = replace(OWN, servers=tuple(Server(name) for name in ("a.test", "b.test", "c.test", "d.test")))

    def addresses(self, *hosts: str) -> tuple[Address, ...]:
        return tuple(Address(host, 123) for host in hosts)

    def test_two_names_of_one_address_are_one_vote(self) -> None:
        w = world(4, config=self.CONFIG)
        w.names = {name: self.addresses("192.0.2.1") for name in ("a.test", "b.test")}
        w.names |= {"c.test": self.addresses("192.0.2.3"), "d.test": self.addresses("192.0.2.1", "192.0.2.4")}
        w.run(2)
        assert w.record.truechimers == 3
        rows = w.reports[-1][1].rows
        assert rows[1].reason == "same address as a.test" and rows[1].address is None
        assert rows[3].address == "192.0.2.4"

    def test_a_name_of_many_addresses_makes_way_for_names_of_one(self) -> None:
        """As time.google.com, which has the addresses of time1 to time4."""
        w = world(4, config=self.CONFIG)
        w.names = {"a.test": self.addresses("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4")}
        w.names |= {f"{name}.test": self.addresses(f"192.0.2.{k}") for k, name in enumerate("bcd", 1)}
        w.run(2)
        rows = w.reports[-1][1].rows
        assert {row.address for row in rows[1:]} == {"192.0.2.1", "192.0.2.2", "192.0.2.3"}
        assert rows[0].address == "192.0.2.4"
        assert w.record.truechimers == 4

    def test_answer_of_an_address_that_was_given_up_does_not_count(self) -> None:
        w = world(4, config=self.CONFIG)
        w.names = {s.address: self.addresses(f"192.0.2.{i}") for i, s in enumerate(w.config.servers, 1)}
        w.servers[0].rtt_s, w.servers[0].reply = 0.2, Reply(offset_s=1.0)
        w.run(0.1)
        w.engine.pool.resolved(0, self.addresses("192.0.2.77"), w.now())
        w.servers[0].reply = Reply()
        w.run(0.15)
        row = w.engine.report(w.now()).rows[0]
        assert (row.address, row.offset_ms) == ("192.0.2.77", None)
        w.run(1)
        assert w.record.truechimers == 4 and w.record.falsetickers == 0
        assert len(w.servers[0].asked_s) == 2

    def test_two_spellings_of_one_address_are_one_vote(self) -> None:
        servers = ("::1", "0:0:0:0:0:0:0:1", "::ffff:192.0.2.1", "192.0.2.1")
        w = world(4, config=replace(OWN, servers=tuple(map(Server, servers))))
        w.run(2)
        assert [row.reason for row in w.reports[-1][1].rows][1::2] == [
            "same address as ::1",
            "same address as ::ffff:192.0.2.1",
        ]
        assert w.record.truechimers == 2

    def test_unknown_name_is_skipped_and_tried_again(self) -> None:
        w = world(4, config=self.CONFIG)
        w.names = {name: self.addresses(f"192.0.2.{i}") for i, name in enumerate(("a.test", "b.test", "c.test"), 1)}
        w.run(30)
        assert w.record.truechimers == 3 and w.reports[-1][1].rows[3].reason == "name: unknown"
        w.names["d.test"] = self.addresses("192.0.2.4")
        w.run(60)
        assert w.record.truechimers == 4

    def test_case_48_unreachable_address_gives_way_to_the_next(self) -> None:
        w = world(4, config=self.CONFIG)
        w.names = {s.address: self.addresses(f"192.0.2.{i}") for i, s in enumerate(w.config.servers, 1)}
        w.names["a.test"] = self.addresses("2001:db8::1", "192.0.2.1")
        w.unreachable = {"2001:db8::1"}
        w.run(2)
        assert w.reports[-1][1].rows[0].address == "192.0.2.1"
        assert len(w.servers[0].asked_s) == 2 and w.record.truechimers == 4

    def test_retries_need_not_wait_while_nothing_can_be_sent(self) -> None:
        """The program starts before the network is up."""
        w = world(4)
        w.unreachable = {f"192.0.2.{i}" for i in range(1, 5)}
        w.run(3)
        assert {r.reason for r in w.reports[-1][1].rows} == {"enetunreach"}
        w.unreachable = set()
        w.run(3)
        assert w.record.synced, "by the retry after 5 s"
        w.run(9)
        assert all(b - a >= 5 for s in w.servers for a, b in zip(s.asked_s[2:], s.asked_s[3:], strict=False))

    def test_renumbered_server_is_found_again(self) -> None:
        w = world(4, config=self.CONFIG)
        w.names = {s.address: self.addresses(f"192.0.2.{i}") for i, s in enumerate(w.config.servers, 1)}
        w.run(100)
        w.names["a.test"] = self.addresses("192.0.2.77")
        w.run(3700)
        assert w.reports[-1][1].rows[0].address == "192.0.2.77"


class TestLocalDaemon:
    @staticmethod
    def chronyd(theta_s: float = 0.001):  # type: ignore[no-untyped-def]
        return lambda now: Reading("chronyd", now, theta_s, 0.002, 0.0001, 3, 0, "192.0.2.99", 30.0)

    def with_daemon(self, count: int = 5, **how: object) -> World:
        w = world(count, config=replace(OWN, sources=("chronyd", "ntpd", "servers")), **how)
        w.sources["chronyd"] = self.chronyd()
        return w

    def test_is_the_source(self) -> None:
        w = self.with_daemon()
        w.run(30)
        assert w.record.source == "chronyd:192.0.2.99"
        assert w.record.offset_ms == pytest.approx(-1.0, abs=0.01)
        assert w.record.truechimers == 5 and w.record.synced

    def test_public_servers_become_witnesses(self) -> None:
        w = self.with_daemon(10)
        w.run(3600)
        for server in w.servers:
            assert len(server.asked_s) <= 2 + 3600 / 256
        assert w.record.truechimers == 10

    def test_servers_that_are_named_first_are_the_source(self) -> None:
        w = world(10, config=replace(OWN, sources=("servers", "chronyd")))
        w.sources["chronyd"] = self.chronyd()
        w.run(3600)
        assert w.record.source.startswith("servers:") and w.record.synced
        assert all(len(s.asked_s) > 45 for s in w.servers), "they are no mere witnesses"
        for server in w.servers:
            server.up = False
        w.run(200)
        assert w.record.source.startswith("chronyd:") and w.record.synced

    def test_vanishing_gives_way_to_the_servers(self) -> None:
        w = self.with_daemon()
        w.run(205)
        del w.sources["chronyd"]
        w.run(11)
        assert w.record.source.startswith("servers:") and w.record.synced
        assert "chronyd: absent" in texts(w)
        w.sources["chronyd"] = self.chronyd()
        w.run(11)
        assert w.record.source.startswith("chronyd:")

    def test_contradiction_is_flagged(self) -> None:
        w = self.with_daemon()
        w.sources["chronyd"] = self.chronyd(0.25)
        w.run(12)
        assert (w.record.valid, w.record.synced, w.record.flags & 1) == (1, 0, 1)
        assert w.record.offset_ms == pytest.approx(0.0, abs=0.1)

    def test_answer_of_a_daemon_that_hangs_gets_old(self) -> None:
        w = self.with_daemon()
        w.run(15)
        answer = w.engine._local["chronyd"]
        w.sources["chronyd"] = lambda now: answer  # the same reading again and again
        w.run(40)
        assert w.record.source.startswith("servers:")

    def test_alone_without_servers(self) -> None:
        w = world(0, config=Ntp(sources=("chronyd",), servers=(Server("192.0.2.1"),)))
        w.sources["chronyd"] = self.chronyd()
        w.run(25)
        assert w.record.synced and w.record.source.startswith("chronyd:")
        w.sources["chronyd"] = lambda now: Absence("chronyd", "not synchronised")
        w.run(10)
        assert w.record.state == NtpState.HOLDOVER
        w.run(300)
        assert w.record.state == NtpState.UNSYNCED

    def test_none_at_all(self) -> None:
        w = world(0, config=replace(OWN, sources=()))
        w.run(0.1)
        assert w.reports[-1][1].why == "no time source is configured"

    def test_disciplined_kernel_gives_the_frequency(self) -> None:
        w = world(5, config=OWN)
        w.kernel = KernelState(True, 0.01, 20e-6, 0)
        w.run(5)
        before = w.record.uncertainty_ms
        for server in w.servers:
            server.up = False
        w.run(100)
        assert w.record.flags & 2
        assert w.record.uncertainty_ms - before < 100 * 20e-3, "15 ppm, not 100"


def test_kernel_that_is_wrong_about_its_clock_is_told_of_once() -> None:
    w = world(5, offset_s=0.08)
    w.kernel = KernelState(True, 0.005, 0.0, 0)
    w.run(60)
    told = [note.text for _, note in w.notes if note.text.startswith("kernel")]
    assert told == ["kernel: synchronised, maximum error 5.000 ms, which the measured offset contradicts"]
    assert w.reports[-1][1].local["kernel"] in told[0]
    w.kernel = KernelState(True, 0.1, 0.0, 0)
    w.run(20)
    assert w.reports[-1][1].local["kernel"] == "synchronised, maximum error 100.000 ms"


def test_monitor_that_was_started_again_does_not_publish_less() -> None:
    from pipeline.ntp.verdict import basis_of_record

    first = world(5, offset_s=0.01)
    first.run(100)
    w = world(5, offset_s=0.01)
    w.t = first.t
    now: Instant = w.now()
    second = World([Simulated(rtt_s=0.05) for _ in range(5)], offset_s=0.01)
    second.t = first.t
    second.engine = type(w.engine)(second.config, now, basis_of_record(first.record, now))
    second.run(30)
    assert second.reports[0][1].record.state == NtpState.HOLDOVER
    assert all(r.record.valid for _, r in second.reports)
    assert second.record.state == NtpState.SYNCED


def test_counters_tell_how_the_measuring_goes() -> None:
    """Ten minutes: one server silent, one that refuses, and for two minutes only slow ones."""
    w = world(5, lan=True)
    w.servers[0].up = False
    w.servers[1].reply = Reply(leap=3)
    w.run(300)
    for server in w.servers:
        server.rtt_s = 0.3
    w.run(120)
    for server in w.servers:
        server.rtt_s = 0.02
    w.run(180)
    found = w.engine.counters.as_dict()
    assert (found["cycles"], found["late_publications"]) == (61, 0)
    under_way = 5
    assert found["requests"] == 5 * 61 == found["samples"] + found["refused"] + found["missed"] + under_way
    assert found["rejection_rate"] == pytest.approx(0.25, abs=0.02)
    assert 0 < found["fallback_rate"] < 0.25
    assert found["starvation_rate"] == 0.0, "that the first cycle begins without a verdict is no starvation"
    assert found["query_ms_mean"] == pytest.approx(20, abs=15)
    assert found["missed"] / found["requests"] == pytest.approx(0.2, abs=0.02)
    line = counters_line(diagnostics(w.reports[-1][1], 16384))
    assert line.startswith("ntp queries  2") and "rejection 2" in line


def test_title_and_diagnostics() -> None:
    w = world(10, offset_s=-0.000412)
    w.servers[0].up = w.servers[1].up = w.servers[2].up = False
    w.run(20)
    report = w.reports[-1][1]
    assert title(report.record, 10) == "ntp -0.412ms synced 7/10"
    whole = diagnostics(report, 16384)
    assert b'"requests":' in whole and whole.count(b'"name"') == 10
    cut = diagnostics(report, len(whole) - 1)
    assert len(cut) < len(whole) and b'"servers_left_out":3' in cut
    assert diagnostics(report, 10) == b"{}"
    empty = world(0)
    empty.run(0.1)
    assert title(empty.record, 0) == "ntp ? starting 0/0"
