"""A real supervisor with stub children, for the tests of supervision.

    python stub_instance.py serve|detach CONFIG [INSTANCE]

A stub worker publishes heartbeats and does what `<data_dir>/behave/<channel id>` says:
`exit N`, `raise`, `sleep N` or `deaf` (never publish). On an orderly stop it does what
`<data_dir>/behave/stopping/<channel id>` says and then writes `<data_dir>/flushed/<channel id>`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline import PipelineError
from pipeline.config import Channel, Ntp, Radiod, Recorder, load_config
from pipeline.logs import setup_logging
from pipeline.process import Lifeline, set_name
from pipeline.records import ChannelRecord, ChannelState, NtpRecord, NtpState
from pipeline.shm import Board, Segment, SharedMemoryError, segment_name
from pipeline.supervision import service
from pipeline.supervision.parts import Assignment, Parts

log = logging.getLogger(__name__)

BEAT_S = 0.05


@dataclass
class StubSockets:
    """One UDP socket that nothing is sent to."""

    data: socket.socket
    status: tuple[socket.socket, ...] = ()

    def close(self) -> None:
        self.data.close()


def open_sockets(channel: Channel, radiod: Radiod, found: dict[str, socket.socket]) -> StubSockets:
    if radiod.interface == "nowhere0" or channel.preset == "nosocket":
        raise PipelineError(f"interface {radiod.interface} does not exist")
    if "data" in found:
        return StubSockets(found["data"])
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return StubSockets(sock)


def open_journal(instance: str, channel: Channel, _recorder: Recorder, _waited: bool) -> Segment | None:
    try:
        return Segment.open(segment_name(instance, channel.id), writable=True)
    except SharedMemoryError:
        return None


def create_journal(instance: str, channel: Channel, _recorder: Recorder) -> Segment:
    return Segment.create(segment_name(instance, channel.id), 4096)


def behave(folder: Path, channel_id: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        order, _, argument = (folder / channel_id).read_text().strip().partition(" ")
        if order == "exit":
            os._exit(int(argument))
        if order == "raise":
            raise RuntimeError("as ordered")
        if order == "sleep":
            time.sleep(float(argument))
        if order == "deaf":
            time.sleep(60)


def run_worker(a: Assignment) -> int:
    life = Lifeline(a.parent_pid)
    set_name(a.channel.id, f"{a.channel.id} stub")
    data_dir = a.config.recorder.data_dir
    # What a worker leaves in its journal is what the next one finds there.
    a.journal.buf[0] = a.journal.buf[0] + 1 & 0xFF
    while not life.stopping():
        behave(data_dir / "behave", a.channel.id)
        now = time.monotonic_ns()
        log.debug("stub worker looks around")
        a.board.channels[a.index].write(
            ChannelRecord(
                heartbeat_monotonic_ns=now,
                started_monotonic_ns=now,
                last_packet_monotonic_ns=now,
                pid=os.getpid(),
                ssrc=a.channel.ssrc,
                sample_rate_hz=a.channel.sample_rate_hz,
                state=ChannelState.RECORDING,
                name=a.channel.name,
            )
        )
        life.wait(BEAT_S)
    if life.handing_over:
        return os.EX_TEMPFAIL
    behave(data_dir / "behave" / "stopping", a.channel.id)
    flushed = data_dir / "flushed"
    flushed.mkdir(exist_ok=True)
    (flushed / a.channel.id).write_text(str(a.journal.buf[0]))
    return 0


def run_monitor(_ntp: Ntp, board: Board, parent_pid: int) -> int:
    life = Lifeline(parent_pid)
    set_name("gp-ntp", "ntp stub")
    while not life.stopping():
        now = time.monotonic_ns()
        board.ntp.write(
            NtpRecord(now, now, time.time_ns(), 0.5, 0.1, 0.01, valid=1, synced=1, state=NtpState.SYNCED, source="stub")
        )
        life.wait(BEAT_S)
    return 0


class NoControl:
    """Nothing to create; fails when asked to, as a library might."""

    def __init__(self, _radiod: Radiod) -> None:
        pass

    def poll(self, _now_monotonic_ns: int, _channels: object) -> None:
        raise KeyError("a bug in a library")


PARTS = Parts(
    load_config,
    open_sockets,
    lambda _sockets, _interface: None,
    open_journal,
    create_journal,
    run_worker,
    run_monitor,
    NoControl,
)


def main() -> int:
    setup_logging()
    config = load_config(Path(sys.argv[2]))
    if len(sys.argv) > 3:
        config = config.as_instance(sys.argv[3])
    service.ORPHAN_PATIENCE_S = float(os.environ.get("GRAPE_TEST_PATIENCE", service.ORPHAN_PATIENCE_S))
    try:
        if sys.argv[1] == "detach":
            print(service.detach(config, PARTS))
            return 0
        return service.serve(config, PARTS)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
