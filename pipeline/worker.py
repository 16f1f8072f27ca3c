"""One channel's process: receive, cut, write, say how it goes.

The loop wakes every two seconds, takes what waits on the sockets, and sleeps again;
radiod's packets queue in the kernel meanwhile. Everything that must outlive this process
is in the channel's segment and on the sockets, both of which the supervisor keeps.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from dataclasses import dataclass

from pipeline.briefstatus import brief_status
from pipeline.channelreport import Progress, describe
from pipeline.circumstances import Circumstances
from pipeline.config import Channel, Config
from pipeline.hostclock import RecorderClock
from pipeline.logs import fields
from pipeline.minutefile import stamp
from pipeline.overflow import Overflow, queued
from pipeline.process import Lifeline, set_name
from pipeline.receiver import BATCH, Receiver
from pipeline.rhythm import Rhythm
from pipeline.segments import give_back, read_checkpoint, write_checkpoint
from pipeline.shm import Board, Segment
from pipeline.sockets import ChannelSockets
from pipeline.stream.cutter import Cut, Cutter
from pipeline.stream.intake import Intake, Settings
from pipeline.stream.journal import FLAG_UNTIMED, Journal
from pipeline.stream.recovery import checkpoint, restore
from pipeline.stream.timeline import SECOND, HostClock
from pipeline.writer import Writer, Written

log = logging.getLogger(__name__)

EXIT_LEFT_IN_MEMORY = 75  # sysexits.h EX_TEMPFAIL: not everything is on disk, the next start goes on

# Writes of different channels start this far apart at most; the order is fixed by the channel's index.
STAGGER_S = 5.0
GOLDEN = 0.6180339887498949
RETRY_S = (1.0, 2.0, 5.0, 10.0)
# A process that has used up its own address space never gets any again.
ENOMEM_TRIES = 3
# A write that takes longer waits for the disk.
STUCK_S = 30.0
# A write in hand is nearly done; leaving it would only have it done again.
HAND_OVER_WAIT_S = 1.0
LAST_TAKE_S = 2.0


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What the supervisor hands to a worker."""

    config: Config
    channel: Channel
    index: int
    board: Board
    sockets: ChannelSockets
    journal: Segment
    session_id: str
    parent_pid: int


def run(context: WorkerContext) -> int:
    """The whole life of a worker, in a forked child; returns its exit code."""
    lifeline = Lifeline(context.parent_pid)
    worker = Worker(context, lifeline)
    while not lifeline.stopping() and not worker.exhausted:
        worker.tick()
        lifeline.wait(worker.pause_s(), worker.awaited)
    return worker.leave()


class Worker:
    """The state of one channel's process."""

    def __init__(self, context: WorkerContext, lifeline: Lifeline) -> None:
        config, channel = context.config, context.channel
        self._context = context
        self._channel = channel
        self._lifeline = lifeline
        self._title = ""
        journal = Journal.attach(context.journal.buf, channel.ssrc)
        if journal is None:
            raise ValueError(f"segment {context.journal.name} does not hold a journal of SSRC {channel.ssrc}")
        settings = Settings(
            channel.ssrc,
            channel.sample_rate_hz,
            channel.encoding,
            round(config.recorder.late_packet_grace_s * SECOND)
            + round(context.index * GOLDEN % 1.0 * STAGGER_S * SECOND),
            config.radiod.chain_delay_ns,
        )
        self._intake = Intake(journal, settings, brief_status)
        self._cutter = Cutter(self._intake)
        restore(self._intake, self._cutter, read_checkpoint(context.journal))
        self._clock = RecorderClock(journal, channel.name)
        self._receiver = Receiver(
            context.sockets.data, context.sockets.status, channel.ssrc, self._intake, context.journal,
            self._clock.shift_ns,
        )  # fmt: skip
        first = config.enabled_channels[0].id == channel.id
        disabled = [c.id for c in config.channels if not c.enabled] if first else []
        self._writer = Writer(channel, config.recorder, lifeline.wake, disabled)
        # Given up while it was being written; it may come to the disk yet.
        self._early: Cut | None = None
        before = context.board.channels[context.index].read()
        self._progress = Progress.after(before, time.monotonic_ns())
        self._overflow, self._rhythm = Overflow(), Rhythm()
        self._statuses = 0
        self._circumstances = Circumstances(
            config, channel, context.session_id, context.board.ntp.read, self._intake, self._clock
        )
        self._failures = 0
        self._retry_ns = 0
        # True when only a new process can help.
        self.exhausted = False
        self._backlogged, self._awaiting = False, True
        self._show()

    # -- one turn --

    def tick(self) -> None:
        """Take what came, hand over what is due, publish."""
        now = time.monotonic_ns()
        taken = self._take()
        self._backlogged = taken >= BATCH
        # What the journal has no room for stays on the queue, or where it came down.
        self._awaiting = not taken and not self._receiver.full
        if taken:
            self._progress.last_packet_ns = now
        if self._receiver.statuses != self._statuses:
            self._statuses, self._progress.last_status_ns = self._receiver.statuses, now
        host = self.host_clock(now)
        self._collect(self._writer.poll(), now)
        self._hand_over(now, host)
        if self._cutter.crowded():
            self._let_go()
        if self._receiver.full:
            self._make_room(now, host)
        self._publish(now, host)

    def _take(self) -> int:
        """What waits on the sockets goes into the journal; returns how many packets that were."""
        self._clock.look()
        self._receiver.shift_ns = self._clock.shift_ns
        self._intake.untimed = 0 if self._clock.settled else FLAG_UNTIMED
        source = self._intake.source
        now, waiting = time.monotonic_ns(), queued(self._context.sockets.data)
        self._overflow.before(waiting, source.lost, now, self._rhythm.pause_s)
        self._rhythm.look(waiting, now)
        taken = self._receiver.drain()
        self._receiver.drain_status()
        if self._context.sockets.foreign is not None:
            self._receiver.drain_foreign(self._context.sockets.foreign)
        self._intake.follow()
        dropped = self._overflow.after(taken < BATCH and not self._receiver.full, source.lost)
        if dropped:
            self._progress.socket_dropped += dropped
            log.error(
                "%s: %d packets lost, the receive buffer of %d KiB was full",
                self._channel.name, dropped, self._context.sockets.buffer_bytes >> 10,
            )  # fmt: skip
        return taken

    def pause_s(self) -> float:
        """How long to sleep: not at all while datagrams are left on the queue."""
        return 0.0 if self._backlogged else self._rhythm.pause_s

    @property
    def awaited(self) -> socket.socket | None:
        """The data socket when its next datagram is to end the sleep: the first one after none came."""
        return self._context.sockets.data if self._awaiting else None

    def host_clock(self, now_ns: int) -> HostClock:
        """What the NTP record says of the recorder's clock now."""
        context = self._context
        return self._clock.against_utc(context.board.ntp.read(), now_ns, context.config.ntp)

    def _silent_ns(self, now: int) -> int:
        return self._progress.silent_ns(now)

    def _hand_over(self, now: int, host: HostClock) -> None:
        cutter = self._cutter
        silent = self._silent_ns(now)
        self._circumstances.watch(cutter.now_utc(silent, host), now)
        if self._writer.busy or now < self._retry_ns:
            return
        cut = cutter.outstanding
        if cut is None:
            # Datagrams that are still queued may belong to the minute that seems to be over.
            due = None if self._backlogged else cutter.due(silent, host)
            if due is None:
                return
            cut = cutter.cut(due, host, "unknown")
        self._write(cut, now)

    def _write(self, cut: Cut, now: int) -> None:
        if not self._context.config.recorder.partial_minutes:
            cut.minutes = [m for m in cut.minutes if not any(g.cause in ("start", "stop") for g in m.gaps)]
        self._writer.start(cut, [self._circumstances.of(minute, now) for minute in cut.minutes])

    def _collect(self, written: Written | None, now: int) -> None:
        """Take a finished job: let go of it, or try again later."""
        self._progress.writing_s = time.monotonic() - self._writer.since_s if self._writer.busy else 0.0
        if written is None:
            return
        early, self._early = self._early, None
        if written.error is not None:
            self._fail(written.error, now)
            return
        if self._progress.failure is not None:
            log.info("%s: minutes can be written again", self._channel.name)
        self._progress.failure, self._failures = None, 0
        for onset in written.onsets:
            self._cutter.tones.add(onset)
        if early is None:
            self._release(written.cut)
        else:
            self._progress.dropped -= 1
            log.info("%s: minute %s came to the disk after all", self._channel.name, stamp(written.cut.utc_ns))
        self._progress.add_files(written)
        self._progress.last_write_ns = now
        self._progress.write_ms = written.duration_s * 1e3
        for minute, path in zip(written.cut.minutes, written.paths, strict=True):
            self._progress.written += 1
            self._progress.last_minute_s = minute.utc_ns // SECOND
            self._progress.completeness_pct = 100.0 * (1 - minute.gap_samples / minute.samples)
            level = logging.WARNING if minute.packets_lost else logging.INFO
            log.log(
                level,
                "%s: minute %s written, %.2f%% complete, %d packets lost, %d gaps, %.0f ms, %s",
                self._channel.name, stamp(minute.utc_ns), self._progress.completeness_pct, minute.packets_lost,
                len(minute.gaps), self._progress.write_ms, path.name,
                extra=fields(
                    event="minute", channel=self._channel.id, minute=stamp(minute.utc_ns),
                    complete_pct=self._progress.completeness_pct, lost=minute.packets_lost, gaps=len(minute.gaps),
                    write_ms=self._progress.write_ms,
                ),
            )  # fmt: skip

    def _fail(self, error: OSError, now: int) -> None:
        pause = RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        if self._progress.failure is None or self._progress.failure.errno != error.errno:
            log.error("%s: cannot write a minute: %s; it waits in memory", self._channel.name, error)
        self._progress.failure = error
        self._failures += 1
        if error.errno == errno.ENOMEM and self._failures >= ENOMEM_TRIES:
            log.error("%s: no memory for a minute; a new process may have it", self._channel.name)
            self.exhausted = True
        self._retry_ns = now + round(pause * SECOND)

    def _release(self, cut: Cut) -> None:
        self._cutter.done(cut)
        self._let_go()

    def _let_go(self) -> None:
        # What was not looked at yet may be among what goes: a break between two runs of the program, say.
        self._intake.scan()
        # In this order: a successor that finds the checkpoint may also find what it makes superfluous.
        write_checkpoint(self._context.journal, checkpoint(self._intake, self._cutter))
        give_back(self._context.journal, self._cutter.release())

    def _make_room(self, now: int, host: HostClock) -> None:
        """The journal is full: the oldest minute goes, so that new ones can come.

        One that is being written goes too if the disk does not take it, once the writer has a copy.
        """
        cut, stuck = self._cutter.outstanding, self._writer.busy
        if stuck and cut is not None and (not self._writer.copied or self._progress.writing_s < STUCK_S):
            return
        if cut is None:
            due = self._cutter.due(self._silent_ns(now), host, flush=True)
            if due is None:
                return
            cut = self._cutter.cut(due, host, "unknown")
            if not stuck and self._progress.failure is None:
                # It is memory that is short, not the disk.
                self._write(cut, now)
                return
        elif stuck:
            self._early = cut
        self._progress.dropped += 1
        log.error(
            "%s: minute %s given up: memory is full and it could not be written (%s)",
            self._channel.name, stamp(cut.utc_ns), self._progress.failure or "the disk does not answer",
        )  # fmt: skip
        self._release(cut)

    # -- the end --

    def leave(self) -> int:
        """Flush what is held into files of their own minutes; returns the exit code.

        An orphan, and a worker that is to be replaced, leave everything in shared memory
        instead: whoever comes next goes on with it.
        """
        if self._lifeline.handing_over or self.exhausted or self._lifeline.orphaned():
            if self._lifeline.orphaned():
                log.warning("%s: the supervisor is gone; what is held stays in shared memory", self._channel.name)
            # The sockets may go with this process.
            self._take_all()
            self._collect(self._writer.poll(HAND_OVER_WAIT_S), time.monotonic_ns())
            return EXIT_LEFT_IN_MEMORY
        deadline = time.monotonic() + max(1.0, self._context.config.supervisor.stop_grace_s - 2.0)
        self._take_all()
        if self._receiver.waiting:
            # The running minute, cut now, would lack them.
            log.error("%s: no memory for the last packets; what is held stays in shared memory", self._channel.name)
            return EXIT_LEFT_IN_MEMORY
        self._intake.flush_held()
        self._intake.follow()
        while time.monotonic() < deadline:
            now = time.monotonic_ns()
            if self._writer.busy:
                self._collect(self._writer.poll(0.2), now)
                if self._progress.failure is not None:
                    break
                continue
            cut = self._cutter.outstanding
            if cut is None:
                host = self.host_clock(now)
                due = self._cutter.due(self._silent_ns(now), host, flush=True)
                if due is None:
                    self._publish(now, host, stopped=True)
                    return 0
                cut = self._cutter.cut(due, host, "stop")
            self._write(cut, now)
        log.error("%s: not everything could be written; the rest stays in shared memory", self._channel.name)
        return EXIT_LEFT_IN_MEMORY

    def _take_all(self) -> None:
        """Empty the sockets into the journal, as far as that has room; a flood does not end, so not for ever."""
        end = time.monotonic() + LAST_TAKE_S
        while self._take() and not self._receiver.full and time.monotonic() < end:
            pass

    def _publish(self, now: int, host: HostClock, stopped: bool = False) -> None:
        context = self._context
        record = describe(
            self._channel, self._intake, self._cutter, self._progress, context.sockets.buffer_bytes, now, host, stopped
        )
        context.board.channels[context.index].write(record)
        self._show()

    def _show(self) -> None:
        """Keep the process title current: the last minute written and what was lost."""
        title = self._progress.title(self._channel.id, self._intake.source.lost)
        if title != self._title:
            self._title = title
            set_name(self._channel.id, title)
