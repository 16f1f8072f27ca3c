"""The command line as a whole: what every command keeps to, and the set-up commands."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK, EXIT_USAGE, PipelineError, __version__
from pipeline.__main__ import run
from pipeline.cli import COMMANDS, cli
from pipeline.config import Config, load_config
from pipeline.logs import LineFormatter, apply_level, setup_logging
from pipeline.manual import manual

SOUND = '[station]\ncallsign = "AC0G"\n[[channels]]\nname = "A"\nfrequency_hz = 5_000_000\n'


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A configuration without faults."""
    path = tmp_path / "sound.toml"
    path.write_text(SOUND)
    return path


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """A configuration with two faults."""
    path = tmp_path / "faulty.toml"
    path.write_text(SOUND + 'encoding = "S16XX"\n[ntp]\nparalel = true\n')
    return path


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the interpreter in a process of its own."""
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec(COMMANDS[name][0]) is None:
        pytest.skip(f"{COMMANDS[name][0]} is not written yet")
    assert run([name, "--help"]) == EXIT_OK
    told = capsys.readouterr().out
    assert f"grape-pipeline {name}" in told
    assert "Example" in told


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == EXIT_OK
    told = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n  {name} " not in told] == []
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["check", "--help"], ["version"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, pipeline.__main__ as m; m.run(sys.argv[1:]);"
        "sys.exit(' '.join({'numpy', 'ka9q', 'rich', 'isal', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = python("-c", code, *arguments)
    assert done.stderr == ""
    assert done.returncode == EXIT_OK


def test_module_is_runnable_and_tells_its_version() -> None:
    done = python("-m", "pipeline", "--version")
    assert (done.returncode, done.stdout) == (EXIT_OK, f"grape-pipeline, version {__version__}\n")


def test_numpy_threads_are_limited_before_numpy_is_there() -> None:
    code = "import os, sys, pipeline.__main__; print('numpy' in sys.modules, os.environ['OPENBLAS_NUM_THREADS'])"
    assert python("-c", code).stdout.split() == ["False", "1"]
    assert python("-c", code, OPENBLAS_NUM_THREADS="2").stdout.split() == ["False", "2"]


@pytest.mark.parametrize(
    "arguments", [["chek"], ["check", "--jsn"], ["--log-level", "loud", "check"], ["init", "a", "b"]]
)
def test_usage_errors_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == EXIT_USAGE
    told = capsys.readouterr()
    assert told.out == ""
    assert "Error: " in told.err


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (PipelineError("the disk is full"), EXIT_FAILURE, "grape-pipeline: the disk is full\n"),
        (PipelineError("a: 1\na: 2"), EXIT_FAILURE, "grape-pipeline: a: 1\ngrape-pipeline: a: 2\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
    ],
)
def test_ends_of_a_command(
    error: BaseException, status: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "get_command", lambda *_: click.Command("fail", callback=fail))
    assert run(["fail"]) == status
    assert capsys.readouterr().err.lstrip("\n") == told


# A command whose output lies in a buffer until it ends, and one that writes as it goes.
WRITERS = ("print('x')", "click.echo('x')")


@pytest.mark.parametrize("statement", WRITERS)
def test_reader_that_leaves_early_is_no_error(statement: str) -> None:
    code = (
        "import click, pipeline.__main__ as m;"
        f"m.cli.get_command = lambda *_: click.Command('x', callback=lambda: {statement});"
        "raise SystemExit(m.run(['x']))"
    )
    read, write = os.pipe()
    os.close(read)
    env = {**os.environ, "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=env, check=False)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == EXIT_FAILURE


def answer(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """Exit status and the JSON that is all of stdout."""
    try:
        status = run(arguments)
    except SystemExit as error:
        status = int(error.code or 0)
    return status, json.loads(capsys.readouterr().out)


def test_check_sound(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "-c", str(sound)]) == EXIT_OK
    told = capsys.readouterr().out
    assert told.startswith(f"{sound}: sound\n")
    assert "1 of 1 channels" in told
    assert answer(["check", "--json", "-c", str(sound)], capsys) == (
        EXIT_OK,
        {"ok": True, "config_path": str(sound), "faults": []},
    )


def test_check_faulty_tells_all_faults(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "-c", str(faulty)]) == EXIT_CONFIG
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"grape-pipeline: {faulty}: ntp.paralel = true: unknown key; did you mean parallel?")
    assert lines[1].startswith(f'grape-pipeline: {faulty}: channels[0].encoding = "S16XX": must be one of S16BE')


def test_check_faulty_in_json(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = answer(["check", "--json", "-c", str(faulty)], capsys)
    assert (status, found["ok"]) == (EXIT_CONFIG, False)
    assert [fault["key"] for fault in found["faults"]] == ["ntp.paralel", "channels[0].encoding"]
    assert found["faults"][1]["value"] == "S16XX"


def test_check_finds_the_file_by_the_environment(
    sound: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRAPE_PIPELINE_CONFIG", str(sound))
    assert run(["check"]) == EXIT_OK
    assert str(sound) in capsys.readouterr().out


def test_init_writes_the_manual(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "grape.toml"
    assert run(["init", str(path)]) == EXIT_OK
    assert f"check -c {path}" in capsys.readouterr().out
    assert path.read_text() == manual()
    assert run(["check", "-c", str(path)]) == EXIT_OK


def test_init_never_overwrites(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", str(sound)]) == EXIT_FAILURE
    assert f"{sound} exists" in capsys.readouterr().err
    assert sound.read_text() == SOUND


def test_init_takes_answers_from_options_and_from_sigmond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "grape.toml"
    monkeypatch.setenv("STATION_CALL", "N0CALL")
    monkeypatch.setenv("STATION_GRID", "EM38ww")
    monkeypatch.setenv("STATION_LAT", "38.9")
    monkeypatch.setenv("SIGMOND_RADIOD_STATUS", "bee1-status.local")
    options = ["--callsign", "AC0G", "--data-address", "239.7.7.7", "--interface", "eth0", "--data-dir", "/data"]
    assert run(["init", str(path), *options]) == EXIT_OK
    config = load_config(path)
    assert (config.station.callsign, config.station.grid, config.station.latitude) == ("AC0G", "EM38ww", 38.9)
    assert config.radiod.status_address == "bee1-status.local:5006"
    assert (config.radiod.data_address, config.radiod.interface) == ("239.7.7.7:5004", "eth0")
    assert config.recorder.data_dir == Path("/data")


def test_init_refuses_a_wrong_answer_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "grape.toml"
    assert run(["init", str(path), "--data-address", "10.0.0.1"]) == EXIT_CONFIG
    assert "radiod.data_address" in capsys.readouterr().err
    assert not path.exists()


def test_init_where_nothing_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(["init", str(tmp_path / "file" / "grape.toml")]) == EXIT_FAILURE
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "own", "common", "configured", "effective"),
    [
        (None, "", "", "WARNING", "WARNING"),
        (None, "", "ERROR", "WARNING", "ERROR"),
        (None, "debug", "ERROR", "WARNING", "DEBUG"),
        ("CRITICAL", "debug", "ERROR", "WARNING", "CRITICAL"),
        (None, "noise", "ERROR", "WARNING", "ERROR"),
    ],
)
def test_log_level_order(
    flag: str | None, own: str, common: str, configured: str, effective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPE_PIPELINE_LOG_LEVEL", own)
    monkeypatch.setenv("CLIENT_LOG_LEVEL", common)
    setup_logging(flag)
    apply_level(configured)
    assert logging.getLevelName(logging.getLogger().level) == effective


@pytest.mark.parametrize("arguments", [["--log-level", "debug", "check"], ["check", "--log-level", "debug"]])
def test_log_level_option_before_and_after_the_command(arguments: list[str], sound: Path) -> None:
    assert run([*arguments, "-c", str(sound)]) == EXIT_OK
    assert logging.getLogger().level == logging.DEBUG


def test_configured_log_level_is_used(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[logging]\nlevel = "error"\n' + SOUND)
    assert run(["check", "-c", str(path)]) == EXIT_OK
    assert logging.getLogger().level == logging.ERROR
    assert Config().logging.level == "INFO"


LOG_A_LINE = (
    "import logging, pipeline.logs as l; l.setup_logging(); logging.getLogger('pipeline.x').warning('a %s', 'b\\nc')"
)


def test_log_is_one_stamped_line_on_stderr() -> None:
    done = python("-c", LOG_A_LINE)
    assert done.stdout == ""
    stamp, level, pid, rest = done.stderr.split(" ", 3)
    assert (level, rest) == ("WARNING", "pipeline.x: a b\\nc\n")
    assert stamp.endswith("Z")
    assert pid.strip("[]").isdigit()


def test_log_for_the_journal_has_priority_instead_of_time(tmp_path: Path) -> None:
    # The journal's socket is told by device and inode of stderr (systemd.exec(5)); a file does as well.
    with (tmp_path / "journal").open("w+") as stderr:
        found = os.fstat(stderr.fileno())
        env = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        subprocess.run([sys.executable, "-c", LOG_A_LINE], stderr=stderr, env=env, check=True)
    assert (tmp_path / "journal").read_text() == "<4>pipeline.x: a b\\nc\n"
    # Inherited by somebody whose stderr is elsewhere, the variable means nothing.
    assert python("-c", LOG_A_LINE, JOURNAL_STREAM="1:2").stderr.startswith("20")


def test_journal_lines_have_the_event_s_fields_and_a_priority_each() -> None:
    record = logging.LogRecord("pipeline.worker", logging.ERROR, __file__, 1, "A: minute %s lost", ("14:03Z",), None)
    record.fields = {"event": "minute", "channel": "WWV_10_MHz", "complete_pct": 98.1, "reason": 'disk "full"\n'}
    told = LineFormatter(journal=True).format(record)
    assert told == (
        "<3>pipeline.worker: A: minute 14:03Z lost"
        ' event=minute channel=WWV_10_MHz complete_pct=98.1 reason="disk \\"full\\"\\n"'
    )
    assert LineFormatter(journal=False).format(record).endswith("pipeline.worker: A: minute 14:03Z lost")
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        record.exc_info = sys.exc_info()
    lines = LineFormatter(journal=True).format(record).splitlines()
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)
