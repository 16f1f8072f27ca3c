"""What a new configuration asks of a running instance: the smallest change that gets there.

Pure. Channels are the same when their id is the same; a channel with another name is
another channel.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import Channel, Config


@dataclass(frozen=True, slots=True)
class Change:
    """A channel that goes on with new settings; what cannot be kept is made anew."""

    channel: Channel
    new_sockets: bool
    new_journal: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """Ids to drop, channels to add, channels to restart one by one, and whether the monitor restarts."""

    drop: tuple[str, ...] = ()
    add: tuple[Channel, ...] = ()
    change: tuple[Change, ...] = ()
    monitor: bool = False

    def __str__(self) -> str:
        parts = [
            *(f"drop {id}" for id in self.drop),
            *(f"add {c.id}" for c in self.add),
            *(f"restart {c.channel.id}" for c in self.change),
            *(["restart ntp"] if self.monitor else []),
        ]
        return ", ".join(parts) or "no process is touched"


def plan(old: Config, new: Config) -> Plan:
    """The steps from `old` to `new`; logging and supervision limits need none."""
    before = {c.id: c for c in old.enabled_channels}
    after = {c.id: c for c in new.enabled_channels}
    everywhere = _worker_view(old) != _worker_view(new)
    kept = [(before[id], channel) for id, channel in after.items() if id in before]
    return Plan(
        drop=tuple(id for id in before if id not in after),
        add=tuple(channel for id, channel in after.items() if id not in before),
        change=tuple(
            Change(b, _socket_view(old, a) != _socket_view(new, b), _journal_view(old, a) != _journal_view(new, b))
            for a, b in kept
            if everywhere or a != b
        ),
        monitor=old.ntp != new.ntp,
    )


def _worker_view(config: Config) -> object:
    """What every worker was told when it was forked, apart from its channel."""
    return config.station, config.recorder, config.radiod, config.ntp.stale_after_s


def _socket_view(config: Config, channel: Channel) -> object:
    return config.radiod, channel.data_address, channel.ssrc


def _journal_view(config: Config, channel: Channel) -> object:
    return config.recorder.buffer_minutes, channel.sample_rate_hz, channel.encoding, channel.ssrc
