"""What the control socket answers: the supervisor's verbs and views as HTTP with JSON."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline import PipelineError
from pipeline.supervision.causes import Level
from pipeline.supervision.control import Handler, Reply
from pipeline.supervision.report_json import status_json
from pipeline.supervision.snapshot import take
from pipeline.supervision.troubles import health

if TYPE_CHECKING:
    from pipeline.supervision.supervisor import Supervisor

log = logging.getLogger(__name__)


def make_handler(supervisor: Supervisor) -> Handler:
    """The handler for `ControlServer.serve`.

    GET /healthz /readyz /status /metrics; POST /stop, /reload {"dry_run": false}, /restart {"channels": [...]}.
    """
    api = _Api(supervisor)
    routes: dict[str, tuple[str, Callable[[dict[str, Any]], Reply]]] = {
        "/healthz": ("GET", api.healthz),
        "/readyz": ("GET", api.readyz),
        "/status": ("GET", api.status),
        "/metrics": ("GET", api.metrics),
        "/stop": ("POST", api.stop),
        "/reload": ("POST", api.reload),
        "/restart": ("POST", api.restart),
    }

    def handle(method: str, path: str, body: dict[str, Any]) -> Reply:
        if path not in routes:
            return 404, {"error": f"no {path}; there are {', '.join(routes)}"}
        expected, answer = routes[path]
        if method != expected:
            return 405, {"error": f"{path} takes {expected}"}
        log.debug("control: %s %s", method, path)
        return answer(body)

    return handle


class _Api:
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def healthz(self, _body: dict[str, Any]) -> Reply:
        """The supervisor is alive; that it answers is the answer."""
        return 200, {"status": "ok"}

    def readyz(self, _body: dict[str, Any]) -> Reply:
        """Input flows and output can be written."""
        verdict = health(take(self._supervisor.board, self._supervisor.config))
        ready = verdict.level is not Level.CRIT
        return (200 if ready else 503), {"ready": ready, "causes": list(verdict.causes)}

    def status(self, _body: dict[str, Any]) -> Reply:
        """The same as `status --json`."""
        return 200, status_json(take(self._supervisor.board, self._supervisor.config))

    def metrics(self, _body: dict[str, Any]) -> Reply:
        """Prometheus' text; the library is loaded by the first question, for most stations never ask."""
        from pipeline.supervision.metrics import text

        return 200, text(take(self._supervisor.board, self._supervisor.config))

    def stop(self, _body: dict[str, Any]) -> Reply:
        self._supervisor.stop(time.monotonic_ns(), "asked through the control socket")
        return 202, {"stopping": True}

    def reload(self, body: dict[str, Any]) -> Reply:
        dry_run = body.get("dry_run", False)
        if not isinstance(dry_run, bool):
            return 400, {"error": "dry_run must be true or false"}
        if self._supervisor.stopping:
            return 409, {"error": "the instance is stopping"}
        try:
            steps = self._supervisor.reload(time.monotonic_ns(), dry_run)
        except PipelineError as error:
            log.error("reload: %s; the old configuration stays in force", error)
            return 422, {"error": str(error), "code": error.exit_code}
        return 200, {
            "dry_run": dry_run,
            "steps": str(steps),
            "dropped": list(steps.drop),
            "added": [channel.id for channel in steps.add],
            "restarting": [change.channel.id for change in steps.change] + ["ntp"] * steps.monitor,
        }

    def restart(self, body: dict[str, Any]) -> Reply:
        names = body.get("channels", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return 400, {"error": "channels must be a list of names"}
        if self._supervisor.stopping:
            return 409, {"error": "the instance is stopping"}
        try:
            chosen = self._supervisor.restart(names, time.monotonic_ns())
        except PipelineError as error:
            return 404, {"error": str(error), "code": error.exit_code, "known": self._supervisor.seats.ids}
        return 202, {"restarting": chosen}
