"""When a child process is started, told to stop, aborted or given up.

One `Life` per child. It is told what happened (`forked`, `exited`), what is wanted
(`stop`, `restart`, `fail`) and what time it is (`tick`), and answers with the one action
that the supervisor has to carry out. It owns no process and reads no clock, so a whole
history is a list of calls.

    STOPPED --fork--> STARTING --first heartbeat--> RUNNING
    STARTING, RUNNING --died--> BACKOFF --due--> fork
    STARTING, RUNNING --silent too long--> STOPPING (abort, then kill) --died--> BACKOFF
    STARTING, RUNNING --asked--> STOPPING (terminate, then kill) --died--> STOPPED, or BACKOFF due at once
    any death with EXIT_CONFIG --> FATAL: starting again cannot help, other channels go on

Rules. The first restart after a crash is immediate, for the samples wait in the socket;
then the delay doubles, and is forgotten once a run was long enough to count as stable. A
child killed from outside (out of memory, an operator) has shown no fault of its own: it
is started again at once, only never twice within the initial delay. A child's life is
judged from its heartbeat alone; the time that the supervisor itself was stopped is not
held against anybody (`excuse`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from signal import Signals

from pipeline import EXIT_CONFIG, EXIT_SOFTWARE
from pipeline.config import Supervision
from pipeline.records import UNKNOWN_NS, ChildState

SECOND_NS = 1_000_000_000

# Signals that come from people and from the kernel's out-of-memory killer, never from a
# fault in the program.
OUTSIDE = frozenset({Signals.SIGKILL, Signals.SIGTERM, Signals.SIGINT, Signals.SIGHUP, Signals.SIGQUIT})


# Exit statuses that an operator should not have to look up.
MEANINGS = {
    0: "left without being asked",
    EXIT_SOFTWARE: "internal error, see log",
    75: "samples left in memory",  # EX_TEMPFAIL
    EXIT_CONFIG: "configuration",
}


class Action(Enum):
    """What the supervisor has to do now."""

    NOTHING = "nothing"
    FORK = "fork"
    TERMINATE = "terminate"  # ask it to flush and leave
    HAND_OVER = "hand over"  # ask it to leave at once; its successor goes on with what it held
    ABORT = "abort"  # faulthandler writes the traceback that explains the hang
    KILL = "kill"


TRANSITIONS = {
    ChildState.STOPPED: {ChildState.STARTING, ChildState.BACKOFF, ChildState.FATAL},
    ChildState.STARTING: {ChildState.RUNNING, ChildState.BACKOFF, ChildState.STOPPING, ChildState.STOPPED,
                          ChildState.FATAL},
    ChildState.RUNNING: {ChildState.BACKOFF, ChildState.STOPPING, ChildState.STOPPED, ChildState.FATAL},
    ChildState.BACKOFF: {ChildState.STARTING, ChildState.STOPPED, ChildState.FATAL, ChildState.BACKOFF},
    ChildState.STOPPING: {ChildState.BACKOFF, ChildState.STOPPED, ChildState.FATAL},
    ChildState.FATAL: {ChildState.BACKOFF, ChildState.STOPPED},
}  # fmt: skip

ALIVE = frozenset({ChildState.STARTING, ChildState.RUNNING, ChildState.STOPPING})


@dataclass(frozen=True, slots=True)
class Limits:
    """The times that decide, seconds."""

    backoff_initial_s: float
    backoff_max_s: float
    stable_after_s: float
    heartbeat_timeout_s: float
    abort_grace_s: float
    stop_grace_s: float

    @classmethod
    def of(cls, supervision: Supervision, heartbeat_timeout_s: float) -> Limits:
        """The configured times with this kind of child's own heartbeat limit."""
        return cls(
            supervision.backoff_initial_s,
            supervision.backoff_max_s,
            supervision.stable_after_s,
            heartbeat_timeout_s,
            supervision.abort_grace_s,
            supervision.stop_grace_s,
        )


def describe(status: int) -> str:
    """An exit status (`os.waitstatus_to_exitcode`) in words."""
    if status < 0:
        try:
            return f"killed by {Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    meaning = {
        0: "left without being asked",
        EXIT_CONFIG: "configuration",
        EXIT_SOFTWARE: "internal error, see log",
        75: "samples left in memory",
    }
    return f"exit {status}" + (f" ({meaning[status]})" if status in meaning else "")


def _ns(seconds: float) -> int:
    return round(seconds * SECOND_NS)


class Life:
    """The supervision state of one child; `tick` is the only source of actions."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.state = ChildState.STOPPED
        self.reason = ""
        self.restarts = 0
        self.last_status = 0
        self.started_ns = UNKNOWN_NS
        self.changed_ns = UNKNOWN_NS
        # True once it was told that a later start goes on with what it holds.
        self.handed_over = False
        self._failures = 0
        self._wanted = True
        self._again = False
        self._hung = False
        self._asked = Action.NOTHING
        self._due_ns = UNKNOWN_NS
        self._excused_ns = UNKNOWN_NS

    @property
    def alive(self) -> bool:
        """True while a process exists."""
        return self.state in ALIVE

    @property
    def wanted(self) -> bool:
        """False once it is not to be started again."""
        return self._wanted

    @property
    def due_ns(self) -> int | None:
        """When `tick` will next have something to do that is not a matter of heartbeats."""
        if self.state is ChildState.STOPPING or (self.state is ChildState.BACKOFF and self._wanted):
            return self._due_ns
        return None

    def tick(self, now_ns: int, heartbeat_ns: int) -> Action:
        """The action due at `now_ns`, given the child's newest heartbeat (UNKNOWN_NS for none)."""
        if self.state in (ChildState.STOPPED, ChildState.BACKOFF):
            return Action.FORK if self._wanted and now_ns >= self._due_ns else Action.NOTHING
        if self.state is ChildState.STOPPING:
            return self._escalate(now_ns)
        if self.state is ChildState.FATAL:
            return Action.NOTHING
        if self._asked is not Action.NOTHING:
            flush = self._asked is Action.TERMINATE
            grace_s = self.limits.stop_grace_s if flush else self.limits.abort_grace_s
            return self._put_down(now_ns, self._asked, grace_s, "asked to stop" if flush else "asked to restart")
        return self._watch(now_ns, heartbeat_ns)

    def _watch(self, now_ns: int, heartbeat_ns: int) -> Action:
        # A heartbeat from before the fork is the predecessor's.
        if self.state is ChildState.STARTING and heartbeat_ns >= self.started_ns:
            self._move(ChildState.RUNNING, self.reason, now_ns)
        if self.state is ChildState.RUNNING and self.reason and self._stable(now_ns):
            self.reason = ""
        silent_ns = now_ns - max(self.started_ns, heartbeat_ns, self._excused_ns)
        if silent_ns <= _ns(self.limits.heartbeat_timeout_s):
            return Action.NOTHING
        self._hung = True
        return self._put_down(
            now_ns, Action.ABORT, self.limits.abort_grace_s, f"no sign of life for {silent_ns / SECOND_NS:.0f} s"
        )

    def _put_down(self, now_ns: int, action: Action, grace_s: float, reason: str) -> Action:
        self._due_ns = now_ns + _ns(grace_s)
        self._move(ChildState.STOPPING, reason, now_ns)
        return action

    def _escalate(self, now_ns: int) -> Action:
        if now_ns < self._due_ns:
            return Action.NOTHING
        self._due_ns = now_ns + _ns(max(self.limits.abort_grace_s, 0.1))
        return Action.KILL

    def excuse(self, now_ns: int) -> None:
        """Count silence from `now_ns` on only: the supervisor was stopped itself."""
        self._excused_ns = now_ns

    def forked(self, now_ns: int) -> None:
        """The process exists."""
        if self.started_ns != UNKNOWN_NS:
            self.restarts += 1
        self.started_ns = now_ns
        self._move(ChildState.STARTING, self.reason, now_ns)

    def fork_failed(self, reason: str, now_ns: int) -> None:
        """The process could not be made (out of memory or processes): try again later."""
        self._failures = max(1, self._failures)
        self._back_off(reason, now_ns)

    def exited(self, status: int, now_ns: int, said: str = "") -> None:
        """The process is gone, with this exit code or minus this signal; `said` is its own last reason."""
        if not self.alive:
            raise RuntimeError(f"exit of a child that is {self.state.name}")
        hung, self._hung, self._asked = self._hung, False, Action.NOTHING
        reason = f"{self.reason}, {describe(status)}" if hung else describe(status)
        self.last_status = status
        if not self._wanted:
            self._move(ChildState.STOPPED, "" if status == 0 else reason, now_ns)
        elif status == EXIT_CONFIG:
            self.fail(said or "cannot run as configured, see log", now_ns)
        elif self._again:
            self._due_now(now_ns)
        elif not hung and (status == 0 or -status in OUTSIDE):
            self._due_ns = max(now_ns, self.started_ns + _ns(self.limits.backoff_initial_s))
            self._move(ChildState.BACKOFF, reason, now_ns)
        else:
            if self._stable(now_ns):
                self._failures = 0
            self._back_off(reason, now_ns)
        self._again = False

    def outlook(self, now_ns: int) -> str:
        """What became of the last process and what comes next, for the log."""
        if self.state is ChildState.FATAL:
            return f"given up: {self.reason}"
        if self.state is ChildState.STOPPED:
            return self.reason or "stopped"
        delay_s = max(0, self._due_ns - now_ns) / SECOND_NS
        return f"{self.reason or 'stopped'}, starting again" + (f" in {delay_s:.1f} s" if delay_s else "")

    def _stable(self, now_ns: int) -> bool:
        return now_ns - self.started_ns >= _ns(self.limits.stable_after_s)

    def _back_off(self, reason: str, now_ns: int) -> None:
        doublings = min(self._failures - 1, 32)
        delay_s = self.limits.backoff_initial_s * 2**doublings if self._failures else 0.0
        self._due_ns = now_ns + _ns(min(delay_s, self.limits.backoff_max_s))
        self._failures += 1
        self._move(ChildState.BACKOFF, reason, now_ns)

    def _due_now(self, now_ns: int) -> None:
        self._failures = 0
        self._due_ns = now_ns
        self._move(ChildState.BACKOFF, "", now_ns)

    def retire(self, now_ns: int) -> None:
        """It may go on, but is not started again."""
        self._wanted = False
        self._again = False
        if not self.alive and self.state is not ChildState.STOPPED:
            self._move(ChildState.STOPPED, "", now_ns)

    def stop(self, now_ns: int, hand_over: bool = False) -> None:
        """It is to leave and stay away; asking twice is harmless. `hand_over` as for `restart`."""
        self.retire(now_ns)
        self.handed_over = hand_over
        self._ask(Action.HAND_OVER if hand_over else Action.TERMINATE)

    def restart(self, now_ns: int, hand_over: bool = False) -> None:
        """It is to leave and come back at once, whatever it is waiting for; ends FATAL.

        With `hand_over` it need not flush: what it holds is its successor's.
        """
        self._wanted = True
        if self.alive:
            self._again = True
            self._ask(Action.HAND_OVER if hand_over else Action.TERMINATE)
        else:
            self._due_now(now_ns)

    def _ask(self, action: Action) -> None:
        if self.state in (ChildState.STARTING, ChildState.RUNNING):
            self._asked = action

    def fail(self, reason: str, now_ns: int) -> None:
        """Starting it (again) cannot help until somebody mends what `reason` says."""
        self._move(ChildState.FATAL, reason, now_ns)

    def _move(self, state: ChildState, reason: str, now_ns: int) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state.name} -> {state.name}"
        self.state = state
        self.reason = reason
        self.changed_ns = now_ns
