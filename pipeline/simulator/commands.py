"""Commands to the simulated radiod, as functions of a channel's state; pure.

A command names a channel by OUTPUT_SSRC; its other fields change that channel (ka9q-radio radio_status.c).
What cannot be understood is left out, field by field: a command never fails as a whole.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace

from ka9q.types import StatusType

from pipeline.simulator.spec import ENCODINGS, GLOBAL_SSRC, SimulatorError, check_rate
from pipeline.simulator.status import ChannelState, integer, real
from pipeline.simulator.wire import is_multicast

CREATED_PAYLOAD_TYPE = 123
"""Says 12 kHz S16BE in radiod's table and stays so whatever the command asks for: payload types lie."""

_IQ_EDGE_HZ = 7500.0
_NAMES = {number: name for name, number in ENCODINGS.items()}
_PRESET_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Command:
    """A command's address and the fields for that channel, in order."""

    ssrc: int
    tag: int
    fields: tuple[tuple[int, bytes], ...]

    @property
    def lifetime(self) -> int | None:
        """New LIFETIME in 20 ms blocks, 0 = for ever; None if the command has none."""
        for number, value in self.fields:
            if number == StatusType.LIFETIME:
                return integer(value) & 0x7FFFFFFF
        return None

    @property
    def is_for_all(self) -> bool:
        """Whether this polls every channel."""
        return self.ssrc == GLOBAL_SSRC


def read_command(fields: list[tuple[int, bytes]]) -> Command:
    """The command in parsed TLVs. Raises SimulatorError if it names no channel."""
    numbers = dict(fields)
    ssrc = integer(numbers.get(StatusType.OUTPUT_SSRC, b""))
    if not 0 < ssrc <= GLOBAL_SSRC:
        raise SimulatorError("command without a usable OUTPUT_SSRC")
    return Command(ssrc, integer(numbers.get(StatusType.COMMAND_TAG, b"")) & 0xFFFFFFFF, tuple(fields))


def apply(state: ChannelState, command: Command) -> ChannelState:
    """The channel's state after the command; PRESET acts first whatever its place."""
    ordered = sorted(command.fields, key=lambda field: field[0] != StatusType.PRESET)
    for number, value in ordered:
        try:
            state = _apply_field(state, number, value)
        except SimulatorError:
            continue
    return state


def _apply_field(state: ChannelState, number: int, value: bytes) -> ChannelState:
    change = _CHANGES.get(number)
    return state if change is None else change(state, value)


def _with_preset(state: ChannelState, preset: str) -> ChannelState:
    if preset == "iq":
        return replace(state, preset=preset, channels=2, low_edge_hz=-_IQ_EDGE_HZ, high_edge_hz=_IQ_EDGE_HZ)
    return replace(state, preset=preset, channels=1)


def _with_destination(state: ChannelState, value: bytes) -> ChannelState:
    """Only multicast groups: the TTL keeps those on this machine, a unicast address might not stay."""
    if len(value) != 6 or not is_multicast(socket.inet_ntoa(value[:4])):
        raise SimulatorError("destination is no IPv4 multicast group")
    return replace(state, data_address=(socket.inet_ntoa(value[:4]), integer(value[4:]) or state.data_address[1]))


def _finite(value: bytes) -> float:
    number = real(value)
    if not math.isfinite(number) or abs(number) > 1e12:
        raise SimulatorError(f"not a usable number: {number}")
    return number


def _with_rate(state: ChannelState, value: bytes) -> ChannelState:
    check_rate(integer(value))
    return replace(state, sample_rate_hz=integer(value))


def _with_encoding(state: ChannelState, value: bytes) -> ChannelState:
    return replace(state, encoding=_NAMES.get(integer(value), state.encoding))


def _with_channels(state: ChannelState, value: bytes) -> ChannelState:
    return replace(state, channels=integer(value)) if integer(value) in (1, 2) else state


_CHANGES: dict[int, Callable[[ChannelState, bytes], ChannelState]] = {
    StatusType.PRESET: lambda state, value: _with_preset(state, value.decode("utf-8", "replace")[:_PRESET_LENGTH]),
    StatusType.OUTPUT_SAMPRATE: _with_rate,
    StatusType.RADIO_FREQUENCY: lambda state, value: replace(state, frequency_hz=abs(_finite(value))),
    StatusType.OUTPUT_ENCODING: _with_encoding,
    StatusType.OUTPUT_CHANNELS: _with_channels,
    StatusType.GAIN: lambda state, value: replace(state, gain_db=_finite(value), agc=False),
    StatusType.AGC_ENABLE: lambda state, value: replace(state, agc=integer(value) != 0),
    StatusType.LOW_EDGE: lambda state, value: replace(state, low_edge_hz=_finite(value)),
    StatusType.HIGH_EDGE: lambda state, value: replace(state, high_edge_hz=_finite(value)),
    StatusType.STATUS_INTERVAL: lambda state, value: replace(state, status_interval=min(integer(value), 1_000_000)),
    StatusType.OUTPUT_DATA_DEST_SOCKET: _with_destination,
}
