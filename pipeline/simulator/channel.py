"""One channel of the simulated radiod: blocks of samples become RTP packets. No clock, no socket.

Follows ka9q-radio audio.c: sequence numbers count packets sent, timestamps count frames made; a block
that is not sent moves the timestamp alone and marks the next packet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle

import numpy as np

from pipeline.simulator.faults import FaultLine, Packet
from pipeline.simulator.spec import BLOCKS_PER_SECOND, TIMESTAMPS, FaultPlan
from pipeline.simulator.status import ChannelState
from pipeline.simulator.truth import Timeline
from pipeline.simulator.wire import (
    RTP_HEADER,
    RTP_MARKER,
    RTP_VERSION_2,
    block_packets,
    encode_samples,
    frame_bytes,
)

Note = Callable[..., None]
_TEMPLATE_BLOCK = 240  # of the [global] template, 12 kHz mono, which a command's new channel starts from


class Channel:
    """A channel's settings, counters and place on its timeline.

    `begin` ties the next frame to UTC and must come first; then `block` once for each 20 ms.
    """

    def __init__(self, state: ChannelState, name: str, programme: str, plan: FaultPlan, seed: int, note: Note) -> None:
        self.state = state
        self.name, self.programme = name, programme
        self.plan = plan
        self.line = FaultLine(plan, seed, state.ssrc)
        self.timeline: Timeline | None = None
        self.sequence_number = 0
        self.timestamp = 0
        self.frame = 0  # of the timeline, next to be made
        self.silent = True
        self.data_packets = self.status_packets = self.output_samples = 0
        self.filter_drops = self.command_tag = self.command_count = 0
        self.lifetime = self.lifetime_left = 0
        self.blocks_to_status = 1
        self.level_db = -math.inf
        self.overdue_ns = 0  # how long after their plan packets left, at most, since the truth file was told
        self._fresh = False
        self._note = note
        self._pending = 0  # frames made but not yet in a packet
        self._sizes = cycle(plan.packet_frames) if plan.packet_frames else None
        self._next_size = next(self._sizes) if self._sizes else 0
        self._chunks: dict[int, bytes] = {}

    @property
    def timesnap(self) -> int:
        """RTP_TIMESNAP: the next packet's timestamp, in a just created channel still the template's."""
        return TIMESTAMPS - _TEMPLATE_BLOCK if self._fresh else self.sent_until

    def answer_as_created(self) -> None:
        """Until its first block a channel made by command announces the template's timestamp, as radiod's do."""
        self._fresh = True

    @property
    def block_frames(self) -> int:
        """Frames in 20 ms."""
        return self.state.sample_rate_hz // BLOCKS_PER_SECOND

    @property
    def sent_until(self) -> int:
        """Timestamp of the first frame not yet in a packet."""
        return (self.timestamp - self._pending) % TIMESTAMPS

    @property
    def sent_until_utc_ns(self) -> int:
        """When the first frame not yet in a packet was sampled, true UTC."""
        assert self.timeline is not None
        return self.timeline.utc_ns(self.frame - self._pending)

    def begin(self, timeline: Timeline) -> None:
        """Put the next frame on `timeline` as its frame 0."""
        self.timeline, self.frame, self.timestamp = timeline, 0, timeline.start_rtp
        self._pending = 0
        self._chunks.clear()
        self.prepare(0)

    def reencode(self, encoding: str) -> None:
        """Change the encoding; sequence numbers and timestamps run on."""
        self.state = replace(self.state, encoding=encoding)
        self._chunks.clear()

    def prepare(self, chunk: int) -> None:
        """Synthesise second number `chunk` of the timeline ahead of its need."""
        if self.timeline is None or chunk in self._chunks:
            return
        rate = self.timeline.rate_hz
        iq = self.timeline.source().samples(chunk * rate, rate)
        if chunk == 0 or self.level_db == -math.inf:
            mean = float(np.mean(np.square(iq.astype(np.float32)))) * 2 / 32768**2
            self.level_db = 10 * math.log10(mean) if mean else -math.inf
        self._chunks[chunk] = encode_samples(iq[:, : self.state.channels], self.state.encoding)
        self._chunks.pop(chunk - 3, None)

    def block(self, muted: bool, zero: bool) -> list[Packet]:
        """Make the next 20 ms; the packets that leave because of it, none if muted."""
        frames = self.block_frames
        if muted:
            packets = self._flush()
            self._note("mute", **self._where(), frames=frames)
            self._advance(frames)
            self.silent = True
            return packets
        self._pending += frames
        if zero:
            self._note("zero", **self._where(), frames=frames)
            self._blank(frames)
            self.filter_drops += 1
        self._advance(frames)
        return [self._packet(size) for size in self._cut(frames)]

    def end(self) -> list[Packet]:
        """What was made and is still waiting for a full packet."""
        return self._flush()

    def _where(self) -> dict[str, int]:
        assert self.timeline is not None
        return {"ssrc": self.state.ssrc, "timeline": self.timeline.number, "rtp": self.timestamp}

    def _advance(self, frames: int) -> None:
        self._fresh = False
        self.frame += frames
        self.timestamp = (self.timestamp + frames) % TIMESTAMPS

    def _cut(self, frames: int) -> list[int]:
        """Sizes of the packets that are full now."""
        if self._sizes is None:
            return list(block_packets(frames, frame_bytes(self.state.encoding, self.state.channels)))
        sizes, left = [], self._pending
        while left >= self._next_size:
            sizes.append(self._next_size)
            left -= self._next_size
            self._next_size = next(self._sizes)
        return sizes

    def _flush(self) -> list[Packet]:
        return [self._packet(self._pending)] if self._pending else []

    def _packet(self, frames: int) -> Packet:
        assert self.timeline is not None
        first = self.frame - self._pending
        timestamp = self.sent_until
        kind = self.state.payload_type | (RTP_MARKER if self.silent else 0)
        header = RTP_HEADER.pack(RTP_VERSION_2, kind, self.sequence_number, timestamp, self.state.ssrc)
        packet = Packet(
            self.state.ssrc,
            self.sequence_number,
            timestamp,
            frames,
            header,
            self._payload(first, frames),
            self.timeline.number,
            self.state.data_address,
        )
        self.silent = False
        self._pending -= frames
        self.sequence_number = (self.sequence_number + 1) & 0xFFFF
        self.data_packets += 1
        self.output_samples += frames
        return packet

    def _payload(self, first: int, frames: int) -> memoryview | bytes:
        rate, size = self.state.sample_rate_hz, frame_bytes(self.state.encoding, self.state.channels)
        chunk, at = divmod(first, rate)
        self.prepare(chunk)
        part = memoryview(self._chunks[chunk])[at * size : (at + frames) * size]
        if at + frames <= rate:
            return part
        return bytes(part) + bytes(self._payload(first + rate - at, frames - (rate - at)))

    def _blank(self, frames: int) -> None:
        """Zero the next block in the synthesised seconds; blocks do not straddle seconds."""
        rate, size = self.state.sample_rate_hz, frame_bytes(self.state.encoding, self.state.channels)
        chunk, at = divmod(self.frame, rate)
        self.prepare(chunk)
        data = self._chunks[chunk]
        end = (at + frames) * size
        self._chunks[chunk] = data[: at * size] + bytes(frames * size) + data[end:]
