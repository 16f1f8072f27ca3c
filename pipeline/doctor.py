"""All checks of a station in the order of the signal's way, as lines that say what mends them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline import DISTRIBUTION
from pipeline.capacity import mb_per_day
from pipeline.config import Config, ConfigError, load_config
from pipeline.configfile import ConfigMissing, locate
from pipeline.diagnosis import clock, host, network, streams
from pipeline.diagnosis.finding import Finding, fail, ok, warn
from pipeline.listening import Heard, listen
from pipeline.shm import Board, SharedMemoryError
from pipeline.supervision.causes import Level, Snapshot
from pipeline.supervision.instance import running_pid, why_absent
from pipeline.supervision.report import folded
from pipeline.supervision.snapshot import take
from pipeline.supervision.troubles import health, pause_text

CAUSES = 3


def examine(config_path: Path | None, seconds: float) -> Iterator[Finding]:
    """Every finding as it is made, radiod being heard for `seconds`.

    Without a sound configuration only what the host alone can tell.
    """
    yield from host.software()
    try:
        config = load_config(config_path)
    except ConfigError as error:
        yield from _faults(error, locate(config_path))
        yield host.buffers(Config(), None)
        yield from host.shared_memory(Config())
        return
    yield ok("config", f"{config.path}: sound, {len(config.enabled_channels)} channels")
    seen = _running(config)
    name, findings = network.interface(config.radiod.interface)
    yield from findings
    groups = network.groups(config)
    if name is not None:
        yield network.membership(name, groups, seen is not None)
    before = host.udp_counters()
    heard = listen(config.radiod, [c.data_address for c in config.enabled_channels], seconds)
    after = host.udp_counters()
    if name is not None:
        yield from _paths(name, groups, heard)
    yield from streams.check(config, heard, seen is not None)
    granted = [row.record.socket_buffer_bytes for row in seen.rows] if seen else []
    yield host.buffers(config, min(filter(None, granted), default=None))
    yield host.udp_losses(before, after, seconds)
    yield from clock.check(config.ntp, seen.ntp if seen else None, seen.ntp_diagnostics if seen else None)
    rate = sum(mb_per_day(c, config.recorder.storage) for c in config.enabled_channels)
    yield from host.disk(config, rate)
    yield from host.shared_memory(config)
    yield from host.left_behind(config)
    yield from host.alerts(config)
    yield from _instance(config, seen)


def _faults(error: ConfigError, path: Path) -> Iterator[Finding]:
    missing = isinstance(error, ConfigMissing)
    mend = f"{DISTRIBUTION} init {path}" if missing else f"edit {path}, then {DISTRIBUTION} check -c {path}"
    for fault in error.faults:
        yield fail("config", f"{path}: {fault}", mend)


def _paths(name: str, groups: list[str], heard: Heard) -> Iterator[Finding]:
    """Whether multicast finds its way; what is heard has found it."""
    audible = {group for (group, _), stream in heard.streams.items() if stream.packets}
    for group in groups:
        yield network.route(name, group, group in audible)
    yield network.querier(name, audible.issuperset(groups))


def _running(config: Config) -> Snapshot | None:
    """The running instance; None when there is none."""
    if running_pid(config.recorder.instance) is None:
        return None
    try:
        return take(Board.open(config.recorder.instance), config, brief=True)
    except SharedMemoryError:
        return None


def _instance(config: Config, seen: Snapshot | None) -> Iterator[Finding]:
    """What `status` would say."""
    instance = config.recorder.instance
    if seen is None:
        why, pid = why_absent(instance, SharedMemoryError(f"{instance} does not run"))
        mend = f"{DISTRIBUTION} stop, then start; sudo loginctl enable-linger for its user"
        yield ok("instance", why) if pid is None else fail("instance", f"{instance} {why}", mend)
        return
    if pause := pause_text(seen):
        yield warn("machine", f"the supervisor {pause}", "find what takes its time: top, dmesg")
    verdict = health(seen)
    if verdict.level is Level.OK:
        yield ok("instance", f"{instance} runs and nothing is wrong")
        return
    causes = folded(verdict.causes)
    left = len(causes) - CAUSES
    told = "; ".join(causes[:CAUSES]) + (f"; and {left} more" if left > 0 else "")
    make = fail if verdict.level is Level.CRIT else warn
    yield make("instance", f"{instance} says: {told}", f"the lines above, then: {DISTRIBUTION} status")
