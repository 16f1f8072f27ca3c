"""Commands and signals to a running instance with stub children: restart, reload, stop, status, detach."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from helpers import needs
from pipeline import EXIT_CONFIG, EXIT_FAILURE, EXIT_NOT_RUNNING, EXIT_OK, EXIT_USAGE
from pipeline.records import ChildState
from pipeline.supervision.control import ask
from tests.process import instance_fixture

Instance = instance_fixture.Instance
instance = instance_fixture.instance


def test_restart_of_named_channels_touches_no_other(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    instance.channel("B", frequency_hz=2_000_000)
    instance.channel("WWV 5 MHz", frequency_hz=5_000_000)
    instance.start(up={"A", "B", "C", "WWV_5_MHz"})
    before = instance.pids()
    assert instance.command("restart", "WWV 5 MHz", "B") == EXIT_OK
    after = instance.pids()
    assert {name for name in after if after[name] != before[name]} == {"B", "WWV_5_MHz"}
    assert f"WWV_5_MHz: pid {after['WWV_5_MHz']}" in capsys.readouterr().out
    assert not (instance.data_dir / "flushed").exists(), "a flush would cut the running minute in two"
    assert instance.command("restart", "ntp") == EXIT_OK
    assert instance.pids()["ntp"] != before["ntp"]


def test_restart_of_all_goes_one_by_one(instance: Instance) -> None:
    instance.start()
    before = instance.pids()
    assert instance.command("restart") == EXIT_OK
    after = instance.children()
    assert {name for name in before if after[name].pid != before[name]} == {"A", "B", "C"}
    log = instance.log()
    events = [line.split(": ")[1].split("[")[0] for line in log.splitlines() if "starting again" in line]
    starts = [line.split(": ")[1].split("[")[0] for line in log.splitlines() if line.endswith(": started")][4:]
    assert events == starts == ["A", "B", "C"]
    for earlier, later in (("A", "B"), ("B", "C")):
        assert log.rindex(f"{earlier}[{after[earlier].pid}]: started") < log.index(f"{later}[{before[later]}]: stopped")


def test_unknown_channel_is_refused_with_those_that_are(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    instance.start()
    before = instance.pids()
    assert instance.command("restart", "A", "nonsense") == EXIT_USAGE
    assert "unknown channel nonsense; there are A, B, C" in capsys.readouterr().err
    assert instance.pids() == before


@pytest.mark.parametrize("command", ["stop", "restart", "reload", "status"])
def test_commands_without_an_instance(instance: Instance, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    instance.write_config()
    assert instance.command(command) == EXIT_NOT_RUNNING
    printed = capsys.readouterr()
    assert "not running" in printed.out + printed.err


def test_reload_adds_drops_and_alters_without_touching_the_others(instance: Instance) -> None:
    instance.start()
    before = instance.pids()
    instance.drop("B")
    instance.channel("C", encoding="F32LE")
    instance.channel("D", frequency_hz=4_000_000)
    instance.write_config()
    assert instance.command("reload") == EXIT_OK
    instance.wait(lambda: "D" in instance.children() and instance.child("D").state == ChildState.RUNNING, "D")
    instance.wait(lambda: "B" not in instance.children(), "B to go")
    instance.wait(
        lambda: instance.pids()["C"] not in (0, before["C"]) and instance.child("C").state == ChildState.RUNNING, "C"
    )
    after = instance.pids()
    assert after["A"] == before["A"]
    assert after["ntp"] == before["ntp"]
    assert instance.segments() == [f"grape-pipeline-{instance.name}" + end for end in ("", "-A", "-C", "-D")]
    assert instance.flushed("B") == 1
    assert instance.flushed("C") == 1
    instance.channel("E", frequency_hz=5_000_000)
    instance.write_config()
    assert instance.command("reload") == EXIT_OK
    instance.wait(lambda: "E" in instance.children(), "E")
    assert [instance.board_index(name) for name in "ACDE"] == [0, 2, 3, 1], "places stay, a free one is used again"


def test_reload_to_where_nothing_can_be_heard_is_refused(
    instance: Instance, capsys: pytest.CaptureFixture[str]
) -> None:
    instance.start()
    before = instance.pids()
    instance.interface = "nowhere0"
    instance.write_config()
    assert instance.command("reload") == EXIT_FAILURE
    assert "nowhere0 does not exist" in capsys.readouterr().err
    instance.beats(1)
    assert instance.pids() == before
    instance.interface = "127.0.0.1"
    instance.write_config()
    old = instance.sockets(before["A"])
    assert instance.command("reload") == EXIT_OK
    instance.wait(lambda: instance.pids()["C"] not in (0, before["C"]), "the last of the rolling restart")
    assert instance.sockets(instance.pids()["A"]) not in ([], old)
    assert len(instance.sockets(instance.pid)) == 3, "the old sockets are closed"
    assert not (instance.data_dir / "flushed").exists()


def test_channel_dropped_and_wanted_again_at_once_comes_back(instance: Instance) -> None:
    instance.start()
    instance.behave("B", "sleep 1", when="stopping")
    for here in (False, True):
        if here:
            instance.channel("B", frequency_hz=2_500_000)
        else:
            instance.drop("B")
        instance.write_config()
        assert instance.command("reload") == EXIT_OK
    instance.wait(lambda: instance.exists_as("B", ssrc=2_500_000), "B with its new SSRC")
    assert instance.child("A").restarts == 0
    assert instance.stop() == EXIT_OK
    assert instance.segments() == []


def test_sighup_with_a_bad_configuration_changes_nothing(instance: Instance) -> None:
    instance.start()
    before = instance.pids()
    instance.config_path.write_text(instance.config_path.read_text() + "\n[recorder2]\n")
    os.kill(instance.pid, signal.SIGHUP)
    instance.wait(lambda: "the old configuration stays" in instance.log(), "the refusal")
    assert "recorder2" in instance.log()
    assert instance.command("reload") == EXIT_CONFIG
    assert instance.pids() == before


def test_log_level_follows_a_reload_without_a_restart(instance: Instance) -> None:
    instance.start()
    before = instance.pids()
    assert "stub worker looks around" not in instance.log()
    instance.level = "DEBUG"
    instance.write_config()
    os.kill(instance.pid, signal.SIGHUP)
    instance.wait(lambda: "stub worker looks around" in instance.log(), "a worker's debug line")
    assert instance.pids() == before


def test_change_for_all_channels_rolls_through_them(instance: Instance) -> None:
    instance.start()
    before = instance.pids()
    instance.station = "AC0G"
    instance.write_config()
    os.kill(instance.pid, signal.SIGHUP)
    instance.wait(
        lambda: all(
            pid not in (0, before[name]) for name, pid in instance.pids().items() if name != "ntp"
        ) and all(c.state == ChildState.RUNNING for c in instance.children().values()), "all channels"
    )  # fmt: skip
    assert instance.pids()["ntp"] == before["ntp"]


def test_stop_works_with_a_broken_configuration(instance: Instance) -> None:
    instance.start()
    instance.config_path.write_text("nonsense")
    assert instance.command("stop") == EXIT_OK
    assert instance.ended() == EXIT_OK


def test_status_tells_a_killed_supervisor_from_a_stopped_one(
    instance: Instance, capsys: pytest.CaptureFixture[str]
) -> None:
    instance.start()
    assert instance.command("status") == EXIT_OK
    assert f"{instance.name}: OK, 3/3 up" in capsys.readouterr().out
    assert instance.command("status", "--json") == EXIT_OK
    shown = json.loads(capsys.readouterr().out)
    assert [c["id"] for c in shown["channels"]] == ["A", "B", "C"]
    assert [p["name"] for p in shown["processes"]] == ["supervisor", "ntp", "A", "B", "C"]
    assert all(p["rss_mb"] > 1 and p["cpu_pct"] >= 0 for p in shown["processes"])
    instance.behave("B", f"exit {EXIT_CONFIG}")
    instance.wait(lambda: instance.child("B").state == ChildState.FATAL, "B to be given up")
    assert instance.command("status") == 2
    assert "B: given up" in capsys.readouterr().out
    os.kill(instance.pid, signal.SIGKILL)
    instance.ended()
    assert instance.command("status") == 2
    assert "is dead" in capsys.readouterr().out


def test_an_instance_named_on_the_command_line_is_told_only_when_its_file_changes(instance: Instance) -> None:
    instance.file_instance = "default"
    instance.start()
    name = ("--instance", instance.name)
    assert instance.command("reload", *name) == EXIT_OK
    assert instance.command("reload", *name) == EXIT_OK
    assert "the instance stays" not in instance.log()
    instance.file_instance = "other"
    instance.write_config()
    assert instance.command("reload", *name) == EXIT_OK
    assert f"the instance stays {instance.name} until the next start" in instance.log()
    assert instance.command("stop", *name) == EXIT_OK


def test_shared_memory_that_somebody_removed_is_told(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    instance.start()
    board = Path(f"/dev/shm/grape-pipeline-{instance.name}")
    board.unlink()
    assert instance.command("status") == 2
    assert f"{instance.name}: runs (pid {instance.pid}), but its shared memory" in capsys.readouterr().out
    assert instance.command("status", "--json") == 2
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["level"], shown["pid"]) == ("degraded", "CRIT", instance.pid)
    instance.wait(lambda: "was removed from outside" in instance.log(), "the log line")
    assert instance.command("stop") == EXIT_OK
    assert instance.flushed("A") > 0
    assert instance.command("status") == 3


def test_detached_start_returns_when_all_run_and_reports_failure(instance: Instance) -> None:
    instance.write_config()
    environment = os.environ | {"PYTHONPATH": str(instance_fixture.ROOT)}
    arguments = [sys.executable, str(instance_fixture.STUB), "detach", str(instance.config_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=15, check=False)
    assert done.returncode == EXIT_OK, done.stderr
    instance.pid = int(done.stdout)
    assert set(instance.children()) == {"supervisor", "ntp", "A", "B", "C"}
    assert all(pid for pid in instance.pids().values())
    assert os.getsid(instance.pid) != os.getsid(0)
    again = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=15, check=False)
    assert again.returncode == EXIT_FAILURE
    assert f"already running (pid {instance.pid})" in again.stderr
    assert instance.command("stop") == EXIT_OK
    assert instance.segments() == []
    assert "supervisor leaves" in (instance.data_dir / "log" / f"{instance.name}.log").read_text()


def test_control_socket_speaks_http(instance: Instance) -> None:
    instance.start()
    path = instance.runtime / f"{instance.name}.control.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert ask(path, "GET", "/healthz") == (200, {"status": "ok"})
    status, shown = ask(path, "GET", "/status?x=1")
    assert (status, shown["state"], shown["pid"]) == (200, "running", instance.pid)
    assert ask(path, "GET", "/readyz")[0] == 200
    assert ask(path, "GET", "/nonsense")[0] == 404
    assert ask(path, "GET", "/restart")[0] == 405
    assert ask(path, "POST", "/restart", {"channels": "A"})[0] == 400
    with urlopen_like_curl(path) as reply:
        assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert ask(path, "POST", "/stop")[0] == 202
    assert instance.ended() == EXIT_OK


def test_curl_while_a_channel_is_killed_again_and_again(instance: Instance) -> None:
    curl = needs("curl")
    instance.settings(backoff_initial_s=0.05, backoff_max_s=0.05)
    instance.start()
    path = str(instance.runtime / f"{instance.name}.control.sock")

    def asked(target: str) -> tuple[int, str]:
        command = [curl, "--silent", "--unix-socket", path, "--max-time", "5", "--write-out", "\n%{http_code}"]
        done = subprocess.run([*command, f"http://localhost{target}"], capture_output=True, text=True, check=True)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    killed = 0
    while killed < 10:
        pid = instance.child("A").pid
        if pid:
            os.kill(pid, signal.SIGKILL)
            killed += 1
        status, body = asked("/status")
        shown = {channel["id"]: channel for channel in json.loads(body)["channels"]}
        assert (status, set(shown), shown["B"]["state"]) == (200, {"A", "B", "C"}, "recording")
        assert asked("/healthz") == (200, '{"status": "ok"}\n')
        status, body = asked("/readyz")
        assert (status, json.loads(body)["ready"]) in ((200, True), (503, False))
        status, body = asked("/metrics")
        restarts = [
            sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
            if sample.name == "grape_pipeline_process_restarts_total" and sample.labels["process"] == "A"
        ]
        assert status == 200 and 0 <= restarts[0] <= killed
    instance.up()
    assert instance.child("A").restarts == killed
    assert {instance.child(name).restarts for name in "BC"} == {0}


class urlopen_like_curl:  # noqa: N801
    """A request with the headers that curl sends, in two pieces."""

    def __init__(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(path))
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
            sock.sendall(b"User-Agent: curl/8\r\nAccept: */*\r\n\r\n")
            self.reply = sock.makefile("rb").read()

    def __enter__(self) -> bytes:
        return self.reply

    def __exit__(self, *_: object) -> None:
        pass


def test_stuck_and_mad_clients_hold_up_nobody(instance: Instance) -> None:
    instance.start()
    path = instance.runtime / f"{instance.name}.control.sock"
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    try:
        for sock in silent:
            sock.setblocking(False)
            sock.connect_ex(str(path))
        silent[0].send(b"\x00\xff" * 8000)
        silent[1].send(b"POST /restart HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n")
        silent[2].send(b"GET /status HTTP/1.1\r\n")
        first = instance.pids()["A"]
        os.kill(first, signal.SIGKILL)
        instance.wait(lambda: instance.pids()["A"] not in (0, first), "a replacement meanwhile")
        instance.wait(lambda: ask(path, "GET", "/healthz", timeout_s=15)[0] == 200, "an answer after the stuck ones")
    finally:
        for sock in silent:
            sock.close()
    instance.beats(1)
    assert len(instance.all_sockets(instance.pid)) < 10, "nothing is left open"


def test_systemd_is_told(instance: Instance, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(15)
        instance.launch(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="600000")
        told: list[str] = []
        while "WATCHDOG=1" not in told:
            told += manager.recv(4096).decode().split("\n")
        assert "READY=1" in told
        assert instance.stop() == EXIT_OK
        manager.setblocking(False)
        while "STOPPING=1" not in told:
            told += manager.recv(4096).decode().split("\n")


def test_looking_needs_nothing_of_the_workers(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    """A stopped process makes no system call and gives no lock; tests/bench/bench_watch.py has the cost."""
    instance.start()
    workers = [pid for name, pid in instance.pids().items() if name != "ntp"]

    def accounts() -> list[str]:
        return [Path(f"/proc/{pid}/schedstat").read_text() for pid in workers]

    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    stats = [Path(f"/proc/{pid}/stat") for pid in workers]
    instance.wait(lambda: all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats), "the stop")
    before = accounts()
    for words in (("status",), ("status", "--json"), ("top", "--once"), ("quality", "--json")):
        assert instance.command(*words) in (EXIT_OK, EXIT_FAILURE)
    assert capsys.readouterr().out.count("3/3 up") == 3
    assert ask(instance.runtime / f"{instance.name}.control.sock", "GET", "/status")[0] == 200
    assert accounts() == before
    for pid in workers:
        os.kill(pid, signal.SIGCONT)


def test_the_shell_completes_commands_and_channels(instance: Instance) -> None:
    instance.channel("WWV 5 MHz", frequency_hz=5_000_000)
    instance.start(up={"WWV_5_MHz"})

    def completed(*words: str) -> set[str]:
        told = {"COMP_WORDS": " ".join(("grape-pipeline", *words)), "COMP_CWORD": str(len(words))}
        environment = os.environ | told | {"_GRAPE_PIPELINE_COMPLETE": "bash_complete"}
        code = "import sys; sys.argv[0] = 'grape-pipeline'; from pipeline.__main__ import main; main()"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return {line.partition(",")[2] for line in done.stdout.split()}

    assert completed("re") == {"restart", "reload", "replay"}
    assert completed("restart", "-c", str(instance.config_path), "W") == {"WWV_5_MHz"}
    assert completed("restart", "-c", "/nowhere", "--instance", "none", "W") == set()
