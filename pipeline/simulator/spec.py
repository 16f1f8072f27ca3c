"""What to simulate: frozen descriptions, and the only place with the simulator's defaults.

Times named `at_s` count from the first sample of the first timeline, in seconds of the
simulated sample clock; durations are seconds, rates hertz, powers decibels.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline import PipelineError

BLOCKS_PER_SECOND = 50
"""radiod works in blocks of 20 ms (ka9q-radio radio.c, Blocktime)."""

TIMESTAMPS = 1 << 32
GLOBAL_SSRC = 0xFFFFFFFF
"""Polls every channel; like 0 it can name none (ka9q-radio radio_status.c)."""

ENCODINGS = {"S16LE": 1, "S16BE": 2, "F32LE": 4, "F16LE": 6, "F32BE": 8, "F16BE": 9}
"""Encoding name to the number in OUTPUT_ENCODING (ka9q-radio rtp.h)."""

PROGRAMMES = ("wwv", "counter")


class SimulatorError(PipelineError):
    """The simulation asked for is impossible; the text says which value and what is allowed."""


def check_rate(rate_hz: int) -> None:
    """Raise SimulatorError unless a 20 ms block holds a whole number of frames."""
    if not BLOCKS_PER_SECOND <= rate_hz <= 1_000_000 or rate_hz % BLOCKS_PER_SECOND:
        raise SimulatorError(f"sample rate {rate_hz} Hz: a multiple of {BLOCKS_PER_SECOND} up to 1000000")


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """What goes wrong with the packets of one channel. Probabilities are per packet, 0..1."""

    loss: float = 0.0
    burst: float = 0.0  # probability that a packet begins a burst of losses
    burst_packets: int = 25
    drops: tuple[tuple[float, int], ...] = ()  # (at_s, packets): lose exactly so many from then on
    reorder: float = 0.0
    reorder_depth: int = 4  # a reordered packet leaves with the 1st..depth-th later one, after it
    duplicate: float = 0.0
    duplicate_delay_s: float = 0.0
    late: float = 0.0
    late_s: float = 0.5
    mutes: tuple[tuple[float, float], ...] = ()  # (at_s, for_s): blocks not sent, timestamp runs on
    zeros: tuple[tuple[float, float], ...] = ()  # (at_s, for_s): blocks of zeros sent, FILTER_DROPS counts
    zero_block: float = 0.0  # probability per block
    packet_frames: tuple[int, ...] = ()  # frames per packet, cycled; () = as radiod does
    start_rtp: int | None = None  # first timestamp; None = one block before the wrap, as radiod does
    late_status: float = 0.0  # probability per status packet
    late_status_s: tuple[float, float] = (0.1, 0.8)

    def __post_init__(self) -> None:
        for name in ("loss", "burst", "reorder", "duplicate", "late", "zero_block", "late_status"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SimulatorError(f"faults: {name} = {getattr(self, name)}: a probability is 0..1")
        if any(not 1 <= frames <= 8000 for frames in self.packet_frames):
            raise SimulatorError(f"faults: packet_frames = {self.packet_frames}: each must be 1..8000")
        if self.start_rtp is not None and not 0 <= self.start_rtp < TIMESTAMPS:
            raise SimulatorError(f"faults: start_rtp = {self.start_rtp}: a timestamp is 0..2^32-1")
        if self.reorder_depth < 1 or self.burst_packets < 1:
            raise SimulatorError("faults: reorder_depth and burst_packets must be at least 1")


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """One channel that radiod has from its start."""

    name: str
    frequency_hz: float
    ssrc: int = 0  # 0 = the frequency in whole hertz
    sample_rate_hz: int = 16_000
    encoding: str = "S16BE"
    preset: str = "iq"
    gain_db: float = 20.0
    programme: str = ""  # "" = the simulator's
    faults: FaultPlan | None = None  # None = the simulator's
    data_address: tuple[str, int] | None = None  # None = the simulator's

    def __post_init__(self) -> None:
        if not self.ssrc:
            object.__setattr__(self, "ssrc", round(self.frequency_hz))
        if not 0 < self.ssrc < GLOBAL_SSRC:
            raise SimulatorError(f"channel {self.name!r}: ssrc {self.ssrc} is not in 1..2^32-2")
        check_rate(self.sample_rate_hz)
        if self.encoding not in ENCODINGS:
            raise SimulatorError(f"channel {self.name!r}: encoding {self.encoding!r}: one of {', '.join(ENCODINGS)}")
        if self.programme and self.programme not in PROGRAMMES:
            raise SimulatorError(f"channel {self.name!r}: programme {self.programme!r}: one of {', '.join(PROGRAMMES)}")


@dataclass(frozen=True, slots=True)
class NtpServerSpec:
    """One NTP server: what its clock says and how it misbehaves (RFC 5905 names, seconds).

    `request_delay_s` and `reply_delay_s` are the network's two ways, `processing_s` is time inside
    the server; `jitter_s` is the mean of an exponential delay added to the reply.
    """

    host: str = "127.0.0.1"
    port: int = 0  # 0 = any free one
    offset_s: float = 0.0
    request_delay_s: float = 0.0
    reply_delay_s: float = 0.0
    processing_s: float = 0.0
    jitter_s: float = 0.0
    stratum: int = 1
    leap: int = 0
    root_delay_s: float = 0.0
    root_dispersion_s: float = 0.001
    refid: str = "GPS"
    precision: int = -20
    kiss: str = ""  # a kiss code such as RATE or DENY
    silent: bool = False
    wrong_origin: bool = False
    zero_transmit: bool = False
    loss: float = 0.0

    def __post_init__(self) -> None:
        if not self.host.startswith("127."):
            raise SimulatorError(f"NTP server {self.host!r}: only addresses in 127.0.0.0/8, it is for this machine")
        if len(self.refid) > 4 or len(self.kiss) > 4:
            raise SimulatorError("NTP server: refid and kiss code have at most 4 characters")


WWV_CHU = tuple(
    ChannelSpec(name, frequency_hz)
    for name, frequency_hz in (
        ("WWV 2.5 MHz", 2_500_000),
        ("CHU 3.33 MHz", 3_330_000),
        ("WWV 5 MHz", 5_000_000),
        ("CHU 7.85 MHz", 7_850_000),
        ("WWV 10 MHz", 10_000_000),
        ("CHU 14.67 MHz", 14_670_000),
        ("WWV 15 MHz", 15_000_000),
        ("WWV 20 MHz", 20_000_000),
        ("WWV 25 MHz", 25_000_000),
    )
)
"""The nine time signal channels of a GRAPE station."""


@dataclass(frozen=True, slots=True)
class SimulatorSpec:
    """One radiod on one host: what it sends, where, and what goes wrong with it as a whole."""

    channels: tuple[ChannelSpec, ...] = WWV_CHU
    data_address: tuple[str, int] = ("239.1.2.55", 5004)
    status_address: tuple[str, int] = ("239.1.2.54", 5006)
    status_port: int = 5006  # of the data group, where every channel's status goes
    interface: str = "lo"
    ttl: int = 0
    programme: str = "wwv"
    faults: FaultPlan = field(default_factory=FaultPlan)
    restarts: tuple[tuple[float, float], ...] = ()  # (at_s, silent for_s), then a new socket and timeline
    stalls: tuple[tuple[float, float], ...] = ()  # (at_s, for_s): nothing leaves, then a burst
    frontend_stalls: tuple[tuple[float, float], ...] = ()  # (at_s, for_s): no samples are made, timestamp stands
    latency_ms: float = 1.0
    jitter_ms: float = 3.0  # one-sided, uniform, per block
    ppm: float = 0.0  # error of the sample clock, positive = too fast
    clock_offset_s: float = 0.0  # of radiod's host: GPS_TIME says UTC plus this
    seed: int = 1
    duration_s: float | None = None
    truth: Path | None = None
    ntp_servers: tuple[NtpServerSpec, ...] = ()

    def __post_init__(self) -> None:
        if self.programme not in PROGRAMMES:
            raise SimulatorError(f"programme {self.programme!r}: one of {', '.join(PROGRAMMES)}")
        if not 0 <= self.ttl <= 255:
            raise SimulatorError(f"ttl {self.ttl}: 0..255")
        ssrcs = [channel.ssrc for channel in self.channels]
        twice = sorted({ssrc for ssrc in ssrcs if ssrcs.count(ssrc) > 1})
        if twice:
            raise SimulatorError(f"channels share the ssrc {', '.join(map(str, twice))}: give each its own")
        if abs(self.ppm) > 1000:
            raise SimulatorError(f"ppm {self.ppm}: -1000..1000")


def ntp_farm(count: int, base_port: int = 0, host: str = "127.0.0.1") -> tuple[NtpServerSpec, ...]:
    """`count` good servers with small, different delays; ports from `base_port` on, 0 = any free ones."""
    return tuple(
        NtpServerSpec(
            host=host,
            port=base_port + index if base_port else 0,
            offset_s=0.000_05 * ((index * 7) % 5 - 2),
            request_delay_s=0.001 + 0.0005 * index,
            reply_delay_s=0.001 + 0.0005 * index,
            jitter_s=0.0002,
            stratum=1 + index % 2,
            refid="GPS" if index % 2 == 0 else "PPS",
        )
        for index in range(count)
    )


def spec_to_json(spec: SimulatorSpec) -> str:
    """`spec` as one line of JSON, for another process."""
    return json.dumps(asdict(spec), default=str)


def spec_from_json(text: str) -> SimulatorSpec:
    """The inverse of `spec_to_json`. Raises SimulatorError if the text is no specification."""
    try:
        facts = _tuples(json.loads(text))
        channels = tuple(_channel(channel) for channel in facts.pop("channels"))
        servers = tuple(NtpServerSpec(**server) for server in facts.pop("ntp_servers"))
        faults, truth = FaultPlan(**facts.pop("faults")), facts.pop("truth")
        path = None if truth is None else Path(truth)
        return SimulatorSpec(channels=channels, ntp_servers=servers, faults=faults, truth=path, **facts)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SimulatorError(f"not a simulator specification: {error}") from error


def _channel(facts: dict[str, Any]) -> ChannelSpec:
    faults = facts.pop("faults")
    return ChannelSpec(faults=None if faults is None else FaultPlan(**faults), **facts)


def _tuples(value: Any) -> Any:
    """JSON has lists where the specification has tuples."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value
