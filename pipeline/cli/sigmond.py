"""What HamSCI's sigmond asks of its clients: shapes of the client contract, version 0.8.

sigmond calls `inventory`, `validate` and `version` as subprocesses with a limit of 5 s and
reads the whole of stdout as JSON, so a faulty configuration is an issue in the answer.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import DISTRIBUTION, __version__
from pipeline.addresses import split_endpoint
from pipeline.capacity import mb_per_day
from pipeline.cli.common import load
from pipeline.config import Channel, Config, ConfigError
from pipeline.configfile import locate, locate_all
from pipeline.logs import effective_level

CONTRACT_VERSION = "0.8"
_REPOSITORY = Path(__file__).resolve().parents[2]

Issue = dict[str, str]


def version() -> dict[str, Any]:
    """The answer to `version --json`."""
    return {
        "client": DISTRIBUTION,
        "version": __version__,
        "contract_version": CONTRACT_VERSION,
        "git": _git(),
    }


def inventory(config_path: Path | None) -> dict[str, Any]:
    """The answer to `inventory --json`; a configuration that is not sound gives issues and no instance."""
    from pipeline.supervision.instance import log_path

    found = list(_load_all(config_path))
    first = found[0][0]
    logs = [path for config, _ in found if (path := log_path(config)).exists()]
    answer = {
        **version(),
        "config_path": locate(config_path),
        "log_level": effective_level(first.logging.level),
        "deploy_toml_path": _deploy_toml(),
        "instances": [_instance(config) for config, _ in found if config.channels],
        "deps": {"git": [], "pypi": []},
        "issues": [issue for _, issues in found for issue in issues],
    }
    if first.station.callsign or first.station.grid:
        answer["commons"] = {"station_call": first.station.callsign, "station_grid": first.station.grid}
    return answer | ({"log_paths": {"detached": logs[0] if len(logs) == 1 else logs}} if logs else {})


def validate(config_path: Path | None) -> dict[str, Any]:
    """The answer to `validate --json`."""
    issues = [issue for _, issues in _load_all(config_path) for issue in issues]
    ok = all(issue["severity"] != "fail" for issue in issues)
    return {"ok": ok, "config_path": locate(config_path), "issues": issues}


def _load_all(config_path: Path | None) -> Iterator[tuple[Config, list[Issue]]]:
    """Each configuration there is; a file of /etc that is not the common one is the instance of its name."""
    common = locate(config_path)
    for path in locate_all(config_path):
        try:
            config = load(path)
        except ConfigError as error:
            name = "all" if path == common else path.stem
            yield Config(), [_issue("fail", name, str(fault)) for fault in error.faults]
            continue
        if path != common:
            config = config.as_instance(path.stem)
        yield config, [*_findings(config), *_library_findings()]


def _issue(severity: str, instance: str, message: str) -> Issue:
    return {"severity": severity, "instance": instance, "message": message}


def _findings(config: Config) -> Iterator[Issue]:
    """What the program accepts and the client contract (section 12) does not."""
    instance = config.recorder.instance
    seen: dict[tuple[float, str, int, str], Channel] = {}
    for channel in config.enabled_channels:
        stream = (channel.frequency_hz, channel.preset, channel.sample_rate_hz, channel.encoding)
        if stream in seen:
            names = f"{seen[stream].name!r} and {channel.name!r}"
            yield _issue("fail", instance, f"{names} have the same frequency, preset, sample rate and encoding")
        seen.setdefault(stream, channel)
    if not config.station.callsign:
        yield _issue("warn", instance, "station.callsign is empty; the files do not say who recorded them")
    if config.radiod.status_address is None:
        yield _issue("warn", instance, "radiod.status_address is not set; labels rest on arrival times")


def _library_findings() -> Iterator[Issue]:
    """Section 12.6: an installed ka9q-python that is older than what this version was made for."""
    wanted = next((r for r in metadata.requires(DISTRIBUTION) or () if r.startswith("ka9q-python")), "")
    try:
        installed = metadata.version("ka9q-python")
    except metadata.PackageNotFoundError:
        yield _issue("fail", "all", "ka9q-python is not installed")
        return
    least = wanted.partition(">=")[2].partition(";")[0].strip()
    if least and _numbers(installed) < _numbers(least):
        yield _issue("warn", "all", f"ka9q-python {installed} is installed; {least} or newer is needed")


def _numbers(version_text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version_text)]


def _instance(config: Config) -> dict[str, Any]:
    from pipeline.supervision.instance import socket_path  # brings libraries that `version` does not need

    channels = config.enabled_channels
    status_host = split_endpoint(config.radiod.status_address, 0)[0] if config.radiod.status_address else None
    radiod_id = config.radiod.name
    data_dir, days = config.recorder.data_dir, config.recorder.retention_days
    daily_mb = round(sum(mb_per_day(c, config.recorder.storage) for c in channels))
    return {
        "instance": config.recorder.instance,
        "radiod_id": radiod_id,
        "host": "localhost",
        "radiod_status_dns": status_host,
        "data_destination": split_endpoint(config.radiod.data_address, 0)[0],
        "ka9q_channels": len(channels),
        "frequencies_hz": [round(c.frequency_hz) for c in channels],
        "modes": sorted({c.preset for c in channels}),
        "required_cores": [],
        "preferred_cores": "worker",
        "disk_writes": [{"path": data_dir, "mb_per_day": daily_mb, "retention_days": days}],
        "data_sinks": [
            {
                "kind": "file",
                "target": data_dir,
                "schema_ref": None,
                "retention_days": days,
                "mb_per_day": daily_mb,
            }
        ],
        "uses_timing_calibration": False,
        "provides_timing_calibration": False,
        "chain_delay_ns_applied": config.radiod.chain_delay_ns or None,
        "timing_authority_applied": None,
        "data_path": {"kind": "radiod-direct", "radiod_id": radiod_id},
        "control_socket": socket_path(config.recorder.instance),
        "deploy_toml_path": _deploy_toml(),
    }


def _deploy_toml() -> Path | None:
    path = _REPOSITORY / "deploy.toml"
    return path if path.exists() else None


def _git() -> dict[str, Any] | None:
    """The commit of the clone that this package runs from; None when it does not."""
    if not (_REPOSITORY / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        sha, ref = _ask_git("rev-parse", "HEAD"), _ask_git("rev-parse", "--abbrev-ref", "HEAD")
        dirty = bool(_ask_git("status", "--porcelain", "--untracked-files=no"))
        return {"sha": sha, "short": sha[:7], "ref": ref, "dirty": dirty}
    return None


def _ask_git(*arguments: str) -> str:
    # Without the option `git status` would take the index lock from whoever works in the clone.
    command = ["git", "--no-optional-locks", "-C", str(_REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1, check=True).stdout.strip()
