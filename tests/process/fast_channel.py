"""One channel's real worker on real sockets, shared memory and files, with a stream that runs faster than time.

radiod's status says what UTC each sample has, so minutes are over when their samples came,
however soon that is. Everything that is written can be held against `counter_iq`.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ka9q.types import StatusType

from helpers import Names, wait_for
from pipeline import npz
from pipeline.config import Channel, Config, Ntp, Radiod, Recorder
from pipeline.records import NtpRecord, NtpState
from pipeline.segments import create_segment, open_segment, read_checkpoint
from pipeline.shm import Board, Segment, segment_name, unlink
from pipeline.simulator.status import build_tlvs, gps_time_ns, integer_bytes
from pipeline.sockets import ChannelSockets, open_channel, sender
from pipeline.stream.timeline import SECOND
from pipeline.worker import Worker, WorkerContext
from streams import counter_iq, counter_payload

RATE = 1_000
FRAMES = 500
PER_MINUTE = 60 * RATE // FRAMES
MINUTES_BACK = 60


class NoLifeline:
    """A parent that never stops its worker; no signal handler is touched."""

    handing_over = False

    def wake(self) -> None:
        """Nobody sleeps."""

    def orphaned(self) -> bool:
        return False

    def stopping(self) -> bool:
        return False


class FastChannel:
    """What the supervisor would own, a sender, and as many workers one after the other as a test wants."""

    def __init__(self, names: Names, folder: Path, **recorder: Any) -> None:
        self.channel = Channel(
            name="FAST", frequency_hz=1e6, ssrc=1_000_000, sample_rate_hz=RATE, data_address=names.data_address
        )
        self.folder = folder
        settings = Recorder(
            instance=names.instance, data_dir=folder, **{"min_free_gb": 0.0, "late_packet_grace_s": 0.0, **recorder}
        )
        self.config = Config(recorder=settings, radiod=Radiod(), ntp=Ntp(), channels=(self.channel,))
        self.start_ns = (time.time_ns() // (60 * SECOND) - MINUTES_BACK) * 60 * SECOND
        self.sent = 0
        # What the clock of radiod's host was set by.
        self.gps_step_ns = 0
        self.board = Board.create(names.instance, 0, time.time_ns(), time.monotonic_ns())
        self.sockets: ChannelSockets = open_channel(self.channel, self.config.radiod)
        self.segment: Segment = create_segment(names.instance, self.channel, settings)
        self._names = names
        self._out = sender("lo")
        self.know_the_clock()

    def know_the_clock(self, offset_ms: float = 0.5) -> None:
        """What the NTP monitor says of the host's clock."""
        now = time.monotonic_ns()
        self.board.ntp.write(
            NtpRecord(
                now,
                now,
                time.time_ns(),
                offset_ms,
                1.0,
                0.1,
                valid=1,
                synced=int(abs(offset_ms) < 100),
                state=NtpState.SYNCED,
            )
        )

    def worker(self, lifeline: NoLifeline | None = None) -> Worker:
        """A new worker, which goes on where the last one stopped."""
        context = WorkerContext(self.config, self.channel, 0, self.board, self.sockets, self.segment, "session", 0)
        stub: Any = lifeline or NoLifeline()
        return Worker(context, stub)

    def restart(self) -> None:
        """As after the supervisor's death: the segment is opened again and the sockets are new."""
        self.sockets.close()
        self.sockets = open_channel(self.channel, self.config.radiod)
        found = open_segment(self._names.instance, self.channel, self.config.recorder, False)
        assert found is not None
        self.segment = found

    def send(self, seconds: float, skip: bool = False) -> None:
        """The next `seconds` of the stream, a status pair every ten; nothing leaves with `skip`."""
        for _ in range(round(seconds * RATE / FRAMES)):
            number = self.sent
            self.sent += 1
            if skip:
                continue
            header = struct.pack("!BBHII", 0x80, 97, number & 0xFFFF, number * FRAMES, self.channel.ssrc)
            self._out.sendto(
                header + counter_payload(number * FRAMES, FRAMES), (self._names.group, self._names.data_port)
            )
            if self.sent % (10 * RATE // FRAMES) == 0:
                self._out.sendto(self._status(), (self._names.group, self._names.status_port))

    def say(self, padding: bytes) -> None:
        """A status, with a description so long."""
        datagram = self._status()[:-1] + build_tlvs(0, [(int(StatusType.DESCRIPTION), padding)])[1:]
        self._out.sendto(datagram, (self._names.group, self._names.status_port))

    @property
    def utc_ns(self) -> int:
        """When the next frame will be sampled."""
        return self.start_ns + self.sent * FRAMES * SECOND // RATE

    def _status(self) -> bytes:
        at = self.sent * FRAMES
        kinds = {
            StatusType.OUTPUT_SSRC: self.channel.ssrc,
            StatusType.GPS_TIME: gps_time_ns(self.utc_ns + self.gps_step_ns),
            StatusType.OUTPUT_SAMPRATE: RATE,
            StatusType.RTP_TIMESNAP: at,
            StatusType.OUTPUT_ENCODING: 2,
            StatusType.OUTPUT_CHANNELS: 2,
        }
        return build_tlvs(0, [(int(kind), integer_bytes(value)) for kind, value in kinds.items()])

    def work(self, worker: Worker, until: Callable[[], object], what: str, deadline_s: float = 20.0) -> None:
        """Let the worker turn until something is true."""

        def turn() -> object:
            worker.tick()
            return until()

        wait_for(turn, deadline_s, what)

    @property
    def record(self) -> Any:
        """What the worker says of the channel."""
        return self.board.channels[0].read()

    @property
    def cut_off(self) -> int | None:
        """Seconds of the stream that are in files, as the next worker would find it; None before the first."""
        state = read_checkpoint(self.segment)
        return state["epochs"][-1]["cut"] // RATE if state else None

    def files(self) -> list[Path]:
        """Minute files in order of time, parts too; nothing else may have such a name."""
        return sorted(self.folder.rglob("*.npz"), key=lambda path: path.name)

    def minutes(self) -> list[int]:
        """Which minutes of the stream are in files, counted from 0; checks every sample of every file."""
        return [self.check(path) for path in self.files()]

    def check(self, path: Path) -> int:
        """A whole minute, bit for bit; its number."""
        values = npz.read(path)
        number = (int(values["unix_timestamp"]) * SECOND - self.start_ns) // (60 * SECOND)
        assert np.array_equal(values["iq"], counter_iq(number * 60 * RATE, 60 * RATE)), path
        assert values["completeness_pct"] == 100.0
        return int(number)

    def replace_recorder(self, **changes: Any) -> None:
        """Other settings, for the next worker."""
        self.config = replace(self.config, recorder=replace(self.config.recorder, **changes))

    def close(self) -> None:
        self.sockets.close()
        self._out.close()
        unlink(segment_name(self._names.instance, self.channel.id))
        unlink(segment_name(self._names.instance))


@contextlib.contextmanager
def fast_channel(names: Names, folder: Path, **recorder: Any) -> Iterator[FastChannel]:
    """A channel whose shared memory is gone at the end."""
    found = FastChannel(names, folder, **recorder)
    try:
        yield found
    finally:
        found.close()
