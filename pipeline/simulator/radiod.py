"""The simulated radiod: pacing, sockets, status and commands. Owns time; samples and faults are elsewhere.

The schedule is absolute on CLOCK_MONOTONIC, with UTC tied to it once at the start of the run: it cannot
drift, a step of the host's clock does not touch it, and after a stall everything overdue leaves in a burst,
as from the real one. A block's packets leave when its last sample exists, plus latency and jitter; its
status is built then, against the timestamp of the next packet, so a pair can be late but never early.

radiod has a thread for each channel; here one process serves them in turn, and each block begins with another
one. In a fixed order the last of a hundred would have all its packets and pairs late by the time that the others
take, which nobody who receives it could tell from the time itself. How late it really was goes to the truth file.
"""

from __future__ import annotations

import heapq
import random
from itertools import count

from pipeline.simulator.channel import Channel
from pipeline.simulator.commands import Command, read_command
from pipeline.simulator.faults import Delivery, Fate, Packet
from pipeline.simulator.roster import Roster, Run
from pipeline.simulator.spec import BLOCKS_PER_SECOND, SimulatorError
from pipeline.simulator.status import COMMAND, INPUT_RATE_HZ, Counters, encode_status, gps_time_ns, parse_tlvs
from pipeline.simulator.truth import frames_ns
from pipeline.simulator.wire import receiver, sender

FRONTEND_TOP_HZ = float(INPUT_RATE_HZ)
_COMMANDS_PER_PASS = 100
_LONGEST_PASS_NS = 50_000_000
_NOISE_BANDWIDTH_DB = 42.0  # 10 log10 of 16 kHz

Spans = tuple[tuple[float, float], ...]


def inside(spans: Spans, at_ns: int) -> bool:
    """Whether `at_ns` lies in one of the (begin, length) spans of seconds."""
    return any(round(begin * 1e9) <= at_ns < round((begin + length) * 1e9) for begin, length in spans)


class Radiod:
    """One life of radiod, from its first sample at `begin_ns` (CLOCK_MONOTONIC) to its end.

    Drive it with `due_ns`, `run_due`, `handle_commands`; end it with `halt`, and `close` once `idle`.
    """

    def __init__(self, run: Run, generation: int, begin_ns: int) -> None:
        self._run, self._spec = run, run.spec
        self._socket = sender(run.interface, run.spec.ttl)
        try:
            self.control = receiver(run.interface, *run.spec.status_address)
        except SimulatorError:
            self._socket.close()
            raise
        self.source_port: int = self._socket.getsockname()[1]
        self._random = random.Random(f"{run.spec.seed} {generation} radiod")
        self._turns = random.Random(f"{run.spec.seed} {generation} turns")
        self._in_flight: list[tuple[int, int, bytes, tuple[str, int]]] = []
        self._order = count()
        self._base_ns, self._block = begin_ns, 0
        self._halted = False
        if run.origin_ns is None:
            run.origin_ns = begin_ns
        self._roster = Roster(run, generation, self.source_port, self._send_last)
        self._roster.add_static(run.clock.utc(begin_ns))
        self._block_due_ns = self._send_time()

    @property
    def due_ns(self) -> int | None:
        """When `run_due` has something to do next (CLOCK_MONOTONIC); None once idle."""
        delayed = self._in_flight[0][0] if self._in_flight else None
        if self._halted:
            return delayed
        return self._block_due_ns if delayed is None else min(delayed, self._block_due_ns)

    def run_due(self, now_ns: int) -> None:
        """Send everything that is due by `now_ns`, overdue blocks in a burst.

        Returns with the rest still due if that takes too long: who cannot keep up must still be able to stop.
        """
        enough_ns = self._run.clock.now_ns() + _LONGEST_PASS_NS
        while not self._halted and self._block_due_ns <= now_ns and self._run.clock.now_ns() < enough_ns:
            self._send_delayed(self._block_due_ns)
            self._run_block()
            self._block += 1
            self._wait_for_frontend()
            self._block_due_ns = self._send_time()
        self._send_delayed(now_ns if self._halted else min(now_ns, self._block_due_ns))

    def halt(self, reason: str) -> None:
        """Make no more blocks and hear no more commands; what is in flight still arrives."""
        self._roster.remove_all(reason)
        self._halted = True
        self.control.close()

    def close(self) -> None:
        """Release the sockets."""
        self.control.close()
        self._socket.close()

    def handle_commands(self) -> None:
        """Carry out the commands that have come; what is no command is ignored."""
        for _ in range(_COMMANDS_PER_PASS):
            try:
                data = self.control.recv(65536)
            except (BlockingIOError, InterruptedError):
                return
            if not data or data[0] != COMMAND:
                continue
            try:
                command = read_command(parse_tlvs(data))
            except SimulatorError:
                continue
            self._obey(command)

    def _obey(self, command: Command) -> None:
        if command.is_for_all:
            for channel in self._roster.channels.values():
                self._send_status(channel, self._spec.status_address)
            return
        channel = self._roster.obey(command, self._next_block_utc())
        self._send_status(channel, self._spec.status_address)
        self._send_status(channel, self._status_group(channel))

    def _status_group(self, channel: Channel) -> tuple[str, int]:
        return channel.state.data_address[0], self._spec.status_port

    def _next_block_utc(self) -> int:
        return self._run.clock.utc(self._block_start(self._block))

    def _send_last(self, channel: Channel, packets: list[Packet]) -> None:
        """What a channel still holds when its timeline ends."""
        due_ns = self._run.clock.now_ns()
        for packet in packets:
            for delivery in channel.line.feed(packet, due_ns, self._at_ns(due_ns) / 1e9):
                self._deliver(delivery, due_ns)
        for delivery in channel.line.flush(due_ns):
            self._deliver(delivery, due_ns)

    def _at_ns(self, monotonic_ns: int) -> int:
        """Nanoseconds since the first sample of the run."""
        assert self._run.origin_ns is not None
        return monotonic_ns - self._run.origin_ns

    def _block_start(self, block: int) -> int:
        return self._base_ns + frames_ns(block, BLOCKS_PER_SECOND, self._spec.ppm)

    def _send_time(self) -> int:
        end = self._block_start(self._block + 1)
        late_ms = self._spec.latency_ms + self._random.random() * self._spec.jitter_ms
        at_ns = self._at_ns(end)
        resumed = [
            round((begin + length) * 1e9) for begin, length in self._spec.stalls if inside(((begin, length),), at_ns)
        ]
        return end + round(late_ms * 1e6) + (max(resumed) - at_ns if resumed else 0)

    def _wait_for_frontend(self) -> None:
        """Where the A/D stands still no blocks are made: timestamps stop and are tied to UTC anew after it."""
        stalls = self._run.frontend_stalls
        if stalls and self._at_ns(self._block_start(self._block)) >= stalls[0][0] * 1e9:
            self._base_ns += round(stalls.pop(0)[1] * 1e9)
            self._roster.rebase(self._next_block_utc(), "frontend_stall")

    def _run_block(self) -> None:
        start_ns = self._block_start(self._block)
        at_ns, due_ns = self._at_ns(start_ns), self._block_due_ns
        to_prepare: list[tuple[Channel, int]] = []
        for place, channel in self._in_turn():
            packets = channel.block(self._is_mute(channel, at_ns), self._is_zero(channel, at_ns))
            for packet in packets:
                for delivery in channel.line.feed(packet, due_ns, at_ns / 1e9):
                    self._deliver(delivery, due_ns)
            if packets:
                channel.overdue_ns = max(channel.overdue_ns, self._run.clock.now_ns() - due_ns)
            channel.blocks_to_status -= 1
            if channel.blocks_to_status <= 0 and channel.state.status_interval:
                channel.blocks_to_status = channel.state.status_interval
                late_ns = self._send_status(channel, self._status_group(channel), channel.plan.late_status)
                self._roster.note_progress(channel, late_ns)
            if (self._block + place) % BLOCKS_PER_SECOND == 0:
                to_prepare.append((channel, channel.frame // channel.state.sample_rate_hz + 1))
            self._roster.age(channel)
        # After the sending, one channel at a time: synthesis must not hold up the block it follows.
        for channel, second in to_prepare:
            channel.prepare(second)

    def _in_turn(self) -> list[tuple[int, Channel]]:
        """(place, channel) of all channels, beginning anywhere."""
        channels = list(enumerate(self._roster.channels.values()))
        first = self._turns.randrange(len(channels)) if channels else 0
        return channels[first:] + channels[:first]

    def _is_mute(self, channel: Channel, at_ns: int) -> bool:
        # Untuned or outside the front end's coverage there is nothing to send (ka9q-radio linear.c).
        tuned = 0.0 < channel.state.frequency_hz < FRONTEND_TOP_HZ
        return not tuned or inside(channel.plan.mutes, at_ns)

    def _is_zero(self, channel: Channel, at_ns: int) -> bool:
        chance = channel.plan.zero_block
        return inside(channel.plan.zeros, at_ns) or (chance > 0 and self._random.random() < chance)

    def _deliver(self, delivery: Delivery, due_ns: int) -> None:
        at_ns, packet, fate = delivery
        if fate is not Fate.SENT:
            self._note_packet(packet, fate, at_ns)
        if fate is Fate.DROPPED:
            return
        if at_ns > due_ns:
            self._delay(at_ns, packet.header + packet.payload, packet.destination)
        else:
            self._socket.sendmsg((packet.header, packet.payload), (), 0, packet.destination)

    def _note_packet(self, packet: Packet, fate: Fate, at_ns: int) -> None:
        self._run.truth.note(
            "packet",
            fate=fate.value,
            ssrc=packet.ssrc,
            timeline=packet.timeline,
            seq=packet.sequence_number,
            rtp=packet.timestamp,
            frames=packet.frames,
            utc_ns=self._run.clock.utc(at_ns),
        )

    def _delay(self, at_ns: int, data: bytes, destination: tuple[str, int]) -> None:
        heapq.heappush(self._in_flight, (at_ns, next(self._order), data, destination))

    def _send_delayed(self, now_ns: int) -> None:
        while self._in_flight and self._in_flight[0][0] <= now_ns:
            _, _, data, destination = heapq.heappop(self._in_flight)
            self._socket.sendto(data, destination)

    def _send_status(self, channel: Channel, destination: tuple[str, int], late_chance: float = 0.0) -> int:
        """Send the channel's status; how much later its GPS_TIME is than its RTP_TIMESNAP was sampled, ns."""
        delay_ns = 0
        if late_chance and self._random.random() < late_chance:
            delay_ns = round(self._random.uniform(*channel.plan.late_status_s) * 1e9)
            late_ms = delay_ns / 1e6
            self._run.truth.note("late_status", ssrc=channel.state.ssrc, rtp=channel.timesnap, late_ms=late_ms)
        channel.status_packets += 1
        utc_ns = self._run.clock.utc(self._run.clock.now_ns()) + delay_ns
        data = encode_status(channel.state, self._counters(channel, utc_ns))
        if delay_ns:
            self._delay(self._run.clock.now_ns() + delay_ns, data, destination)
        else:
            self._socket.sendto(data, destination)
        return utc_ns - channel.sent_until_utc_ns

    def _counters(self, channel: Channel, utc_ns: int) -> Counters:
        return Counters(
            gps_time_ns=gps_time_ns(utc_ns + round(self._spec.clock_offset_s * 1e9)),
            rtp_timesnap=channel.timesnap,
            input_samples=self._block * (INPUT_RATE_HZ // BLOCKS_PER_SECOND),
            data_packets=channel.data_packets,
            output_samples=channel.output_samples,
            status_packets=channel.status_packets,
            filter_drops=channel.filter_drops,
            lifetime=channel.lifetime_left,
            command_tag=channel.command_tag,
            command_count=channel.command_count,
            output_level_db=channel.level_db,
            noise_density_db=channel.level_db - channel.state.gain_db - _NOISE_BANDWIDTH_DB,
        )
