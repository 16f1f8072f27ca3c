"""A worker that dies at any point: its successor's files and counters are those of one that lived."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.stream.candidates import Origin
from pipeline.stream.holes import KEPT_HOLES
from pipeline.stream.journal import CHECKPOINT_SIZE, Journal, Row, geometry
from pipeline.stream.recovery import packed, unpacked
from pipeline.stream.timeline import SECOND, HostClock
from stream_world import RATE, Faults, Part, World, check, summary
from streams import T0, FakeStatus, Recording, Sent, play

LONG = os.environ.get("GRAPE_LONG") == "1"
OTHER: Origin = ("127.0.0.1", 40_001)


class Killed(Exception):
    """SIGKILL, as far as the pure code can tell."""


def eventful(**facts: Any) -> World:
    """Loss, reordering, copies, a mute, two restarts and a change of the encoding in four minutes."""
    parts = (
        Part(70, (500,), mutes=((20, 3000, True),), **facts),
        Part(60, (180, 140), 1 << 31, 65_500, port=40_001, pause_s=4, **facts),
        Part(65, (500,), 5, 3, 40_001, 6, encodings=("S16BE", "F32LE", "S16BE")),
    )
    return World(parts, Faults(7, 0.03, 0.2, 0.1, 0.05), T0 + 17 * SECOND)


# At every packet takes a minute: GRAPE_LONG=1.
EVERY = [(1, True), (2, False), (7, True), (50, False)] if LONG else [(3, True), (7, False), (50, False)]


@pytest.mark.parametrize(("every", "statuses"), EVERY)
def test_death_between_packets_leaves_no_trace(every: int, statuses: bool) -> None:
    world = eventful(statuses=statuses)
    alive, dying = Recording(RATE), Recording(RATE)
    looks = range(0, 3000, every)
    check(world, alive, world.play(alive, [(n, "look") for n in looks]))
    world.play(dying, [(n, "between packets") for n in looks])
    assert summary(dying) == summary(alive)


@pytest.mark.parametrize("death", ["said", "unsaid"])
def test_death_between_cutting_and_writing_leaves_no_trace(death: str) -> None:
    world = eventful()
    alive, dying = Recording(RATE), Recording(RATE)
    world.play(alive, [(n, "look") for n in range(3000)])
    world.play(dying, [(n, death) for n in range(3000)])
    assert summary(dying) == summary(alive)


def test_minute_that_was_cut_is_cut_again_as_it_was() -> None:
    """However much came since: better evidence, late packets, another timeline."""
    to, stream = Recording(), Sent(T0)
    play(to, stream, [n for n in range(61 * 50) if n not in (500, 2999)])
    for n in range(61 * 50, 62 * 50 + 1):
        stream.send(to, n)
    to.intake.scan()
    due = to.cutter.due(0, to.host)
    assert due is not None
    first = to.cutter.cut(due, to.host, "unknown")
    to.save()
    stream.send(to, 500, delay_ns=60 * SECOND)
    stream.send(to, 2999, delay_ns=10 * SECOND)
    for n in range(62 * 50 + 1, 70 * 50):
        stream.send(to, n)
        stream.pair(to, n + 1, late_ns=-900_000)
    for n in range(10):
        Sent(T0 + 80 * SECOND, first_rtp=1 << 31).send(to, n, origin=OTHER)
    to.crash()
    to.host = HostClock(50_000_000, 100_000)
    again_due = to.cutter.due(0, to.host)
    assert again_due == due
    again = to.cutter.cut(again_due, to.host, "stop")
    assert again.ends == first.ends and again.rejected == first.rejected
    for mine, theirs in zip(again.minutes, first.minutes, strict=True):
        assert (mine.anchor, mine.gaps, mine.segments) == (theirs.anchor, theirs.gaps, theirs.segments)
        assert (mine.packets_received, mine.packets_late) == (theirs.packets_received, theirs.packets_late)
        assert [bytes(run.payload) for run in mine.runs] == [bytes(run.payload) for run in theirs.runs]


def killing(to: Recording, method: str, when: Callable[[Row], bool], after: bool) -> None:
    """The worker dies in the journal's `method` when it commits such a record, or just before."""
    done = getattr(Journal, method)

    def dies(argument: Any) -> None:
        row = argument if isinstance(argument, Row) else argument[0][1]
        hit = when(row)
        if not hit or after:
            done(to.journal, argument)
        if hit:
            raise Killed

    setattr(to.journal, method, dies)


@pytest.mark.parametrize("after", [True, False], ids=["committed", "not committed"])
@pytest.mark.parametrize("method", ["append", "append_moved"])
def test_death_inside_a_commit(method: str, after: bool) -> None:
    """The datagram stays on the socket's queue until it is committed; then it is known at its head."""

    def feed(to: Recording, die_at: int) -> None:
        commits = 0

        def when(_: Row) -> bool:
            nonlocal commits
            commits += 1
            return commits == die_at

        killing(to, method, when, after)
        stream, again = Sent(T0), Sent(T0 + 30 * SECOND, first_rtp=1 << 30, first_sequence=5)
        packets = [(stream, n, ("127.0.0.1", 40_000)) for n in (0, 2, 1, 3, 3, 4)] + [
            (again, n, OTHER) for n in (0, 1, 1, 2, 4, 3)
        ]
        for sender, n, origin in packets:
            count = to.journal.count
            try:
                sender.send(to, n, origin=origin)
            except Killed:
                # A held packet is committed before the promotion it sets off.
                committed = to.journal.count > count
                to.crash()
                if not committed:
                    sender.send(to, n, origin=origin)
        to.finish()

    alive = Recording()
    feed(alive, -1)
    for die_at in range(1, 15):
        dying = Recording()
        feed(dying, die_at)
        assert [s[0][1:] for s in summary(dying)[:-4]] == [s[0][1:] for s in summary(alive)[:-4]]
        assert dying.intake.received == alive.intake.received == 10


def test_packets_that_were_held_are_held_again() -> None:
    to, stream = Recording(), Sent(T0)
    for n in range(10):
        stream.send(to, n)
    again = Sent(T0 + 200_000_000, first_rtp=1 << 31)
    for n in range(7):
        again.send(to, n, origin=OTHER)
        to.crash()
    assert len(to.intake.epochs) == 1
    again.send(to, 7, origin=OTHER)
    assert len(to.intake.epochs) == 2 and to.intake.received == 18


def test_nothing_left_in_the_journal_is_no_new_start() -> None:
    """All of it was written; the stream goes on after the crash, late packets and copies too."""
    to, stream = Recording(), Sent(T0)
    play(to, stream, [n for n in range(3000) if n != 2900])
    to.advance(silent_ns=20 * SECOND)
    assert to.journal.first == to.journal.count
    to.crash()
    stream.send(to, 2900, delay_ns=20 * SECOND)
    stream.send(to, 2950, delay_ns=20 * SECOND)
    for n in range(3500, 3600):
        stream.send(to, n)
    intake = to.intake
    assert [epoch.id for epoch in intake.epochs] == [1]
    assert (intake.late, intake.source.lost) == (1, 501)
    assert to.finish()[1][0].gaps[0].packets_lost == 500


def test_checkpoint_of_another_version_costs_no_sample() -> None:
    """The records tell which timeline they are of, and how often its timestamps wrapped."""
    to = Recording()
    before, stream = Sent(T0, first_rtp=0), Sent(T0 + 12 * SECOND, first_rtp=(1 << 32) - 30 * 16_000)
    play(to, before, range(500))
    for n in range(5500):
        stream.send(to, n, origin=OTHER)
        if n % 25 == 0:
            stream.pair(to, n + 1)
            to.advance()
    assert to.saved is not None and len(to.minutes) == 1
    to.saved["version"] -= 1
    to.crash()
    for n in range(5500, 6000):
        stream.send(to, n, origin=OTHER)
    to.finish()
    assert [s.epoch_id for minute, _, _ in to.minutes for s in minute.segments] == [1, 2, 2, 2]
    assert [minute.segments[-1].samples for minute, _, _ in to.minutes] == [48 * 16_000, 60 * 16_000, 12 * 16_000]
    assert [gap.cause for minute, _, _ in to.minutes[1:] for gap in minute.gaps] == ["stop"]


def test_pending_statuses_survive() -> None:
    to, stream = Recording(), Sent(T0)
    for n in range(10):
        stream.send(to, n)
    changed = Sent(T0 + 200_000_000, first_rtp=1 << 31, first_sequence=10)
    to.status(FakeStatus(changed.time_ns(0), 1 << 31, 16_000, "F32LE"), changed.time_ns(0))
    to.save()
    to.crash()
    for n in range(3):
        changed.send(to, n)
    assert to.intake.epochs[-1].formats[0][1] == "F32LE"


def test_counters_are_those_of_all_workers() -> None:
    to, stream = Recording(), Sent(T0)
    for n in range(200 * 50):
        stream.send(to, n)
        if n % 100 == 0:
            stream.send(to, n)
            to.intake.bad(stream.time_ns(n * 320))
        if n % 25 == 0:
            stream.pair(to, n + 1)
            to.advance()
        if n % 333 == 0:
            to.save()
        if n % 77 == 0:
            to.crash()
    to.finish()
    assert to.intake.rejected == (100, 0, 100) and to.intake.received == 10_000
    assert sum(minute.packets_duplicate for minute, _, _ in to.minutes) == 100
    assert sum(minute.packets_bad for minute, _, _ in to.minutes) == 100


def test_checkpoint_of_the_worst_stream_fits_its_cell() -> None:
    to = Recording(shape=geometry(16_000, 10))
    for k in range(20):
        stream = Sent(T0 + k * 30 * SECOND, first_rtp=(k << 27) + 3_000_000_000, first_sequence=65_000)
        for n in range(0, 1400, 2):
            stream.send(to, n, origin=("127.0.0.1", 40_000 + k))
            stream.pair(to, n + 1)
    stream = Sent(T0 + 700 * SECOND, first_rtp=3_000_000_000, first_sequence=65_000)
    for n in range(0, 4 * KEPT_HOLES, 2):
        stream.send(to, n)
        stream.pair(to, n + 1)
    to.save()
    assert len(json.dumps(to.saved, separators=(",", ":"))) < CHECKPOINT_SIZE
    to.crash()
    assert len(to.intake.source.holes) == KEPT_HOLES


@pytest.mark.parametrize(("every_s", "whole"), [(30, True), (6, False)])
def test_checkpoint_of_two_hours_of_restarts_fits_its_cell(every_s: int, whole: bool) -> None:
    """`buffer_minutes` may be 120, and a radiod that does not get on may start again all the time."""
    to = Recording(RATE, shape=geometry(RATE, 120))
    for k in range(7200 // every_s):
        stream = Sent(T0 + k * every_s * SECOND, RATE, 500, k * 77_777_777 & 0xFFFFFFFF, 99 * k)
        for n in range(2 * every_s - 2):
            stream.send(to, n, origin=("127.0.0.1", 20_000 + k))
            stream.pair(to, n + 1)
        to.intake.scan()
    to.save()
    assert to.saved is not None
    payload = packed(to.saved)
    assert len(json.dumps(to.saved)) > CHECKPOINT_SIZE >= len(payload)
    found = unpacked(payload)
    assert found == to.saved or not whole
    to.saved, count = found, len(to.intake.epochs)
    to.crash()
    assert len(to.intake.epochs) == count > 100


def test_small_checkpoint_is_plain() -> None:
    to, stream = Recording(), Sent(T0)
    play(to, stream, range(100))
    to.save()
    assert to.saved is not None and json.loads(packed(to.saved)) == unpacked(packed(to.saved)) == to.saved
