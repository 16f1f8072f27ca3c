"""Which channels the simulated radiod has, and on which timelines: creation, commands, expiry.

A channel's timestamps are tied to UTC by a `Timeline`; a new one begins at every start, restart, creation,
change of rate, tuning or layout, and where the front end stood still. Only the first four and a change of
rate restart the timestamps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

from pipeline.simulator.channel import Channel
from pipeline.simulator.commands import CREATED_PAYLOAD_TYPE, Command, apply
from pipeline.simulator.faults import Packet
from pipeline.simulator.signal import counter_key
from pipeline.simulator.spec import TIMESTAMPS, ChannelSpec, SimulatorSpec
from pipeline.simulator.status import ChannelState
from pipeline.simulator.truth import Timeline, TruthFile
from pipeline.simulator.wire import Interface

DESCRIPTION = "grape-pipeline simulator"
_STATUS_BLOCKS = 25
_TEMPLATE_RATE_HZ = 12_000
_FIRST_DYNAMIC_TYPE = 77
_EDGE_HZ = 7500.0


@dataclass(frozen=True, slots=True)
class Clock:
    """UTC tied to CLOCK_MONOTONIC at one instant and never again."""

    monotonic_ns: int
    utc_ns: int
    now_ns: Callable[[], int] = time.monotonic_ns

    @classmethod
    def start(cls) -> Clock:
        """Tie them now."""
        return cls(time.monotonic_ns(), time.time_ns())

    def utc(self, monotonic_ns: int) -> int:
        """Unix ns at an instant of CLOCK_MONOTONIC."""
        return self.utc_ns + monotonic_ns - self.monotonic_ns


class Run:
    """What outlives a restart of radiod: clock, truth file, numbering, the zero of `at_s`."""

    def __init__(self, spec: SimulatorSpec, interface: Interface, clock: Clock, truth: TruthFile) -> None:
        self.spec = spec
        self.interface = interface
        self.clock = clock
        self.truth = truth
        self.origin_ns: int | None = None  # CLOCK_MONOTONIC of the first sample
        self.overdue_ns = 0  # how long after its plan any packet left, at most
        self.numbers = count()
        self.frontend_stalls = sorted(spec.frontend_stalls)


class Roster:
    """The channels of one life of radiod, by SSRC. `send_last` takes the packets a timeline's end sets free."""

    def __init__(
        self, run: Run, generation: int, source_port: int, send_last: Callable[[Channel, list[Packet]], None]
    ) -> None:
        self.channels: dict[int, Channel] = {}
        self._run, self._generation, self._source_port = run, generation, source_port
        self._send_last = send_last
        self._payload_types = {("S16BE", 16_000, 2): 120}

    def add_static(self, utc_ns: int) -> None:
        """Add the channels of the specification, their first frame sampled at `utc_ns`."""
        for spec in self._run.spec.channels:
            state = self._state(spec.ssrc, spec)
            state = replace(state, payload_type=self._payload_type(state))
            channel = self._add(state, spec, utc_ns)
            start = channel.plan.start_rtp if self._generation == 0 else None
            self._begin(channel, "restart" if self._generation else "start", utc_ns, start)

    def obey(self, command: Command, utc_ns: int) -> Channel:
        """Carry out a command to one channel, which comes into being if need be; `utc_ns` = its next frame's."""
        known = command.ssrc in self.channels
        channel = self.channels[command.ssrc] if known else self._add(self._template(command.ssrc), None, utc_ns)
        old, new = channel.state, apply(channel.state, command)
        channel.command_tag, channel.command_count = command.tag, channel.command_count + 1
        if command.lifetime is not None:
            channel.lifetime = command.lifetime
        channel.lifetime_left = channel.lifetime
        if not known:
            channel.state = new
            self._begin(channel, "created", utc_ns, None)
            channel.answer_as_created()
            return channel
        layout_changed = (old.channels, old.frequency_hz) != (new.channels, new.frequency_hz)
        if new.encoding != old.encoding and new.sample_rate_hz == old.sample_rate_hz:
            new = replace(new, payload_type=self._payload_type(new))
        if new.sample_rate_hz != old.sample_rate_hz or layout_changed or new.encoding != old.encoding:
            self._send_last(channel, channel.end())
        channel.state = new
        if new.sample_rate_hz != old.sample_rate_hz:
            self._begin(channel, "rate_change", utc_ns, None)
        elif layout_changed:
            self._begin(channel, "retune", utc_ns, channel.timestamp)
        elif new.encoding != old.encoding:
            channel.reencode(new.encoding)
            self._note(channel, "encoding", rtp=channel.timestamp, encoding=new.encoding)
        return channel

    def rebase(self, utc_ns: int, reason: str) -> None:
        """Timestamps run on in every channel, but their next frame is sampled at `utc_ns`."""
        for channel in self.channels.values():
            self._send_last(channel, channel.end())
            self._begin(channel, reason, utc_ns, channel.timestamp)

    def age(self, channel: Channel) -> None:
        """One block of a channel's LIFETIME is over."""
        if channel.lifetime_left:
            channel.lifetime_left -= 1
            if not channel.lifetime_left:
                self.remove(channel.state.ssrc, "lifetime")

    def remove(self, ssrc: int, reason: str) -> None:
        """Drop a channel; there is no goodbye packet."""
        channel = self.channels.pop(ssrc)
        self._send_last(channel, channel.end())
        self._note_end(channel, "removed", reason=reason)

    def remove_all(self, reason: str) -> None:
        """Drop every channel."""
        for ssrc in list(self.channels):
            self.remove(ssrc, reason)

    def note_progress(self, channel: Channel, pair_late_ns: int) -> None:
        """Tell the truth file how far a channel has come, and how late the status is that says it to others."""
        self._note_end(channel, "progress", pair_late_ns=pair_late_ns)

    def _state(self, ssrc: int, spec: ChannelSpec) -> ChannelState:
        return ChannelState(
            ssrc=ssrc,
            description=DESCRIPTION,
            frequency_hz=float(spec.frequency_hz),
            sample_rate_hz=spec.sample_rate_hz,
            encoding=spec.encoding,
            preset=spec.preset,
            channels=2 if spec.preset == "iq" else 1,
            gain_db=spec.gain_db,
            agc=False,
            low_edge_hz=-_EDGE_HZ,
            high_edge_hz=_EDGE_HZ,
            payload_type=CREATED_PAYLOAD_TYPE,
            status_interval=_STATUS_BLOCKS,
            data_address=spec.data_address or self._run.spec.data_address,
            status_address=self._run.spec.status_address,
            source_port=self._source_port,
            ttl=self._run.spec.ttl,
        )

    def _template(self, ssrc: int) -> ChannelState:
        spec = ChannelSpec("template", 0.0, ssrc, _TEMPLATE_RATE_HZ, preset="am")
        return self._state(ssrc, spec)

    def _add(self, state: ChannelState, spec: ChannelSpec | None, utc_ns: int) -> Channel:
        run = self._run
        plan = run.spec.faults if spec is None or spec.faults is None else spec.faults
        # What was lost before this channel began must not be lost again in its second life.
        since_s = (utc_ns - run.clock.utc(run.origin_ns or 0)) / 1e9
        plan = replace(plan, drops=tuple(drop for drop in plan.drops if drop[0] >= since_s))
        name = f"{state.ssrc}" if spec is None else spec.name
        programme = (spec.programme if spec else "") or run.spec.programme
        channel = Channel(state, name, programme, plan, run.spec.seed + self._generation, run.truth.note)
        self.channels[state.ssrc] = channel
        return channel

    def _payload_type(self, state: ChannelState) -> int:
        key = (state.encoding, state.sample_rate_hz, state.channels)
        return self._payload_types.setdefault(key, _FIRST_DYNAMIC_TYPE + len(self._payload_types) - 1)

    def _begin(self, channel: Channel, reason: str, utc_ns: int, start_rtp: int | None) -> None:
        """Put a channel on a new timeline; without `start_rtp` it begins one block before the wrap."""
        number, state = next(self._run.numbers), channel.state
        continues = channel.timeline is not None and start_rtp is not None
        key = channel.timeline.counter_key if continues and channel.timeline else counter_key(state.ssrc, number)
        timeline = Timeline(
            number=number,
            ssrc=state.ssrc,
            name=channel.name,
            frequency_hz=state.frequency_hz,
            rate_hz=state.sample_rate_hz,
            ppm=self._run.spec.ppm,
            encoding=state.encoding,
            channels=state.channels,
            programme=channel.programme,
            seed=self._run.spec.seed,
            counter_key=key,
            start_rtp=TIMESTAMPS - channel.block_frames if start_rtp is None else start_rtp,
            start_utc_ns=utc_ns,
            first_seq=channel.sequence_number,
            source_port=self._source_port,
            generation=self._generation,
            reason=reason,
        )
        if channel.timeline is not None:
            self._note_end(channel, "removed", reason=reason)
        channel.begin(timeline)
        self._run.truth.timeline(timeline)

    def _note(self, channel: Channel, kind: str, **facts: object) -> None:
        assert channel.timeline is not None
        self._run.truth.note(kind, ssrc=channel.state.ssrc, timeline=channel.timeline.number, **facts)

    def _note_end(self, channel: Channel, kind: str, **facts: object) -> None:
        self._note(
            channel,
            kind,
            rtp_next=channel.sent_until,
            seq_next=channel.sequence_number,
            frames=channel.frame,
            utc_ns=self._run.clock.utc(self._run.clock.now_ns()),
            overdue_ns=channel.overdue_ns,
            **facts,
        )
        self._run.overdue_ns = max(self._run.overdue_ns, channel.overdue_ns)
        channel.overdue_ns = 0
