"""What sigmond reads: shapes and exit codes of the HamSCI client contract, version 0.8."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from helpers import REPOSITORY
from pipeline import EXIT_FAILURE, EXIT_OK, __version__
from pipeline.__main__ import run
from pipeline.cli import configuration, sigmond
from pipeline.config import load_config
from pipeline.supervision.instance import socket_path

CONFIG = """
[station]
callsign = "AC0G"
[recorder]
instance = "ac0g"
data_dir = "/data"
retention_days = 7
[radiod]
status_address = "bee1-status.local"
data_address = "239.7.7.7"
[[channels]]
name = "A"
frequency_hz = 2_500_000
[[channels]]
name = "B"
frequency_hz = 3_330_000
encoding = "F32LE"
[[channels]]
name = "C"
frequency_hz = 5_000_000
enabled = false
"""


def call(verb: str, capsys: pytest.CaptureFixture[str], path: Path) -> tuple[int, Any]:
    """Exit status of `verb --json` and the JSON that is all it prints."""
    try:
        status = run([verb, "--json", "-c", str(path)] if verb != "version" else [verb, "--json"])
    except SystemExit as error:
        status = int(error.code or 0)
    return status, json.loads(capsys.readouterr().out)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two channels that record and one that does not."""
    path = tmp_path / "a.toml"
    path.write_text(CONFIG)
    return path


def test_inventory(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = call("inventory", capsys, config)
    assert status == EXIT_OK
    git, instances = found.pop("git"), found.pop("instances")
    assert git is None or set(git) == {"sha", "short", "ref", "dirty"}
    assert found == {
        "client": "grape-pipeline",
        "version": __version__,
        "contract_version": "0.8",
        "config_path": str(config),
        "log_level": "INFO",
        "deploy_toml_path": str(REPOSITORY / "deploy.toml"),
        "deps": {"git": [], "pypi": []},
        "issues": [],
        "commons": {"station_call": "AC0G", "station_grid": ""},
    }
    mb_per_day = round(16_000 * 86_400 * (5.0 + 7.5) / 1e6)
    assert instances == [
        {
            "instance": "ac0g",
            "radiod_id": "bee1-status.local",
            "host": "localhost",
            "radiod_status_dns": "bee1-status.local",
            "data_destination": "239.7.7.7",
            "ka9q_channels": 2,
            "frequencies_hz": [2_500_000, 3_330_000],
            "modes": ["iq"],
            "required_cores": [],
            "preferred_cores": "worker",
            "disk_writes": [{"path": "/data", "mb_per_day": mb_per_day, "retention_days": 7}],
            "data_sinks": [
                {
                    "kind": "file",
                    "target": "/data",
                    "schema_ref": None,
                    "retention_days": 7,
                    "mb_per_day": mb_per_day,
                }
            ],
            "uses_timing_calibration": False,
            "provides_timing_calibration": False,
            "chain_delay_ns_applied": None,
            "timing_authority_applied": None,
            "data_path": {"kind": "radiod-direct", "radiod_id": "bee1-status.local"},
            "control_socket": str(socket_path("ac0g")),
            "deploy_toml_path": str(REPOSITORY / "deploy.toml"),
        }
    ]


def test_chain_delay_is_reported_as_a_number(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG.replace("[[channels]]", "chain_delay_ns = 1500\n[[channels]]", 1))
    _, found = call("inventory", capsys, config)
    assert found["instances"][0]["chain_delay_ns_applied"] == 1500


def test_int16_storage_is_smaller(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, before = call("inventory", capsys, config)
    config.write_text(CONFIG.replace("retention_days", 'storage = "int16"\nretention_days').replace("F32LE", "S16LE"))
    _, after = call("inventory", capsys, config)
    sizes = [found["instances"][0]["disk_writes"][0]["mb_per_day"] for found in (before, after)]
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize("text", [None, "", "[recorder]\nx = 1\n", "not toml"])
def test_inventory_without_a_sound_configuration(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.toml"
    if text is not None:
        path.write_text(text)
    status, found = call("inventory", capsys, path)
    assert status == EXIT_OK
    assert found["instances"] == []
    assert found["config_path"] == str(path)
    assert {(i["severity"], i["instance"]) for i in found["issues"]} == {("fail", "all")}


def test_validate_sound(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("validate", capsys, config) == (EXIT_OK, {"ok": True, "config_path": str(config), "issues": []})


def test_validate_tells_every_fault(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG + "ssrc = 0\n[ntp]\nx = 1\n")
    status, found = call("validate", capsys, config)
    assert (status, found["ok"]) == (EXIT_FAILURE, False)
    assert [issue["severity"] for issue in found["issues"]] == ["fail", "fail"]
    assert "channels[2].ssrc = 0" in found["issues"][1]["message"]


def test_validate_wants_one_stream_once(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin = '[[channels]]\nname = "A again"\nfrequency_hz = 2_500_000\nssrc = 7\n'
    config.write_text(CONFIG + twin)
    status, found = call("validate", capsys, config)
    assert (status, found["ok"]) == (EXIT_FAILURE, False)
    (issue,) = found["issues"]
    assert issue["instance"] == "ac0g"
    assert "'A' and 'A again'" in issue["message"]


def test_warnings_do_not_fail(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text('[[channels]]\nname = "A"\nfrequency_hz = 1e6\n')
    status, found = call("validate", capsys, config)
    assert (status, found["ok"]) == (EXIT_OK, True)
    assert {issue["severity"] for issue in found["issues"]} == {"warn"}


def test_version(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = call("version", capsys, config)
    assert status == EXIT_OK
    assert set(found) == {"client", "version", "contract_version", "git"}


def test_log_level_reported_is_the_one_in_force(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRAPE_PIPELINE_LOG_LEVEL", "ERROR")
    assert call("inventory", capsys, config)[1]["log_level"] == "ERROR"


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sigmond, "_REPOSITORY", tmp_path)
    assert sigmond.version()["git"] is None
    (tmp_path / ".git").mkdir()  # not a repository that git accepts
    assert sigmond.version()["git"] is None


def test_quality_of_an_instance_that_does_not_run(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))  # where no other instance runs
    assert call("quality", capsys, config) == (EXIT_OK, {"error": "snapshot_missing"})
    assert call("quality", capsys, config.with_name("none")) == (EXIT_OK, {"error": "snapshot_missing"})


def test_a_coordinator_states_facts_of_this_radiod(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = config.with_name("coordination.env")
    monkeypatch.setenv("GRAPE_PIPELINE_ENV_FILES", f"{config.with_name('none.env')}:{told}")
    told.write_text("RADIOD_BEE1_STATUS_LOCAL_CHAIN_DELAY_NS=4250\n")
    (instance,) = call("inventory", capsys, config)[1]["instances"]
    assert (instance["radiod_id"], instance["chain_delay_ns_applied"]) == ("bee1-status.local", 4250)
    config.write_text(CONFIG.replace("[radiod]", '[radiod]\nid = "bee1-rx888"'))
    told.write_text('# comment\nRADIOD_BEE1_RX888_STATUS="other.local"\nRADIOD_BEE1_RX888_CHAIN_DELAY_NS=-7\n')
    (instance,) = call("inventory", capsys, config)[1]["instances"]
    assert (instance["radiod_id"], instance["radiod_status_dns"]) == ("bee1-rx888", "other.local")
    assert instance["chain_delay_ns_applied"] == -7


@pytest.mark.parametrize("wrong", ["STATUS=10.0.0.1", "CHAIN_DELAY_NS=soon", "CHAIN_DELAY_NS=1000000001"])
def test_what_a_coordinator_states_wrongly_is_named(
    wrong: str, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, value = f"RADIOD_BEE1_STATUS_LOCAL_{wrong}".split("=")
    monkeypatch.setenv(name, value)
    status, found = call("validate", capsys, config)
    assert (status, found["ok"]) == (EXIT_FAILURE, False)
    assert name in found["issues"][0]["message"]


def test_each_instance_may_have_a_file_of_its_own(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = config.rename(config.with_name("grape-pipeline.toml"))
    own = config.with_name("AC0G-B1.toml")
    own.write_text(CONFIG.replace("bee1", "bee2"))
    config.with_name("BROKEN.toml").write_text("x")
    monkeypatch.setattr("pipeline.configfile.DEFAULT_PATH", common)
    assert run(["inventory", "--json"]) == EXIT_OK
    found = json.loads(capsys.readouterr().out)
    assert [(i["instance"], i["radiod_id"]) for i in found["instances"]] == [
        ("ac0g", "bee1-status.local"),
        ("AC0G-B1", "bee2-status.local"),
    ]
    assert [(i["severity"], i["instance"]) for i in found["issues"]] == [("fail", "BROKEN")]
    assert load_config(instance="AC0G-B1").path == own
    assert load_config(instance="ac0g").path == load_config(instance="../x").path == common


def test_an_old_library_is_told(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "3.9.1")
    _, found = call("validate", capsys, config)
    assert found["ok"]
    assert "ka9q-python 3.9.1" in found["issues"][0]["message"]


def test_deploy_toml_says_what_is_there() -> None:
    found = tomllib.loads((REPOSITORY / "deploy.toml").read_text())
    package = found["package"]
    assert (package["name"], package["version"], package["contract_version"]) == (
        "grape-pipeline",
        __version__,
        sigmond.CONTRACT_VERSION,
    )
    assert (REPOSITORY / "LICENSE").read_text().startswith(package["license"])
    for step in found["install"]["steps"]:
        assert step["kind"] in {"link", "copy", "render", "mkdir"}
        assert step["dst"].startswith("/")
        assert "src" not in step or (REPOSITORY / step["src"]).exists(), step
    (unit,) = found["systemd"]["templated_units"]
    program = next(step["dst"] for step in found["install"]["steps"] if step.get("src") == "bin/grape-pipeline")
    assert f"ExecStart={program} start --instance %i" in (REPOSITORY / "etc" / unit).read_text()
    for verb in ("init", "edit"):
        assert found["contract"]["config"][verb] == [program, "config", verb]
        assert verb in configuration.config.commands
