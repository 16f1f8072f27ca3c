"""Seats: places on the board are given once, and a new configuration finds also those that got none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.config import Channel, Config
from pipeline.shm import Board
from pipeline.supervision.changes import Change, Plan
from pipeline.supervision.crew import Seat
from pipeline.supervision.fdstore import SocketStore
from pipeline.supervision.seats import Seats, UnknownChannel

CHANNELS = tuple(Channel(f"WWV {mhz} MHz", mhz * 1e6, mhz) for mhz in (5, 10, 15))
NOTHING: Any = None


class Opened:
    """A channel's sockets."""

    closed = False

    def close(self) -> None:
        """The worker that would have had them is not there."""
        self.closed = True


class Kept:
    """Keeps no sockets."""

    def forget(self, _names: tuple[str, ...]) -> None:
        """There are none."""


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board.create(f"test-seats-{os.getpid()}", supervisor_pid=42, utc_ns=7, monotonic_ns=9)
    yield made
    made.segment.unlink()


def seats_on(board: Board, places: int) -> tuple[Seats, list[Seat]]:
    """Seats for CHANNELS on so many places, and the list of those that are given up."""
    del board.channels[places:]
    cleared: list[Seat] = []
    store: SocketStore = Kept()  # type: ignore[assignment]
    made = Seats(NOTHING, board, store, cleared.append)
    for channel in CHANNELS:
        made.add(channel, Config())
    return made, cleared


def test_channels_are_named_by_id_or_name(board: Board) -> None:
    seats, _ = seats_on(board, 3)
    five, ten, _ = seats
    assert seats.named(["WWV 10 MHz", "WWV_5_MHz", "WWV_10_MHz"]) == [ten, five]
    with pytest.raises(UnknownChannel, match="unknown channel CHU, 7; there are WWV_5_MHz, WWV_10_MHz, WWV_15_MHz"):
        seats.named(["CHU", "WWV 5 MHz", "7"])


def test_a_place_is_given_again_when_it_is_free(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    seats, cleared = seats_on(board, 2)
    assert [(seat.name, seat.index) for seat in seats] == [("WWV_5_MHz", 0), ("WWV_10_MHz", 1)]
    assert "WWV_15_MHz: not recorded, an instance has room for 2 channels" in caplog.text
    (five, _) = seats
    assert seats.change(Plan(drop=(five.name,), add=(CHANNELS[2],)), {}, Config(), 1) == []
    assert cleared == [five]
    assert [(seat.name, seat.index) for seat in seats] == [("WWV_10_MHz", 1), ("WWV_15_MHz", 0)]


def test_a_channel_that_got_no_place_can_be_changed_and_dropped(board: Board) -> None:
    seats, _ = seats_on(board, 2)
    unseated, opened = CHANNELS[2], Opened()
    five, ten = seats
    changed = Plan(change=tuple(Change(channel, False, False) for channel in (CHANNELS[1], unseated)))
    assert seats.change(changed, {unseated.id: opened}, Config(), 1) == [ten]
    assert opened.closed, "sockets that nobody has stay open"
    assert seats.change(Plan(drop=(unseated.id,)), {}, Config(), 2) == []
    assert list(seats) == [five, ten]
    # With a place free, the next change finds one for it.
    seats.remove(five, "")
    assert seats.change(changed, {}, Config(), 3) == [ten]
    assert seats.ids == ["WWV_10_MHz", "WWV_15_MHz"]
