"""Logging: one line per event on stderr, so that stdout holds only what a command prints."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping

from pipeline.config import LOG_LEVELS, Logging
from pipeline.coordination import variables

# The HamSCI client contract (section 11) publishes the second name for all its clients.
LEVEL_VARIABLES = ("GRAPE_PIPELINE_LOG_LEVEL", "CLIENT_LOG_LEVEL")
# sd-daemon(3): the journal takes a line's priority from this prefix
_PRIORITIES = {"DEBUG": "<7>", "INFO": "<6>", "WARNING": "<4>", "ERROR": "<3>", "CRITICAL": "<2>"}

log = logging.getLogger(__name__)


class LineFormatter(logging.Formatter):
    """One line per event: `time LEVEL [pid] module: text`, or priority and text for the journal.

    In the journal an event's `fields` follow as key=value, for programs; _PID and _COMM say who it
    was (`journalctl _COMM=WWV_10_MHz`). What comes from the network may be in a text, so that line
    ends in it are made visible.
    """

    def __init__(self, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """See the class; a traceback, if any, follows on lines of its own."""
        text = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        if self._journal:
            head = _PRIORITIES.get(record.levelname, "<6>")
        else:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            head = f"{stamp}.{int(record.msecs):03d}Z {record.levelname} [{record.process}] "
        pairs: Mapping[str, object] = getattr(record, "fields", {})
        end = "".join(f" {key}={_word(value)}" for key, value in pairs.items()) if self._journal else ""
        # Each line of a trace is an entry of the journal's with a priority of its own.
        line_head = "\n" + (head if self._journal else "")
        trace = self.formatException(record.exc_info).splitlines() if record.exc_info else []
        return f"{head}{record.name}: {text}{end}" + "".join(f"{line_head}{line}" for line in trace)


def fields(**pairs: object) -> dict[str, Mapping[str, object]]:
    """`extra` of a log call: what the event is about, by key, with units in the keys."""
    return {"fields": pairs}


def _word(value: object) -> str:
    """A value that ends where the next blank is."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if re.fullmatch(r"[^\s\"=]+", text) else json.dumps(text, ensure_ascii=False)


def to_journal() -> bool:
    """True when stderr is the journal itself, which stamps the lines on its own (systemd.exec(5))."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _Choice:
    flag: str | None = None


def setup_logging(flag: str | None = None) -> None:
    """Send the log to stderr; `flag` is the level asked for on the command line, if any.

    Until `apply_level` is told the configuration's level, the environment's or the default is used.
    """
    _Choice.flag = flag.upper() if flag else None
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(to_journal()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    apply_level(Logging().level)


def effective_level(configured: str) -> str:
    """The level in force: command line, else environment, else `configured`."""
    if _Choice.flag:
        return _Choice.flag
    told = variables()
    for name in LEVEL_VARIABLES:
        value = told.get(name, "").strip().upper()
        if value in LOG_LEVELS:
            return value
    return configured


def apply_level(configured: str) -> None:
    """Use the configuration's level unless command line or environment overrule it.

    Called at start and again whenever the configuration is read anew.
    """
    logging.getLogger().setLevel(effective_level(configured))
