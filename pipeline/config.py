"""The configuration: TOML in, frozen dataclasses out; the only place with defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class Station:
    """Who records; copied into every file. Empty or NaN = not stated."""

    callsign: str = ""
    grid: str = ""
    latitude: float = math.nan
    longitude: float = math.nan
    receiver_name: str = ""
    psws_station_id: str = ""
    psws_instrument_id: str = ""


@dataclass(frozen=True, slots=True)
class Recorder:
    """What is written, where, and how long it waits."""

    instance: str = "default"
    data_dir: Path = Path("/var/lib/grape-pipeline")
    late_packet_grace_s: float = 2.0
    compression_level: int = 2
    storage: str = "complex64"
    min_free_gb: float = 1.0
    retention_days: int = 0
    buffer_minutes: int = 10


@dataclass(frozen=True, slots=True)
class Radiod:
    """Where radiod's streams are heard and its channels asked for."""

    status_address: str | None = None
    data_address: str = "239.1.2.55:5004"
    interface: str = "lo"
    source_address: str | None = None
    create_channels: bool = True
    chain_delay_ns: int = 0


@dataclass(frozen=True, slots=True)
class Channel:
    """One RTP stream of radiod: one SSRC."""

    name: str
    frequency_hz: float
    ssrc: int
    sample_rate_hz: int = 16_000
    preset: str = "iq"
    encoding: str = "S16BE"
    data_address: str = "239.1.2.55:5004"
    enabled: bool = True
    stations: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The name as it appears in paths, segments and process titles."""
        return self.name.replace(" ", "_")


@dataclass(frozen=True, slots=True)
class Server:
    """One NTP server to ask."""

    address: str
    port: int = 123
    lan: bool = False

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return self.address if self.port == 123 else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a server must meet to be a candidate (research and RFC 5905 names)."""

    max_delay_ms: float
    max_distance_ms: float
    min_agree: int


@dataclass(frozen=True, slots=True)
class Ntp:
    """How the host clock's error is measured and when it counts as synchronised."""

    publish_interval_s: float = 10.0
    servers: tuple[Server, ...] = tuple(Server(name) for name in DEFAULT_SERVERS)
    sources: tuple[str, ...] = ("chronyd", "ntpd", "servers")
    parallel: bool = True
    max_parallel: int = 16
    mode: str = "simple"
    samples: int = 3
    timeout_s: float = 1.0
    retry_delays_s: tuple[float, ...] = (0.0, 5.0, 15.0)
    max_retries: int = 3
    fallback: bool = True
    strict: Thresholds = Thresholds(max_delay_ms=250.0, max_distance_ms=500.0, min_agree=3)
    relaxed: Thresholds = Thresholds(max_delay_ms=1500.0, max_distance_ms=1500.0, min_agree=2)
    synced_within_ms: float = 100.0
    holdover_s: float = 300.0
    stale_after_s: float = 30.0
    allow_local_reference: bool = False


@dataclass(frozen=True, slots=True)
class Supervision:
    """When a process counts as hung and how soon a dead one is started again."""

    backoff_initial_s: float = 1.0
    backoff_max_s: float = 60.0
    stable_after_s: float = 30.0
    heartbeat_timeout_s: float = 10.0
    monitor_heartbeat_timeout_s: float = 30.0
    abort_grace_s: float = 2.0
    stop_grace_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Logging:
    """What goes to stderr."""

    level: str = "INFO"


@dataclass(frozen=True, slots=True)
class Config:
    """A checked configuration; every value is what the program uses."""

    station: Station = Station()
    recorder: Recorder = Recorder()
    radiod: Radiod = Radiod()
    channels: tuple[Channel, ...] = ()
    ntp: Ntp = Ntp()
    supervisor: Supervision = Supervision()
    logging: Logging = Logging()
    path: Path | None = field(default=None, compare=False)

    @property
    def enabled_channels(self) -> tuple[Channel, ...]:
        """The channels to record, in the order of the file."""
        return tuple(c for c in self.channels if c.enabled)
