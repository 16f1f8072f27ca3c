"""Alerts get out: real commands, a real HTTP server, and what hangs holds nobody up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from helpers import free_port, wait_for
from pipeline import EXIT_FAILURE, EXIT_OK
from pipeline.alerts.delivery import Route, routes
from pipeline.alerts.incidents import Event
from pipeline.alerts.message import Message, message
from pipeline.config import Alerts, Station
from pipeline.records import ChildRecord, ChildState
from pipeline.shm import Board
from tests.process import instance_fixture

Instance = instance_fixture.Instance
instance = instance_fixture.instance

MESSAGE = message(Event(True, "silent", {"A": "silent for 9 s"}, 1.0), "default", "pi", Station(), "now")
SECOND = replace(MESSAGE, subject="the next")


def send(alerts: Alerts, *messages: Message, retries: tuple[float, ...] = (), deadline_s: float = 15.0) -> list[Route]:
    """Deliver and return the routes when none has anything left."""
    found = routes(alerts, retries)
    for route in found:
        for each in messages or (MESSAGE,):
            route.add(each)

    def done() -> bool:
        for route in found:
            route.step(time.monotonic())
        return not any(route.busy for route in found)

    wait_for(done, deadline_s, "the messages to be gone")
    return found


def script(folder: Path, text: str) -> str:
    path = folder / "command"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_command_gets_the_text_and_no_shell(tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = script(tmp_path, f'printf "%s\\n" "$@" "$GRAPE_ALERT_KIND $GRAPE_ALERT_EVENT" >{out}; cat >>{out}')
    (route,) = send(Alerts(command=(program, "{subject}", "$(touch x); `id`")))
    assert route.sent == 1
    assert out.read_text() == f"{MESSAGE.subject}\n$(touch x); `id`\nsilent begins\n{MESSAGE.text}\n"
    send(Alerts(command=(program,), format="json"))
    assert json.loads(out.read_text().partition("begins\n")[2]) == MESSAGE.fields


def test_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pids = tmp_path / "pids"
    program = script(tmp_path, f'trap "" TERM HUP; sleep 300 & echo $$ $! >{pids}; wait')
    (route,) = send(Alerts(command=(program,), timeout_s=0.5))
    assert route.sent == 0
    assert "took longer than 0.5 s" in caplog.text
    for pid in map(int, pids.read_text().split()):
        wait_for(lambda pid=pid: not instance_fixture.Instance.exists(pid), 5, "the end of it")


@pytest.mark.parametrize("command", [("/nowhere/mail",), ("false",)])
def test_command_that_fails_is_tried_again_and_then_given_up(
    command: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    (route,) = send(Alerts(command=command), MESSAGE, SECOND, retries=(0.05, 0.05))
    assert route.sent == 0
    assert caplog.text.count("not sent") == 4
    assert caplog.text.count("given up") == 2
    assert caplog.messages[-1].endswith(SECOND.subject), "the next one had its turn"


class Sink(HTTPServer):
    """Keeps what is posted; answers with `statuses`, then 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posted: list[tuple[str, dict[str, str], bytes]] = []
        self.statuses: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/topic?key=secret"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Sink)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.path, dict(self.headers), body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.send_header("Location", "/other")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_url_gets_the_text(sink: Sink) -> None:
    send(Alerts(url=sink.url))
    ((path, headers, body),) = sink.posted
    assert path == "/topic?key=secret"
    assert body.decode() == MESSAGE.text
    assert (headers["Title"], headers["Content-Type"]) == (MESSAGE.subject, "text/plain; charset=utf-8")
    send(Alerts(url=sink.url, format="json"))
    assert json.loads(sink.posted[1][2]) == MESSAGE.fields


def test_url_that_refuses_is_asked_again_in_order(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    sink.statuses = [503, 302]
    (route,) = send(Alerts(url=sink.url), MESSAGE, SECOND, retries=(0.05, 0.05))
    assert route.sent == 2
    titles = [headers["Title"] for _, headers, _ in sink.posted]
    assert titles == [MESSAGE.subject] * 3 + ["the next"]
    assert "secret" not in caplog.text


def test_unreachable_and_silent_urls_end(caplog: pytest.LogCaptureFixture) -> None:
    (route,) = send(Alerts(url=f"http://127.0.0.1:{free_port(socket.SOCK_STREAM)}/"))
    assert route.sent == 0
    with socket.socket() as deaf:  # takes the connection and says nothing
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        (route,) = send(Alerts(url=f"http://127.0.0.1:{deaf.getsockname()[1]}/", timeout_s=0.5))
    assert route.sent == 0
    assert caplog.text.count("given up (url 127.0.0.1)") == 2


def test_one_way_out_does_not_wait_for_the_other(sink: Sink, tmp_path: Path) -> None:
    program = script(tmp_path, "sleep 300")
    found = routes(Alerts(command=(program,), url=sink.url, timeout_s=60))
    for route in found:
        route.add(MESSAGE)

    def posted() -> bool:
        for route in found:
            route.step(time.monotonic())
        return bool(sink.posted)

    wait_for(posted, 10, "the message")
    for route in found:
        route.close()


# With a supervisor


@pytest.fixture
def alerted(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[dict[str, object]]]:
    """An instance with an [alerts] command that keeps its messages; the function reads them."""
    out = tmp_path / "messages"
    out.touch()
    program = script(tmp_path, f"cat >>{out}")
    write = instance.write_config

    def write_config() -> None:
        write()
        text = f'[alerts]\ncommand = ["{program}"]\nformat = "json"\nafter_s = 1\nclear_after_s = 1\n'
        instance.config_path.write_text(instance.config_path.read_text() + text)

    monkeypatch.setattr(instance, "write_config", write_config)
    return lambda: [json.loads(line) for line in out.read_text().splitlines()]


def test_channel_that_cannot_run_is_one_incident_with_an_end(
    instance: Instance, alerted: Callable[[], list[dict[str, object]]]
) -> None:
    instance.settings(backoff_initial_s=0.2, backoff_max_s=0.2)
    instance.start()
    instance.behave("A", "exit 3")
    os.kill(instance.pids()["A"], signal.SIGKILL)
    wait_for(alerted, 15, "a message")
    instance.behave("A", None)
    wait_for(lambda: len(alerted()) > 1, 15, "the end")
    assert [(m["event"], m["kind"], m["channels"]) for m in alerted()] == [
        ("begins", "not_recording", ["A"]),
        ("ends", "not_recording", ["A"]),
    ]
    pid = alerts_pid(instance)
    assert instance.stop() == EXIT_OK
    assert pid and not instance.exists(pid)


def test_alerts_process_is_kept_and_tells_nothing_twice(
    instance: Instance, alerted: Callable[[], list[dict[str, object]]], capsys: pytest.CaptureFixture[str]
) -> None:
    instance.settings(backoff_initial_s=0.2, backoff_max_s=0.2)
    instance.behave("B", "exit 78")
    instance.start(up={"A", "C"})
    wait_for(alerted, 15, "a message")
    first = alerts_pid(instance)
    os.kill(first, signal.SIGKILL)
    instance.wait(lambda: "alerts" in instance.log() and alerts_pid(instance) not in (0, first), "another")
    assert f"alerts[{first}]: killed by SIGKILL, starting again" in instance.log()
    instance.wait(
        lambda: (board_alerts(instance).restarts, board_alerts(instance).pid) == (1, alerts_pid(instance)), ""
    )
    assert instance.command("status") == 2
    assert f"alerts pid {alerts_pid(instance)} restarted 1x, 0 sent" in capsys.readouterr().out
    instance.beats(3)  # three times as long as the first one needed
    os.kill(alerts_pid(instance), signal.SIGSTOP)  # one that hangs holds nobody up
    assert instance.command("restart", "A") == EXIT_OK
    assert instance.stop() == EXIT_OK
    assert len(alerted()) == 1


def test_death_of_the_supervisor_is_told_and_the_lock_let_go(
    instance: Instance, alerted: Callable[[], list[dict[str, object]]]
) -> None:
    instance.start()
    wait_for(lambda: alerts_pid(instance), 10, "the alerts process")
    os.kill(instance.pid, signal.SIGKILL)
    instance.ended()
    wait_for(alerted, 10, "a message")
    (told,) = alerted()
    assert (told["kind"], told["channels"]) == ("not_recording", [])
    assert "is dead" in str(told["text"])


def test_reload_starts_and_ends_it(instance: Instance, tmp_path: Path) -> None:
    instance.start()
    assert alerts_pid(instance) == 0
    text = instance.config_path.read_text()
    instance.config_path.write_text(text + '[alerts]\ncommand = ["true"]\n')
    assert instance.command("reload") == EXIT_OK
    pid = wait_for(lambda: alerts_pid(instance), 10, "the alerts process")
    instance.config_path.write_text(text)
    assert instance.command("reload") == EXIT_OK
    wait_for(lambda: not instance.exists(pid), 10, "its end")
    assert "starting again" not in instance.log()


def test_trying_it(instance: Instance, sink: Sink, capsys: pytest.CaptureFixture[str]) -> None:
    instance.start()
    assert instance.child("A").state == ChildState.RUNNING
    assert instance.command("alerts") == EXIT_OK
    assert "nobody" in capsys.readouterr().out
    assert instance.command("alerts", "--test") == EXIT_FAILURE
    text = instance.config_path.read_text()
    instance.config_path.write_text(f'{text}[alerts]\nurl = "{sink.url}"\ncommand = ["false"]\n')
    assert instance.command("alerts", "--test") == EXIT_FAILURE
    printed = capsys.readouterr()
    assert "command: not sent" in printed.out and "url 127.0.0.1: sent" in printed.out
    assert sink.posted[0][1]["Title"].endswith(": test message")
    instance.config_path.write_text(text)


def board_alerts(instance: Instance) -> ChildRecord:
    """The alerts process as the board shows it."""
    return Board.open(instance.name).alerts.read()


def alerts_pid(instance: Instance) -> int:
    """The pid of the instance's alerts process, 0 if there is none."""
    for pid in instance.child_processes():
        with contextlib.suppress(FileNotFoundError):  # reaped since
            if instance.comm(pid) == "gp-alerts":
                return pid
    return 0
