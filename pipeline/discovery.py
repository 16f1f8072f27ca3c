"""radiod's channels as tables of a configuration; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.addresses import RTP_PORT
from pipeline.config import ENCODINGS
from pipeline.listening import Heard
from pipeline.radiod import ChannelStatus

# Who transmits time signals where, Hz.
STATIONS = {
    2_500_000: ("WWV", "WWVH"),
    3_330_000: ("CHU",),
    5_000_000: ("WWV", "WWVH"),
    7_850_000: ("CHU",),
    10_000_000: ("WWV", "WWVH"),
    14_670_000: ("CHU",),
    15_000_000: ("WWV", "WWVH"),
    20_000_000: ("WWV",),
    25_000_000: ("WWV",),
}


@dataclass(frozen=True, slots=True)
class Discovery:
    """Channels that can be recorded, as TOML, and why others cannot."""

    tables: str
    count: int
    left_out: tuple[str, ...]


def discover(heard: Heard, data_address: str) -> Discovery:
    """What was heard, by frequency; addresses are stated where they differ from `data_address`."""
    tables, left_out, names = [], [], set()
    streams = [(group, s.status) for (group, _), s in heard.streams.items() if s.status is not None]
    for group, status in sorted(streams, key=lambda found: (found[1].frequency_hz or 0.0, found[1].ssrc)):
        problem = _problem(status)
        if problem:
            left_out.append(f"ssrc {status.ssrc}: {problem}")
            continue
        name = _name(status)
        name = f"{name} {status.ssrc}" if name in names else name
        names.add(name)
        address = status.data_address or f"{group}:{RTP_PORT}"
        tables.append("\n".join(_table(name, status, address if address != data_address else None)))
    return Discovery("\n\n".join(tables) + "\n" if tables else "", len(tables), tuple(left_out))


def _problem(status: ChannelStatus) -> str:
    if not status.frequency_hz:
        return "no frequency"
    if status.output_channels not in (None, 2):
        return "not I and Q"
    return "" if status.encoding in ENCODINGS else f"encoding {status.encoding}"


def _name(status: ChannelStatus) -> str:
    hz = round(status.frequency_hz or 0.0)
    station = STATIONS.get(hz, ("",))[0]
    return f"{station} {hz / 1e6:g} MHz".strip()


def _table(name: str, status: ChannelStatus, address: str | None) -> Iterator[str]:
    assert status.frequency_hz
    hz = round(status.frequency_hz)
    yield "[[channels]]"
    yield f'name = "{name}"'
    yield f"frequency_hz = {hz:_}"
    yield f"ssrc = {status.ssrc}"
    if status.sample_rate_hz is not None:
        yield f"sample_rate_hz = {status.sample_rate_hz}"
    yield f'encoding = "{status.encoding}"'
    if address is not None:
        yield f'data_address = "{address}"'
    if hz in STATIONS:
        yield "stations = [" + ", ".join(f'"{each}"' for each in STATIONS[hz]) + "]"
