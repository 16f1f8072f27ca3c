"""Keeps the process that sends alerts, where alerts are configured; supervision never waits for it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable

from pipeline.config import Config
from pipeline.records import UNKNOWN_NS, ChildRecord, ChildState
from pipeline.supervision.child import LEVEL_SIGNAL, SharedLevel, spawn
from pipeline.supervision.restarts import SECOND_NS, describe

log = logging.getLogger(__name__)

# It starts in no time, so one that cannot stay up is not worth trying more often, s.
AGAIN_S = 10.0
# A death is told for so long after the next start.
STABLE_NS = 30 * SECOND_NS


class AlertsGuard:
    """One child that records nothing, and whose loss loses nothing but messages."""

    def __init__(self, run: Callable[[Config], int], forsake: Callable[[], None], level: SharedLevel) -> None:
        self.pid = 0
        self._run = run
        self._forsake = forsake
        self._level = level
        self._config: Config | None = None  # what the child was started with
        self._due_ns = 0
        self._again_s = AGAIN_S
        self._asked = False
        self._wanted = False
        self._restarts = self._last_status = 0
        self._started_ns = self._changed_ns = UNKNOWN_NS
        self._reason = ""

    def record(self, now_ns: int) -> ChildRecord:
        """What the board shows; nothing where no alerts are configured."""
        if not (self.pid or self._wanted):
            return ChildRecord()
        if self.pid and self._reason and now_ns - self._started_ns > STABLE_NS:
            self._reason = ""
        return ChildRecord(
            started_monotonic_ns=self._started_ns,
            changed_monotonic_ns=self._changed_ns,
            heartbeat_monotonic_ns=now_ns,
            restarts=self._restarts,
            pid=self.pid,
            last_status=self._last_status,
            state=ChildState.RUNNING if self.pid else ChildState.BACKOFF,
            name="alerts",
            reason=self._reason,
        )

    def poll(self, config: Config, now_ns: int) -> None:
        """Start, replace or reap it, as `config` wants."""
        self._reap(now_ns)
        wanted = self._wanted = bool(config.alerts.command or config.alerts.url)
        if self.pid:
            if config is not self._config and (not wanted or _view(config) != _view(self._config)):
                self.stop()
        elif wanted and now_ns >= self._due_ns:
            self._again_s = min(AGAIN_S, config.supervisor.backoff_max_s)
            self._due_ns = now_ns + round(self._again_s * SECOND_NS)
            self._config, self._asked = config, False
            try:
                self.pid = spawn("gp-alerts", lambda: self._run(config), self._forsake, self._level)
            except OSError as error:
                log.error("alerts: no process: %s", error.strerror)
                self._reason = f"no process: {error.strerror}"
            else:
                self._restarts += self._started_ns != UNKNOWN_NS
                self._started_ns = self._changed_ns = now_ns
                log.info("alerts[%d]: started", self.pid)

    def stop(self) -> None:
        """Ask it to leave; `poll` reaps it."""
        self._asked = True
        self._signal(signal.SIGTERM)

    def tell_level(self) -> None:
        """Let it look at the log level again."""
        self._signal(LEVEL_SIGNAL)

    def end(self) -> None:
        """At the instance's end: it was asked to leave and holds nothing that is worth waiting for."""
        if self.pid:
            self._signal(signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self.pid = 0

    def _signal(self, number: int) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _reap(self, now_ns: int) -> None:
        if not self.pid:
            return
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            pid, status = self.pid, 0
        if not pid:
            return
        self.pid = 0
        self._due_ns = self._changed_ns = now_ns
        self._last_status = os.waitstatus_to_exitcode(status)
        if not self._asked:
            self._due_ns += round(self._again_s * SECOND_NS)
            self._reason = describe(self._last_status)
            log.warning("alerts[%d]: %s, starting again in %g s", pid, self._reason, self._again_s)


def _view(config: Config | None) -> object:
    """What the child goes by."""
    return config and (config.alerts, config.station, config.recorder, config.channels, config.ntp)
