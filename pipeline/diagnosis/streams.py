"""What radiod sends, held against the configuration; pure but for the resolver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.addresses import RTP_PORT
from pipeline.config import ENCODINGS, Channel, Config
from pipeline.diagnosis.finding import Finding, fail, ok, warn
from pipeline.listening import Heard, Stream
from pipeline.radiod import ChannelStatus
from pipeline.sockets import SocketError, resolve_group

# radiod reports every 0.5 s.
CLOCK_WARN_S = 1.0
FREQUENCY_HZ = 1.0
# An overload further back is history.
OVERLOAD_S = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """A configured channel and where it was listened for."""

    channel: Channel
    group: str
    stream: Stream


def check(config: Config, heard: Heard, running: bool) -> Iterator[Finding]:
    """Every channel that is not as configured, each with its reason; one line for those that are."""
    for text in heard.faults:
        yield fail("radiod", text, "correct radiod.data_address, radiod.status_address and radiod.interface")
    places = []
    for channel in config.enabled_channels:
        try:
            group = resolve_group(channel.data_address, RTP_PORT)[0]
        except SocketError:  # among the faults
            continue
        places.append(Place(channel, group, heard.streams.get((group, channel.ssrc), Stream())))
    good = []
    if len(places) > 1 and not heard.streams:
        yield _all_silent(places, config, heard, running)
        return
    for place in places:
        findings = list(_channel(place, config, heard, running))
        yield from findings
        good += [] if findings else [place]
    if good:
        packets = sum(place.stream.packets for place in good) / heard.seconds
        yield ok("radiod", f"{len(good)} of {len(places)} channels as configured, {packets:.0f} packets/s")
    yield from _clock(places)
    yield from _front_end(places)
    yield from _others(places, heard)


def _channel(place: Place, config: Config, heard: Heard, running: bool) -> Iterator[Finding]:
    name, stream = place.channel.name, place.stream
    if not stream.packets:
        yield _silent(place, config, heard, running)
        return
    if len(stream.senders) > 1:
        who = " and ".join(f"{host}:{port}" for host, port in sorted(stream.senders))
        mend = "stop one of them, or set radiod.source_address"
        yield fail("radiod", f"{name}: SSRC {place.channel.ssrc} is sent by {who} at once", mend)
    if stream.status is None:
        mend = "see that port 5006 of the group is not filtered; labels rest on arrival times"
        yield warn("radiod", f"{name}: packets, but no status for {heard.seconds:.1f} s", mend)
        return
    yield from _status(place.channel, stream.status)


def _silent(place: Place, config: Config, heard: Heard, running: bool) -> Finding:
    channel = place.channel
    where = f"{channel.name}: nothing from {place.group} ssrc {channel.ssrc} for {heard.seconds:.1f} s"
    twin = next(
        ((g, ssrc) for (g, ssrc), s in heard.streams.items() if s.status and _same_frequency(channel, s.status)), None
    )
    if twin is not None and twin != (place.group, channel.ssrc):
        mend = f'in [[channels]] of {channel.name}: ssrc = {twin[1]}, data_address = "{twin[0]}:{RTP_PORT}"'
        return fail("radiod", f"{where}; radiod has its frequency as ssrc {twin[1]} on {twin[0]}", mend)
    if place.stream.status is not None:
        mend = "see radiod's log: its front end may have stopped"
        return fail("radiod", f"{where}, though radiod reports the channel", mend)
    return _unheard(where, config, running)


def _all_silent(places: list[Place], config: Config, heard: Heard, running: bool) -> Finding:
    """One line instead of one for each channel."""
    groups = ", ".join(dict.fromkeys(place.group for place in places))
    return _unheard(f"nothing of {len(places)} channels from {groups} for {heard.seconds:.1f} s", config, running)


def _unheard(told: str, config: Config, running: bool) -> Finding:
    if config.radiod.create_channels and config.radiod.status_address and not running:
        return warn("radiod", f"{told}; radiod is asked at the start", "grape-pipeline start")
    return fail("radiod", told, "systemctl status 'radiod@*', and compare its data= and iface= with [radiod]")


def _same_frequency(channel: Channel, status: ChannelStatus) -> bool:
    return status.frequency_hz is not None and abs(status.frequency_hz - channel.frequency_hz) < FREQUENCY_HZ


def _status(channel: Channel, status: ChannelStatus) -> Iterator[Finding]:
    """Where radiod's word on a channel differs from the configuration's."""
    key = f"in [[channels]] of {channel.name}"
    if status.frequency_hz is not None and not _same_frequency(channel, status):
        told = f"{channel.name}: ssrc {channel.ssrc} is tuned to {status.frequency_hz / 1e6:.6g} MHz"
        yield fail("radiod", f"{told}, not {channel.frequency_hz / 1e6:.6g}", f"{key}: ssrc or frequency_hz")
    if status.output_channels not in (None, 2):
        mend = 'preset = "iq" in radiod\'s configuration of the channel'
        yield fail("radiod", f"{channel.name}: {status.output_channels} channel a sample, not I and Q", mend)
    if status.encoding is not None and status.encoding not in ENCODINGS:
        told = f"{channel.name}: encoding {status.encoding} cannot be recorded"
        yield fail("radiod", told, "encoding = s16be in radiod's configuration of the channel")
    elif status.encoding not in (None, channel.encoding):
        told = f"{channel.name}: radiod sends {status.encoding}, not {channel.encoding}; it is recorded as sent"
        yield warn("radiod", told, f'{key}: encoding = "{status.encoding}"')
    if status.sample_rate_hz not in (None, channel.sample_rate_hz):
        told = f"{channel.name}: radiod sends {status.sample_rate_hz} Hz, not {channel.sample_rate_hz}"
        yield warn("radiod", f"{told}; it is recorded as sent", f"{key}: sample_rate_hz = {status.sample_rate_hz}")
    if status.detail.get("agc_enable"):
        told = f"{channel.name}: radiod's AGC is on and takes the fading out of the record"
        yield warn("radiod", told, "agc = no in radiod's configuration of the channel")


def _clock(places: list[Place]) -> Iterator[Finding]:
    """radiod's clock by its newest status, which was on its way for at most some ms."""
    offsets = [
        (place.stream.status.gps_time_utc_ns - place.stream.status_utc_ns) / 1e9
        for place in places
        if place.stream.status is not None and place.stream.status.gps_time_utc_ns is not None
    ]
    if not offsets:
        return
    offset = max(offsets)
    told = f"radiod's clock is {abs(offset):.3f} s {'ahead of' if offset > 0 else 'behind'} this host's"
    if abs(offset) > CLOCK_WARN_S:
        yield warn("status", told, "run chronyd on radiod's host: sudo apt install chrony")
    else:
        yield ok("status", told)


def _front_end(places: list[Place]) -> Iterator[Finding]:
    """Whether the receiver was overloaded within the last minute (ka9q-radio status.h, AD_OVER, SAMPLES_SINCE_OVER)."""
    for place in places:
        detail = place.stream.status.detail if place.stream.status is not None else {}
        count, since, rate = (detail.get(key) for key in ("ad_over", "samples_since_over", "input_samprate"))
        if not (isinstance(count, int) and isinstance(since, int) and isinstance(rate, int) and rate > 0):
            continue
        age_s = since / rate
        if count > 0 and age_s < OVERLOAD_S:
            told = f"the receiver's A/D converter was overloaded {age_s:.0f} s ago ({count} samples so far)"
            yield warn(
                "radiod", told, "less gain in radiod's configuration, an attenuator, or a filter against broadcast"
            )
        return  # one front end for all


def _others(places: list[Place], heard: Heard) -> Iterator[Finding]:
    """Streams that nobody configured; harmless, but they share the network."""
    wanted = {(place.group, place.channel.ssrc) for place in places}
    others = sorted(ssrc for (group, ssrc), s in heard.streams.items() if (group, ssrc) not in wanted and s.packets)
    if others:
        listed = ", ".join(map(str, others[:5])) + (" ..." if others[5:] else "")
        yield ok("radiod", f"{len(others)} further streams on these groups: ssrc {listed}")
    if heard.foreign:
        told = f"{heard.foreign} datagrams on the data groups are not RTP"
        yield warn("radiod", told, "find who sends them: sudo tcpdump -ni any multicast")
