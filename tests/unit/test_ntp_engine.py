"""The whole monitor in a simulated world: hours in milliseconds, no socket, no clock."""

from __future__ import annotations

import datetime
from dataclasses import replace
from itertools import pairwise

import pytest

from ntp_farm import SECOND, Reply
from ntp_world import OWN, World, texts, world
from pipeline.ntp import wire
from pipeline.ntp.rows import RowState
from pipeline.records import NtpState


def heartbeats(w: World) -> list[float]:
    return [t for t, _ in w.reports]


class TestStart:
    def test_first_verdict_with_the_first_answers(self) -> None:
        w = world(10, offset_s=0.03)
        w.run(0.5)
        assert w.reports[0][0] == 0.0 and w.reports[0][1].record.state == NtpState.STARTING
        assert w.record.state == NtpState.SYNCED
        assert w.record.offset_ms == pytest.approx(30.0, abs=0.01)
        assert w.reports[-1][0] < 0.05

    def test_two_dead_servers_delay_nothing(self) -> None:
        w = world(10)
        for server in w.servers[:2]:
            server.up = False
        for i, server in enumerate(w.servers):
            server.rtt_s = 0.02 + 0.004 * i
        w.run(0.2)
        assert w.record.synced
        first = next(t for t, r in w.reports if r.record.synced)
        assert first <= 1.5 * max(s.rtt_s for s in w.servers)

    def test_fast_liars_do_not_get_the_first_word(self) -> None:
        w = world(7)
        for server in w.servers[:3]:
            server.reply, server.rtt_s = Reply(offset_s=1.0), 0.001
        w.run(0.5)
        assert all(abs(r.record.offset_ms) < 1 for _, r in w.reports if r.record.valid)
        assert w.record.synced and w.record.falsetickers == 3

    def test_case_37_nobody_answers(self) -> None:
        w = world(4)
        for server in w.servers:
            server.up = False
        w.run(100)
        assert not any(r.record.valid for _, r in w.reports)
        assert w.record.state == NtpState.UNSYNCED
        assert set(range(0, 101, 10)) <= {round(t, 3) for t in heartbeats(w)}

    def test_one_after_the_other(self) -> None:
        w = world(4, config=replace(OWN, parallel=False))
        w.servers[1].up = False
        w.run(5)
        asked = [s.asked_s[0] for s in w.servers]
        assert asked == pytest.approx([0.0, 0.02, 1.02, 1.04], abs=0.001)
        assert w.record.synced and w.record.truechimers == 3

    def test_never_more_at_a_time_than_allowed(self) -> None:
        w = world(5, config=replace(OWN, max_parallel=2))
        w.run(5)
        starts = sorted(s.asked_s[0] for s in w.servers)
        assert starts == pytest.approx([0, 0, 0.02, 0.02, 0.04], abs=0.001)

    def test_advanced_mode_takes_several_samples(self) -> None:
        w = world(3, config=replace(OWN, mode="advanced", samples=3))
        w.run(10)
        assert [round(t, 2) for t in w.servers[0].asked_s] == [0.0, 2.0, 4.0]


class TestPlan:
    def test_case_44_an_hour_of_ten_public_servers(self) -> None:
        w = world(10)
        w.run(3600)
        for server in w.servers:
            gaps = [b - a for a, b in zip(server.asked_s[1:], server.asked_s[2:], strict=False)]
            assert min(gaps) >= 64 and max(gaps) <= 80
            assert server.asked_s[1] >= 16
        assert sum(len(s.asked_s) for s in w.servers) <= 530
        assert all(r.record.synced for t, r in w.reports if t > 1)
        # From the third cycle on there is something new in every cycle.
        cycles = {int(t // 10) for s in w.servers for t in s.asked_s}
        assert cycles >= set(range(2, 360))

    @pytest.mark.parametrize("cycle_s", [0.5, 60.0, 900.0])
    def test_the_verdict_lasts_from_cycle_to_cycle(self, cycle_s: float) -> None:
        w = world(6, config=replace(OWN, publish_interval_s=cycle_s, synced_within_ms=1000.0))
        w.run(8 * max(cycle_s, 70.0))
        assert all(r.record.state == NtpState.SYNCED for t, r in w.reports if t > 1)
        assert len(w.notes) == 1

    def test_lan_servers_every_cycle(self) -> None:
        w = world(3, lan=True)
        w.run(600.5)
        assert [len(s.asked_s) for s in w.servers] == [61, 61, 61]

    def test_publication_in_every_cycle_whatever_happens(self) -> None:
        w = world(5)
        w.run(95)
        for server in w.servers:
            server.up = False
        w.run(400)
        assert {float(t) for t in range(0, 490, 10)} <= {round(t, 3) for t in heartbeats(w)}
        assert w.engine.counters.late_publications == 0

    def test_case_45_backoff_of_a_dead_server_only(self) -> None:
        w = world(5)
        w.servers[0].up = False
        w.run(7200)
        dead, live = w.servers[0].asked_s, w.servers[1].asked_s
        assert len(dead) < 20 and dead[-1] - dead[-2] == pytest.approx(1024, abs=70)
        assert len(live) > 95
        assert "no answer to 3 requests in a row" in texts(w)


class TestOutage:
    def test_case_38_six_minutes_and_back(self) -> None:
        w = world(10, offset_s=0.02)
        w.run(605)
        for server in w.servers:
            server.up = False
        w.run(360)
        by_state = {state: [t for t, r in w.reports if r.record.state == state and t > 605] for state in NtpState}
        assert by_state[NtpState.HOLDOVER][0] < 660
        held = [r.record for t, r in w.reports if t in by_state[NtpState.HOLDOVER]]
        bounds = [r.uncertainty_ms for r in held]
        assert bounds == sorted(bounds) and bounds[-1] > bounds[0]
        assert all(abs(r.offset_ms - 20.0) < r.uncertainty_ms for r in held)
        assert 890 < by_state[NtpState.UNSYNCED][0] <= 910, "300 s after the last sample"
        for server in w.servers:
            server.up = True
        w.run(60)
        back = next(t for t, r in w.reports if t > 965 and r.record.synced)
        heard = min(t for s in w.servers for t in s.asked_s if t > 965)
        assert back - heard < 10, "within one cycle of the first answer"
        assert back < 965 + 20
        asked = sum(any(back - 1 < t < back + 1 for t in s.asked_s) for s in w.servers)
        assert asked >= 8, "all that were left alone for 16 s"
        w.run(100)
        assert all(any(back - 1 < t < back + 17 for t in s.asked_s) for s in w.servers)
        assert w.record.truechimers == 10
        published = [r.record.published_monotonic_ns for _, r in w.reports]
        assert max(b - a for a, b in pairwise(published)) <= 10 * SECOND, "never late"
        starved = w.engine.counters.starved_cycles
        assert 25 < starved < 40
        w.run(600)
        assert w.engine.counters.starved_cycles == starved

    def test_case_46_retries_hit_idle_servers_only(self) -> None:
        w = world(5)
        w.run(205)
        for server in w.servers:
            server.up = False
        w.run(300)
        for server in w.servers:
            gaps = [b - a for a, b in zip(server.asked_s, server.asked_s[1:], strict=False)]
            assert min(gaps) >= 16 - 0.1

    @pytest.mark.parametrize("off", [{"max_retries": 0}, {"retry_delays_s": ()}])
    def test_retries_can_be_switched_off(self, off: dict[str, object]) -> None:
        def requests_after_the_first_round(**changes: object) -> int:
            w = world(3, config=replace(OWN, **changes))  # type: ignore[arg-type]
            for server in w.servers:
                server.up = False
            w.run(19)
            return sum(len(s.asked_s) for s in w.servers) - 3

        assert requests_after_the_first_round() == 3, "16 s after they were asked, by the third retry"
        assert requests_after_the_first_round(**off) == 0

    def test_first_answers_after_an_outage_do_not_decide_alone(self) -> None:
        """Two liars are the first to be heard again; nothing of what they say is ever published."""
        w = world(7, lan=True)
        for server in w.servers[:2]:
            server.reply, server.rtt_s = Reply(offset_s=0.05), 0.001
        w.run(25)
        for server in w.servers:
            server.up = False
        w.run(700)
        assert not w.record.valid
        before = len(w.notes)
        for server in w.servers:
            server.up = True
        w.run(20)
        assert w.record.synced and w.record.truechimers == 5 and w.record.falsetickers == 2
        assert all(abs(r.record.offset_ms) < 1 for _, r in w.reports if r.record.valid)
        told = [note.text.split(":")[0] for _, note in w.notes[before:]]
        assert told == ["servers answer again", "synced"], "no verdict comes and goes while answers come in"

    def test_log_tells_of_an_outage_though_requests_are_always_under_way(self) -> None:
        """Servers are asked in every second, and a second is also what an answer may take."""
        config = replace(OWN, publish_interval_s=1.0, timeout_s=1.0, holdover_s=5.0)
        w = world(4, config=config, lan=True)
        w.run(5.5)
        for server in w.servers:
            server.up = False
        w.run(15)
        for server in w.servers:
            server.up = True
        w.run(5)
        told = [note.text.split(":")[0] for _, note in w.notes]
        assert told == ["synced", "no server answers", "holdover", "unsynced", "servers answer again", "synced"]

    def test_lan_outage_shows_in_the_next_cycle(self) -> None:
        w = world(5, lan=True)
        w.run(25)
        for server in w.servers:
            server.up = False
        w.run(8)
        assert w.record.state == NtpState.HOLDOVER
        assert (w.record.valid, w.record.synced, w.record.truechimers) == (1, 1, 0)

    def test_server_that_missed_eight_polls_has_no_vote(self) -> None:
        w = world(4, lan=True)
        w.run(15)
        w.servers[0].up = False
        w.run(60)
        assert w.record.truechimers == 4, "its samples are young"
        w.run(30)
        row = w.reports[-1][1].rows[0]
        assert w.record.truechimers == 3
        assert (row.state, row.reason, row.reach) == (RowState.UNUSABLE, "timeout", 0)

    def test_disagreement_is_no_outage(self) -> None:
        w = world(4, lan=True)
        w.run(15)
        for server in w.servers[:2]:
            server.reply = Reply(offset_s=1.0)
        w.run(100)
        assert w.record.state == NtpState.UNSYNCED and not w.record.valid

    def test_total_silence_is_probed_no_faster_than_the_plan(self) -> None:
        w = world(3)
        for server in w.servers:
            server.up = False
        w.run(3600)
        for server in w.servers:
            gaps = [b - a for a, b in zip(server.asked_s[2:], server.asked_s[3:], strict=False)]
            assert min(gaps) >= 64 - 0.2


class TestHostClock:
    def test_case_40_step_shows_at_once(self) -> None:
        w = world(5)
        w.run(65)
        asked = sum(len(s.asked_s) for s in w.servers)
        w.step(0.5)
        w.run(1.1)
        assert sum(len(s.asked_s) for s in w.servers) == asked, "no packet was needed"
        assert w.record.offset_ms == pytest.approx(500.0, abs=0.5)
        assert (w.record.valid, w.record.synced, w.record.step_count) == (1, 0, 1)
        w.step(-0.5)
        w.run(1.1)
        assert w.record.synced and w.record.step_count == 2
        assert "host clock was stepped by +0.5" in texts(w)

    def test_step_while_requests_are_under_way_is_nobodys_fault(self) -> None:
        w = world(5, lan=True)
        w.run(20.01)
        w.step(0.02)
        w.run(15)
        assert w.engine.counters.refusals == {"host-step": 5}
        assert [note.text.split(":")[0] for t, note in w.notes if t > 20] == [
            "host clock was stepped by +0.020000 s",
            "synced",
        ]
        assert all(r.record.state == NtpState.SYNCED for t, r in w.reports if t > 1)

    def test_suspend_starts_over(self) -> None:
        w = world(5)
        w.run(65)
        w.suspend(3600)
        w.offset_ns += 2 * SECOND  # the hardware clock was wrong
        w.run(0.001)
        assert not w.record.valid
        assert w.reports[-1][1].why == "answers are outstanding"
        w.run(20)
        assert w.record.valid and w.record.offset_ms == pytest.approx(2000.0, abs=1)

    def test_oscillator_is_learnt(self) -> None:
        w = world(10, ppm=60.0)
        w.run(1200)
        late = [r.record for t, r in w.reports if t > 700]
        assert all(r.synced for r in late)
        errors = [abs(r.record.offset_ms - t * 60e-3) for t, r in w.reports if t > 700]
        assert max(errors) < 0.2, "60 ppm over 70 s would be 4 ms"

    def test_oscillator_is_not_learnt_from_a_liar(self) -> None:
        w = world(10, ppm=60.0)
        w.run(700)
        for server in w.servers[:3]:
            server.reply = Reply(offset_s=0.3)
        w.run(300)
        assert w.record.falsetickers == 3
        assert abs(w.record.offset_ms - w.seconds * 60e-3) < 0.2

    @pytest.mark.parametrize("offset_s", [3.0, -3.0, 3600.0, -34_560_000.0])
    def test_host_far_off(self, offset_s: float) -> None:
        w = world(5, offset_s=offset_s)
        w.run(5)
        assert w.record.offset_ms == pytest.approx(offset_s * 1e3, abs=0.01)
        assert (w.record.valid, w.record.synced) == (1, 0)


def test_case_39_host_that_lives_through_the_rollover_of_2036() -> None:
    rollover_ns = ((1 << 32) - wire.UNIX_EPOCH_NTP_S) * SECOND
    w = world(5, offset_s=0.02, utc_ns=rollover_ns - 35 * SECOND, lan=True)
    w.run(100)
    assert all(r.record.synced for t, r in w.reports if t > 1)
    assert all(abs(r.record.offset_ms - 20.0) < 0.01 for t, r in w.reports if t > 1)


class TestLeapSecond:
    @staticmethod
    def through(day: datetime.datetime, warning: int) -> World:
        """Ten minutes up to midnight and ten after it; the servers and, by a step, the host insert a second."""
        utc_ns = round((day - datetime.timedelta(minutes=10)).timestamp() * SECOND)
        w = world(5, utc_ns=utc_ns, lan=True)
        for server in w.servers[:warning]:
            server.reply = Reply(leap=1)
        w.run(600)
        if warning > 2:
            w.step(-1.0)
            for server in w.servers:
                server.reply = Reply(offset_s=-1.0)
        w.run(600)
        return w

    def test_case_33_nothing_is_valid_around_it(self) -> None:
        w = self.through(datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC), 3)
        invalid = [t for t, r in w.reports if t > 1 and not r.record.valid]
        assert min(invalid) == pytest.approx(595, abs=1.1)
        assert max(invalid) == pytest.approx(750, abs=0.1), "150 s after midnight, and never with older samples"
        assert all(r.record.synced for t, r in w.reports if 1 < t < 590 or t > max(invalid))
        assert all(abs(r.record.offset_ms) < 0.1 for t, r in w.reports if t > max(invalid))
        assert w.record.truechimers == 5
        assert w.reports[10][1].record.leap == 1 and w.record.leap == 0
        assert w.record.offset_ms == pytest.approx(0.0, abs=0.1)

    def test_case_33_minority_is_not_believed(self) -> None:
        w = self.through(datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC), 2)
        assert all(r.record.synced and r.record.leap == 0 for t, r in w.reports if t > 1)

    def test_case_33_april_has_no_leap_second(self) -> None:
        w = world(5, utc_ns=round(datetime.datetime(2027, 4, 30, 23, 50, tzinfo=datetime.UTC).timestamp() * SECOND))
        for server in w.servers:
            server.reply = Reply(leap=1)
        w.run(1200)
        assert all(r.record.synced and r.record.leap == 1 for t, r in w.reports if t > 1)
