"""A scripted sigmond: calls every verb as it does, 5 s for a question, and reads all of stdout as JSON.

Shapes and exit statuses: client contract 0.8, sections 3, 11, 12, 13, 14, 19.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import REPOSITORY, Names, free_port, wait_for

LIMIT_S = 5.0
CONFIG = """
[station]
callsign = "AC0G"
[recorder]
instance = "{instance}"
data_dir = "data"
[radiod]
status_address = "{status}"
data_address = "{data}"
create_channels = false
[ntp]
sources = ["servers"]
servers = ["127.0.0.1:{port}"]
[[channels]]
name = "WWV 10 MHz"
frequency_hz = 10_000_000
"""


class Sigmond:
    """The coordinator's side: where the client's configuration and the coordination file are."""

    def __init__(self, folder: Path, names: Names) -> None:
        self.config = folder / "etc" / "client.toml"
        self.coordination = folder / "coordination.env"
        self.names = names
        self.environment = os.environ | {
            "PYTHONPATH": str(REPOSITORY),
            "RUNTIME_DIRECTORY": str(folder / "run"),
            "GRAPE_PIPELINE_CONFIG": str(self.config),
            "GRAPE_PIPELINE_ENV_FILES": str(self.coordination),
        }

    def configure(self, more: str = "") -> None:
        self.config.parent.mkdir(exist_ok=True)
        text = CONFIG.format(
            instance=self.names.instance,
            status=self.names.status_address,
            data=self.names.data_address,
            port=free_port(),
        )
        self.config.write_text(text + more)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "pipeline", *words]

    def call(self, *words: str, stdin: str = "", **environment: str) -> tuple[int, str, str]:
        """Status, stdout, stderr. A question that takes longer than sigmond waits, again and again, is a failure.

        A machine that has other things to do is given three tries. The interview's verbs have no limit.
        """
        interview = words[0] == "config" and words[1:2] != ("show",)
        limits = (60.0,) if interview else (LIMIT_S,) * 3
        for limit_s in limits:
            with contextlib.suppress(subprocess.TimeoutExpired):
                done = subprocess.run(
                    self.command(*words), env=self.environment | environment, input=stdin,
                    capture_output=True, text=True, timeout=limit_s, check=False,
                )  # fmt: skip
                return done.returncode, done.stdout, done.stderr
        raise AssertionError(f"{words} took longer than {limits[0]:g} s")

    def ask(self, *words: str) -> tuple[int, Any]:
        status, out, err = self.call(*words)
        try:
            return status, json.loads(out)
        except ValueError:
            raise AssertionError(f"malformed JSON from {words}: {out!r} {err!r}") from None


@pytest.fixture
def sigmond(tmp_path: Path, names: Names) -> Sigmond:
    return Sigmond(tmp_path, names)


def check_shapes(found: dict[str, Any], instances: int) -> None:
    """What sigmond's adapter casts and reads."""
    assert {"client", "version", "contract_version", "config_path", "git", "log_level", "deps"} <= set(found)
    assert (found["client"], found["contract_version"]) == ("grape-pipeline", "0.8")
    assert Path(found["config_path"]).is_absolute()
    assert Path(found["deploy_toml_path"]).is_file()
    assert found.get("log_paths") != {}
    assert len(found["instances"]) == instances
    for each in found["instances"]:
        assert isinstance(each["ka9q_channels"], int)
        assert all(isinstance(hz, int) for hz in each["frequencies_hz"])
        assert each["data_path"] == {"kind": "radiod-direct", "radiod_id": each["radiod_id"]}
        assert {"control_socket", "data_destination", "modes", "required_cores", "preferred_cores"} <= set(each)
        for sink in each["data_sinks"]:
            assert {"kind", "target", "schema_ref", "retention_days", "mb_per_day"} == set(sink)
    for issue in found["issues"]:
        assert set(issue) == {"severity", "instance", "message"}
        assert issue["severity"] in {"warn", "fail"}


NUMBER, TEXT = (int, float), (str,)
UNKNOWN = (type(None),)
# Section 13 of the contract, key by key; a list has one form for all that is in it.
STATUS_SHAPE: dict[str, Any] = {
    "service": TEXT, "instance": TEXT, "version": TEXT, "contract": TEXT, "state": TEXT, "uptime_s": NUMBER,
    "pid": (int,),
    "radiod": {"id": TEXT, "status_addr": TEXT, "samprate": (int,), "last_status_rx_age_s": NUMBER + UNKNOWN},
    "multicast": {
        "groups_joined": [
            {
                "group": TEXT, "port": (int,), "iface": TEXT, "last_pkt_age_s": NUMBER + UNKNOWN, "pps": NUMBER,
                "last_igmp_report_age_s": UNKNOWN,
            }
        ],
        "drops_1m": (int,), "out_of_order_1m": (int,),
    },
    "channels": [{"id": TEXT, "enabled": (bool,), "ssrc": (int,)}],
    "spool": {
        "dir": TEXT, "fs": TEXT, "depth_files": (int,), "oldest_age_s": NUMBER, "bytes_written_1m": (int,),
        "writable": (bool,),
    },
    "pipeline": {
        "lag_s": NUMBER + UNKNOWN, "queue_depth": (int,), "last_success_age_s": NUMBER + UNKNOWN,
        "last_error": TEXT + UNKNOWN, "backpressure": (bool,),
    },
    "resources": {"cpu_pct_1m": NUMBER, "rss_mb": NUMBER, "open_fds": (int,)},
}  # fmt: skip
RECORDER_SHAPE: dict[str, Any] = {
    "description": TEXT, "frequency_hz": NUMBER, "ssrc": (int,), "stream_state": TEXT, "uptime_seconds": NUMBER,
    **{f"packets_{kind}_total": (int,) for kind in ("received", "lost", "late", "duplicate", "resequenced")},
    "gap_events_total": (int,), "completeness_pct": NUMBER + UNKNOWN,
}  # fmt: skip


def misfits(found: Any, shape: Any, where: str = "") -> list[str]:
    """Where an answer has not the form that is asked for; further keys are the client's own business."""
    if isinstance(shape, dict):
        if not isinstance(found, dict):
            return [f"{where} is no object"]
        lacking = [f"{where}.{key} is missing" for key in shape if key not in found]
        return lacking + [m for key in shape if key in found for m in misfits(found[key], shape[key], f"{where}.{key}")]
    if isinstance(shape, list):
        return [m for number, each in enumerate(found) for m in misfits(each, shape[0], f"{where}[{number}]")]
    known = type(found) in shape
    return [] if known else [f"{where} is {found!r}"]


def test_what_does_not_fit_is_named() -> None:
    assert misfits({"pid": "1", "radiod": []}, {"pid": (int,), "radiod": {"id": TEXT}, "state": TEXT}) == [
        ".state is missing",
        ".pid is '1'",
        ".radiod is no object",
    ]


@pytest.mark.parametrize("text", [None, "not toml", "[recorder]\nx = 1\n"])
def test_unconfigured(sigmond: Sigmond, text: str | None) -> None:
    if text is not None:
        sigmond.config.parent.mkdir()
        sigmond.config.write_text(text)
    status, found = sigmond.ask("inventory", "--json")
    assert status == 0
    check_shapes(found, instances=0)
    assert found["issues"][0]["severity"] == "fail"
    status, found = sigmond.ask("validate", "--json")
    assert (status, found["ok"], found["config_path"]) == (1, False, str(sigmond.config))
    assert sigmond.ask("version", "--json")[0] == 0
    assert sigmond.ask("quality", "--json") == (0, {"error": "snapshot_missing"})
    status, out, err = sigmond.call("daemon", "--instance", "AC0G-B1", "--log-level", "DEBUG")
    assert (status, out) == (78, "")
    assert str(sigmond.config) in err


def test_usage(sigmond: Sigmond) -> None:
    for words in (("config",), ("config", "x"), ("config", "apply", "--jsn"), ("inventory", "x")):
        status, out, _ = sigmond.call(*words)
        assert (status, out) == (2, ""), words
    assert sigmond.call("config", "apply", "--json", "-", stdin="{]")[0] == 2
    assert sigmond.call("config", "apply", "--json", "-", stdin="[]")[0] == 2
    assert sigmond.call("config", "apply", "--json", "-", stdin='{"ntp": 3}')[0] == 2
    status, out, err = sigmond.call("config", "apply", stdin='{"ntp": {"paralel": true}, "recorder": {"storage": "x"}}')
    assert (status, out) == (2, "")
    assert "did you mean parallel?" in err and "recorder.storage" in err
    assert not sigmond.config.exists()


def test_configuration_interview(sigmond: Sigmond) -> None:
    assert sigmond.ask("config", "show", "--json") == (0, {})
    assert sigmond.ask("config", "show", "--json", "--defaults")[1]["ntp"]["publish_interval_s"] == 10.0
    bag = {"STATION_CALL": "AC0G", "STATION_GRID": "EM38ww", "STATION_LAT": "38.9", "STATION_LON": "-92.1",
           "SIGMOND_INSTANCE": "AC0G-B1", "SIGMOND_RADIOD_STATUS": "bee1-status.local"}  # fmt: skip
    assert sigmond.call("config", "init", "--non-interactive", **bag)[0] == 0
    assert sigmond.call("config", "init", "--non-interactive", **bag)[0] == 1, "never overwrites"
    status, found = sigmond.ask("config", "show", "--json")
    assert found["station"] == {"callsign": "AC0G", "grid": "EM38ww", "latitude": 38.9, "longitude": -92.1}
    assert found["recorder"] == {"instance": "AC0G-B1"}
    assert found["radiod"] == {"status_address": "bee1-status.local"}
    before = sigmond.config.read_text()
    assert sigmond.call("config", "apply", "--json", "-", stdin='{"recorder": {"retention_days": 30}}')[0] == 0
    changed = [b for a, b in zip(before.splitlines(), sigmond.config.read_text().splitlines(), strict=True) if a != b]
    assert changed == ["retention_days = 30"]
    assert sigmond.call("config", "apply", stdin=json.dumps(sigmond.ask("config", "show", "--defaults")[1]))[0] == 0
    assert sigmond.ask("validate")[0] == 0
    assert sigmond.ask("config", "edit", "--non-interactive")[1]["station"]["callsign"] == "AC0G"
    status, out, _ = sigmond.call("config", "init", "--non-interactive", "--reconfig", "--callsign", "N0CALL")
    assert status == 0
    (aside,) = (p for p in sigmond.config.parent.iterdir() if p != sigmond.config)
    assert str(aside) in out
    assert tomllib.loads(aside.read_text())["recorder"]["retention_days"] == 30
    assert sigmond.ask("config", "show")[1] == tomllib.loads(sigmond.config.read_text())


def test_edit_takes_only_what_is_sound(sigmond: Sigmond) -> None:
    sigmond.configure()
    before = sigmond.config.read_text()
    editor = sigmond.config.with_name("editor")
    editor.write_text('#!/bin/sh\nsed -i s/AC0G/$CALL/ "$2"\n')
    editor.chmod(0o755)
    status, _, err = sigmond.call("config", "edit", stdin="n\n", EDITOR=f"{editor} --wait", CALL='A"B')
    assert (status, sigmond.config.read_text()) == (1, before)
    assert "not TOML" in err and "what you wrote is in" in err
    assert sigmond.call("config", "edit", VISUAL=f"{editor} --wait", CALL="K0ABC")[0] == 0
    assert sigmond.config.read_text() == before.replace("AC0G", "K0ABC")
    assert sigmond.call("config", "edit", EDITOR="/nowhere/vi")[0] == 1


@pytest.fixture
def daemon(sigmond: Sigmond) -> Iterator[subprocess.Popen[str]]:
    """The real daemon, as its unit starts it, hearing nothing."""
    sigmond.configure()
    log = sigmond.config.with_name("log")
    command = sigmond.command("daemon", "--instance", sigmond.names.instance, "--config", str(sigmond.config))
    with (
        log.open("w") as stream,
        subprocess.Popen(command, env=sigmond.environment, stderr=stream, text=True) as process,
    ):
        wait_for(lambda: sigmond.call("status")[0] != 3 or process.poll() is not None, 20, "the daemon")
        yield process
        process.kill()
        process.wait()


def get(path: str, target: str, method: str = "GET", body: object = None) -> tuple[int, bytes]:
    """One request over the Unix socket, by the standard library's client."""
    connection = http.client.HTTPConnection("localhost", timeout=LIMIT_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(path)
    connection.request(method, target, body=json.dumps(body) if body is not None else None)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_running(sigmond: Sigmond, daemon: subprocess.Popen[str]) -> None:
    status, found = sigmond.ask("inventory", "--json")
    check_shapes(found, instances=1)
    (instance,) = found["instances"]
    assert (instance["instance"], instance["ka9q_channels"]) == (sigmond.names.instance, 1)
    assert sigmond.ask("validate", "--json") == (0, {"ok": True, "config_path": str(sigmond.config), "issues": []})
    status, found = sigmond.ask("quality", "--json")
    assert status == 0
    assert {"schema_version", "captured_at", "instance", "client", "recorders", "summary"} <= set(found)
    assert 0 <= found["stale_seconds"] < 30
    assert (
        misfits(found, {"recorders": [RECORDER_SHAPE], "summary": {}, "captured_at": TEXT, "schema_version": (int,)})
        == []
    )
    assert len(found["recorders"]) == 1
    assert sigmond.ask("status", "--json")[0] in (1, 2)
    for target, expected in (("/healthz", 200), ("/status", 200), ("/metrics", 200), ("/nothing", 404)):
        assert get(instance["control_socket"], target)[0] == expected, target
    wait_for(lambda: json.loads(get(instance["control_socket"], "/status")[1])["resources"]["cpu_pct_1m"], 20, "a rate")
    for shown in (json.loads(get(instance["control_socket"], "/status")[1]), sigmond.ask("status", "--json")[1]):
        assert misfits(shown, STATUS_SHAPE) == []
        assert shown["state"] in {"running", "degraded", "stopped", "starting"}
    # Section 11: the coordinator writes its file and sends SIGHUP; the streams go on.
    log = sigmond.config.with_name("log")
    before = sigmond.ask("status", "--json")[1]["processes"]
    sigmond.coordination.write_text("GRAPE_PIPELINE_LOG_LEVEL=debug\n")
    assert sigmond.ask("inventory")[1]["log_level"] == "DEBUG"
    daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: "no process is touched" in log.read_text(), 10, "the reload")
    get(instance["control_socket"], "/healthz")
    wait_for(lambda: " DEBUG " in log.read_text(), 10, "a line at DEBUG")
    sigmond.coordination.write_text("CLIENT_LOG_LEVEL=ERROR\n")
    sigmond.config.write_text("no longer TOML")
    daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: "the old configuration stays in force" in log.read_text(), 10, "the refusal")
    size = log.stat().st_size
    get(instance["control_socket"], "/healthz")
    sigmond.configure('[[channels]]\nname = "CHU"\nfrequency_hz = 3_330_000\n')
    status, body = get(instance["control_socket"], "/reload", "POST", {"dry_run": True})
    assert (status, json.loads(body)["added"]) == (200, ["CHU"])
    after = sigmond.ask("status", "--json")[1]["processes"]
    assert [(p["name"], p["pid"]) for p in after] == [(p["name"], p["pid"]) for p in before]
    assert log.stat().st_size == size, "ERROR lets neither INFO nor DEBUG through"
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(20) == 0
