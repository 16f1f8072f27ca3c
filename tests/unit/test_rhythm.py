"""How long a worker sleeps: as long as its receive buffer allows."""

from __future__ import annotations

import pytest

from pipeline.rhythm import CAREFUL_S, LONGEST_S, SHARE, SHORTEST_S, Rhythm

S = 10**9
BUFFER = 425_984


def course(bytes_per_s: float, turns: int = 20, buffer: int = BUFFER) -> list[tuple[float, float]]:
    """(pause, share of the buffer used after it) of a worker that sleeps as it is told."""
    rhythm, now, found = Rhythm(), 0, []
    rhythm.look((0, buffer), now)
    for _ in range(turns):
        pause = rhythm.pause_s
        now += round(pause * S)
        used = min(buffer, round(bytes_per_s * pause))
        rhythm.look((used, buffer), now)
        found.append((pause, used / buffer))
    return found


# What the kernel charges for a datagram of 1292 bytes is 2304 bytes; radiod sends 50 a second at 16 kHz S16.
@pytest.mark.parametrize("packets_s", [1, 50, 100, 600, 1200])
def test_the_buffer_is_at_most_a_quarter_full(packets_s: int) -> None:
    settled = course(2304 * packets_s)[2:]
    assert all(used <= SHARE + 0.01 for _, used in settled)
    assert all(pause == LONGEST_S or used > SHARE - 0.01 for pause, used in settled), "no more wake-ups than needed"


def test_a_buffer_that_is_always_full_is_emptied_as_often_as_can_be() -> None:
    assert course(1e12)[-1][0] == SHORTEST_S


def test_a_silent_stream_lets_the_worker_sleep() -> None:
    assert course(0)[-1] == (LONGEST_S, 0.0)


def test_an_early_wake_up_changes_nothing() -> None:
    rhythm = Rhythm()
    rhythm.look((100, BUFFER), 0)
    rhythm.look((40_000, BUFFER), S)
    assert rhythm.pause_s == LONGEST_S
    rhythm.look((39_000, BUFFER), S + S // 1000)
    assert rhythm.pause_s == LONGEST_S


def test_without_the_kernels_word_it_is_careful() -> None:
    rhythm = Rhythm()
    for second in range(3):
        rhythm.look(None, second * S)
        assert rhythm.pause_s == CAREFUL_S
