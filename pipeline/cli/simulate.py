"""`simulate` and `replay`: radiod's traffic without a radio, on this machine unless told otherwise."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.replay import Summary
    from pipeline.simulator.spec import FaultPlan, SimulatorSpec
    from pipeline.simulator.station import Ready


def _spans(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[float, float], ...]:
    """`T:D`, two numbers of seconds, each."""
    return tuple(_span(value) for value in values)


def _span(value: str) -> tuple[float, float]:
    begin, _, length = value.partition(":")
    try:
        span = float(begin), float(length)
    except ValueError:
        span = -1.0, -1.0
    if not min(span) >= 0:
        raise click.BadParameter(f"{value!r}: expected T:D, two numbers of seconds, for example 30:5")
    return span


def _frames(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Frame counts separated by commas."""
    try:
        return tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected frame counts and commas, for example 180,140") from None


def _stop_on_signals() -> Callable[[], bool]:
    """A function that is true once SIGINT or SIGTERM has come."""
    came: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, _: came.append(signum))
    return lambda: bool(came)


def _say(text: str) -> None:
    click.echo(text, err=True)


_PROBABILITY = click.FloatRange(0.0, 1.0)


@click.command(
    epilog="Example: grape-pipeline simulate --channel 'WWV 10 MHz:10000000' --loss 0.001 --restart-at 90:5 "
    "--seconds 180 --truth truth.jsonl"
)
@click.option(
    "--channel",
    "channels",
    multiple=True,
    metavar="NAME:HZ[:SSRC]",
    help="A channel; repeatable. Default: the nine of WWV and CHU. The SSRC is the frequency unless given.",
)
@click.option("--no-channels", is_flag=True, help="Begin with none; clients create them by command.")
@click.option("--data-address", default="239.1.2.55:5004", show_default=True, help="Group and port of the samples.")
@click.option("--status-address", default="239.1.2.54:5006", show_default=True, help="Group and port of commands.")
@click.option("--status-port", default=5006, show_default=True, help="Port of status packets on the data group.")
@click.option("--interface", default="lo", show_default=True, help="Name or IPv4 address.")
@click.option("--ttl", default=0, show_default=True, type=click.IntRange(0, 255), help="0 = never leaves this machine.")
@click.option("--sample-rate", default=16_000, show_default=True, help="Hz, a multiple of 50.")
@click.option("--encoding", default="S16BE", show_default=True, help="S16BE S16LE F32LE F32BE F16LE F16BE.")
@click.option(
    "--programme",
    default="wwv",
    show_default=True,
    type=click.Choice(["wwv", "counter"]),
    help="wwv: time signals on two paths in noise. counter: every sample holds its own RTP timestamp.",
)
@click.option("--seconds", type=click.FloatRange(min=0.0), help="Stop after so many. Default: until Ctrl-C.")
@click.option("--seed", default=1, show_default=True, help="Of noise and faults.")
@click.option("--truth", type=click.Path(path_type=Path), help="Write what was really sent, one JSON object a line.")
@click.option("--ntp-servers", default=0, show_default=True, help="So many good NTP servers on 127.0.0.1.")
@click.option("--ntp-base-port", default=0, show_default=True, help="Their first port; 0 = any free ones.")
@click.option("--loss", default=0.0, type=_PROBABILITY, help="Packets lost, 0..1.")
@click.option("--burst", default=0.0, type=_PROBABILITY, help="Packets that begin a burst of losses, 0..1.")
@click.option("--burst-packets", default=25, show_default=True, help="Packets in such a burst.")
@click.option("--reorder", default=0.0, type=_PROBABILITY, help="Packets overtaken by later ones, 0..1.")
@click.option("--reorder-depth", default=4, show_default=True, help="By at most so many.")
@click.option("--duplicate", default=0.0, type=_PROBABILITY, help="Packets sent twice, 0..1.")
@click.option("--duplicate-seconds", default=0.0, show_default=True, help="The second time so much later, s.")
@click.option("--late", default=0.0, type=_PROBABILITY, help="Packets delayed, 0..1.")
@click.option("--late-seconds", default=0.5, show_default=True, help="By so much, s.")
@click.option("--late-status", default=0.0, type=_PROBABILITY, help="Status pairs 0.1..0.8 s late, 0..1.")
@click.option("--zero-blocks", default=0.0, type=_PROBABILITY, help="20 ms blocks of zeros, 0..1.")
@click.option(
    "--mute",
    "mutes",
    multiple=True,
    metavar="T:D",
    callback=_spans,
    help="At T s send nothing for D s, timestamps run on.",
)
@click.option(
    "--restart-at",
    "restarts",
    multiple=True,
    metavar="T:D",
    callback=_spans,
    help="At T s radiod dies, back after D s.",
)
@click.option(
    "--stall",
    "stalls",
    multiple=True,
    metavar="T:D",
    callback=_spans,
    help="At T s nothing leaves for D s, then a burst.",
)
@click.option(
    "--frontend-stall",
    "frontend_stalls",
    multiple=True,
    metavar="T:D",
    callback=_spans,
    help="At T s no samples are made for D s, timestamps stand.",
)
@click.option(
    "--packet-frames",
    metavar="N,N...",
    callback=_frames,
    help="Frames per packet, cycled. Default: as radiod cuts them.",
)
@click.option("--ppm", default=0.0, show_default=True, help="Error of the sample clock, parts per million.")
@click.option("--start-rtp", type=click.IntRange(0, 2**32 - 1), help="First timestamp. Default: 2^32 less a block.")
@click.option("--jitter-ms", default=3.0, show_default=True, help="Packets leave up to so much late, one-sided, ms.")
@click.option("--clock-offset", default=0.0, show_default=True, help="Of radiod's host clock, s, seen in GPS_TIME.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on stdout when it begins to send.")
def simulate(as_json: bool, **options: Any) -> None:
    """Send what a ka9q-radio radiod sends: RTP and status of simulated time signal channels.

    It takes radiod's commands too. Nothing leaves this machine unless --interface and --ttl say so.
    """
    from pipeline.simulator.station import run_simulator

    stop = _stop_on_signals()
    spec = _spec(options)
    overdue_ns = run_simulator(spec, stop, lambda ready: _announce(spec, ready, as_json))
    _say(f"simulate: packets left at most {overdue_ns / 1e6:.3f} ms after they were to")


def _spec(o: dict[str, Any]) -> SimulatorSpec:
    from pipeline.simulator.spec import WWV_CHU, ChannelSpec, SimulatorSpec, ntp_farm
    from pipeline.simulator.wire import parse_address

    named = [_channel(text) for text in o["channels"]] or [(c.name, c.frequency_hz, c.ssrc) for c in WWV_CHU]
    channels = tuple(
        ChannelSpec(name, hz, ssrc, sample_rate_hz=o["sample_rate"], encoding=o["encoding"].upper())
        for name, hz, ssrc in named
    )
    return SimulatorSpec(
        channels=() if o["no_channels"] else channels,
        data_address=parse_address(o["data_address"], 5004),
        status_address=parse_address(o["status_address"], 5006),
        status_port=o["status_port"],
        interface=o["interface"],
        ttl=o["ttl"],
        programme=o["programme"],
        faults=_faults(o),
        restarts=o["restarts"],
        stalls=o["stalls"],
        frontend_stalls=o["frontend_stalls"],
        jitter_ms=o["jitter_ms"],
        ppm=o["ppm"],
        clock_offset_s=o["clock_offset"],
        seed=o["seed"],
        duration_s=o["seconds"],
        truth=o["truth"],
        ntp_servers=ntp_farm(o["ntp_servers"], o["ntp_base_port"]),
    )


def _faults(o: dict[str, Any]) -> FaultPlan:
    from pipeline.simulator.spec import FaultPlan

    return FaultPlan(
        loss=o["loss"],
        burst=o["burst"],
        burst_packets=o["burst_packets"],
        reorder=o["reorder"],
        reorder_depth=o["reorder_depth"],
        duplicate=o["duplicate"],
        duplicate_delay_s=o["duplicate_seconds"],
        late=o["late"],
        late_s=o["late_seconds"],
        late_status=o["late_status"],
        zero_block=o["zero_blocks"],
        mutes=o["mutes"],
        packet_frames=o["packet_frames"],
        start_rtp=o["start_rtp"],
    )


def _channel(text: str) -> tuple[str, float, int]:
    parts = text.split(":")
    try:
        name, hz, ssrc = parts[0], float(parts[1]), int(parts[2]) if len(parts) > 2 else 0
    except (IndexError, ValueError):
        raise click.BadParameter(f"{text!r}: expected NAME:HZ or NAME:HZ:SSRC", param_hint="--channel") from None
    if not name or len(parts) > 3:
        raise click.BadParameter(f"{text!r}: expected NAME:HZ or NAME:HZ:SSRC", param_hint="--channel")
    return name, hz, ssrc


def _announce(spec: SimulatorSpec, ready: Ready, as_json: bool) -> None:
    def text(address: tuple[str, int]) -> str:
        return f"{address[0]}:{address[1]}"

    if as_json:
        facts = asdict(ready) | {"data_address": text(spec.data_address), "status_address": text(spec.status_address)}
        click.echo(json.dumps(facts))
        sys.stdout.flush()
    _say(f"simulate: {len(spec.channels)} channels to {text(spec.data_address)}, status to port {spec.status_port},")
    _say(f"  commands at {text(spec.status_address)}; interface {spec.interface}, TTL {spec.ttl}")
    for channel in spec.channels:
        _say(f"  {channel.name}: ssrc {channel.ssrc}, {channel.sample_rate_hz} Hz {channel.encoding}")
    for address in ready.ntp_addresses:
        _say(f"  NTP server {text(address)}")
    _say("Ctrl-C stops." if spec.duration_s is None else f"Stops after {spec.duration_s:g} s.")


@click.command(epilog="Example: grape-pipeline replay radiod.pcap --data-address 239.1.2.55:5004 --start-second 55")
@click.argument("capture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data-address", help="Send samples and status to this group[:port] instead of the captured one.")
@click.option("--status-address", help="Send what went to the control group to this group[:port] instead.")
@click.option("--interface", default="lo", show_default=True, help="Name or IPv4 address.")
@click.option("--ttl", default=0, show_default=True, type=click.IntRange(0, 255), help="0 = never leaves this machine.")
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(0.01, 1000.0), help="Times as fast.")
@click.option("--as-recorded", is_flag=True, help="Leave GPS_TIME in status packets as it was.")
@click.option("--with-commands", is_flag=True, help="Send the captured commands too.")
@click.option(
    "--start-second", type=click.FloatRange(0, 60, max_open=True), help="Wait for this second of a UTC minute."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
def replay(capture: Path, as_json: bool, **options: Any) -> None:
    """Send radiod's multicast packets out of a capture again, with their timing.

    GPS_TIME in status packets is shifted to now, so that the stream looks live. Each captured source gets
    a source port of its own. Nothing leaves this machine unless --interface and --ttl say so.
    """
    from pipeline import replay as player
    from pipeline.simulator.wire import parse_address

    stop = _stop_on_signals()
    data, status = options["data_address"], options["status_address"]
    plan = player.ReplayPlan(
        capture=capture,
        data_address=parse_address(data, 5004) if data else None,
        status_address=parse_address(status, 5006) if status else None,
        interface=options["interface"],
        ttl=options["ttl"],
        speed=options["speed"],
        as_recorded=options["as_recorded"],
        with_commands=options["with_commands"],
        start_second=options["start_second"],
    )
    _say(f"replay: {capture} through {plan.interface}, TTL {plan.ttl}, {plan.speed:g} times as fast")
    summary = _play(plan, stop)
    if as_json:
        click.echo(json.dumps(asdict(summary)))
    _report(summary)


def _play(plan: Any, stop: Callable[[], bool]) -> Summary:
    from pipeline import replay as player

    if not sys.stderr.isatty():
        return player.play(plan, stop)
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replay", total=1.0)
        shown_at = 0.0

        def show(done: float) -> None:
            nonlocal shown_at
            if time.monotonic() - shown_at > 0.2:
                shown_at = time.monotonic()
                progress.update(task, completed=done)

        return player.play(plan, stop, show)


def _report(summary: Summary) -> None:
    for ssrc, packets in summary.rtp_packets.items():
        _say(f"  ssrc {ssrc}: {packets} RTP packets")
    _say(f"  {summary.statuses} status packets, {summary.commands} commands, {summary.skipped} others left out")
    _say(f"  GPS_TIME shifted by {summary.shift_ns} ns; at most {summary.max_late_ms:.3f} ms late")
    for note in summary.notes:
        _say(f"  {note}")
