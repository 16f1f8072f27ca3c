"""The supervision of one child, as histories of what happens and what has to be done then."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import EXIT_CONFIG
from pipeline.records import UNKNOWN_NS, ChildState
from pipeline.supervision.restarts import SECOND_NS, Action, Life, Limits, describe

LIMITS = Limits(
    backoff_initial_s=1, backoff_max_s=60, stable_after_s=30, heartbeat_timeout_s=10, abort_grace_s=2, stop_grace_s=20
)
SIGKILL, SIGSEGV, SIGABRT, SIGTERM = 9, 11, 6, 15

# One line of a history: when (s), what happens, then the action and the state that must follow.
# "beat" is a tick with a heartbeat of that moment, "quiet" one whose newest heartbeat is old.
CRASH_LOOP = [
    (0, "quiet", Action.FORK, "STOPPED"),
    (0, "forked", Action.NOTHING, "STARTING"),
    (1, "exit 70", Action.FORK, "BACKOFF"),  # the first restart is immediate
    (1, "forked", Action.NOTHING, "STARTING"),
    (2, "exit 70", Action.NOTHING, "BACKOFF"),
    (2.9, "quiet", Action.NOTHING, "BACKOFF"),
    (3, "quiet", Action.FORK, "BACKOFF"),  # 1 s
    (3, "forked", Action.NOTHING, "STARTING"),
    (4, "exit 70", Action.NOTHING, "BACKOFF"),
    (5.9, "quiet", Action.NOTHING, "BACKOFF"),
    (6, "quiet", Action.FORK, "BACKOFF"),  # 2 s
    (6, "forked", Action.NOTHING, "STARTING"),
    (7, f"exit {-SIGSEGV}", Action.NOTHING, "BACKOFF"),
    (11, "quiet", Action.FORK, "BACKOFF"),  # 4 s
    (11, "forked", Action.NOTHING, "STARTING"),
    (12, "beat", Action.NOTHING, "RUNNING"),
    (41, "beat", Action.NOTHING, "RUNNING"),
    (41, "exit 70", Action.FORK, "BACKOFF"),  # 30 s were stable: forgiven
]
KILLED_FROM_OUTSIDE = [
    (0, "forked", Action.NOTHING, "STARTING"),
    (5, "beat", Action.NOTHING, "RUNNING"),
    (5, f"exit {-SIGKILL}", Action.FORK, "BACKOFF"),
    (5.1, "forked", Action.NOTHING, "STARTING"),
    (7, f"exit {-SIGKILL}", Action.FORK, "BACKOFF"),  # again at once: it has done nothing wrong
    (7, "forked", Action.NOTHING, "STARTING"),
    (7.2, f"exit {-SIGKILL}", Action.NOTHING, "BACKOFF"),  # but not twice in a second
    (8, "quiet", Action.FORK, "BACKOFF"),
    (8, "forked", Action.NOTHING, "STARTING"),
    (9.5, "exit 0", Action.FORK, "BACKOFF"),  # somebody sent it SIGTERM
    (9.5, "forked", Action.NOTHING, "STARTING"),
    (10, "exit 70", Action.FORK, "BACKOFF"),  # the first fault of its own
]
HANG = [
    (0, "forked", Action.NOTHING, "STARTING"),
    (1, "beat", Action.NOTHING, "RUNNING"),
    (11, "quiet", Action.NOTHING, "RUNNING"),
    (11.1, "quiet", Action.ABORT, "STOPPING"),
    (12, "quiet", Action.NOTHING, "STOPPING"),
    (13.1, "quiet", Action.KILL, "STOPPING"),
    (13.2, f"exit {-SIGKILL}", Action.FORK, "BACKOFF"),
    (13.2, "forked", Action.NOTHING, "STARTING"),
    (23.3, "quiet", Action.ABORT, "STOPPING"),  # never a sign of life at all
    (23.4, f"exit {-SIGABRT}", Action.NOTHING, "BACKOFF"),  # a hang is its own fault: back-off
    (24.4, "quiet", Action.FORK, "BACKOFF"),
]
SUPERVISOR_WAS_STOPPED = [
    (0, "forked", Action.NOTHING, "STARTING"),
    (1, "beat", Action.NOTHING, "RUNNING"),
    (60, "excuse", Action.NOTHING, "RUNNING"),
    (69, "quiet", Action.NOTHING, "RUNNING"),
    (70.1, "quiet", Action.ABORT, "STOPPING"),
]
BAD_CONFIGURATION = [
    (0, "forked", Action.NOTHING, "STARTING"),
    (1, f"exit {EXIT_CONFIG}", Action.NOTHING, "FATAL"),
    (3600, "quiet", Action.NOTHING, "FATAL"),
    (3601, "restart", Action.FORK, "BACKOFF"),  # only a person ends it
    (3601, "forked", Action.NOTHING, "STARTING"),
]
STOP = [
    (0, "forked", Action.NOTHING, "STARTING"),
    (1, "beat", Action.NOTHING, "RUNNING"),
    (2, "stop", Action.TERMINATE, "STOPPING"),
    (21.9, "quiet", Action.NOTHING, "STOPPING"),
    (22, "quiet", Action.KILL, "STOPPING"),
    (23, "quiet", Action.NOTHING, "STOPPING"),
    (24, "quiet", Action.KILL, "STOPPING"),
    (25, f"exit {-SIGKILL}", Action.NOTHING, "STOPPED"),
    (99, "quiet", Action.NOTHING, "STOPPED"),
]
STOP_WHILE_BACKING_OFF = [
    (0, "forked", Action.NOTHING, "STARTING"),
    (1, "exit 70", Action.FORK, "BACKOFF"),
    (1, "stop", Action.NOTHING, "STOPPED"),
    (9, "quiet", Action.NOTHING, "STOPPED"),
    (10, "restart", Action.FORK, "BACKOFF"),
]
ASKED_RESTART = [
    (0, "forked", Action.NOTHING, "STARTING"),
    (1, "beat", Action.NOTHING, "RUNNING"),
    (2, "restart", Action.TERMINATE, "STOPPING"),
    (3, "exit 0", Action.FORK, "BACKOFF"),
    (3, "forked", Action.NOTHING, "STARTING"),
    (3.1, "restart", Action.TERMINATE, "STOPPING"),
    (3.2, "exit 0", Action.FORK, "BACKOFF"),  # no limit on what a person asks for
]
HAND_OVER = [
    (0, "forked", Action.NOTHING, "STARTING"),
    (1, "hand_over", Action.HAND_OVER, "STOPPING"),
    (2.9, "quiet", Action.NOTHING, "STOPPING"),
    (3, "quiet", Action.KILL, "STOPPING"),  # what it holds is safe anyway
    (3.1, f"exit {-SIGKILL}", Action.FORK, "BACKOFF"),
]
STOP_OVERRULES_HAND_OVER = [
    (0, "forked", Action.NOTHING, "STARTING"),
    (1, "hand_over, stop", Action.TERMINATE, "STOPPING"),
]
STOP_OVERRULES_RESTART = [
    (0, "forked", Action.NOTHING, "STARTING"),
    (1, "restart", Action.TERMINATE, "STOPPING"),
    (2, "stop", Action.NOTHING, "STOPPING"),
    (3, "exit 0", Action.NOTHING, "STOPPED"),
]
RETIRED = [
    (0, "forked", Action.NOTHING, "STARTING"),
    (1, "beat", Action.NOTHING, "RUNNING"),
    (2, "retire", Action.NOTHING, "RUNNING"),  # may go on, but is not started again
    (3, "stop", Action.TERMINATE, "STOPPING"),
    (4, "exit 0", Action.NOTHING, "STOPPED"),
]
RETIRED_AND_DEAD = [
    (0, "forked", Action.NOTHING, "STARTING"),
    (2, "retire", Action.NOTHING, "STARTING"),
    (3, "exit 70", Action.NOTHING, "STOPPED"),
    (4, "stop", Action.NOTHING, "STOPPED"),
]
OLD_HEARTBEAT = [
    (0, "forked", Action.NOTHING, "STARTING"),
    (1, "beat", Action.NOTHING, "RUNNING"),
    (2, f"exit {-SIGTERM}", Action.FORK, "BACKOFF"),
    (2, "forked", Action.NOTHING, "STARTING"),
    (3, "quiet", Action.NOTHING, "STARTING"),  # the predecessor's heartbeat is not its own
    (4, "beat", Action.NOTHING, "RUNNING"),
]
NO_PROCESS = [
    (0, "fork_failed", Action.NOTHING, "BACKOFF"),
    (1, "quiet", Action.FORK, "BACKOFF"),
    (1, "fork_failed", Action.NOTHING, "BACKOFF"),
    (2.9, "quiet", Action.NOTHING, "BACKOFF"),
    (3, "quiet", Action.FORK, "BACKOFF"),
]
HISTORIES = {name: value for name, value in list(globals().items()) if name.isupper() and isinstance(value, list)}


class Played:
    """A life with the newest heartbeat that it had."""

    def __init__(self) -> None:
        self.life = Life(LIMITS)
        self.heartbeat = UNKNOWN_NS

    def happen(self, event: str, now: int) -> Action:
        life = self.life
        word, _, argument = event.partition(" ")
        match word:
            case "beat":
                self.heartbeat = now
            case "forked":
                life.forked(now)
            case "fork_failed":
                life.fork_failed("no memory", now)
            case "exit":
                life.exited(int(argument), now)
            case "retire":
                life.retire(now)
            case "stop":
                life.stop(now)
            case "hand_over":
                life.restart(now, hand_over=True)
            case "hand_over,":
                life.restart(now, hand_over=True)
                life.stop(now)
            case "restart":
                life.restart(now)
            case "excuse":
                life.excuse(now)
        return life.tick(now, self.heartbeat)


@pytest.mark.parametrize("name", HISTORIES)
def test_history(name: str) -> None:
    played = Played()
    for second, event, action, state in HISTORIES[name]:
        got = played.happen(event, round(second * SECOND_NS))
        assert (got, played.life.state.name) == (action, state), f"at {second} s after {event}"


def test_delay_doubles_up_to_the_maximum_and_stays_there() -> None:
    life, now, delays = Life(LIMITS), 0, []
    life.forked(now)
    for _ in range(10):
        life.exited(70, now)
        due = life.due_ns
        assert due is not None
        delays.append((due - now) / SECOND_NS)
        now = due
        assert life.tick(now, UNKNOWN_NS) is Action.FORK
        life.forked(now)
    assert delays == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert life.restarts == 10


def test_restarts_are_counted_and_reason_is_kept_until_stable() -> None:
    life = Life(LIMITS)
    life.forked(0)
    life.exited(-SIGSEGV, 1)
    life.forked(2)
    life.tick(3, 3)
    assert (life.restarts, life.reason, life.last_status) == (1, "killed by SIGSEGV", -SIGSEGV)
    life.tick(32 * SECOND_NS, 32 * SECOND_NS)
    assert life.reason == ""


def test_hang_is_named_in_the_reason() -> None:
    life = Life(LIMITS)
    life.forked(0)
    life.tick(11 * SECOND_NS, UNKNOWN_NS)
    life.exited(-SIGABRT, 12 * SECOND_NS)
    assert life.reason == "no sign of life for 11 s, killed by SIGABRT"


def test_own_last_words_explain_a_configuration_that_cannot_run() -> None:
    life = Life(LIMITS)
    life.forked(0)
    life.exited(EXIT_CONFIG, 1, "encoding F16LE is not S16")
    assert life.reason == "encoding F16LE is not S16"


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (-9, "killed by SIGKILL"),
        (-99, "killed by signal 99"),
        (70, "exit 70 (internal error, see log)"),
        (5, "exit 5"),
    ],
)
def test_describe(status: int, text: str) -> None:
    assert describe(status) == text


EVENTS = st.sampled_from(["beat", "quiet", "stop", "restart", "excuse", "die"])
STATUSES = st.sampled_from([0, 1, 70, EXIT_CONFIG, -SIGKILL, -SIGSEGV, -SIGABRT])


@given(st.lists(st.tuples(st.floats(0, 30), EVENTS, STATUSES), max_size=60))
def test_any_history_keeps_one_process_and_obeys_stop(history: list[tuple[float, str, int]]) -> None:
    played, now, process = Played(), 0, False
    for seconds, chosen, status in history:
        now += round(seconds * SECOND_NS)
        event = chosen
        if chosen == "die":
            event = f"exit {status}" if process else "quiet"
            process = False
        action = played.happen(event, now)
        life = played.life
        assert life.alive == process
        if action is Action.FORK:
            assert not process and life.wanted and life.state is not ChildState.FATAL
            process = status != 1
            if process:
                life.forked(now)
            else:
                life.fork_failed("no memory", now)
        elif action is not Action.NOTHING:
            assert process, f"{action} for a process that is not there"
        if life.state is ChildState.BACKOFF and life.wanted:
            assert life.due_ns is not None and life.due_ns - now <= LIMITS.backoff_max_s * SECOND_NS
        if not life.wanted:
            assert life.state in (ChildState.STOPPED, ChildState.STOPPING)
