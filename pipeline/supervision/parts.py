"""What the supervisor puts together, as values: tests hand in stubs, the program the real ones."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.config import Channel, Config, Ntp, Radiod, Recorder
from pipeline.records import ChannelRecord
from pipeline.shm import Board, Segment


class Sockets(Protocol):
    """One channel's sockets; kept open by the supervisor, inherited by each of its workers."""

    @property
    def data(self) -> socket.socket:
        """RTP."""

    @property
    def status(self) -> tuple[socket.socket, ...]:
        """radiod's status; empty when there is no status address."""

    def close(self) -> None:
        """Close this process's copies."""


class Control(Protocol):
    """Keeps radiod's channels alive; must not block."""

    def poll(self, now_monotonic_ns: int, channels: Sequence[tuple[Channel, ChannelRecord]]) -> None:
        """Ask for what is missing, renew what is about to expire."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one worker is to do, and everything that outlives it."""

    config: Config
    channel: Channel
    index: int
    board: Board
    sockets: Sockets
    journal: Segment
    session_id: str
    parent_pid: int


def _run_alerts(config: Config, board: Board, parent_pid: int) -> int:
    from pipeline.alerts import watcher  # most stations have no alerts

    return watcher.run(config, board, parent_pid)


@dataclass(frozen=True, slots=True)
class Parts:
    """The supervisor's outside. Errors for the operator are PipelineError or OSError."""

    load_config: Callable[[Path | None], Config]
    # The sockets given are an earlier run's, by role, and are used instead of new ones.
    open_sockets: Callable[[Channel, Radiod, dict[str, socket.socket]], Sockets]
    rejoin: Callable[[Sequence[Sockets], str], None]
    # True = what an earlier run did not receive waits on its sockets.
    open_journal: Callable[[str, Channel, Recorder, bool], Segment | None]
    create_journal: Callable[[str, Channel, Recorder], Segment]
    run_worker: Callable[[Assignment], int]
    run_monitor: Callable[[Ntp, Board, int], int]
    radiod_control: Callable[[Radiod], Control]
    run_alerts: Callable[[Config, Board, int], int] = _run_alerts


def real_parts() -> Parts:
    """The program's own parts; importing them here, before the first fork, lets children share the pages."""
    from pipeline import config, radiod, segments, sockets, worker
    from pipeline.ntp import monitor

    def run_worker(a: Assignment) -> int:
        assert isinstance(a.sockets, sockets.ChannelSockets)
        return worker.run(
            worker.WorkerContext(
                config=a.config,
                channel=a.channel,
                index=a.index,
                board=a.board,
                sockets=a.sockets,
                journal=a.journal,
                session_id=a.session_id,
                parent_pid=a.parent_pid,
            )
        )

    def rejoin(channels: Sequence[Sockets], interface: str) -> None:
        sockets.rejoin([each for each in channels if isinstance(each, sockets.ChannelSockets)], interface)

    return Parts(
        load_config=config.load_config,
        open_sockets=sockets.open_channel,
        rejoin=rejoin,
        open_journal=segments.open_segment,
        create_journal=segments.create_segment,
        run_worker=run_worker,
        run_monitor=monitor.run,
        radiod_control=radiod.Control,
    )
