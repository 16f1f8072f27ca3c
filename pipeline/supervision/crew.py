"""The supervised children: a process with its life, and a channel's seat that outlives it.

A seat keeps what must not die with a worker: the sockets, where datagrams wait for the
successor, and the journal segment, which holds the samples that are not yet in a file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal

from pipeline import EXIT_OK, PipelineError
from pipeline.config import Channel, Config, Radiod
from pipeline.process import HAND_OVER_SIGNAL
from pipeline.records import ChildRecord
from pipeline.shm import Segment, segment_name, unlink
from pipeline.supervision.changes import Plan
from pipeline.supervision.fdstore import SocketStore
from pipeline.supervision.instance import SHM_DIR
from pipeline.supervision.parts import Parts, Sockets
from pipeline.supervision.restarts import Action, Life, Limits, describe

log = logging.getLogger(__name__)

SIGNALS = {
    Action.TERMINATE: signal.SIGTERM,
    Action.HAND_OVER: HAND_OVER_SIGNAL,
    Action.ABORT: signal.SIGABRT,
    Action.KILL: signal.SIGKILL,
}


def worker_limits(config: Config) -> Limits:
    """When a worker counts as hung and how it is restarted."""
    return Limits.of(config.supervisor, config.supervisor.heartbeat_timeout_s)


def monitor_limits(config: Config) -> Limits:
    """The same for the NTP monitor, whose heartbeat is its publication: a rare one must not look like a hang."""
    patience_s = max(config.supervisor.monitor_heartbeat_timeout_s, 3 * config.ntp.publish_interval_s)
    return Limits.of(config.supervisor, patience_s)


class Child:
    """One process: its name, its life and, while it lives, its pid."""

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.life = Life(limits)
        self.pid = 0
        self._sent = Action.NOTHING

    def signal(self, action: Action) -> None:
        """Send what `action` stands for; a stopped process is continued so that it can obey."""
        if not self.pid:
            return
        # A process that hangs in the kernel is killed again and again, and told of once.
        if action in (Action.ABORT, Action.KILL) and action is not self._sent:
            log.warning("%s[%d]: %s, sending %s", self.name, self.pid, self.life.reason, SIGNALS[action].name)
        self._sent = action
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, SIGNALS[action])
            os.kill(self.pid, signal.SIGCONT)

    def reap(self) -> int | None:
        """The exit status if the process is gone, else None; asks for this pid alone.

        waitpid(-1) would take the status of children that somebody else in this process
        waits for.
        """
        if not self.pid:
            return None
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return -signal.SIGKILL
        return os.waitstatus_to_exitcode(status) if pid else None

    def record(self, now_ns: int) -> ChildRecord:
        """What the board shows."""
        life = self.life
        return ChildRecord(
            started_monotonic_ns=life.started_ns,
            changed_monotonic_ns=life.changed_ns,
            heartbeat_monotonic_ns=now_ns,
            restarts=life.restarts,
            pid=self.pid,
            last_status=life.last_status,
            state=life.state,
            name=self.name,
            reason=life.reason,
        )


class Seat(Child):
    """One channel's place on the board, with its worker, sockets and journal segment."""

    def __init__(self, index: int, channel: Channel, limits: Limits) -> None:
        super().__init__(channel.id, limits)
        self.index = index
        self.channel = channel
        self.sockets: Sockets | None = None
        self.journal: Segment | None = None
        # Leaving; `successor` is what the channel is to be when it has left, if it was configured again meanwhile.
        self.dropping = False
        self.successor: Channel | None = None
        self._next_sockets: Sockets | None = None
        self._renew_journal = False
        # The names of `sockets` with the service manager.
        self._kept: tuple[str, ...] = ()
        # True while the journal may hold samples that are in no file.
        self._holds_samples = False

    def worker_began(self) -> None:
        """A worker puts samples into the journal."""
        self._holds_samples = True

    def worker_ended(self, status: int) -> None:
        """Only an orderly end means that everything received is in files."""
        if status == EXIT_OK:
            self._holds_samples = False

    def restart(self, now_ns: int) -> None:
        """Replace the worker; without a flush, which would cut a minute in two, when the journal goes on."""
        self.life.restart(now_ns, hand_over=not self._renew_journal)

    def change(self, channel: Channel, sockets: Sockets | None, new_journal: bool) -> None:
        """Use `channel`, and `sockets` if given, from the next worker on."""
        self.channel = channel
        if sockets is not None:
            self._close_next()
            self._next_sockets = sockets
        self._renew_journal |= new_journal

    def _close_next(self) -> None:
        if self._next_sockets is not None:
            self._next_sockets.close()
            self._next_sockets = None

    def equip(self, parts: Parts, config: Config, store: SocketStore) -> None:
        """Make the sockets and the journal that are missing or outdated.

        Raises PipelineError or OSError: this channel cannot be recorded.
        """
        if self._next_sockets is not None:
            if self.sockets is not None:
                self.sockets.close()
            self.sockets, self._next_sockets = self._next_sockets, None
            # Before the new ones are kept, which may have the same names.
            store.forget(self._kept)
            self._kept = store.keep(self.channel, config.radiod, self.sockets)
        if self._renew_journal:
            self._release_journal(config.recorder.instance)
            self._renew_journal = False
        waited = False
        if self.sockets is None:
            self.sockets, waited = store.open(self.channel, config.radiod, parts.open_sockets)
            self._kept = store.keep(self.channel, config.radiod, self.sockets)
        if self.journal is None:
            self.journal = self._take_journal(parts, config, waited)

    def _take_journal(self, parts: Parts, config: Config, waited: bool) -> Segment:
        """The samples that a dead instance left, or a new journal.

        What is there but does not fit this configuration can no longer be read by anybody.
        """
        instance, recorder = config.recorder.instance, config.recorder
        found = parts.open_journal(instance, self.channel, recorder, waited)
        if found is not None:
            self._holds_samples = True
            log.info("%s: samples of an earlier run are in shared memory and will be salvaged", self.name)
            return found
        self._holds_samples = False
        name = segment_name(instance, self.name)
        if (SHM_DIR / name.lstrip("/")).exists():
            unlink(name)
            log.error("%s: samples left in shared memory do not fit this configuration and are given up", self.name)
        return parts.create_journal(instance, self.channel, recorder)

    def _release_journal(self, instance: str) -> None:
        """Let go of the segment; its name goes only if nothing in it is still to be written."""
        if self.journal is None:
            return
        if not self._holds_samples:
            self.journal.unlink()
        elif self.life.handed_over:
            log.info("%s: %s stays for the next start", self.name, segment_name(instance, self.name))
        else:
            log.warning(
                "%s: the worker ended without writing all it had (%s); %s stays for the next start to salvage",
                self.name, describe(self.life.last_status), segment_name(instance, self.name),
            )  # fmt: skip
        unmap(self.journal)
        self.journal = None

    def release(self, instance: str, store: SocketStore | None = None) -> None:
        """Close what the channel had, after its worker is gone; with `store`, for good."""
        if store is not None:
            store.forget(self._kept)
        self._release_journal(instance)
        self._close_next()
        if self.sockets is not None:
            self.sockets.close()
            self.sockets = None

    def forsake(self) -> None:
        """In another channel's worker: drop the copies of what is this channel's.

        Closes descriptors only; leaving a multicast group would be for all processes.
        """
        for sockets in (self.sockets, self._next_sockets):
            if sockets is not None:
                sockets.close()
        if self.journal is not None:
            unmap(self.journal)


def open_ahead(parts: Parts, steps: Plan, radiod: Radiod) -> dict[str, Sockets]:
    """Sockets for channels that move, by id, made before the old ones go: they queue what comes meanwhile.

    A channel that is recorded now must not be given up for one that cannot be, so any failure is a PipelineError.
    """
    opened: dict[str, Sockets] = {}
    try:
        for change in steps.change:
            if change.new_sockets:
                opened[change.channel.id] = parts.open_sockets(change.channel, radiod, {})
    except (PipelineError, OSError) as error:
        for sockets in opened.values():
            sockets.close()
        raise PipelineError(reason_of(error)) from None
    return opened


def unmap(segment: Segment) -> None:
    """Drop a mapping, unless somebody still looks at it."""
    with contextlib.suppress(BufferError):
        segment.close()


def reason_of(error: Exception) -> str:
    """An error as the one line that a record holds."""
    if isinstance(error, PipelineError) or not isinstance(error, OSError):
        return str(error) or type(error).__name__
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
