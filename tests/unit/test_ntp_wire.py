"""Replies, good and bad, against the ordered checks; stamps around eras and steps."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from ntp_farm import IGNORED, KISS_RATE, NOON_NS, REFUSED, SECOND, Reply
from pipeline.ntp import wire
from pipeline.ntp.wire import Ignored, Instant, Kiss, Limits, Refusal, Refused, Sample

NONCE = bytes(range(1, 9))
GOOD = Reply()
RELAXED = Limits()
RTT_NS = 20_000_000


def instant(realtime_ns: int, raw_ns: int) -> Instant:
    return Instant(realtime_ns, raw_ns, raw_ns, raw_ns)


def exchange(
    reply: Reply,
    host_offset_s: float = 0.0,
    utc_ns: int = NOON_NS,
    rtt_ns: int = RTT_NS,
    jump_ns: int = 0,
    limits: Limits = RELAXED,
    forward_ns: int | None = None,
) -> wire.Outcome:
    """One exchange with a host that is `host_offset_s` ahead and whose clock jumps on the way."""
    host = round(host_offset_s * SECOND)
    forward = rtt_ns // 2 if forward_ns is None else forward_ns
    packet = reply.to_bytes(wire.request(NONCE), utc_ns + forward)
    sent = instant(utc_ns + host, 5 * SECOND)
    received = instant(utc_ns + host + rtt_ns + jump_ns, 5 * SECOND + rtt_ns)
    return wire.check(packet, NONCE, sent, received, limits)


def sample(reply: Reply = GOOD, **how: object) -> Sample:
    outcome = exchange(reply, **how)  # type: ignore[arg-type]
    assert isinstance(outcome, Sample), outcome
    return outcome


def refusal(reply: Reply, **how: object) -> Refusal:
    outcome = exchange(reply, **how)  # type: ignore[arg-type]
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


def test_request_tells_nothing_but_the_nonce() -> None:
    assert wire.request(NONCE).hex() == "23000020" + "00" * 36 + NONCE.hex()
    with pytest.raises(ValueError, match="nonce of 7"):
        wire.request(bytes(7))


def test_theta_is_server_minus_host() -> None:
    slow = sample(host_offset_s=-3.0)
    assert slow.theta_s == pytest.approx(3.0, abs=1e-8)
    assert slow.delay_s == pytest.approx(0.02, abs=1e-8)
    assert sample(host_offset_s=0.25).theta_s == pytest.approx(-0.25, abs=1e-8)


def test_sample_is_tied_to_the_raw_clock() -> None:
    found = sample(host_offset_s=-3.0)
    # UTC in the middle of the exchange, seen from the raw clock in the middle of it.
    assert found.raw_ns == 5 * SECOND + RTT_NS // 2
    assert found.utc_minus_raw_ns == pytest.approx(NOON_NS - 5 * SECOND, abs=5)


def test_asymmetric_path_is_within_the_bound() -> None:
    """The host's error is half the asymmetry, which delay/2 covers."""
    found = sample(rtt_ns=40_000_000, forward_ns=40_000_000)
    assert found.theta_s == pytest.approx(0.020, abs=1e-8)
    assert abs(found.theta_s) <= found.delay_s / 2 + found.dispersion_s


def test_case_39_era_of_2036_is_like_any_other() -> None:
    rollover = (1 << 32) * SECOND - wire.UNIX_EPOCH_NTP_S * SECOND
    for utc_ns in (rollover - RTT_NS // 4, rollover, rollover + 1, rollover + 10**9, rollover - RTT_NS):
        assert sample(utc_ns=utc_ns, host_offset_s=0.1).theta_s == pytest.approx(-0.1, abs=1e-8)


def test_case_39_server_in_2036_is_ten_years_off_and_nothing_else() -> None:
    found = sample(Reply(offset_s=10 * 365.25 * 86400))
    assert found.theta_s == pytest.approx(10 * 365.25 * 86400)


def test_host_at_1970_measures_too() -> None:
    assert sample(host_offset_s=-(NOON_NS // SECOND) + 5.0).theta_s == pytest.approx(NOON_NS // SECOND - 5.0)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    reply, reason = REFUSED[name]
    assert refusal(reply) == reason


def test_delay_threshold() -> None:
    assert sample(rtt_ns=1_400_000_000).delay_s == pytest.approx(1.4)
    assert refusal(Reply(), rtt_ns=1_600_000_000) is Refusal.DELAY


def test_local_reference_is_allowed_where_configured() -> None:
    reply = Reply(stratum=10, refid=bytes([127, 127, 1, 1]))
    assert sample(reply, limits=Limits(allow_local_reference=True)).stratum == 10


def test_server_that_follows_this_host_is_a_loop() -> None:
    limits = Limits(own_addresses=frozenset({bytes([192, 0, 2, 7])}))
    assert refusal(Reply(stratum=3, refid=bytes([192, 0, 2, 7])), limits=limits) is Refusal.LOOP
    assert sample(Reply(stratum=3, refid=bytes([192, 0, 2, 8])), limits=limits).reference == "192.0.2.8"


@pytest.mark.parametrize("jump_s", [0.5, -0.5, 0.002, -0.002, -3600.0])
def test_case_41_host_clock_that_moves_in_flight(jump_s: float) -> None:
    assert refusal(Reply(), jump_ns=round(jump_s * SECOND)) is Refusal.HOST_STEP


@pytest.mark.parametrize("name", IGNORED)
def test_ignored(name: str) -> None:
    reply, reason = IGNORED[name]
    assert exchange(reply) == Ignored(Refusal(reason))


@pytest.mark.parametrize("size", [0, 1, 47])
def test_short_packets_are_ignored(size: int) -> None:
    now = instant(NOON_NS, 0)
    assert wire.check(bytes(size), NONCE, now, now, Limits()) == Ignored(Refusal.SHORT)


def test_extension_fields_are_not_looked_at() -> None:
    packet = Reply().to_bytes(wire.request(NONCE), NOON_NS + RTT_NS // 2) + bytes(1152)
    sent, received = instant(NOON_NS, 0), instant(NOON_NS + RTT_NS, RTT_NS)
    assert isinstance(wire.check(packet, NONCE, sent, received, Limits()), Sample)


def test_kiss_is_told_with_its_code() -> None:
    assert exchange(KISS_RATE) == Kiss("RATE")
    assert exchange(replace(KISS_RATE, refid=b"XFO\0")) == Kiss("XFO")


@pytest.mark.parametrize("refid", [bytes(4), b"X\0\xff\n", b"\xff" * 4])
def test_stratum_0_without_a_code_is_unsynchronised(refid: bytes) -> None:
    assert refusal(replace(KISS_RATE, refid=refid)) is Refusal.UNSYNC


def test_kiss_counts_whatever_its_stamps_say() -> None:
    """A kiss with plausible stamps must not be mistaken for a sample."""
    assert exchange(Reply(stratum=0, refid=b"DENY")) == Kiss("DENY")


class TestArrival:
    sent = Instant(1_000, 100, 50, 60)
    now = Instant(9_000, 8_100, 8_050, 8_060)

    def test_kernel_stamp_moves_all_clocks_back(self) -> None:
        assert wire.arrival(7_000, self.sent, self.now) == Instant(7_000, 6_100, 6_050, 8_060)

    @pytest.mark.parametrize("stamp", [None, 999, 9_001])
    def test_stamp_outside_of_the_exchange_is_not_believed(self, stamp: int | None) -> None:
        assert wire.arrival(stamp, self.sent, self.now) is self.now


def test_difference_wraps() -> None:
    assert wire.difference(5, (1 << 64) - 5) == 10
    assert wire.difference((1 << 64) - 5, 5) == -10


def test_ntp_timestamp_of_the_unix_epoch() -> None:
    assert wire.ntp_timestamp(0) == 2_208_988_800 << 32
    assert wire.ntp_timestamp(SECOND // 2) == 2_208_988_800 << 32 | 1 << 31


def test_stamps_lie_where_rfc_5905_says() -> None:
    """Against a packet made without any of our code."""
    seconds = 2_208_988_800 + NOON_NS // SECOND
    stamps = struct.pack("!II8sIIII", seconds - 8, 0, NONCE, seconds, 1 << 31, seconds, 1 << 31)
    packet = bytes([0x24, 1, 6, 0xEC]) + struct.pack("!II4s", 0, 65, b"PPS\0") + stamps
    sent, received = instant(NOON_NS, 0), instant(NOON_NS + SECOND, SECOND)
    found = wire.check(packet, NONCE, sent, received, Limits())
    assert isinstance(found, Sample)
    assert (found.theta_s, found.delay_s, found.reference, found.stratum) == (0.0, 1.0, "PPS", 1)
    assert found.root_dispersion_s == 65 / 65536
