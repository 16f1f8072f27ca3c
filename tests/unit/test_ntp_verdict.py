"""The truth table: valid, synced, state, sign."""

from __future__ import annotations

import datetime
import math
from dataclasses import replace

import pytest

from ntp_farm import NOON_NS, SECOND
from pipeline.config import Ntp
from pipeline.ntp.peer import Drift
from pipeline.ntp.reading import Reading
from pipeline.ntp.verdict import (
    FLAG_DISAGREE,
    FLAG_KERNEL_SYNCED,
    Basis,
    Judge,
    View,
    basis_of_reading,
    basis_of_record,
    carry_on,
    steps_so_far,
)
from pipeline.ntp.wire import Instant
from pipeline.records import UNKNOWN_NS, NtpQuality, NtpRecord, NtpState

CONFIG = Ntp()


def at(seconds: float, step_s: float = 0.0, utc_ns: int = NOON_NS, asleep_s: float = 0.0) -> Instant:
    t = round(seconds * SECOND)
    raw = 500 * SECOND + t
    return Instant(utc_ns + t + round((step_s + asleep_s) * SECOND), raw, raw, raw + round(asleep_s * SECOND))


def servers(
    theta_s: float = 0.0, now: Instant | None = None, bound_s: float = 0.01, age_s: float = 0.0, **more: object
) -> Basis:
    now = now or at(0)
    basis = Basis(
        utc_minus_raw_ns=now.base + round(theta_s * SECOND),
        raw_ns=now.raw,
        measured_raw_ns=now.raw - round(age_s * SECOND),
        bound_s=bound_s,
        jitter_s=0.0005,
        source="servers:a",
        stratum=1,
        leap=0,
        quality=NtpQuality.STRICT,
    )
    return replace(basis, **more)  # type: ignore[arg-type]


def daemon(theta_s: float, bound_s: float = 0.001) -> Basis:
    return basis_of_reading(Reading("chronyd", at(0), theta_s, bound_s, 0.0001, 3, 0, "192.0.2.1", 20.0))


def unknown(record: NtpRecord) -> bool:
    numbers = (record.offset_ms, record.uncertainty_ms, record.jitter_ms)
    return not record.valid and not record.synced and all(map(math.isnan, numbers))


def test_sign_a_slow_host_has_a_negative_offset() -> None:
    record = Judge(CONFIG).judge(at(0), View(servers=servers(theta_s=+0.05)))
    assert record.offset_ms == pytest.approx(-50.0)
    assert (record.valid, record.synced, record.state) == (1, 1, NtpState.SYNCED)
    assert record.uncertainty_ms == pytest.approx(10.0) and record.jitter_ms == pytest.approx(0.5)


def test_majority_carries_its_facts() -> None:
    view = View(servers=servers(age_s=2.0), truechimers=7, falsetickers=1, step_count=4, kernel_synchronised=True)
    record = Judge(CONFIG).judge(at(0), view)
    assert (record.truechimers, record.falsetickers, record.step_count) == (7, 1, 4)
    assert (record.source, record.stratum, record.leap, record.quality) == ("servers:a", 1, 0, NtpQuality.STRICT)
    assert record.flags == FLAG_KERNEL_SYNCED
    assert record.published_monotonic_ns == at(0).monotonic
    assert record.monotonic_ns == at(-2).monotonic
    assert record.utc_ns == at(-2).realtime


def test_host_three_seconds_off_is_valid_and_not_synced() -> None:
    record = Judge(CONFIG).judge(at(0), View(servers=servers(theta_s=3.0)))
    assert (record.valid, record.synced, record.state) == (1, 0, NtpState.UNSYNCED)
    assert record.offset_ms == pytest.approx(-3000.0)


@pytest.mark.parametrize(("theta_s", "bound_s", "synced"), [(0.08, 0.01, 1), (-0.08, 0.01, 1), (0.08, 0.03, 0)])
def test_synced_counts_the_uncertainty(theta_s: float, bound_s: float, synced: int) -> None:
    record = Judge(CONFIG).judge(at(0), View(servers=servers(theta_s, bound_s=bound_s)))
    assert (record.valid, record.synced) == (1, synced)


def test_relaxed_is_told() -> None:
    record = Judge(CONFIG).judge(at(0), View(servers=servers(quality=NtpQuality.RELAXED)))
    assert record.quality == NtpQuality.RELAXED


def test_start() -> None:
    judge = Judge(CONFIG)
    record = judge.judge(at(0), View(starting=True))
    assert unknown(record) and record.state == NtpState.STARTING and record.monotonic_ns == UNKNOWN_NS
    assert judge.judge(at(40), View()).state == NtpState.UNSYNCED


def test_kernel_alone_gives_a_flag_and_no_offset() -> None:
    record = Judge(CONFIG).judge(at(0), View(kernel_synchronised=True))
    assert unknown(record) and record.flags == FLAG_KERNEL_SYNCED


class TestHoldover:
    def test_grows_and_ends(self) -> None:
        judge = Judge(CONFIG)
        judge.judge(at(0), View(servers=servers(bound_s=0.0145)))
        drift = Drift(0.0, 15e-6)
        for seconds, bound_ms in ((10, 14.65), (300, 19.0)):
            record = judge.judge(at(seconds), View(drift=drift))
            assert (record.state, record.valid, record.synced) == (NtpState.HOLDOVER, 1, 1)
            assert record.uncertainty_ms == pytest.approx(bound_ms)
            assert record.monotonic_ns == at(0).monotonic
        record = judge.judge(at(300.1), View(drift=drift))
        assert unknown(record) and record.state == NtpState.UNSYNCED
        assert record.monotonic_ns == at(0).monotonic, "the age is still told"

    def test_ends_when_the_bound_passes_the_tolerance(self) -> None:
        judge = Judge(CONFIG)
        judge.judge(at(0), View(servers=servers(bound_s=0.09)))
        assert judge.judge(at(90), View()).valid
        assert unknown(judge.judge(at(110), View()))

    def test_does_not_come_back_by_itself(self) -> None:
        judge = Judge(CONFIG)
        judge.judge(at(0), View(servers=servers()))
        judge.judge(at(301), View())
        assert unknown(judge.judge(at(5), View()))

    def test_follows_steps_and_frequency(self) -> None:
        judge = Judge(CONFIG)
        judge.judge(at(0), View(servers=servers()))
        stepped = judge.judge(at(10, step_s=0.5), View())
        assert stepped.offset_ms == pytest.approx(500.0) and stepped.valid and not stepped.synced
        # UTC gains 20 ppm on the raw clock, the host does not follow: it falls behind.
        drifting = judge.judge(at(100), View(drift=Drift(20e-6, 15e-6)))
        assert drifting.offset_ms == pytest.approx(-2.0)

    def test_suspend_forgets(self) -> None:
        judge = Judge(CONFIG)
        judge.judge(at(0), View(servers=servers()))
        judge.forget()
        record = judge.judge(at(1), View())
        assert unknown(record) and record.monotonic_ns == UNKNOWN_NS, "the clocks stood still meanwhile"


def test_contradiction_ends_it_at_once_and_for_good() -> None:
    judge = Judge(CONFIG)
    judge.judge(at(0), View(servers=servers()))
    assert unknown(judge.judge(at(1), View(contradiction=True)))
    assert unknown(judge.judge(at(2), View()))


class TestDaemon:
    def test_is_the_source_and_servers_the_witness(self) -> None:
        record = Judge(CONFIG).judge(at(0), View(daemon=daemon(0.001), servers=servers(0.003)))
        assert record.source == "chronyd:192.0.2.1"
        assert record.offset_ms == pytest.approx(-1.0)
        assert (record.synced, record.flags, record.stratum) == (1, 0, 3)

    def test_alone(self) -> None:
        record = Judge(CONFIG).judge(at(0), View(daemon=daemon(0.001), contradiction=True))
        assert (record.valid, record.synced, record.quality) == (1, 1, NtpQuality.NONE)

    def test_contradicting_the_servers(self) -> None:
        record = Judge(CONFIG).judge(at(0), View(daemon=daemon(0.25), servers=servers(0.0)))
        assert record.flags & FLAG_DISAGREE
        assert (record.valid, record.synced, record.state) == (1, 0, NtpState.UNSYNCED)
        assert record.offset_ms == pytest.approx(0.0) and record.source == "servers:a"

    def test_that_knows_less_than_the_servers_is_not_the_source_yet(self) -> None:
        view = View(daemon=daemon(0.0, bound_s=0.3), servers=servers(0.0))
        record = Judge(CONFIG).judge(at(0), view)
        assert (record.source, record.synced) == ("servers:a", 1)
        assert not Judge(CONFIG).judge(at(0), replace(view, servers=servers(0.0, bound_s=0.4))).synced

    def test_reading_ages_like_everything(self) -> None:
        record = Judge(CONFIG).judge(at(10), View(daemon=daemon(0.001), drift=Drift(0.0, 15e-6)))
        assert record.uncertainty_ms == pytest.approx(1.15)

    def test_lost_daemon_is_carried_on(self) -> None:
        judge = Judge(CONFIG)
        judge.judge(at(0), View(daemon=daemon(0.001)))
        record = judge.judge(at(20), View())
        assert (record.state, record.source) == (NtpState.HOLDOVER, "chronyd:192.0.2.1")


class TestLeapSecond:
    MIDNIGHT = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)

    def judged(self, judge: Judge, seconds_to_midnight: float, leap: int, day: datetime.datetime) -> NtpRecord:
        utc_ns = round(day.timestamp() * SECOND)
        now = at(-seconds_to_midnight, utc_ns=utc_ns)
        return judge.judge(now, View(servers=servers(now=now, leap=leap)))

    def test_nothing_is_valid_around_it(self) -> None:
        judge = Judge(CONFIG)
        assert self.judged(judge, 3600, 1, self.MIDNIGHT).synced
        assert self.judged(judge, 5.5, 1, self.MIDNIGHT).synced
        for seconds in (5.0, 0.0, -100.0, -149.0):
            # servers take the warning back as soon as it is over
            assert unknown(self.judged(judge, seconds, 1 if seconds > 0 else 0, self.MIDNIGHT)), seconds
        assert not judge.leap_passed
        assert unknown(self.judged(judge, -151.0, 0, self.MIDNIGHT)), "that was measured before"
        assert judge.leap_passed

    def test_warning_can_be_taken_back_until_then(self) -> None:
        judge = Judge(CONFIG)
        self.judged(judge, 3600, 1, self.MIDNIGHT)
        self.judged(judge, 1800, 0, self.MIDNIGHT)
        assert self.judged(judge, 1, 0, self.MIDNIGHT).synced
        assert self.judged(judge, -1, 0, self.MIDNIGHT).synced

    @pytest.mark.parametrize("who", ["kernel", "servers beside a daemon"])
    def test_warning_of_others_than_the_source(self, who: str) -> None:
        """What the kernel is going to do, and what the servers say while a daemon is the source."""
        judge = Judge(CONFIG)
        utc_ns = round(self.MIDNIGHT.timestamp() * SECOND)
        for seconds, valid in ((3600, True), (1, False)):
            now = at(-seconds, utc_ns=utc_ns)
            reading = Reading("chronyd", now, 0.0, 0.001, 0.0001, 3, 0, "192.0.2.1", 20.0)
            view = View(daemon=basis_of_reading(reading), kernel_leap=1)
            if who != "kernel":
                view = replace(view, kernel_leap=0, servers=servers(now=now, leap=1))
            assert judge.judge(now, view).valid == valid

    def test_warning_in_november_is_not_acted_on(self) -> None:
        judge = Judge(CONFIG)
        day = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
        record = self.judged(judge, 100, 1, day)
        assert (record.leap, record.synced) == (1, 1)
        assert self.judged(judge, 0, 1, day).synced


class TestSuccessor:
    """A monitor that was started again carries its predecessor's record on."""

    def record(self) -> NtpRecord:
        return Judge(CONFIG).judge(at(0), View(servers=servers(theta_s=0.02, age_s=5.0)))

    def test_as_holdover(self) -> None:
        now = at(12)
        judge = Judge(CONFIG, basis_of_record(self.record(), now))
        record = judge.judge(now, View(starting=True))
        assert (record.state, record.valid, record.synced) == (NtpState.HOLDOVER, 1, 1)
        assert record.offset_ms == pytest.approx(-20.0)
        assert record.uncertainty_ms == pytest.approx(10.0 + 12 * 0.1)
        assert record.monotonic_ns == at(-5).monotonic
        assert record.source == "servers:a" and record.quality == NtpQuality.STRICT

    def test_readers_know_the_same_meanwhile(self) -> None:
        record = self.record()
        offset_ns, bound_ns = carry_on(record, at(12), 300.0) or (0, 0)
        assert offset_ns == pytest.approx(-20e6) and bound_ns == pytest.approx(11.2e6)
        assert carry_on(record, at(294), 300.0) is not None
        assert carry_on(record, at(296), 300.0) is None, "300 s after the measurement"
        assert carry_on(record, at(12, step_s=0.01), 300.0) is None
        assert carry_on(record.replace(valid=0), at(12), 300.0) is None

    def test_not_over_a_step_or_a_sleep(self) -> None:
        assert basis_of_record(self.record(), at(12, step_s=0.01)) is None
        assert basis_of_record(self.record(), at(12, asleep_s=60.0)) is None

    def test_steps_are_counted_on(self) -> None:
        record = self.record().replace(step_count=3)
        assert steps_so_far(record, at(12)) == 3
        assert steps_so_far(record, at(12, step_s=-0.01)) == 4, "the clock was set while there was no monitor"
        assert steps_so_far(NtpRecord(), at(12)) == 0

    def test_not_of_nothing(self) -> None:
        assert basis_of_record(NtpRecord(), at(0)) is None
        assert basis_of_record(self.record().replace(valid=0), at(0)) is None
        assert basis_of_record(self.record().replace(flags=FLAG_DISAGREE), at(0)) is None, "it was not synced"
