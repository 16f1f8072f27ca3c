"""The supervisor: one thread that forks, reaps, watches and stops the other processes.

Rules. Signals are blocked for good and taken in one place (`signals.take`), so nothing happens
between two statements; the control socket's readiness is a signal too (SIGIO). Decisions
are `restarts.Life`'s; here they are carried out. Sockets and journal segments are made
before the worker that uses them and outlive it. Whatever fails for one channel is that
channel's failure, and is shown on the board.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator

from pipeline import EXIT_OK, PipelineError
from pipeline.config import Config
from pipeline.logs import effective_level, fields
from pipeline.process import HAND_OVER_SIGNAL, STOP_SIGNALS
from pipeline.records import ChildState
from pipeline.shm import Board
from pipeline.supervision import signals
from pipeline.supervision.alerts_guard import AlertsGuard
from pipeline.supervision.changes import Plan, plan
from pipeline.supervision.child import LEVEL_SIGNAL, SharedLevel, spawn
from pipeline.supervision.control import ControlServer, Handler
from pipeline.supervision.crew import Child, Seat, monitor_limits, open_ahead, worker_limits
from pipeline.supervision.fdstore import SocketStore
from pipeline.supervision.instance import check_data_dir
from pipeline.supervision.notify import Notifier
from pipeline.supervision.parts import Assignment, Parts
from pipeline.supervision.publication import Publisher
from pipeline.supervision.restarts import SECOND_NS, Action
from pipeline.supervision.rolling import Rolling
from pipeline.supervision.seats import Seats
from pipeline.supervision.surroundings import Surroundings

log = logging.getLogger(__name__)

HEARTBEAT_NS = SECOND_NS
# A child that starts is looked at more often: it shows as up when it is, and the next may follow.
STARTING_NS = SECOND_NS // 20
# A loop that comes back this much late was stopped or starved, and so perhaps were the children.
PAUSE_NS = 2 * SECOND_NS
# How a child ends that was asked to: flushed, handed over, or before it had its own signal handlers.
EXPECTED = (EXIT_OK, os.EX_TEMPFAIL, -HAND_OVER_SIGNAL)


class Supervisor:
    """A running instance. Made by `service.serve`, which owns lock, board and control socket."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        board: Board,
        control: ControlServer,
        notifier: Notifier,
        level: SharedLevel,
        store: SocketStore | None = None,
    ) -> None:
        self.config = config
        self.board = board
        self.monitor = Child("ntp", monitor_limits(config))
        self.stopping = False
        self._parts = parts
        self._control = control
        self._notifier = notifier
        self._level = level
        self._store = store or SocketStore(notifier)
        self._surroundings = Surroundings(parts)
        self._alerts = AlertsGuard(
            lambda config: parts.run_alerts(config, board, self._pid), lambda: self._forsake(self.monitor), level
        )
        self._rolling = Rolling()
        self._pid = os.getpid()
        self._publish_ns = time.monotonic_ns()
        self._publisher = Publisher(config.recorder.instance, board, notifier, self._publish_ns)
        self.seats = Seats(parts, board, self._store, self._publisher.clear)
        self._session_id = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{os.urandom(3).hex()}"

    # Starting

    def start(self) -> None:
        """Equip every channel, then fork all; PipelineError when not one channel can be recorded."""
        for channel in self.config.enabled_channels:
            self.seats.add(channel, self.config)
        for seat in self.seats:
            self.seats.equip(seat, self.config, time.monotonic_ns())
        self._store.close_rest()
        fatal = [seat for seat in self.seats if seat.life.state is ChildState.FATAL]
        if fatal and len(fatal) == len(self.seats):
            self.seats.release_all(self.config.recorder.instance)
            raise PipelineError(f"no channel can be recorded; {fatal[0].name}: {fatal[0].life.reason}")
        self._tick_children(time.monotonic_ns())
        self._publish(time.monotonic_ns())
        self._notifier.send("READY=1")

    # The loop

    def run(self, handler: Handler) -> int:
        """Supervise until told to stop and all children are gone; `handler` answers the control socket."""
        while not self._finished():
            asked = time.monotonic_ns()
            timeout = self._timeout(asked)
            taken = signals.take(timeout / SECOND_NS)
            now = time.monotonic_ns()
            if now - asked > timeout + PAUSE_NS:
                self._forgive_pause((now - asked - timeout) / SECOND_NS, now)
            self._obey(taken, now)
            self._reap(now)
            self._stop_in_order(now)
            self._rolling.step(now)
            self._tick_children(now)
            self._control.serve(now, handler)
            if now >= self._publish_ns:
                self._publish(now)
                self._look_around(now)
                if not self.stopping:
                    self._alerts.poll(self.config, now)
                    self._publisher.tell(self.config, self.seats, now)
            self._publisher.feed_watchdog(self._progress(), now)
        self._alerts.end()
        self.seats.release_all(self.config.recorder.instance)
        return EXIT_OK

    def children(self) -> Iterator[Child]:
        """The monitor and the channels' seats."""
        yield self.monitor
        yield from self.seats

    def _timeout(self, now: int) -> int:
        dues = [child.life.due_ns for child in self.children()]
        if self._rolling.busy or any(child.life.state is ChildState.STARTING for child in self.children()):
            dues.append(now + STARTING_NS)
        return max(0, min([self._publish_ns, *(due for due in dues if due is not None)]) - now)

    def _forgive_pause(self, seconds: float, now: int) -> None:
        log.warning("the supervisor could not run for %.1f s", seconds)
        self._publisher.paused(now, seconds)
        for child in self.children():
            child.life.excuse(now)

    def _obey(self, taken: set[int], now: int) -> None:
        for number in STOP_SIGNALS:
            if number in taken:
                self.stop(now, signal.Signals(number).name)
        if HAND_OVER_SIGNAL in taken:
            self.stop(now, "to be started again", hand_over=True)
        if signal.SIGHUP in taken and not self.stopping:
            try:
                self.reload(now)
            except PipelineError as error:
                log.error("reload: %s; the old configuration stays in force", error)
                self._take_level(self.config.logging.level)

    def _finished(self) -> bool:
        return self.stopping and not any(child.life.alive for child in self.children())

    def _progress(self) -> bool:
        """Something gets done, or there is nothing to do until somebody mends the configuration."""
        states = {child.life.state for child in self.children()}
        return self.stopping or ChildState.RUNNING in states or states == {ChildState.FATAL}

    def _publish(self, now: int) -> None:
        self._publish_ns = now + HEARTBEAT_NS
        state = ChildState.STOPPING if self.stopping else ChildState.RUNNING
        self._publisher.publish(state, self.monitor, self.seats, self._alerts.record(now), now)

    def _look_around(self, now: int) -> None:
        if not self.stopping:
            channels = [(seat, self.board.channels[seat.index].read()) for seat in self.seats]
            slept_s = self._surroundings.poll(now, self.config.radiod, channels)
            if slept_s:
                self._publisher.paused(now, slept_s)

    # Children

    def _reap(self, now: int) -> None:
        for child in list(self.children()):
            status = child.reap()
            if status is None:
                continue
            pid, child.pid = child.pid, 0
            asked = child.life.state is ChildState.STOPPING
            child.life.exited(status, now, self._last_words(child, pid))
            level = logging.INFO if asked and status in EXPECTED else logging.WARNING
            about = fields(event="ended", process=child.name, pid=pid, status=status)
            log.log(level, "%s[%d]: %s", child.name, pid, child.life.outlook(now), extra=about)
            self._publish_ns = now
            if isinstance(child, Seat):
                child.worker_ended(status)
                if child.dropping:
                    self.seats.remove(child, self.config.recorder.instance)
                    if child.successor is not None and not self.stopping:
                        self.seats.add(child.successor, self.config)

    def _last_words(self, child: Child, pid: int) -> str:
        if not isinstance(child, Seat):
            return ""
        record = self.board.channels[child.index].read()
        return record.reason if record.pid == pid else ""

    def _tick_children(self, now: int) -> None:
        for child in list(self.children()):
            before = child.life.state
            action = child.life.tick(now, self._heartbeat(child))
            if action is Action.FORK:
                self._fork(child)
            elif action is not Action.NOTHING:
                child.signal(action)
            if child.life.state is not before:
                self._publish_ns = now

    def _heartbeat(self, child: Child) -> int:
        if isinstance(child, Seat):
            return self.board.channels[child.index].read().heartbeat_monotonic_ns
        return self.board.ntp.read().published_monotonic_ns

    def _fork(self, child: Child) -> None:
        now = time.monotonic_ns()
        if isinstance(child, Seat) and not self.seats.equip(child, self.config, now):
            return
        comm, run = (child.name, self._worker(child)) if isinstance(child, Seat) else ("gp-ntp", self._run_monitor)
        try:
            child.pid = spawn(comm, run, lambda: self._forsake(child), self._level)
        except OSError as error:
            child.life.fork_failed(f"no process: {error.strerror}", now)
            log.error("%s: %s", child.name, child.life.reason)
            return
        child.life.forked(now)
        if isinstance(child, Seat):
            child.worker_began()
        about = fields(event="started", process=child.name, pid=child.pid, restarts=child.life.restarts)
        log.info("%s[%d]: started", child.name, child.pid, extra=about)

    def _worker(self, seat: Seat) -> Callable[[], int]:
        assert seat.sockets is not None and seat.journal is not None
        assignment = Assignment(
            self.config, seat.channel, seat.index, self.board, seat.sockets, seat.journal, self._session_id, self._pid
        )
        return lambda: self._parts.run_worker(assignment)

    def _run_monitor(self) -> int:
        return self._parts.run_monitor(self.config.ntp, self.board, self._pid)

    def _forsake(self, child: Child) -> None:
        """In the child: close what belongs to the supervisor and to the other channels."""
        self._control.close(unlink=False)
        self._notifier.close()
        for seat in self.seats:
            if seat is not child:
                seat.forsake()

    # What is wanted

    def stop(self, now: int, why: str, hand_over: bool = False) -> None:
        """Let the workers flush and leave, then the monitor.

        With `hand_over` they flush nothing: the next start goes on with the samples in shared memory.
        """
        if self.stopping:
            return
        log.info("stopping (%s)", why)
        self.stopping = True
        self._publish_ns = now
        self._rolling.clear()
        self._notifier.send("STOPPING=1")
        for seat in self.seats:
            seat.life.stop(now, hand_over)
        self.monitor.life.retire(now)
        self._alerts.stop()

    def _stop_in_order(self, now: int) -> None:
        # Workers put the NTP record into the files they flush, so the monitor goes last.
        if self.stopping and not any(seat.life.alive for seat in self.seats):
            self.monitor.life.stop(now)

    def restart(self, names: list[str], now: int) -> list[str]:
        """Restart the named channels (ids or names; `ntp` is the monitor), or all channels, one at a time.

        Returns the names of what will be restarted; UnknownChannel changes nothing.
        """
        wanted = [name for name in names if name != self.monitor.name]
        seats = self.seats.named(wanted) if names else list(self.seats)
        self._rolling.add(seats)
        monitor = self.monitor.name in names
        if monitor:
            self.monitor.life.restart(now)
        self._publish_ns = now
        return [self.monitor.name] * monitor + [seat.name for seat in seats]

    def reload(self, now: int, dry_run: bool = False) -> Plan:
        """Read the configuration again and go there with the least disturbance; `dry_run` only looks.

        Raises PipelineError, and changes nothing, when it cannot be used.
        """
        new = self._parts.load_config(self.config.path)
        instance = self.config.recorder.instance
        if new.recorder.instance != (self.config.file_instance or instance):
            log.warning("reload: the instance stays %s until the next start", instance)
        new = new.as_instance(instance)
        check_data_dir(new.recorder.data_dir)
        steps = plan(self.config, new)
        if dry_run:
            return steps
        sockets = open_ahead(self._parts, steps, new.radiod)
        self.config = new
        log.info("reload: %s", steps)
        for child in self.children():
            child.life.limits = worker_limits(new) if isinstance(child, Seat) else monitor_limits(new)
        self._take_level(new.logging.level)
        self._rolling.add(self.seats.change(steps, sockets, new, now))
        if steps.monitor:
            self.monitor.life.restart(now)
        self._publish_ns = now
        return steps

    def _take_level(self, configured: str) -> None:
        """Use the level that is asked for now, in all processes; no stream is touched."""
        self._level.set(effective_level(configured))
        for child in self.children():
            if child.pid:
                os.kill(child.pid, LEVEL_SIGNAL)
        self._alerts.tell_level()
