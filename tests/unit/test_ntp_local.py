"""chronyd's and ntpd's words, recorded and made up; nothing hostile gets an exception out."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pipeline.config import Ntp
from pipeline.ntp import chronyd, clock, kernel, local, ntpd, programs
from pipeline.ntp.reading import Absence, Reading, overdue_s
from pipeline.ntp.wire import Instant

SEQUENCE = 0x01020304
HEAD = "06020000002100050000000000000000010203040000000000000000"
# Replies of chronyd 4.3 -x: slaved with `offset 0.25`; with `local stratum 1`; without any source.
SLAVED = bytes.fromhex(
    HEAD + "7f00000b7f00000b0000000000000000000000000001000000020000000000006b03408309367ab9feffff57da84c4ee"
    "da84c4ee00ec84b8f2fdcefb04fdf5a2e0e68d71dee2554304806289"
)
SLAVED_AT_NS = 1_795_375_235_954_003_122
LOCAL = bytes.fromhex(HEAD + "7f7f0101" + "00" * 20 + "00010000000000006b034080109e9115" + "00" * 36)
UNSYNCHRONISED = bytes.fromhex(HEAD + "00" * 26 + "0003" + "00" * 36 + "0480000004800000" + "00" * 4)


def at(realtime_ns: int) -> Instant:
    return Instant(realtime_ns, 7, 8, 9)


class TestChronyd:
    def test_recorded_tracking_report(self) -> None:
        """`chronyc -c tracking` a second later: 0.249997 slow, root delay 6.87 us, dispersion 3.79 us, stratum 2."""
        now = at(SLAVED_AT_NS)
        found = chronyd.parse(SLAVED, now)
        assert isinstance(found, Reading)
        assert found.theta_s == pytest.approx(0.249997, abs=1e-6)
        assert found.bound_s == pytest.approx(3.787e-6 + 6.871e-6 / 2, rel=0.1)
        assert found.age_s == pytest.approx(0.8, abs=0.01)
        assert (found.stratum, found.leap, found.reference, found.at) == (2, 0, "127.0.0.11", now)

    def test_local_mode_is_not_synchronised(self) -> None:
        assert chronyd.parse(LOCAL, at(SLAVED_AT_NS)) == Absence("chronyd", "follows its own clock (local)")

    def test_unsynchronised_is_not_an_offset_of_zero(self) -> None:
        assert chronyd.parse(UNSYNCHRONISED, at(SLAVED_AT_NS)) == Absence("chronyd", "not synchronised")

    def test_case_52_daemon_whose_servers_are_gone_is_not_believed_for_ever(self) -> None:
        """It goes on saying "Normal". Update interval 1 s: limit 74 s, then the bound grows, at 222 s it is over."""
        young = chronyd.parse(SLAVED, at(SLAVED_AT_NS + 70 * 10**9))
        old = chronyd.parse(SLAVED, at(SLAVED_AT_NS + 200 * 10**9))
        assert isinstance(young, Reading) and isinstance(old, Reading)
        assert old.bound_s - young.bound_s == pytest.approx(15e-6 * 200.8, rel=0.01)
        gone = chronyd.parse(SLAVED, at(SLAVED_AT_NS + 230 * 10**9))
        assert gone == Absence("chronyd", "last heard from its servers 231 s ago")

    def test_case_56_refusals_are_named(self) -> None:
        assert chronyd.parse(b"\x05" + SLAVED[1:], at(0)).reason.startswith("speaks monitoring protocol 5")  # type: ignore[union-attr]
        denied = SLAVED[:8] + b"\0\x02" + SLAVED[10:]
        assert chronyd.parse(denied, at(0)) == Absence("chronyd", "refused to report (status 2)")
        assert isinstance(chronyd.parse(SLAVED[:60], at(0)), Absence)

    def test_case_56_only_our_answer_counts(self) -> None:
        assert chronyd.answers(SLAVED, SEQUENCE)
        assert not chronyd.answers(SLAVED, SEQUENCE + 1)
        assert not chronyd.answers(chronyd.request(SEQUENCE), SEQUENCE)
        assert not chronyd.answers(SLAVED[:27], SEQUENCE)

    @pytest.mark.parametrize(
        ("word", "value"), [(0, 0.0), (0x0480_0000, 1.0), (0x0700_0000, -4.0), (0xFEFFFF57, 0.24999748)]
    )
    def test_float_format(self, word: int, value: float) -> None:
        """7-bit exponent, 25-bit coefficient; the last one was sent by a daemon that is 0.25 s slow."""
        assert chronyd.number(word) == pytest.approx(value, rel=1e-7)

    def test_case_56_garbage(self) -> None:
        rng = random.Random(6)
        for _ in range(3_000):
            data = bytearray(SLAVED)
            for _ in range(rng.randint(1, 20)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            size = rng.choice([28, 60, len(data)])
            assert isinstance(chronyd.parse(bytes(data[:size]), at(SLAVED_AT_NS)), Reading | Absence)


VARIABLES = (
    'version="ntpd ntpsec-1.2.2", processor="x86_64",\r\nleap=0, stratum=2, precision=-24, rootdelay=1.5, '
    "rootdisp=11.25, refid=192.0.2.5, reftime=0xeb034083.12345678,\r\nclock=0xeb0340a3.00000000, peer=1234, tc=6, "
    "mintc=0, offset=-0.25, frequency=-1.2, sys_jitter=0.5, clk_jitter=0.1"
)
GOOD_STATUS = 0x0615  # leap none, source NTP


def fragments(text: str, sequence: int, size: int = 80, status: int = GOOD_STATUS) -> list[bytes]:
    raw = text.encode()
    made = []
    for offset in range(0, len(raw), size):
        part = raw[offset : offset + size]
        more = ntpd.MORE if offset + size < len(raw) else 0
        head = ntpd.HEADER.pack(0x16, ntpd.RESPONSE | more | 2, sequence, status, 0, offset, len(part))
        made.append(head + part.ljust(-(-len(part) // 4) * 4, b"\0"))
    return made


# Replies of ntpsec 1.2.2 to a request with sequence 7: following an NTP server, and without any.
NTPSEC_SYNCHRONISED = bytes.fromhex("168200070014000000000161") + (
    b"leap=0, stratum=2, precision=-24, rootdelay=0.038, rootdisp=1.105,\r\n"
    b"refid=10.77.0.1, reftime=0xeeadd28e.e658e3b2, tc=3, peer=17767,\r\n"
    b"offset=0.008899, frequency=0.000000, sys_jitter=0.000000,\r\n"
    b'clk_jitter=0.008124, clock=0xeeadd295.fda353f9, processor="x86_64",\r\n'
    b'system="Linux/6.18.44-fc-v669", version="ntpd ntpsec-1.2.2",\r\n'
    b"clk_wander=0.000000, mintc=0\r\n\0\0\0"
)
NTPSEC_UNSYNCHRONISED = bytes.fromhex("d6820007c016000000000159") + (
    b"leap=3, stratum=16, precision=-24, rootdelay=0.000, rootdisp=0.060,\r\n"
    b"refid=INIT, reftime=0x00000000.00000000, tc=0, peer=0, offset=0.000000,\r\n"
    b"frequency=0.000000, sys_jitter=0.000000, clk_jitter=0.000060,\r\n"
    b'clock=0xeeadd2f0.94ac3883, processor="x86_64",\r\n'
    b'system="Linux/6.18.44-fc-v669", version="ntpd ntpsec-1.2.2",\r\n'
    b"clk_wander=0.000000, mintc=0\r\n\0\0\0"
)


def recorded(reply: bytes) -> Reading | Absence:
    """What is made of a recorded reply."""
    assembly = ntpd.Assembly(7)
    assembly.add(reply)
    text = assembly.text()
    assert text is not None
    return ntpd.parse(text, assembly.status, at(0))


class TestNtpd:
    def test_case_55_recorded_replies_of_ntpsec(self) -> None:
        """The first calls its source unspecified although it follows a server."""
        found = recorded(NTPSEC_SYNCHRONISED)
        assert isinstance(found, Reading)
        assert found.theta_s == pytest.approx(8.899e-6)
        assert found.bound_s == pytest.approx(1.105e-3 + 0.019e-3 + 8.899e-6)
        assert (found.stratum, found.leap, found.reference, found.age_s) == (2, 0, "10.77.0.1", 7.0)
        assert found.jitter_s == pytest.approx(8.124e-6), "it has one server, and so a system jitter of 0.0"
        assert recorded(NTPSEC_UNSYNCHRONISED) == Absence("ntpd", "not synchronised")
        without_peer = NTPSEC_SYNCHRONISED.replace(b"peer=17767", b"peer=0    ")
        assert recorded(without_peer) == Absence("ntpd", "not synchronised")

    def test_good(self) -> None:
        found = ntpd.parse(VARIABLES, GOOD_STATUS, at(0))
        assert isinstance(found, Reading)
        assert found.theta_s == pytest.approx(-0.00025)
        assert found.bound_s == pytest.approx(0.01125 + 0.00075 + 0.00025)
        assert (found.jitter_s, found.stratum, found.reference, found.age_s) == (0.0005, 2, "192.0.2.5", 32.0)

    def test_case_55_unsynchronised_is_not_an_offset_of_zero(self) -> None:
        text = "leap=3, stratum=16, rootdelay=0.0, rootdisp=0.0, refid=INIT, offset=0.0, sys_jitter=0.0"
        assert ntpd.parse(text, 0xC016, at(0)) == Absence("ntpd", "not synchronised")
        without_peer = VARIABLES.replace("peer=1234", "peer=0")
        assert ntpd.parse(without_peer, 0x0015, at(0)) == Absence("ntpd", "not synchronised")

    @pytest.mark.parametrize(
        ("text", "status"), [(VARIABLES, 0x0515), (VARIABLES.replace("192.0.2.5", "127.127.1.0"), GOOD_STATUS)]
    )
    def test_case_55_local_clock(self, text: str, status: int) -> None:
        assert ntpd.parse(text, status, at(0)) == Absence("ntpd", "follows its own clock (LOCAL)")

    def test_last_update_long_ago(self) -> None:
        old = VARIABLES.replace("clock=0xeb0340a3", "clock=0xeb035083")
        assert ntpd.parse(old, GOOD_STATUS, at(0)) == Absence("ntpd", "last heard from its servers 4096 s ago")

    @pytest.mark.parametrize("text", ["", "offset=x", VARIABLES.replace("offset=-0.25", "offset=nan"), "=,=,\x00"])
    def test_case_55_garbage(self, text: str) -> None:
        assert isinstance(ntpd.parse(text, GOOD_STATUS, at(0)), Absence)

    def test_case_55_fragments_in_any_order(self) -> None:
        parts = fragments(VARIABLES, 7)
        assert len(parts) > 3
        for seed in range(10):
            assembly = ntpd.Assembly(7)
            shuffled = random.Random(seed).sample(parts, len(parts))
            for part in shuffled[:-1]:
                assembly.add(part)
                assert assembly.text() is None
            assembly.add(shuffled[0])  # a duplicate
            assembly.add(shuffled[-1])
            assert assembly.text() == VARIABLES
            assert assembly.status == GOOD_STATUS

    def test_case_56_foreign_and_hostile_fragments_are_ignored(self) -> None:
        assembly = ntpd.Assembly(7)
        rng = random.Random(9)
        for data in (b"", bytes(11), *fragments("x=1", 8), ntpd.request(7), *(rng.randbytes(40) for _ in range(2000))):
            assembly.add(data)
        assembly.add(ntpd.HEADER.pack(0x16, ntpd.RESPONSE | 2, 7, 0, 0, 65_000, 60_000))
        for part in fragments(VARIABLES, 7):
            assembly.add(part)
        assert assembly.text() == VARIABLES

    def test_case_55_error_answer(self) -> None:
        assembly = ntpd.Assembly(7)
        assembly.add(ntpd.HEADER.pack(0x16, ntpd.RESPONSE | ntpd.ERROR | 2, 7, 0x0100, 0, 0, 0))
        assert assembly.error == 1


class TestPrograms:
    # Recorded from the daemons above.
    SLAVED = (
        "7F00000B,127.0.0.11,2,1795375235.154565305,0.249997407,0.000000495,0.000000495,0.462,0.004,1.984,"
        "0.000006871,0.000003787,1.0,Normal\n"
    )
    LOCAL = "7F7F0101,,1,1795375232.278827285" + ",0.000000000" * 3 + ",0.000" * 3 + ",0.0,0.0,0.0,Normal\n"
    NONE = "00000000,,0" + ",0.000000000" * 4 + ",0.000" * 3 + ",1.000000000,1.000000000,0.0,Not synchronised\n"

    def test_chronyc(self) -> None:
        found = programs.parse_tracking(self.SLAVED, at(SLAVED_AT_NS))
        assert isinstance(found, Reading)
        assert (found.theta_s, found.stratum, found.reference) == (0.249997407, 2, "127.0.0.11")
        assert found.bound_s == pytest.approx(3.787e-6 + 6.871e-6 / 2)
        assert found.jitter_s == pytest.approx(1.984e-6 * found.age_s)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (NONE, "not synchronised"),
            (LOCAL, "follows its own clock (local)"),
            ("506 Cannot talk to daemon\n", "506 Cannot talk to daemon"),
            ("", "absent"),
            ("," * 13, "answers with garbage"),
        ],
    )
    def test_chronyc_without_a_reading(self, text: str, reason: str) -> None:
        assert programs.parse_tracking(text, at(SLAVED_AT_NS)) == Absence("chronyc", reason)

    def test_ntpq(self) -> None:
        """It prints reference times without 0x and with a date that has commas in it."""
        text = VARIABLES.replace("0xeb034083.12345678", "eb034083.12345678  Sun, Nov 22 2026 19:20:35.071")
        text = "associd=0 status=0615 leap_none, sync_ntp, 1 event, clock_sync,\n" + text.replace("0xeb", "eb")
        found = programs.parse_variables(text, at(0))
        assert isinstance(found, Reading)
        assert (found.source, found.theta_s, found.age_s) == ("ntpq", pytest.approx(-0.00025), 32.0)
        unset = "associd=0 status=c016 leap_alarm, sync_unspec, 1 event, restart,\nleap=11, stratum=16, offset=0.0\n"
        assert programs.parse_variables(unset, at(0)) == Absence("ntpq", "not synchronised")
        assert programs.parse_variables("", at(0)) == Absence("ntpq", "absent")


@contextmanager
def daemon(answer: Callable[[bytes], list[bytes]]) -> Iterator[tuple[str, int]]:
    """Something that answers one request on 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        s.settimeout(5)

        def serve() -> None:
            data, client = s.recvfrom(1024)
            for packet in answer(data):
                s.sendto(packet, client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield s.getsockname()
        thread.join()


class TestAsking:
    def test_chronyd_over_udp_among_foreign_packets(self) -> None:
        def answer(data: bytes) -> list[bytes]:
            right = UNSYNCHRONISED[:16] + data[8:12] + UNSYNCHRONISED[20:]
            return [b"", b"junk", UNSYNCHRONISED, right]

        with daemon(answer) as address:
            assert chronyd.read(*address, timeout_s=5) == Absence("chronyd", "not synchronised")

    def test_ntpd_over_udp(self) -> None:
        with daemon(lambda data: fragments(VARIABLES, struct.unpack_from("!H", data, 2)[0])) as address:
            found = ntpd.read(*address, timeout_s=5)
        assert isinstance(found, Reading) and found.theta_s == pytest.approx(-0.00025)

    @pytest.mark.parametrize("read", [chronyd.read, ntpd.read])
    def test_case_55_56_absent_hung_and_garbage(self, read: Callable[..., Reading | Absence]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("127.0.0.1", 0))
            address = s.getsockname()
            assert read(*address, timeout_s=0.02).reason == "does not answer"  # type: ignore[union-attr]
        assert read(*address).reason == "absent"  # type: ignore[union-attr]
        with daemon(lambda data: [b"junk"] * 40) as address:
            assert read(*address, timeout_s=5).reason == "answers with garbage"  # type: ignore[union-attr]

    def test_by_the_configured_address(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("127.0.0.1", 0))
            free = f"127.0.0.1:{s.getsockname()[1]}"
        config = Ntp(chronyd_address=free, ntpd_address=free)
        for name in ("chronyd", "ntpd"):
            assert local.SOURCES[name](config) == Absence(name, "absent")
        assert local.split_address("[::1]:323") == ("::1", 323)


def test_overdue() -> None:
    assert overdue_s(74.0, 1.0) == 0.0
    assert overdue_s(100.0, 1.0) == pytest.approx(0.0015)
    assert overdue_s(223.0, 1.0) is None
    assert overdue_s(1000.0, 1024.0) == 0.0


def test_kernel_state_is_sane_and_read_without_privilege() -> None:
    state = kernel.read()
    assert state is not None
    assert abs(state.frequency) <= 0.2 and state.leap in (0, 1, 2) and state.max_error_s >= 0


def test_clocks_are_read_together() -> None:
    first, second = clock.read(), clock.read()
    assert second.raw >= first.raw and second.monotonic >= first.monotonic
    assert abs(second.base - first.base) < 50_000_000
