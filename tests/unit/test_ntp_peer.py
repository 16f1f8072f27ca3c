"""One server over time: filter, reach, intervals, kisses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ntp_farm import SECOND
from pipeline.config import Server
from pipeline.ntp.peer import Address, Drift, Peer
from pipeline.ntp.plan import Grid
from pipeline.ntp.wire import Instant, Refusal, Refused, Sample

START = 100 * SECOND
BASE = 1_000_000 * SECOND  # realtime - raw of an undisturbed host


def at(seconds: float, base: int = BASE) -> Instant:
    raw = START + round(seconds * SECOND)
    return Instant(raw + base, raw, raw, raw)


def sample(seconds: float, theta_s: float = 0.0, delay_s: float = 0.02, **changes: object) -> Sample:
    made = Sample(
        utc_minus_raw_ns=BASE + round(theta_s * SECOND),
        raw_ns=START + round(seconds * SECOND),
        theta_s=theta_s,
        delay_s=delay_s,
        dispersion_s=1e-5,
        root_delay_s=0.004,
        root_dispersion_s=0.001,
        leap=0,
        stratum=2,
        reference="192.0.2.1",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def peer(lan: bool = False, samples: int = 1, index: int = 0) -> Peer:
    made = Peer(index, Server("192.0.2.9"), lan, True, Grid(START, 10 * SECOND, samples), samples)
    made.use(Address("192.0.2.9", 123))
    return made


def poll(p: Peer, seconds: float, **how: object) -> None:
    p.asked(at(seconds).monotonic)
    p.sampled(sample(seconds, **how))  # type: ignore[arg-type]


def miss(p: Peer, seconds: float) -> None:
    p.asked(at(seconds).monotonic)
    p.missed("timeout", at(seconds + 1).monotonic)


def due_s(p: Peer) -> float:
    return (p.next_ns - START) / SECOND


class TestFilter:
    def test_least_delay_wins(self) -> None:
        p = peer()
        poll(p, 0, theta_s=0.000, delay_s=0.020)
        poll(p, 70, theta_s=0.040, delay_s=0.100)  # held up on the way back
        found = p.estimate(at(71), Drift())
        assert found is not None
        assert found.theta_s == pytest.approx(0.0, abs=1e-9)
        assert found.delay_s == 0.020

    def test_age_counts_against_a_good_delay(self) -> None:
        p = peer()
        poll(p, 0, theta_s=0.0, delay_s=0.020)
        poll(p, 500, theta_s=0.003, delay_s=0.024)
        assert p.estimate(at(500), Drift()).theta_s == pytest.approx(0.003)  # type: ignore[union-attr]

    def test_a_step_shows_with_the_first_sample(self) -> None:
        """The server (or UTC - raw) really moved: no veto by eight old samples of equal delay."""
        p = peer()
        for i in range(8):
            poll(p, 10 * i)
        poll(p, 80, theta_s=0.050)
        found = p.estimate(at(81), Drift())
        assert found is not None and found.theta_s == pytest.approx(0.050)
        assert found.distance_s < 0.02, "what it said before is no longer counted against it"
        poll(p, 90, theta_s=0.0)
        assert p.estimate(at(91), Drift()).theta_s == pytest.approx(0.0)  # type: ignore[union-attr]

    def test_no_asymmetry_of_the_path_is_mistaken_for_a_step(self) -> None:
        """Two answers of which each is held up on another way: 20 ms apart, both possible."""
        p = peer()
        poll(p, 0, theta_s=0.010, delay_s=0.020)
        poll(p, 70, theta_s=-0.010, delay_s=0.030)
        assert len(p.stages) == 2
        assert p.estimate(at(70), Drift()).jitter_s == pytest.approx(0.020)  # type: ignore[union-attr]

    def test_distance_grows_with_age(self) -> None:
        p = peer()
        poll(p, 0)
        young, old = p.estimate(at(0), Drift()), p.estimate(at(300), Drift())
        assert young is not None and old is not None
        # (delay + root delay) / 2 + dispersion + root dispersion + jitter
        assert young.distance_s == pytest.approx(0.012 + 1e-5 + 0.001 + 1e-6)
        assert old.distance_s - young.distance_s == pytest.approx(300 * 100e-6)
        disciplined = p.estimate(at(300), Drift(tolerance=15e-6))
        assert disciplined is not None and disciplined.distance_s - young.distance_s == pytest.approx(300 * 15e-6)

    def test_samples_end_after_ten_minutes(self) -> None:
        p = peer()
        poll(p, 0)
        assert p.estimate(at(600), Drift()) is not None
        assert p.estimate(at(601), Drift()) is None
        assert peer().estimate(at(0), Drift()) is None

    def test_host_step_moves_theta_without_a_packet(self) -> None:
        p = peer()
        poll(p, 0)
        ahead = at(5, BASE + SECOND // 2)
        assert p.estimate(ahead, Drift()).theta_s == pytest.approx(-0.5)  # type: ignore[union-attr]

    def test_known_frequency_is_taken_out(self) -> None:
        p = peer()
        poll(p, 0)
        assert p.estimate(at(100), Drift(40e-6, 15e-6)).theta_s == pytest.approx(0.004)  # type: ignore[union-attr]

    def test_frequency_history_is_thinned(self) -> None:
        p = peer(lan=True)
        for i in range(40):
            poll(p, 10 * i)
        assert [round((raw - START) / SECOND) for raw, _ in p.history] == list(range(0, 400, 30))


class TestReach:
    def test_register_shifts_with_every_poll(self) -> None:
        p = peer()
        for answered in (True, True, False, True):
            (poll if answered else miss)(p, 0)
        assert p.reach == 0b1101
        for _ in range(8):
            miss(p, 0)
        assert p.reach == 0

    def test_refusals_are_answers_but_not_reach(self) -> None:
        p = peer()
        p.asked(at(0).monotonic)
        p.refused(Refused(Refusal.UNSYNC))
        assert (p.reach, p.misses, p.reason, p.ok) == (0, 0, "unsync", False)


class TestInterval:
    def test_public_server_after_its_start(self) -> None:
        p = peer(index=3)
        poll(p, 0)
        assert due_s(p) == 30  # its first turn, sooner than the plan's 70 s
        poll(p, 30.2)
        assert due_s(p) == 100
        poll(p, 103)
        assert due_s(p) == 170

    def test_second_sample_no_sooner_than_16_s(self) -> None:
        p = peer(index=1)
        poll(p, 0)
        assert due_s(p) == 80

    def test_lan_server_every_cycle(self) -> None:
        p = peer(lan=True)
        poll(p, 0)
        assert due_s(p) == 10
        poll(p, 10.3)
        assert due_s(p) == 20

    def test_case_45_silence_doubles_up_to_1024_s_and_one_answer_restores(self) -> None:
        p = peer()
        poll(p, 0)
        intervals = []
        for i in range(9):
            miss(p, 100 + i)
            intervals.append(p.interval_s)
        assert intervals == [70, 70, 140, 280, 560, 1024, 1024, 1024, 1024]
        poll(p, 2000)
        assert p.interval_s == 70
        assert due_s(p) == 2100, "the next turn of the plan, not of the back-off"

    def test_unasked_time_is_what_a_retry_looks_at(self) -> None:
        p = peer()
        assert p.idle(at(0).monotonic)
        poll(p, 0)
        assert not p.idle(at(15.8).monotonic)
        assert p.idle(at(16).monotonic)
        assert peer(lan=True).idle(at(0).monotonic)

    def test_advanced_mode_asks_in_a_burst_and_then_leaves_alone(self) -> None:
        p = peer(samples=3)
        times = [0.0]
        for _ in range(8):
            poll(p, times[-1])
            times.append(due_s(p))
        assert times == [0, 2, 4, 200, 202, 204, 400, 402, 404]

    def test_witness_interval(self) -> None:
        p = peer()
        poll(p, 0)
        p.minimum_interval_s = 256
        poll(p, 70)
        assert due_s(p) == 350


class TestKiss:
    def kissed(self, p: Peer, seconds: float, code: str) -> None:
        p.asked(at(seconds).monotonic)
        p.kissed(code, at(seconds).monotonic)

    def test_case_04_rate_slows_down_for_good_each_time(self) -> None:
        p = peer()
        self.kissed(p, 0, "RATE")
        assert p.interval_s == 140
        assert not p.may_ask(at(4 * 140 - 1).monotonic)
        assert p.due(at(4 * 140).monotonic)
        poll(p, 560)
        assert p.interval_s == 140
        self.kissed(p, 700, "RATE")
        assert p.interval_s == 280

    def test_rate_slows_lan_servers_too(self) -> None:
        p = peer(lan=True)
        self.kissed(p, 0, "RATE")
        assert p.interval_s == 128

    @pytest.mark.parametrize("code", ["DENY", "RSTR"])
    def test_case_05_deny_ends_it_for_this_address(self, code: str) -> None:
        p = peer()
        poll(p, 0)
        self.kissed(p, 70, code)
        assert p.dead and p.wake_ns() is None
        assert p.estimate(at(71), Drift()) is None
        assert not p.due(at(100_000).monotonic)
        p.use(Address("192.0.2.10", 123))
        assert p.due(at(100_000).monotonic)

    def test_case_07_unknown_codes_change_nothing(self) -> None:
        p = peer()
        poll(p, 0)
        before = p.interval_s
        self.kissed(p, 16, "XFOO")
        assert (p.interval_s, p.dead) == (before, False)
        assert p.estimate(at(17), Drift()) is not None


def test_another_address_is_another_server() -> None:
    p = peer()
    poll(p, 0)
    p.use(Address("192.0.2.10", 123))
    assert p.estimate(at(1), Drift()) is None and p.reach == 0


def test_one_server_has_one_spelling() -> None:
    assert Address.of("2001:0DB8::0:1", 123) == Address.of("2001:db8::1", 123)
    assert Address.of("::ffff:192.0.2.1", 123) == Address("192.0.2.1", 123)
    assert Address.of("fe80::1%eth0", 123) != Address.of("fe80::1%eth1", 123)


def test_address_texts() -> None:
    assert str(Address("192.0.2.1", 123)) == "192.0.2.1"
    assert str(Address("192.0.2.1", 11123)) == "192.0.2.1:11123"
    assert str(Address("::1", 11123)) == "[::1]:11123"
    assert Address("127.9.9.9", 1).loopback and Address("::1", 1).loopback and not Address("192.0.2.1", 1).loopback
