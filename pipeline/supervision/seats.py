"""The channels' seats: which place on the board each has, and the steps that a new configuration asks of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from pipeline import EXIT_USAGE, PipelineError
from pipeline.config import Channel, Config
from pipeline.records import ChannelRecord
from pipeline.shm import Board
from pipeline.supervision.changes import Plan
from pipeline.supervision.crew import Seat, reason_of, worker_limits
from pipeline.supervision.fdstore import SocketStore
from pipeline.supervision.parts import Parts, Sockets

log = logging.getLogger(__name__)


class UnknownChannel(PipelineError):
    """A channel was named that is not there."""

    exit_code = EXIT_USAGE


class Seats:
    """The seats of one instance, in the order they were taken; `cleared` is told of each that is given up."""

    def __init__(self, parts: Parts, board: Board, store: SocketStore, cleared: Callable[[Seat], None]) -> None:
        self._parts = parts
        self._board = board
        self._store = store
        self._cleared = cleared
        self._seats: dict[str, Seat] = {}

    def __iter__(self) -> Iterator[Seat]:
        # Seats may be given up on the way.
        return iter(list(self._seats.values()))

    def __len__(self) -> int:
        return len(self._seats)

    @property
    def ids(self) -> list[str]:
        """The channels' ids."""
        return list(self._seats)

    def named(self, names: list[str]) -> list[Seat]:
        """The seats of these ids or names, each once; UnknownChannel if one is not there."""
        known = {seat.channel.name: seat for seat in self} | self._seats
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UnknownChannel(f"unknown channel {', '.join(unknown)}; there are {', '.join(self._seats)}")
        return list(dict.fromkeys(known[name] for name in names))

    def add(self, channel: Channel, config: Config) -> None:
        """A seat for `channel`, still without sockets and journal; none, and a line in the log, when all are taken."""
        taken = {seat.index for seat in self}
        index = next((i for i in range(len(self._board.channels)) if i not in taken), None)
        if index is None:
            log.error("%s: not recorded, an instance has room for %d channels", channel.id, len(taken))
            return
        self._seats[channel.id] = Seat(index, channel, worker_limits(config))

    def equip(self, seat: Seat, config: Config, now_ns: int) -> bool:
        """Sockets and journal for `seat`; False, and FATAL with the reason, when they cannot be had."""
        try:
            seat.equip(self._parts, config, self._store)
        except (PipelineError, OSError) as error:
            seat.life.fail(reason_of(error), now_ns)
            log.error("%s: %s", seat.name, seat.life.reason)
            return False
        return True

    def remove(self, seat: Seat, instance: str) -> None:
        """Give up a seat whose worker is gone."""
        seat.release(instance, self._store)
        self._board.channels[seat.index].write(ChannelRecord())
        self._cleared(seat)
        del self._seats[seat.name]

    def release_all(self, instance: str) -> None:
        """Close what the channels had, at the instance's end; what waits in memory stays for the next start."""
        for seat in self:
            seat.release(instance)

    def change(self, steps: Plan, sockets: dict[str, Sockets], config: Config, now_ns: int) -> list[Seat]:
        """Go to `config` by its `steps`, with `sockets` opened for those that move; returns whom to restart."""
        for name in steps.drop:
            seat = self._seats.get(name)
            if seat is None:  # there was no place for it
                continue
            seat.dropping, seat.successor = True, None
            seat.life.stop(now_ns)
            if not seat.life.alive:
                self.remove(seat, config.recorder.instance)
        for channel in steps.add:
            if channel.id in self._seats:  # dropped a moment ago and not yet gone
                self._seats[channel.id].successor = channel
            else:
                self.add(channel, config)
        restarted = []
        for change in steps.change:
            seat, opened = self._seats.get(change.channel.id), sockets.get(change.channel.id)
            if seat is None:
                if opened is not None:
                    opened.close()
                self.add(change.channel, config)
                continue
            seat.change(change.channel, opened, change.new_journal)
            if seat.dropping:
                seat.successor = change.channel
            else:
                restarted.append(seat)
        return restarted
