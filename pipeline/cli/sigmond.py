"""What HamSCI's sigmond asks of its clients: shapes of the client contract, version 0.8.

sigmond calls `inventory`, `validate` and `version` as subprocesses with a limit of 5 s and
reads the whole of stdout as JSON, so a faulty configuration is an issue in the answer.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import DISTRIBUTION, __version__
from pipeline.addresses import split_endpoint
from pipeline.capacity import mb_per_day
from pipeline.cli.common import load
from pipeline.config import Channel, Config, ConfigError
from pipeline.configfile import locate
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
    """The answer to `inventory --json`; without a sound configuration there is no instance in it."""
    config, issues = _load(config_path)
    return {
        **version(),
        "config_path": locate(config_path),
        "log_level": effective_level(config.logging.level),
        "deploy_toml_path": _deploy_toml(),
        "instances": [_instance(config)] if config.channels else [],
        "deps": {"git": [], "pypi": []},
        "issues": issues,
    }


def validate(config_path: Path | None) -> dict[str, Any]:
    """The answer to `validate --json`."""
    _, issues = _load(config_path)
    ok = all(issue["severity"] != "fail" for issue in issues)
    return {"ok": ok, "config_path": locate(config_path), "issues": issues}


def _load(config_path: Path | None) -> tuple[Config, list[Issue]]:
    try:
        config = load(config_path)
    except ConfigError as error:
        return Config(), [_issue("fail", "all", str(fault)) for fault in error.faults]
    return config, list(_findings(config))


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


def _instance(config: Config) -> dict[str, Any]:
    from pipeline.supervision.instance import socket_path  # brings libraries that `version` does not need

    channels = config.enabled_channels
    radiod_id = split_endpoint(config.radiod.status_address, 0)[0] if config.radiod.status_address else None
    data_dir, days = config.recorder.data_dir, config.recorder.retention_days
    daily_mb = round(sum(mb_per_day(c, config.recorder.storage) for c in channels))
    return {
        "instance": config.recorder.instance,
        "radiod_id": radiod_id,
        "host": "localhost",
        "radiod_status_dns": radiod_id,
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
