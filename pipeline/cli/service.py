"""Commands that run an instance and talk to one that runs: `start`, `stop`, `restart`, `reload`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline import EXIT_FAILURE, EXIT_NOT_RUNNING, EXIT_OK, PipelineError
from pipeline.cli.common import config_option, load
from pipeline.config import ConfigError
from pipeline.records import ChildRecord, ChildState
from pipeline.shm import Board
from pipeline.supervision.control import ask
from pipeline.supervision.instance import instances, locked, log_path, running_pid, socket_path

F = TypeVar("F", bound=Callable[..., Any])

POLL_S = 0.05
# Beyond the configured stop_grace_s: the monitor's turn, a kill and the last fsync.
STOP_MARGIN_S = 40.0
RESTART_PATIENCE_S = 90.0


class NotRunning(PipelineError):
    """There is no such instance to talk to."""

    exit_code = EXIT_NOT_RUNNING


def instance_option(command: F) -> F:
    """Add `--instance NAME`; the command gets `instance: str | None`."""
    return click.option("--instance", metavar="NAME", help="Instance; default: the configuration's.")(command)


def find_instance(config_path: Path | None, instance: str | None) -> str:
    """The instance that is meant; a broken configuration must not keep anybody from stopping it.

    `--instance`, else the configuration's, else the only one that runs. Raises ConfigError.
    """
    if instance:
        return instance
    try:
        return load(config_path, need_channels=False).recorder.instance
    except ConfigError:
        running = instances()
        if len(running) != 1:
            raise
        return running[0]


def find_pid(instance: str) -> int:
    """The supervisor's pid; raises NotRunning."""
    pid = running_pid(instance)
    if pid is None:
        raise NotRunning(f"instance {instance} is not running")
    return pid


@click.command()
@config_option
@instance_option
@click.option("--detach", is_flag=True, help="Return once everything runs in the background.")
def start(config_path: Path | None, instance: str | None, detach: bool) -> int:
    """Record until stopped.

    Runs in the foreground, as service managers want it; SIGTERM or Ctrl-C stops it in
    order, SIGHUP reads the configuration again. With --detach the log goes to
    <data_dir>/log/<instance>.log.

    Example: grape-pipeline start -c station.toml --detach
    """
    config = load(config_path, instance=instance)
    if instance:
        config = config.as_instance(instance)
    from pipeline.supervision import service  # brings numpy with it, which no other command here needs

    if not detach:
        return service.serve(config)
    pid = service.detach(config)
    click.echo(
        f"instance {config.recorder.instance} runs, pid {pid}, "
        f"{len(config.enabled_channels)} channels; log: {log_path(config)}"
    )
    return EXIT_OK


daemon = click.Command(
    "daemon", callback=start.callback, params=start.params, help=(start.help or "").replace("start -c", "daemon -c")
)


@click.command()
@config_option
@instance_option
def stop(config_path: Path | None, instance: str | None) -> int:
    """Stop a running instance; partial minutes are written first.

    Example: grape-pipeline stop
    """
    name = find_instance(config_path, instance)
    pid = find_pid(name)
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise PipelineError(f"instance {name} (pid {pid}) belongs to another user") from None
    except ProcessLookupError:
        pass
    patience_s = _stop_patience(config_path, name)
    if not _wait_until(lambda: running_pid(name) is None and not locked(name), patience_s):
        raise PipelineError(f"instance {name} (pid {pid}) has not stopped yet; see its log")
    click.echo(f"instance {name} stopped")
    return EXIT_OK


def _stop_patience(config_path: Path | None, instance: str) -> float:
    try:
        return load(config_path, instance=instance, need_channels=False).supervisor.stop_grace_s + STOP_MARGIN_S
    except ConfigError:
        return 20.0 + STOP_MARGIN_S


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _order(instance: str, target: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST to the instance's control socket; its refusal becomes ours, with its exit code."""
    find_pid(instance)
    status, answer = ask(socket_path(instance), "POST", target, body, timeout_s=60.0)
    if status >= 400:
        error = PipelineError(str(answer.get("error", f"refused with {status}")))
        error.exit_code = int(answer.get("code", EXIT_FAILURE))
        raise error
    return answer


def _channels_that_run(context: click.Context, _argument: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: what can be restarted; nothing when that cannot be told."""
    try:
        board = Board.open(find_instance(context.params.get("config_path"), context.params.get("instance")))
    except PipelineError:
        return []
    names = [child.name for cell in board.children[1:] if (child := cell.read()).name]
    return [name for name in names if name.startswith(incomplete)]


@click.command()
@config_option
@instance_option
@click.argument("channels", nargs=-1, metavar="[CHANNEL]...", shell_complete=_channels_that_run)
def restart(config_path: Path | None, instance: str | None, channels: tuple[str, ...]) -> int:
    """Restart channels by id or name; all of them, one at a time, when none is named.

    No packet is lost: what arrives meanwhile waits in the channel's socket. `ntp`
    restarts the NTP monitor.

    Example: grape-pipeline restart WWV_10_MHz "CHU 7.85 MHz"
    """
    name = find_instance(config_path, instance)
    asked_ns = time.monotonic_ns()
    waiting = list(_order(name, "/restart", {"channels": list(channels)})["restarting"])
    board = Board.open(name)
    deadline = time.monotonic() + RESTART_PATIENCE_S
    failed = False
    while waiting and time.monotonic() < deadline:
        for child in (cell.read() for cell in board.children):
            if child.name in waiting and (done := _restarted(child, asked_ns)) is not None:
                waiting.remove(child.name)
                deadline = time.monotonic() + RESTART_PATIENCE_S
                failed |= not done
                click.echo(f"{child.name}: " + (f"pid {child.pid}" if done else f"given up: {child.reason}"))
        time.sleep(POLL_S)
    if waiting:
        raise PipelineError(f"not up again after {RESTART_PATIENCE_S:.0f} s: {', '.join(waiting)}; see 'status'")
    return EXIT_FAILURE if failed else EXIT_OK


def _restarted(child: ChildRecord, asked_ns: int) -> bool | None:
    """True when it is up again, False when it was given up, None while it takes its time."""
    if child.state == ChildState.FATAL and child.changed_monotonic_ns >= asked_ns:
        return False
    return True if child.state == ChildState.RUNNING and child.started_monotonic_ns >= asked_ns else None


@click.command()
@config_option
@instance_option
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def reload(config_path: Path | None, instance: str | None, dry_run: bool) -> int:
    """Let a running instance read its configuration again; only what changed is touched.

    Example: grape-pipeline reload --dry-run
    """
    name = find_instance(config_path, instance)
    answer = _order(name, "/reload", {"dry_run": dry_run})
    click.echo(f"instance {name}: {answer.get('steps')}")
    return EXIT_OK
