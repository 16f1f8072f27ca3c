"""The process that watches an instance and tells: a reader of shared memory like any other.

A process of its own, forked by the supervisor when alerts are configured. Supervision must
not wait for a name server or a disk that hangs (even asking for free space can), a thread
would not survive the supervisor's forks, and somebody must be left to tell that the
supervisor is dead.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

from pipeline.alerts.conditions import Key, conditions
from pipeline.alerts.delivery import Route, routes
from pipeline.alerts.incidents import Event, Incidents
from pipeline.alerts.message import Message, message
from pipeline.config import Config
from pipeline.logs import fields
from pipeline.process import Lifeline, set_name
from pipeline.records import AlertsRecord
from pipeline.shm import Board
from pipeline.supervision.causes import Snapshot
from pipeline.supervision.instance import runtime_dir
from pipeline.supervision.snapshot import take

log = logging.getLogger(__name__)

LOOK_S = 1.0
DISK_LOOK_S = 10.0
# After the supervisor's death, for the last message.
LAST_WORDS_S = 60.0
FIRST_INHERITED_FD = 3


class Watcher:
    """Looks, judges, remembers what was told, and sends."""

    def __init__(self, config: Config, board: Board, ways: list[Route] | None = None) -> None:
        self._config = config
        self._board = board
        self._routes = routes(config.alerts) if ways is None else ways
        self._incidents = Incidents(config.alerts.after_s, config.alerts.clear_after_s)
        self._path = runtime_dir() / f"{config.recorder.instance}.alerts.json"
        self._told = self._recall()
        self._incidents.restore(self._told, time.monotonic())
        self._free_gb: float | None = None
        self._disk_due_s = 0.0

    @property
    def open(self) -> int:
        """Incidents that were told and are not over."""
        return len(self._told)

    def look(self) -> None:
        """One look at the instance, and what follows from it."""
        now_s = time.monotonic()
        if now_s >= self._disk_due_s:
            self._disk_due_s = now_s + DISK_LOOK_S
            self._free_gb = free_gb(self._config.recorder.data_dir)
        snapshot = take(self._board, self._config, brief=True)
        wrong = conditions(snapshot, self._free_gb, ("disk", "") in self._told)
        self.tell(self._incidents.update(now_s, wrong), now_s)
        self.send(now_s)

    def supervisor_died(self, snapshot: Snapshot) -> None:
        """Tell at once, for nobody will look again."""
        now_s = time.monotonic()
        texts = {key[1]: text for key, text in conditions(snapshot, None, False).items() if key[0] == "not_recording"}
        if texts:
            self.tell([Event(True, "not_recording", texts, 0.0)], now_s)

    def tell(self, events: list[Event], now_s: float) -> None:
        """Queue the events' messages."""
        for event in events:
            made = made_now(event, self._config)
            state, channels = made.fields["event"], ",".join(made.fields["channels"])
            about = fields(event="alert", kind=event.kind, state=state, channels=channels)
            log.warning("alert: %s", made.subject, extra=about)
            if event.begins or self._config.alerts.ends:
                for route in self._routes:
                    route.add(made)
        told = self._incidents.told(now_s)
        if told.keys() != self._told.keys():
            self._remember(told)
        self._told = told

    def send(self, now_s: float) -> bool:
        """Move the messages on; False when there is none left."""
        for route in self._routes:
            route.step(now_s)
        return any(route.busy for route in self._routes)

    def report(self) -> AlertsRecord:
        """How the telling goes."""
        return AlertsRecord(
            heartbeat_monotonic_ns=time.monotonic_ns(),
            sent=sum(route.sent for route in self._routes),
            given_up=sum(route.given_up for route in self._routes),
            open=self.open,
            waiting=sum(route.waiting for route in self._routes),
            reason=next((route.failure for route in self._routes if route.failure), ""),
        )

    def close(self) -> None:
        """End what runs."""
        for route in self._routes:
            route.close()

    def _recall(self) -> dict[Key, tuple[str, float]]:
        """What an earlier process told, so that a restart does not tell it again."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            entries = [(e["kind"], e["channel"], e["text"], time.time() - e["since_utc_s"]) for e in found]
        except (OSError, ValueError, TypeError, KeyError):
            return {}
        return {(kind, channel): (text, max(0.0, age_s)) for kind, channel, text, age_s in entries}

    def _remember(self, told: dict[Key, tuple[str, float]]) -> None:
        entries = [
            {"kind": kind, "channel": channel, "text": text, "since_utc_s": time.time() - age_s}
            for (kind, channel), (text, age_s) in told.items()
        ]
        draft = self._path.with_suffix(".new")
        try:
            draft.write_text(json.dumps(entries), encoding="utf-8")
            draft.replace(self._path)
        except OSError as error:
            log.warning("alerts: %s: %s; a restart may tell the same again", self._path, error.strerror)


def free_gb(folder: Path) -> float | None:
    """Room for an ordinary user on the disk of `folder`, GB; None when it cannot be asked."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize / 1e9


def made_now(event: Event, config: Config) -> Message:
    """The message of an event that is told now."""
    utc = datetime.now(UTC).isoformat(timespec="seconds")
    return message(event, config.recorder.instance, socket.gethostname(), config.station, utc)


def run(config: Config, board: Board, parent_pid: int) -> int:
    """Watch until told to stop, or until the supervisor is dead and that has been told."""
    life = Lifeline(parent_pid)
    watcher = Watcher(config, board)
    shown = -1
    while not life.stopping():
        watcher.look()
        board.alerts_report.write(watcher.report())
        if watcher.open != shown:
            shown = watcher.open
            set_name("gp-alerts", f"alerts {config.recorder.instance} {shown} open")
        life.wait(LOOK_S)
    if life.orphaned():
        _last_words(watcher, config, board)
    watcher.close()
    return 0


def _last_words(watcher: Watcher, config: Config, board: Board) -> None:
    snapshot = take(board, config, brief=True)
    # Descriptors of the supervisor, its lock among them, would keep the next start waiting.
    os.closerange(FIRST_INHERITED_FD, 1024)
    watcher.supervisor_died(snapshot)
    end_s = time.monotonic() + LAST_WORDS_S
    while watcher.send(now_s := time.monotonic()) and now_s < end_s:
        time.sleep(0.1)
