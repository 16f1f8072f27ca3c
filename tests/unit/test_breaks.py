"""What was sent while the program was not running is listed as `restart`, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from pipeline.stream.timeline import SECOND
from streams import T0, Recording, Sent, play

PER_S = 50


def restart(to: Recording, since_ns: int = 0) -> None:
    """The whole program dies and the next start takes over what is in memory."""
    to.crash()
    to.journal.mark_break(since_ns)
    to.crash()


def gaps(to: Recording) -> list[tuple[int, float, float, str]]:
    """(minute, from, for, cause) in seconds of every gap but those at the ends of the recording."""
    return [
        ((minute.utc_ns - T0) // (60 * SECOND), gap.index / minute.rate_hz, gap.samples / minute.rate_hz, gap.cause)
        for minute, _, _ in to.minutes
        for gap in minute.gaps
        if gap.cause not in ("start", "stop")
    ]


def seconds(begin: float, end: float) -> range:
    return range(round(begin * PER_S), round(end * PER_S))


def lossy(numbers: Iterable[int], *lost: float) -> list[int]:
    return [n for n in numbers if n not in {round(s * PER_S) for s in lost}]


@pytest.mark.parametrize("dies_again", [False, True], ids=["once", "its successor dies too"])
@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (20, 23, [(0, 20.0, 3.0)]),
        (57, 63, [(0, 57.0, 3.0), (1, 0.0, 3.0)]),
        (60, 62, [(1, 0.0, 2.0)]),
        (58, 60, [(0, 58.0, 2.0)]),
        (50, 190, [(0, 50.0, 10.0), (3, 0.0, 10.0)]),
    ],
)
def test_gap_of_a_restart(begin: int, end: int, expected: list[tuple[int, float, float]], dies_again: bool) -> None:
    to, stream = Recording(), Sent(T0)
    play(to, stream, lossy(seconds(0, begin), 5))
    restart(to)
    rest = seconds(end, 250)
    if dies_again:
        to.intake.scan()
        to.crash()
        play(to, stream, rest[:1])
        to.crash()
        rest = rest[1:]
    play(to, stream, lossy(rest, 200))
    to.finish()
    assert gaps(to) == [
        (0, 5.0, 0.02, "network"),
        *((*gap, "restart") for gap in expected),
        (3, 20.0, 0.02, "network"),
    ]


def test_packets_that_waited_on_a_kept_socket_are_no_gap() -> None:
    to, stream = Recording(), Sent(T0)
    play(to, stream, seconds(0, 20))
    restart(to, T0 + 23 * SECOND)
    play(to, stream, seconds(20, 70))
    to.finish()
    assert gaps(to) == []


def test_kept_socket_that_overflowed_is_a_gap_of_the_restart() -> None:
    """The queue holds the oldest packets; what is missing is between them and the first that found room again."""
    to, stream = Recording(), Sent(T0)
    play(to, stream, seconds(0, 20))
    restart(to, T0 + 40 * SECOND)
    play(to, stream, lossy([*seconds(20, 30), *seconds(41, 70)], 25))
    to.finish()
    assert gaps(to) == [(0, 25.0, 0.02, "network"), (0, 30.0, 11.0, "restart")]


def test_radiod_that_was_started_again_meanwhile() -> None:
    to = Recording()
    play(to, Sent(T0), seconds(0, 20))
    restart(to)
    play(to, Sent(T0 + 30 * SECOND, first_rtp=77), seconds(0, 40))
    to.finish()
    assert gaps(to) == [(0, 20.0, 10.0, "restart")]


def test_restart_before_the_first_packet_is_nothing() -> None:
    to = Recording()
    restart(to)
    play(to, Sent(T0), lossy(seconds(0, 70), 30))
    to.finish()
    assert gaps(to) == [(0, 30.0, 0.02, "network")]
