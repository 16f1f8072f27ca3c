"""What an operator sees of a live instance: `top` in a terminal, `doctor`, the control socket under kills."""

from __future__ import annotations

import http.client
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2e.live import Program, receiving, running, spec, write_config
from helpers import REPOSITORY, Names, needs, wait_for
from pipeline.__main__ import run
from pipeline.config import load_config
from pipeline.simulator.spec import ChannelSpec, FaultPlan
from pipeline.simulator.station import running_simulator

CHANNELS = (
    ChannelSpec("WWV 5 MHz", 5_000_000, faults=FaultPlan(mutes=((6.0, 8.0),))),
    ChannelSpec("WWV 10 MHz", 10_000_000),
)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the control socket, as `curl --unix-socket` does it."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(self._path)


def get(path: Path, target: str) -> tuple[int, str, str]:
    """Status, content type and body."""
    connection = UnixConnection(path)
    connection.request("GET", target)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers["Content-Type"], body


def metric(path: Path, name: str, **labels: str) -> float:
    """One sample of /metrics, by Prometheus' own parser."""
    status, kind, body = get(path, "/metrics")
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    samples = (s for family in text_string_to_metric_families(body) for s in family.samples)
    return next(s.value for s in samples if s.name == f"grape_pipeline_{name}" and s.labels == labels)


class Screen:
    """`top` in a terminal of 80x24 of its own; `text` is all that it has written, `shown` the newest picture."""

    def __init__(self, program: Program, **environment: str) -> None:
        self._master, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (24, 80))
        self.settings = termios.tcgetattr(terminal)
        self._terminal = terminal
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "top", "-c", str(program.config)],
            stdin=terminal, stdout=terminal, stderr=terminal,
            env={**program.environment, "TERM": "xterm", **environment},
        )  # fmt: skip
        os.set_blocking(self._master, False)
        self.text = ""

    def read(self) -> str:
        with suppress(BlockingIOError):
            self.text += os.read(self._master, 1 << 16).decode(errors="replace")
        return self.text

    def shows(self, words: str, after: int = 0) -> bool:
        return words in self.read()[after:]

    def press(self, keys: str) -> int:
        """Send keys; the place in `text` from which their effect is to be seen."""
        os.write(self._master, keys.encode())
        return len(self.read())

    def left_as_found(self) -> bool:
        return termios.tcgetattr(self._terminal) == self.settings

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._terminal)


@contextmanager
def screen(program: Program, **environment: str) -> Iterator[Screen]:
    made = Screen(program, **environment)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.limit(120)
def test_an_operators_evening(names: Names, tmp_path: Path) -> None:
    """Watch, restart by key, kill, look at metrics meanwhile, let a channel fall silent, ask the doctor."""
    with running_simulator(spec(names, CHANNELS, tmp_path / "truth")) as ready:
        config = write_config(names, ready, CHANNELS, tmp_path)
        with running(config, tmp_path) as (program, _):
            control = _control(program)
            wait_for(lambda: receiving(program), 10, "packets on every channel")
            with screen(program) as top:
                wait_for(lambda: top.shows("WWV_10_MHz") and top.shows("synced"), 10, "the first picture")
                _look_at_keys(program, top)
                _look_at_silence(program, top)
                _look_at_kill(program, control, top)
                top.press("q")
                assert top.process.wait(5) == 0
                assert top.left_as_found()
                assert "\x1b[?1049l" in top.read(), "back from the alternate screen"
            _look_without_terminal(program)
            _ask_the_doctor(program)


def _control(program: Program) -> Path:
    """Where the running instance listens."""
    name = f"{load_config(program.config).recorder.instance}.control.sock"
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    private = Path(program.environment["XDG_RUNTIME_DIR"]) / "grape-pipeline"
    return (Path(given) if given else Path("/run/grape-pipeline") if os.geteuid() == 0 else private) / name


def _look_at_keys(program: Program, top: Screen) -> None:
    before = program.pids()
    here = top.press("j")
    wait_for(lambda: top.shows(">WWV_10_MHz", here), 5, "the second channel to be selected")
    here = top.press("r")
    wait_for(lambda: top.shows("restarting WWV_10_MHz", here), 5, "the answer to r")
    after = wait_for(
        lambda: (now := program.pids()).get("WWV_10_MHz", 0) not in (0, before["WWV_10_MHz"]) and now, 10, "a new pid"
    )
    assert after["WWV_5_MHz"] == before["WWV_5_MHz"]


def _look_at_silence(program: Program, top: Screen) -> None:
    wait_for(lambda: top.shows("WWV_5_MHz: silent for"), 20, "words for the silent channel")
    assert program.run("status").returncode == 1


def _look_at_kill(program: Program, control: Path, top: Screen) -> None:
    """Every question over the socket is answered while a worker is killed again and again."""
    assert metric(control, "process_restarts_total", process="WWV_10_MHz") == 1
    for kills in range(1, 3):
        pid = wait_for(lambda: program.pids().get("WWV_10_MHz"), 10, "the worker")
        os.kill(pid, signal.SIGKILL)
        assert get(control, "/healthz")[0] == 200
        status, _, body = get(control, "/readyz")
        assert status in (200, 503) and json.loads(body)["ready"] == (status == 200)
        assert json.loads(get(control, "/status")[2])["service"] == "grape-pipeline"
        count = kills + 1
        wait_for(
            lambda c=count: metric(control, "process_restarts_total", process="WWV_10_MHz") == c, 20, "the restart"
        )
    assert metric(control, "channel_packets_received_total", channel="WWV_10_MHz") > 0
    assert metric(control, "process_restarts_total", process="WWV_5_MHz") == 0
    wait_for(lambda: top.shows("killed by SIGKILL"), 5, "the kill in words")


def _look_without_terminal(program: Program) -> None:
    """A picture for scripts: no colour, no control sequences, exit status as that of status."""
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        dull = replace(program, environment={**program.environment, **environment})
        done = dull.run("top", "--once")
        assert done.returncode in (0, 1), done.stderr
        assert "\x1b" not in done.stdout
        assert "WWV_10_MHz" in done.stdout
    with screen(program, NO_COLOR="1") as top:
        wait_for(lambda: top.shows("WWV_10_MHz"), 10, "a picture")
        assert not top.shows("\x1b[31m") and not top.shows("\x1b[32m") and not top.shows("\x1b[33m")
        top.process.send_signal(signal.SIGTERM)
        assert top.process.wait(5) == 128 + signal.SIGTERM
        assert top.left_as_found()


def _ask_the_doctor(program: Program) -> None:
    quality = json.loads(program.run("quality").stdout)
    assert [r["ssrc"] for r in quality["recorders"]] == [5_000_000, 10_000_000]
    assert quality["stale_seconds"] < 30 and quality["recorders"][0]["packets_received_total"] > 0
    done = program.run("doctor", "--json")
    found = json.loads(done.stdout)
    assert found["ok"] == (done.returncode == 0)
    verdicts = {(f["topic"], f["verdict"]) for f in found["findings"]}
    assert {("config", "ok"), ("interface", "ok"), ("multicast", "ok"), ("radiod", "ok"), ("clock", "ok")} <= verdicts


def test_init_finds_the_channels_that_radiod_sends(
    names: Names, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = ChannelSpec("odd", 7_000_000, ssrc=77, sample_rate_hz=12_000, encoding="F32LE")
    station = spec(names, (*CHANNELS, odd), tmp_path / "truth")
    path = tmp_path / "found.toml"
    with running_simulator(station):
        wanted = ["--data-address", names.data_address, "--non-interactive", "--discover"]
        assert run(["init", str(path), *wanted]) == 0
        assert run(["init", str(path), *wanted]) == 1, "never overwrites"
        # Without the data group, a poll of the control group tells where the samples go.
        control = "{}:{}".format(*station.status_address)
        second = tmp_path / "second.toml"
        assert run(["init", str(second), "--status-address", control, "--non-interactive", "--discover"]) == 0
    assert "radiod sends 3 channels" in capsys.readouterr().err
    for config in (load_config(path), load_config(second)):
        assert [(c.name, c.ssrc, c.sample_rate_hz, c.encoding, c.data_address) for c in config.channels] == [
            ("WWV 5 MHz", 5_000_000, 16_000, "S16BE", names.data_address),
            ("7 MHz", 77, 12_000, "F32LE", names.data_address),
            ("WWV 10 MHz", 10_000_000, 16_000, "S16BE", names.data_address),
        ]
    assert "# Who records." in path.read_text(), "the manual's words stay"


def verified(name: str, folder: Path) -> str:
    """The text of a unit of etc/ that systemd finds nothing wrong with."""
    tool = needs("systemd-analyze")
    text = (REPOSITORY / "etc" / name).read_text()
    unit = folder / name.replace("@", "@default")
    unit.write_text(text.replace("/usr/local/", f"{REPOSITORY}/"))
    done = subprocess.run([tool, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(unit) not in done.stderr and unit.name not in done.stderr, done.stderr
    return text


def test_the_service_units_are_sound(tmp_path: Path) -> None:
    text = verified("grape-pipeline@.service", tmp_path)
    verified("grape-pipeline-web@.service", tmp_path)
    wanted = {
        "Type=notify", "NotifyAccess=main", "WatchdogSec=60", "Restart=always", "RestartSec=1",
        "FileDescriptorStoreMax=1600", "RestartKillSignal=SIGUSR2", "StandardOutput=journal",
        "RestartPreventExitStatus=78", "Environment=MALLOC_ARENA_MAX=2", "ExecReload=/bin/kill -HUP $MAINPID",
        "Environment=MALLOC_MMAP_THRESHOLD_=1048576", "Environment=MALLOC_TRIM_THRESHOLD_=2097152",
        "OOMPolicy=continue",
    }  # fmt: skip
    assert wanted <= set(text.splitlines())
