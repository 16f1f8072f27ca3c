"""The configuration: TOML in, frozen dataclasses out; the only place with defaults.

The dataclasses are also the schema: `pipeline.schema` reads a table by their types and
the rules beside them, so a new key is a new field here and a sentence in the manual.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from pipeline import EXIT_CONFIG, PipelineError
from pipeline.addresses import (
    NTP_PORT,
    STATUS_PORT,
    ipv4_address,
    join_endpoint,
    split_endpoint,
)
from pipeline.configrules import (
    HIGHEST_RATE_HZ,
    channel_name,
    daemon_endpoint,
    data_endpoint,
    status_endpoint,
    web_address,
)
from pipeline.schema import NOT_A_KEY, Fault, above, at_least, between, matching, one_of, read

DEFAULT_SERVERS = (
    "time.google.com",
    "time1.google.com",
    "time2.google.com",
    "time3.google.com",
    "time.cloudflare.com",
    "time.nist.gov",
    "0.pool.ntp.org",
    "1.pool.ntp.org",
    "2.pool.ntp.org",
    "3.pool.ntp.org",
)
INT16_ENCODINGS = ("S16BE", "S16LE")
ENCODINGS = (*INT16_ENCODINGS, "F32LE", "F32BE", "F16LE", "F16BE")
NTP_SOURCES = ("chronyd", "ntpd", "servers", "chronyc", "ntpq")
ALERT_KINDS = ("silent", "not_recording", "clock", "disk")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
INSTANCE = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}"


class ConfigError(PipelineError):
    """A configuration that cannot be used; `faults` has all that is wrong with it."""

    exit_code = EXIT_CONFIG

    def __init__(self, path: Path | None, faults: list[Fault]) -> None:
        self.path = path
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{path or 'configuration'}: {fault}" for fault in faults))


Positive = Annotated[float, above(0)]
NotNegative = Annotated[float, at_least(0)]


@dataclass(frozen=True, slots=True)
class Station:
    """Who records; copied into every file. Empty or NaN = not stated."""

    callsign: str = ""
    grid: str = ""
    latitude: Annotated[float, between(-90, 90)] = math.nan
    longitude: Annotated[float, between(-180, 180)] = math.nan
    receiver_name: str = ""
    psws_station_id: str = ""
    psws_instrument_id: str = ""


@dataclass(frozen=True, slots=True)
class Recorder:
    """What is written, where, and how long it waits."""

    instance: Annotated[str, matching(INSTANCE, "must be 1 to 32 letters, digits and _ . -")] = "default"
    data_dir: Path = Path("/var/lib/grape-pipeline")
    late_packet_grace_s: Annotated[float, between(0, 30)] = 2.0
    compression_level: Annotated[int, between(0, 9)] = 2
    storage: Annotated[str, one_of("complex64", "int16")] = "complex64"
    min_free_gb: NotNegative = 1.0
    retention_days: Annotated[int, at_least(0)] = 0
    buffer_minutes: Annotated[int, between(2, 120)] = 10
    partial_minutes: bool = True


@dataclass(frozen=True, slots=True)
class Radiod:
    """Where radiod's streams are heard and its channels asked for; addresses as `host:port`."""

    id: Annotated[str, matching(r"[A-Za-z0-9._-]{0,64}", "must be at most 64 letters, digits and . _ -")] = ""
    status_address: Annotated[str, status_endpoint] | None = None
    data_address: Annotated[str, data_endpoint] = "239.1.2.55:5004"
    interface: Annotated[str, matching(r"\S{1,64}", "must be an interface name or one of this host's addresses")] = "lo"
    source_address: Annotated[str, ipv4_address] | None = None
    create_channels: bool = True
    chain_delay_ns: Annotated[int, between(-1_000_000_000, 1_000_000_000)] = 0

    @property
    def name(self) -> str | None:
        """What a coordinator calls this radiod: the id, else the host of its status address."""
        return self.id or (split_endpoint(self.status_address, STATUS_PORT)[0] if self.status_address else None)


@dataclass(frozen=True, slots=True)
class Channel:
    """One RTP stream of radiod: one SSRC."""

    name: Annotated[str, channel_name]
    frequency_hz: Positive
    # radiod.h reserves 0 and 0xffffffff
    ssrc: Annotated[int, between(1, 2**32 - 2)]
    sample_rate_hz: Annotated[int, between(1_000, HIGHEST_RATE_HZ)] = 16_000
    preset: Annotated[str, matching(r"\S{1,32}", "must be the name of a radiod preset")] = "iq"
    encoding: Annotated[str, one_of(*ENCODINGS)] = "S16BE"
    data_address: Annotated[str, data_endpoint] = "239.1.2.55:5004"
    enabled: bool = True
    stations: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The name as it appears in paths, segments and process titles."""
        return self.name.replace(" ", "_")

    @staticmethod
    def from_toml(table: object) -> object:
        """The table with the SSRC that radiod's users give a channel by habit: its frequency."""
        if not isinstance(table, Mapping) or "ssrc" in table:
            return table
        frequency = table.get("frequency_hz")
        # A frequency that is wrong is reported once, as such.
        usable = isinstance(frequency, int | float) and math.isfinite(frequency) and frequency >= 1
        return {**table, "ssrc": int(frequency) if usable else 1}  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Server:
    """One NTP server to ask."""

    address: str
    port: Annotated[int, between(1, 65535)] = NTP_PORT
    lan: bool = False

    def __str__(self) -> str:
        return self.address if self.port == NTP_PORT else join_endpoint(self.address, self.port)

    @staticmethod
    def from_toml(entry: object) -> object:
        """The full table of `"host"`, `"host:port"` or `{address = "host[:port]", lan = true}`."""
        table = {"address": entry} if isinstance(entry, str) else entry
        if not isinstance(table, Mapping):
            raise ValueError('must be "host", "host:port" or { address = "host:port", lan = true }')
        if not isinstance(table.get("address"), str):
            return table
        host, port = split_endpoint(table["address"], NTP_PORT)
        return {"port": port, **table, "address": host}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a server must meet to be a candidate (RFC 5905 names)."""

    max_delay_ms: Positive
    max_distance_ms: Positive
    min_agree: Annotated[int, at_least(1)]


@dataclass(frozen=True, slots=True)
class Ntp:
    """How the host clock's error is measured and when it counts as synchronised."""

    publish_interval_s: Annotated[float, between(0.1, 3600)] = 10.0
    servers: tuple[Server, ...] = tuple(Server(name) for name in DEFAULT_SERVERS)
    sources: tuple[Annotated[str, one_of(*NTP_SOURCES)], ...] = ("chronyd", "ntpd", "servers")
    chronyd_address: Annotated[str, daemon_endpoint] = "127.0.0.1:323"
    ntpd_address: Annotated[str, daemon_endpoint] = "127.0.0.1:123"
    parallel: bool = True
    max_parallel: Annotated[int, between(1, 1000)] = 16
    mode: Annotated[str, one_of("simple", "advanced")] = "simple"
    samples: Annotated[int, between(1, 16)] = 3
    timeout_s: Annotated[float, between(0.01, 60)] = 1.0
    retry_delays_s: tuple[NotNegative, ...] = (0.0, 5.0, 15.0)
    max_retries: Annotated[int, between(0, 100)] = 3
    fallback: bool = True
    strict: Thresholds = Thresholds(max_delay_ms=250.0, max_distance_ms=500.0, min_agree=3)
    relaxed: Thresholds = Thresholds(max_delay_ms=1500.0, max_distance_ms=1500.0, min_agree=2)
    synced_within_ms: Positive = 100.0
    holdover_s: NotNegative = 300.0
    stale_after_s: Positive = 30.0
    allow_local_reference: bool = False


@dataclass(frozen=True, slots=True)
class Supervision:
    """When a process counts as hung and how soon a dead one is started again."""

    backoff_initial_s: Positive = 1.0
    backoff_max_s: Positive = 60.0
    stable_after_s: NotNegative = 30.0
    heartbeat_timeout_s: Positive = 10.0
    monitor_heartbeat_timeout_s: Positive = 30.0
    abort_grace_s: NotNegative = 2.0
    stop_grace_s: NotNegative = 20.0


@dataclass(frozen=True, slots=True)
class Alerts:
    """Who is told when something is wrong, and what counts."""

    command: tuple[str, ...] = ()
    url: Annotated[str, web_address] = ""
    format: Annotated[str, one_of("text", "json")] = "text"
    on: tuple[Annotated[str, one_of(*ALERT_KINDS)], ...] = ALERT_KINDS
    after_s: Annotated[float, between(0, 86_400)] = 60.0
    clear_after_s: Annotated[float, between(0, 86_400)] = 300.0
    ends: bool = True
    disk_days: NotNegative = 2.0
    timeout_s: Annotated[float, between(0.1, 600)] = 20.0


@dataclass(frozen=True, slots=True)
class Logging:
    """What goes to stderr."""

    level: Annotated[str, str.upper, one_of(*LOG_LEVELS)] = "INFO"


@dataclass(frozen=True, slots=True)
class Config:
    """A checked configuration; every value is what the program uses."""

    station: Station = Station()
    recorder: Recorder = Recorder()
    radiod: Radiod = Radiod()
    channels: tuple[Channel, ...] = ()
    ntp: Ntp = Ntp()
    supervisor: Supervision = Supervision()
    alerts: Alerts = Alerts()
    logging: Logging = Logging()
    path: Path | None = field(default=None, compare=False, metadata=NOT_A_KEY)
    # The instance that the file names, where it runs as another.
    file_instance: str = field(default="", compare=False, metadata=NOT_A_KEY)

    @property
    def enabled_channels(self) -> tuple[Channel, ...]:
        """The channels to record, in the order of the file."""
        return tuple(c for c in self.channels if c.enabled)

    def as_instance(self, name: str) -> Config:
        """The same for instance `name`, whatever the file says."""
        own = self.file_instance or self.recorder.instance
        return replace(self, recorder=replace(self.recorder, instance=name), file_instance=own)


def load_config(path: Path | None = None, *, instance: str | None = None, need_channels: bool = True) -> Config:
    """The configuration in `path`, else in $GRAPE_PIPELINE_CONFIG, else in /etc/grape-pipeline.

    In the last, `instance` may have a file of its own.
    Raises ConfigError with everything that is wrong, ConfigMissing when there is no file.
    """
    from pipeline import configfile  # the one edge of this module, out of its importers' way

    return configfile.load(path, instance=instance, need_channels=need_channels)


def parse_config(source: str | Mapping[str, Any], path: Path | None = None, *, need_channels: bool = True) -> Config:
    """The configuration that TOML text, or the table it stands for, describes.

    A relative `data_dir` is taken from the folder of `path`. Without `need_channels` a
    configuration that records nothing is sound, for commands that only use its other
    parts. Raises ConfigError with everything that is wrong.
    """
    faults: list[Fault] = []
    table = _toml_table(source, path)
    entries = table.pop("channels", [])
    config = read(Config, table, "", faults) or Config()
    channels = _read_channels(entries, config.radiod.data_address, faults)
    faults += _cross_faults(config, channels)
    if need_channels and not any(channel is None or channel.enabled for channel in channels):
        faults.append(Fault("channels", None, "no channel is enabled; there must be a [[channels]] table"))
    if faults:
        raise ConfigError(path, faults)
    folder = config.recorder.data_dir.expanduser()
    recorder = replace(config.recorder, data_dir=path.absolute().parent / folder if path else folder)
    return replace(config, recorder=recorder, channels=tuple(c for c in channels if c), path=path)


def _toml_table(source: str | Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    if not isinstance(source, str):
        return dict(source)
    try:
        return tomllib.loads(source)
    except (ValueError, RecursionError) as error:
        raise ConfigError(path, [Fault("", None, f"not TOML: {error}")]) from None


def _read_channels(entries: object, data_address: str, faults: list[Fault]) -> list[Channel | None]:
    """One item per entry, None where the entry is unusable."""
    if not isinstance(entries, list | tuple):
        faults.append(Fault("channels", entries, "must be [[channels]] tables"))
        return []
    channels = []
    for i, entry in enumerate(entries):
        table = {"data_address": data_address, **entry} if isinstance(entry, Mapping) else entry
        channels.append(read(Channel, table, f"channels[{i}]", faults))
    return channels


def _cross_faults(config: Config, channels: list[Channel | None]) -> Iterator[Fault]:
    """What no single key can know."""
    found = [(f"channels[{i}]", c) for i, c in enumerate(channels) if c]
    for (first, a), (second, b) in combinations(found, 2):
        if a.id == b.id:
            yield Fault(f"{second}.name", b.name, f"must differ from {first}'s name {a.name!r}; they share a folder")
        elif a.enabled and b.enabled and (a.ssrc, a.data_address) == (b.ssrc, b.data_address):
            told = f"must differ between {a.name!r} ({first}) and {b.name!r}, both on {a.data_address}"
            yield Fault(f"{second}.ssrc", b.ssrc, told)
    for key, c in found:
        if config.recorder.storage == "int16" and c.enabled and c.encoding not in INT16_ENCODINGS:
            allowed = f'must be one of {", ".join(INT16_ENCODINGS)} while recorder.storage is "int16"'
            yield Fault(f"{key}.encoding", c.encoding, allowed)
    if config.ntp.stale_after_s <= config.ntp.publish_interval_s:
        allowed = f"must be more than ntp.publish_interval_s ({config.ntp.publish_interval_s:g})"
        yield Fault("ntp.stale_after_s", config.ntp.stale_after_s, allowed)
    if config.supervisor.backoff_max_s < config.supervisor.backoff_initial_s:
        allowed = f"must be at least supervisor.backoff_initial_s ({config.supervisor.backoff_initial_s:g})"
        yield Fault("supervisor.backoff_max_s", config.supervisor.backoff_max_s, allowed)
