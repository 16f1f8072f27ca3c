"""`grape-pipeline ntp` against servers on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers import REPOSITORY, needs, wait_for
from ntp_farm import Fakes, Reply, fakes, good, saying, silent
from ntp_world import Simulated, World
from pipeline.cli.ntp import _screen
from pipeline.cli.ntp import ntp as ntp_command


def write_config(farm: Fakes, folder: Path, more: str = "") -> Path:
    servers = ", ".join(f'"{s}"' for s in farm.servers)
    path = folder / "config.toml"
    path.write_text(f'[ntp]\nsources = ["servers"]\ntimeout_s = 0.3\nservers = [{servers}]\n{more}\n')
    return path


def invoke(farm: Fakes, folder: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(ntp_command, ["-c", str(write_config(farm, folder)), *arguments])
    return result.exit_code, result.output


def check_symbols(rows: list[str]) -> None:
    """Three good servers, a liar, a silent one; on a busy machine a good one may be too far to be combined."""
    symbols = "".join(row[0] for row in rows)
    assert symbols[:3].count("*") == 1 and set(symbols[:3]) <= set("*+-") and symbols[3:] == "x?"


def test_table(tmp_path: Path) -> None:
    with fakes(good, good, good, saying(Reply(offset_s=1.0)), silent) as farm:
        code, text = invoke(farm, tmp_path, "--once")
    lines = text.splitlines()
    assert code == 0
    assert lines[0].split()[:3] == ["Name", "St", "Reach"], "addresses that are the names are not shown twice"
    check_symbols(lines[1:6])
    assert lines[5].endswith("timeout")
    assert {"timeout: no answer within timeout_s", "falseticker: its offset contradicts the majority's"} <= set(lines)
    assert lines[-1].startswith("synced: host clock ") and "3 of 5 servers agree" in lines[-1]


def test_json_of_an_unsynchronised_host(tmp_path: Path) -> None:
    with fakes(silent, silent) as farm:
        code, text = invoke(farm, tmp_path, "--json")
    found = json.loads(text)
    assert code == 1
    assert list(found) == ["servers", "verdict"]
    assert " ".join(found["servers"][0]) == ("name address state reason offset_ms delay_ms dispersion_ms stratum reach")
    expected = {"valid": False, "synced": False, "state": "unsynced", "offset_ms": None, "age_s": None}
    assert {k: found["verdict"][k] for k in expected} == expected
    keys = "valid synced state quality offset_ms uncertainty_ms jitter_ms source stratum leap truechimers"
    assert set(found["verdict"]) == {*keys.split(), "falsetickers", "utc_ns", "monotonic_ns", "age_s", "step_count"}


def test_table_of_an_unsynchronised_host_says_why(tmp_path: Path) -> None:
    with fakes(good, good, saying(Reply(offset_s=1.0)), saying(Reply(offset_s=1.0))) as farm:
        code, text = invoke(farm, tmp_path)
    assert code == 1
    assert text.splitlines()[-1] == ("unsynced: offset unknown; servers contradict each other without a majority")


def test_watch_goes_on_until_interrupted(tmp_path: Path) -> None:
    """In a terminal, as an operator runs it."""
    tmux = needs("tmux")
    session, socket_name = f"ntp-{os.getpid()}", f"grape-{os.getpid()}"

    def run(*words: str) -> str:
        return subprocess.run([tmux, "-L", socket_name, *words], capture_output=True, text=True, check=True).stdout

    def screen(wanted: str) -> str:
        text = run("capture-pane", "-p", "-t", session)
        return text if wanted in text else ""

    with fakes(good, good, good, saying(Reply(offset_s=1.0)), silent) as farm:
        path = write_config(farm, tmp_path, "publish_interval_s = 0.5")
        command = f"{sys.executable} -m pipeline ntp --watch -c {path}; echo code $?; sleep 60"
        run("new-session", "-d", "-s", session, "-x", "140", "-y", "40", "-c", str(REPOSITORY), command)
        try:
            wait_for(lambda: farm.requests[0][2:], 20, "a third round")
            text = wait_for(
                lambda: (s := run("capture-pane", "-p", "-t", session)) and "unanswered" in s and s, 10, "it"
            )
            run("send-keys", "-t", session, "C-c")
            ended = wait_for(
                lambda: (s := run("capture-pane", "-p", "-t", session)) and "code" in s and s, 10, "the end"
            )
        finally:
            run("kill-server")
    assert text.count("Reach") == 1, "the screen is cleared for every result"
    check_symbols(text.splitlines()[1:6])
    assert "code 0" in ended and "Traceback" not in ended


def test_watch_fits_a_small_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What explains goes first, then columns, then servers; the verdict and the reasons stay."""
    replies = [Reply()] * 4 + [Reply(leap=3), Reply(offset_s=1.0)] + [Reply()] * 10
    w = World([Simulated(reply) for reply in replies])
    w.run(2)
    report = w.reports[-1][1]
    sizes = {}
    for size in ((140, 40), (50, 24), (40, 12)):
        monkeypatch.setattr("shutil.get_terminal_size", lambda size=size: os.terminal_size(size))
        sizes[size] = lines = _screen(report, "now")
        assert len(lines) < size[1] and max(map(len, lines)) <= size[0]
        assert lines[-1] == "now" and "synced:" in "\n".join(lines)
    assert any(line.startswith("unsync: ") for line in sizes[140, 40])
    assert "Disp ms" in sizes[140, 40][0] and "Disp ms" not in sizes[50, 24][0]
    assert sizes[50, 24][5].endswith("unsync")
    assert "lines more" in "\n".join(sizes[40, 12])


def test_watch_as_json_is_a_line_for_every_result(tmp_path: Path) -> None:
    with fakes(*[good] * 3) as farm:
        path = write_config(farm, tmp_path, "publish_interval_s = 0.3")
        command = [sys.executable, "-m", "pipeline", "ntp", "--watch", "--json", "-c", str(path)]
        # Where tests run in the background SIGINT may be ignored, and that is inherited.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as watching:
            signal.signal(signal.SIGINT, before)
            assert watching.stdout is not None
            lines = [json.loads(watching.stdout.readline()) for _ in range(4)]
            watching.send_signal(signal.SIGINT)
            assert watching.wait(20) == 0
    assert lines[-1]["verdict"]["synced"] and len(lines[-1]["servers"]) == 3
