"""A day in the life of the monitor, simulated: what an operator reads the next morning.

`pytest -s` shows it.
"""

from __future__ import annotations

import datetime
from dataclasses import replace
from itertools import pairwise

from ntp_farm import KISS_RATE, SECOND, Reply
from ntp_world import OWN, Simulated, World
from pipeline.config import Server
from pipeline.ntp.peer import Address

MIDNIGHT = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
START = MIDNIGHT - datetime.timedelta(hours=23, minutes=30)
NAMES = [f"ntp{k}.example" for k in range(1, 11)]


def clock_time(seconds: float) -> str:
    return (START + datetime.timedelta(seconds=seconds)).strftime("%H:%M:%S")


def the_day() -> World:
    """From half past midnight on New Year's Eve to the same on New Year's Day, with a leap second in between."""
    servers = [Simulated(rtt_s=0.015 + 0.004 * k, jitter_s=0.001) for k in range(len(NAMES))]
    utc_ns = round(START.timestamp() * SECOND)
    config = replace(OWN, servers=tuple(Server(name) for name in NAMES))
    w = World(servers, config, offset_s=0.004, ppm=0.1, utc_ns=utc_ns, look_s=10.0, names=addresses())
    hour = 3600.0

    def until(clock: float) -> None:
        w.run((clock - 0.5) * hour - w.seconds)

    until(2)
    servers[1].reply = KISS_RATE
    until(2.05)
    servers[1].reply = Reply()
    until(4)
    servers[2].reply = KISS_RATE
    until(6)
    servers[3].up = False
    until(9.25)
    w.step(0.25)
    until(9.5)
    w.step(-0.25)
    until(12)
    servers[4].reply = servers[5].reply = Reply(offset_s=0.08)
    until(15)
    for server in servers:
        server.up = False
    until(15.2)
    for k, server in enumerate(servers):
        server.up = k != 3
    until(18)
    for server in servers[6:] + servers[:2]:
        server.reply = Reply(leap=1)
    until(24)
    w.step(-1.0)
    for k, server in enumerate(servers):
        server.reply = Reply(offset_s=-0.92 if k in (4, 5) else -1.0)
    until(24.5)
    return w


def addresses() -> dict[str, tuple[Address, ...]]:
    return {name: (Address(f"192.0.2.{k}", 123),) for k, name in enumerate(NAMES, 1)}


# In this order, other lines in between.
TOLD = (
    "00:30:00 INFO    synced: host clock 3.",
    "02:01:10 WARNING ntp2.example: kiss-o'-death RATE: it wants to be asked less often",
    "04:00:20 WARNING ntp3.example: kiss-o'-death RATE: it wants to be asked less often",
    "04:09:40 WARNING ntp3.example: kiss-o'-death RATE: it wants to be asked less often",
    "06:03:00 WARNING ntp4.example: no answer to 3 requests in a row (timeout)",
    "09:15:00 WARNING host clock was stepped by +0.250000 s",
    "09:15:00 WARNING unsynced: host clock 256.",
    "09:30:00 WARNING host clock was stepped by -0.250000 s",
    "09:30:00 INFO    synced: host clock 6.",
    "12:00:10 WARNING ntp5.example: falseticker, its clock is +80.",
    "12:00:20 WARNING ntp6.example: falseticker, its clock is +80.",
    "15:00:21 WARNING no server answers",
    "15:00:21 WARNING holdover: host clock 8.",
    "15:04:30 WARNING unsynced: offset unknown; no server answers (9 timeout, 1 kiss:RATE); the last good result is "
    "301 s old and no longer believed",
    "15:12:10 INFO    servers answer again",
    "15:12:11 INFO    synced: host clock 8.",
    "18:01:00 INFO    leap second announced (+1 s) for the end of this UTC day",
    "23:59:59 WARNING unsynced: offset unknown; nothing is believed until 150 s after the leap second",
    "00:02:30 INFO    the leap second is over; measuring anew",
    "00:02:31 INFO    synced: host clock 12.",
)


def test_a_day_of_everything_reads_as_a_page() -> None:
    w = the_day()
    lines = [f"{clock_time(t)} {'WARNING' if note.warning else 'INFO':7} {note.text}" for t, note in w.notes]
    print("\n" + "\n".join(lines))
    assert len(lines) <= 60
    rest = iter(lines)
    for told in TOLD:
        assert any(line.startswith(told) for line in rest), told
    (stepped,) = (line for line in lines if line.startswith("09:15:00 WARNING unsynced"))
    assert "ahead of UTC" in stepped and stepped.endswith("; offset and uncertainty together exceed 100 ms")
    (held,) = (line for line in lines if "holdover" in line)
    assert held.endswith(
        "; no server answers (9 timeout, 1 kiss:RATE); the last good result is carried on, for 300 s at most"
    )
    check_records(w)


def check_records(w: World) -> None:
    """What was published meanwhile: right within its uncertainty, never late, and synced but for what happened."""
    published = [report.record.published_monotonic_ns for _, report in w.reports]
    assert max(b - a for a, b in pairwise(published)) <= 10.1 * SECOND
    unsynced = {clock_time(t)[:5] for t, report in w.reports if t > 1 and not report.record.synced}
    happened = ("09:15", "09:29"), ("15:04", "15:12"), ("23:59", "23:59"), ("00:00", "00:02")
    assert all(any(begin <= at <= end for begin, end in happened) for at in unsynced)
    for t, report in w.reports:
        if report.record.valid and not 0 < (t % 3600) % 900 < 0.1:
            stepped_ms = 250.0 if 8.75 * 3600 <= t < 9 * 3600 else 0.0
            truth_ms = 4.0 + stepped_ms + t * 0.1e-3
            assert abs(report.record.offset_ms - truth_ms) <= report.record.uncertainty_ms, clock_time(t)
