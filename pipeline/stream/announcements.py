"""What radiod's statuses say, for the timelines that they speak of: at once, or when these are known."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from pipeline.stream.rtp import ENCODING_NUMBERS
from pipeline.stream.source import Source
from pipeline.stream.timeline import SECOND, Epoch

PENDING_STATUSES = 16
# Statuses in a row, two seconds of them.
CONFIRM_UNUSABLE = 4
# A status that no timeline has claimed by then never will be.
PENDING_NS = 10 * SECOND
# What the configuration allows too; a minute of anything else would not fit.
RATES_HZ = range(1_000, 2_000_001)


class Status(Protocol):
    """What is needed of a radiod status; see `pipeline.radiod.ChannelStatus`."""

    @property
    def ssrc(self) -> int: ...
    @property
    def gps_time_utc_ns(self) -> int | None: ...
    @property
    def rtp_timesnap(self) -> int | None: ...
    @property
    def sample_rate_hz(self) -> int | None: ...
    @property
    def encoding(self) -> str | None: ...
    @property
    def output_channels(self) -> int | None: ...


class Said(NamedTuple):
    """The facts of one status that can be used; None = not stated, or nothing we can record."""

    timesnap: int
    utc_ns: int | None
    rate_hz: int | None
    encoding: str | None
    arrival_ns: int


class Timelines(Protocol):
    """A channel's timelines, the newest last, and the source of that one's packets."""

    source: Source
    epochs: list[Epoch]


class Announcements:
    """The statuses of one channel."""

    def __init__(self, timelines: Timelines) -> None:
        self._timelines = timelines
        self.latest: Status | None = None
        self.pending: list[Said] = []
        self.unmatched = 0
        # The format that statuses name but cannot be recorded, in how many of them, and the first one's time.
        self._unusable: tuple[str | None, int, int, int] = (None, 0, 0, 0)

    def to_json(self) -> list[Any]:
        """Everything a successor needs, as plain values."""
        return [[list(said) for said in self.pending], self.unmatched, list(self._unusable)]

    def load_json(self, state: list[Any]) -> None:
        """Become what `to_json` described."""
        pending, self.unmatched, (name, times, first, came_ns) = state
        self.pending, self._unusable = [Said(*said) for said in pending], (name, times, first, came_ns)

    def learn(self, status: Status, arrival_ns: int, shift_ns: int = 0, timed: bool = True) -> None:
        """Use a status: for the timeline it speaks of, now or when that timeline is known."""
        utc_ns = status.gps_time_utc_ns if timed else None
        self.latest = status
        if status.rtp_timesnap is None:
            return
        said = Said(
            status.rtp_timesnap,
            None if utc_ns is None else utc_ns - shift_ns,
            status.sample_rate_hz if status.sample_rate_hz in RATES_HZ else None,
            self._believed(_format(status), status.rtp_timesnap, arrival_ns),
            arrival_ns,
        )
        if not self._match(said):
            self.unmatched += len(self.pending) >= PENDING_STATUSES
            self.pending = [*self.pending[-PENDING_STATUSES + 1 :], said]

    def _match(self, said: Said) -> bool:
        """Give a status to the epoch it speaks of; False if it may be of one that is yet to come."""
        epochs, source = self._timelines.epochs, self._timelines.source
        current = epochs[-1] if epochs else None
        if current is not None:
            current.end, current.last_arrival_ns = source.end, source.arrival_ns
        for epoch in reversed(epochs):
            if not epoch.owns_status(said.timesnap, said.arrival_ns, epoch is current):
                continue
            if epoch is current and source.candidates.nearer(said.timesnap, source.end):
                return False
            if said.rate_hz and epoch.rate_known and said.rate_hz != epoch.rate_hz:
                continue
            epoch.learn(said.timesnap, said.rate_hz, said.encoding)
            if epoch is current:
                source.rate_hz = epoch.rate_hz
            if said.utc_ns is not None:
                epoch.add_pair(said.timesnap, said.utc_ns, said.arrival_ns)
            return True
        return False

    def match_pending(self) -> None:
        """Try again to find the timelines of statuses that none has claimed."""
        pending, self.pending = self.pending, []
        newest = max((said.arrival_ns for said in pending), default=0)
        for said in pending:
            if not self._match(said):
                if newest - said.arrival_ns < PENDING_NS:
                    self.pending.append(said)
                else:
                    self.unmatched += 1

    def _believed(self, made: str | None, timesnap: int, arrival_ns: int) -> str | None:
        """A format that cannot be recorded costs samples, so a single status, which may be forged, is not enough.

        Once enough have said so in a row, it holds from the first of them on.
        """
        if made is None or made in ENCODING_NUMBERS:
            self._unusable = (None, 0, 0, 0) if made else self._unusable
            return made
        name, times, first, came_ns = self._unusable
        known = made == name
        self._unusable = (made, times + 1, first, came_ns) if known else (made, 1, timesnap, arrival_ns)
        if self._unusable[1] < CONFIRM_UNUSABLE:
            return None
        if self._unusable[1] == CONFIRM_UNUSABLE:
            self._match(Said(first, None, None, made, came_ns))
        return made


def _format(status: Status) -> str | None:
    """How packets are made: an encoding, or the name of something that no file can hold."""
    channels = status.output_channels
    if channels not in (None, 2):
        return f"{channels}-channel {status.encoding or 'audio'}"
    return status.encoding
