"""Gets messages out: a process a message, with a time limit, so that nothing here ever waits.

A command and a URL are two routes, and neither holds up the other. On one route messages
go out in order; one that fails is tried again before its successors. Posting is a process
too (`pipeline.alerts.post`), since a name server, a firewall or a slow peer can hold a
connection for longer than any timeout of a socket says.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from pipeline.alerts.message import Message
from pipeline.config import Alerts

log = logging.getLogger(__name__)

RETRY_DELAYS_S = (60.0, 300.0, 900.0)
# Of a route that has failed for hours; the oldest go first.
MAX_WAITING = 100


class Route:
    """One way out, with what waits for it."""

    def __init__(
        self, name: str, start: Callable[[Message], subprocess.Popen[bytes]], timeout_s: float,
        retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
    ) -> None:  # fmt: skip
        self.name = name
        self.sent = 0  # messages that the other side took
        self.given_up = 0
        self.failure = ""  # of the newest attempt
        self._start = start
        self._timeout_s = timeout_s
        self._delays_s = retry_delays_s
        self._waiting: deque[Message] = deque(maxlen=MAX_WAITING)
        self._process: subprocess.Popen[bytes] | None = None
        self._attempt = 0
        self._due_s = -1.0  # of the next attempt, or of the end of the running one

    @property
    def busy(self) -> bool:
        """True while there is something to be sent."""
        return bool(self._waiting) or self._process is not None

    @property
    def waiting(self) -> int:
        """Messages that are still to go out."""
        return len(self._waiting)

    def add(self, message: Message) -> None:
        """Queue a message."""
        self._waiting.append(message)

    def step(self, now_s: float) -> None:
        """Start, end or judge an attempt; never waits."""
        if self._process is not None and not self._ended(self._process, now_s):
            return
        if self._waiting and self._process is None and now_s >= self._due_s:
            self._due_s = now_s + self._timeout_s
            try:
                self._process = self._start(self._waiting[0])
            except OSError as error:
                self._failed(f"{error.strerror or error}", now_s)

    def _ended(self, process: subprocess.Popen[bytes], now_s: float) -> bool:
        status = process.poll()
        if status is None and now_s < self._due_s:
            return False
        # The whole group: what a command started is part of it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        self._process = None
        if status is None:
            process.wait()
            self._failed(f"took longer than {self._timeout_s:g} s", now_s)
        elif status:
            self._failed(f"exit status {status}", now_s)
        else:
            self.sent, self.failure = self.sent + 1, ""
            log.info("alert sent (%s): %s", self.name, self._waiting.popleft().subject)
            self._attempt, self._due_s = 0, now_s
        return True

    def _failed(self, why: str, now_s: float) -> None:
        subject, self.failure = self._waiting[0].subject, f"{self.name}: {why}"
        if self._attempt < len(self._delays_s):
            delay_s = self._delays_s[self._attempt]
            log.warning("alert not sent (%s): %s; again in %g s: %s", self.name, why, delay_s, subject)
            self._attempt, self._due_s = self._attempt + 1, now_s + delay_s
            return
        log.error("alert given up (%s): %s: %s", self.name, why, subject)
        self._waiting.popleft()
        self.given_up += 1
        self._attempt, self._due_s = 0, now_s

    def close(self) -> None:
        """End what runs."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def routes(alerts: Alerts, retry_delays_s: Sequence[float] = RETRY_DELAYS_S) -> list[Route]:
    """The ways out that are configured."""
    found = []
    if alerts.command:
        found.append(Route("command", lambda m: run(alerts, m), alerts.timeout_s, retry_delays_s))
    if alerts.url:
        name = f"url {urlsplit(alerts.url).hostname}"  # the rest of a URL may be a secret
        found.append(Route(name, lambda m: post(alerts, m), alerts.timeout_s, retry_delays_s))
    return found


def run(alerts: Alerts, message: Message) -> subprocess.Popen[bytes]:
    """Start the command: no shell, the message on its standard input and in GRAPE_ALERT_*. Raises OSError."""
    # A null byte would end a variable; texts are of one line and printable all the same.
    variables = {f"GRAPE_ALERT_{key.upper()}": str(message.fields[key]) for key in ("kind", "event", "subject", "utc")}
    argv = [word.replace("{subject}", message.subject) for word in alerts.command]
    return _popen(argv, message.json if alerts.format == "json" else message.text, variables)


def post(alerts: Alerts, message: Message) -> subprocess.Popen[bytes]:
    """Start the program that posts; URL and body go through its standard input, where `ps` does not show them."""
    as_json = alerts.format == "json"
    order = {
        "url": alerts.url,
        "timeout_s": alerts.timeout_s,
        "body": message.json if as_json else message.text,
        "type": "application/json" if as_json else "text/plain; charset=utf-8",
        "title": message.subject,
    }
    return _popen([sys.executable, "-m", "pipeline.alerts.post"], json.dumps(order), {})


def _popen(argv: Sequence[str], text: str, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    # A file, since a pipe could fill up or break.
    with os.fdopen(os.memfd_create("alert"), "w+b") as stdin:
        stdin.write(text.encode() + b"\n")
        stdin.seek(0)
        # What a command says goes to our log. Signals that we block would stay blocked in it.
        return subprocess.Popen(
            argv, stdin=stdin, stdout=2, stderr=2, env=os.environ | variables, start_new_session=True,
            cwd="/" if argv[0].startswith("/") else None,
        )  # fmt: skip
