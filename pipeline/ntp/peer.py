"""One server as we know it: its last samples, whether it answers, when to ask it again.

RFC 5905 sections 9 and 10 (reach register, clock filter), 7.4 (kiss-o'-death), with the
poll plan of `pipeline.ntp.plan`. Knows no clock and no socket: whoever owns those tells
it what was sent and what came, with the time.
"""

from __future__ import annotations

import ipaddress
import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.config import Server
from pipeline.ntp.plan import (
    BURST_SPACING_LAN_S,
    BURST_SPACING_PUBLIC_S,
    IDLE_S,
    KISS_HOLD_OFF,
    KISS_MAX_INTERVAL_S,
    KISS_MIN_INTERVAL_S,
    MAX_INTERVAL_S,
    MISSES_BEFORE_BACKOFF,
    SECOND,
    Grid,
)
from pipeline.ntp.wire import Instant, Refusal, Refused, Sample

STAGES = 8  # RFC 5905 NSTAGE
STAGE_MAX_AGE_NS = 600 * SECOND
# Samples for the frequency fit, thinned so that ten minutes fit whatever the poll interval.
HISTORY = 20
HISTORY_SPACING_NS = 30 * SECOND
RESOLVE_AFTER_MISSES = 8
RESOLVE_AFTER_NS = 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Address:
    """A numeric address and a port."""

    host: str
    port: int

    @classmethod
    def of(cls, host: str, port: int) -> Address:
        """The address in its one spelling, so that one server has one vote however it is written."""
        address = ipaddress.ip_address(host)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return cls(str(mapped or address), port)

    @property
    def loopback(self) -> bool:
        """It is this machine: 127.0.0.0/8 or ::1."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        if self.port == 123:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Drift:
    """What the host's raw oscillator is believed to do, s/s."""

    frequency: float = 0.0  # UTC seconds gained per raw second
    tolerance: float = 100e-6  # bound on the error of `frequency`


class Estimate(NamedTuple):
    """A server's opinion at one moment; seconds, theta = server - host.

    `distance_s` grows with the age of the sample behind it; `newest_raw_ns` is when the
    server was last heard.
    """

    theta_s: float
    distance_s: float
    jitter_s: float
    delay_s: float
    dispersion_s: float
    stratum: int
    leap: int
    newest_raw_ns: int


class Peer:
    """A configured server: clock filter, reach, interval, addresses.

    `asked` opens a poll; exactly one of `sampled`, `refused`, `kissed`, `missed` closes it,
    unless it is `void`.
    """

    def __init__(self, index: int, server: Server, lan: bool, numeric: bool, grid: Grid, samples: int = 1) -> None:
        self.index = index
        self.server = server
        self.name = str(server)
        self.lan = lan
        self.numeric = numeric
        self.samples = samples
        self.address: Address | None = None
        self.addresses: tuple[Address, ...] = ()
        self.unreachable: set[Address] = set()
        self.denied: set[Address] = set()
        self.dead = False  # the address in use has told us to go away
        self.pending = False
        self.reach = 0
        self.misses = 0
        self.polls = 0
        self.asked_ns: int | None = None
        self._asked_before_ns: int | None = None
        self._asked_address: Address | None = None
        self.ok = False  # the last poll gave a sample
        self.answered = False  # something came from this address, once at least
        self.reason = "resolving"
        self.reported = False  # its silence is in the log
        self.stages: deque[Sample] = deque(maxlen=STAGES)
        self.history: deque[tuple[int, int]] = deque(maxlen=HISTORY)
        self.next_ns = grid.start_ns
        self.resolve_ns = grid.start_ns
        self.looked_up = False
        self.lookup_failures = 0
        self.minimum_interval_s = 0.0
        self._grid = grid
        self._kiss_interval_s = 0.0
        self._hold_until_ns = grid.start_ns
        self._burst_left = 0
        self._second_sample_due = not lan

    @property
    def first_poll(self) -> bool:
        """No poll has come to an end yet since this address is used and samples were forgotten."""
        return self.polls - self.pending == 0

    @property
    def settled(self) -> bool:
        """Its first poll, with all samples of it, is over."""
        return not self.first_poll and not self.pending and not self._burst_left

    @property
    def interval_s(self) -> float:
        """Seconds between polls: the plan, stretched by silence and by kisses."""
        base = self._grid.cycle_ns / SECOND if self.lan else self._grid.public_interval_s
        base = max(base, 0.0 if self.lan else self.minimum_interval_s)
        if not self.lan and self.misses >= MISSES_BEFORE_BACKOFF:
            doublings = min(self.misses - MISSES_BEFORE_BACKOFF + 1, 10)
            base = max(base, min(base * 2**doublings, MAX_INTERVAL_S))
        return max(base, self._kiss_interval_s)

    def use(self, address: Address | None, reason: str = "") -> None:
        """Ask this address from now on; samples of another one are forgotten."""
        if address != self.address:
            self.address = address
            self.dead = address in self.denied
            self.reach = 0
            self.ok = False
            self.answered = False
            self.clear()
        if reason:
            self.reason = reason
        elif self.reason == "resolving":
            self.reason = "not asked yet"

    def may_use(self, address: Address) -> bool:
        """Nothing is known against the address: it neither sent us away nor leads nowhere."""
        return address not in self.denied and address not in self.unreachable

    def begin(self) -> None:
        """Count as not asked yet: its first answer from now on is waited for."""
        self.polls = int(self.pending)

    def clear(self) -> None:
        """Forget all samples (the raw clock lost its meaning: suspend, leap second)."""
        self.begin()
        self.stages.clear()
        self.history.clear()

    def may_ask(self, now_ns: int) -> bool:
        """True when nothing but the plan stands against asking now."""
        return self.address is not None and not self.pending and not self.dead and now_ns >= self._hold_until_ns

    def wake_ns(self) -> int | None:
        """When this server's turn comes; None while something else has to happen first."""
        if self.address is None or self.pending or self.dead:
            return None
        return max(self.next_ns, self._hold_until_ns)

    def due(self, now_ns: int) -> bool:
        """True when it is this server's turn."""
        return self.may_ask(now_ns) and now_ns >= self.next_ns

    def idle(self, now_ns: int, seconds: float = IDLE_S) -> bool:
        """True when the server was left alone for so long that a retry is polite."""
        if self.asked_ns is None or self.lan:
            return True
        return now_ns - self.asked_ns >= seconds * SECOND - self._grid.cycle_ns // 100

    def ask_soon(self, now_ns: int) -> None:
        """Plan the next request as early as is polite, whatever the back-off says."""
        earliest = now_ns if self.asked_ns is None or self.lan else self.asked_ns + int(IDLE_S * SECOND)
        self.next_ns = min(self.next_ns, max(now_ns, earliest))

    def asked(self, now_ns: int) -> None:
        """A request goes out: shift reach, plan the next turn."""
        self.pending = True
        self.polls += 1
        self._asked_address = self.address
        self._asked_before_ns, self.asked_ns = self.asked_ns, now_ns
        self.reach = self.reach << 1 & 0xFF
        if self._burst_left:
            self._burst_left -= 1
        else:
            self._burst_left = self.samples - 1
        self._plan(now_ns)

    def _plan(self, now_ns: int) -> None:
        if self._burst_left:
            spacing_s = BURST_SPACING_LAN_S if self.lan else BURST_SPACING_PUBLIC_S
            self.next_ns = now_ns + int(spacing_s * SECOND)
        elif self._second_sample_due:
            # At the start all are asked at once, then each in its first turn.
            self._second_sample_due = False
            self.next_ns = self._grid.turn(self.index, self.lan, now_ns + int(IDLE_S * SECOND))
        else:
            # Half a cycle of slack: a turn is not lost because the last request went out late.
            earliest = now_ns + int(self.interval_s * SECOND) - self._grid.cycle_ns // 2
            self.next_ns = self._grid.turn(self.index, self.lan, earliest)

    def void(self) -> bool:
        """Close the poll and say True if it went to an address that has been given up since."""
        if self._asked_address == self.address:
            return False
        self.pending = False
        self.begin()
        return True

    def sampled(self, sample: Sample) -> None:
        """A good reply."""
        self._close("", answered=True)
        self.ok = True
        self.unreachable.clear()
        self.reach |= 1
        if any(_contradict(sample, s) for s in self.stages):
            self.stages.clear()
            self.history.clear()
        self.stages.append(sample)
        if not self.history or sample.raw_ns - self.history[-1][0] >= HISTORY_SPACING_NS:
            self.history.append((sample.raw_ns, sample.utc_minus_raw_ns))

    def refused(self, refusal: Refused) -> None:
        """The server answered, with something that cannot be used; that our clock moved is no fault of its."""
        was_ok = self.ok
        self._close(str(refusal.reason), answered=True)
        self.ok = was_ok and refusal.reason is Refusal.HOST_STEP

    def missed(self, reason: str, now_ns: int, sent: bool = True) -> None:
        """No answer. An ICMP error is no more than that: anyone can forge one (RFC 5927).

        A request that could not be `sent` was no burden to the server, so that a retry need not wait.
        """
        self._close(reason, answered=False)
        if not sent:
            self.asked_ns = self._asked_before_ns
        self._burst_left = 0
        if self.misses >= MISSES_BEFORE_BACKOFF:
            self._plan(self.asked_ns if self.asked_ns is not None else now_ns)
        if self.misses >= RESOLVE_AFTER_MISSES and self.misses % RESOLVE_AFTER_MISSES == 0:
            self.resolve_ns = min(self.resolve_ns, now_ns)

    def kissed(self, code: str, now_ns: int) -> None:
        """Kiss-o'-death: RATE slows us down for good, DENY and RSTR end it for this address."""
        interval_s = self.interval_s
        self._close(f"kiss:{code}", answered=True)
        self._burst_left = 0
        if code == "RATE":
            self._kiss_interval_s = min(max(2 * interval_s, KISS_MIN_INTERVAL_S), KISS_MAX_INTERVAL_S)
            self._hold_until_ns = now_ns + int(KISS_HOLD_OFF * self._kiss_interval_s * SECOND)
            self._second_sample_due = False
            self.next_ns = self._hold_until_ns
        elif code in ("DENY", "RSTR") and self.address is not None:
            self.denied.add(self.address)
            self.dead = True
            self.clear()

    def _close(self, reason: str, answered: bool) -> None:
        self.pending = False
        self.ok = False
        self.answered |= answered
        self.reason = reason
        backed_off = self.misses >= MISSES_BEFORE_BACKOFF
        self.misses = 0 if answered else self.misses + 1
        if answered and backed_off and self.asked_ns is not None:
            self._plan(self.asked_ns)  # the turn was planned while nobody knew of the answer

    def estimate(self, now: Instant, drift: Drift, precision_s: float = 1e-6) -> Estimate | None:
        """What the server says now, from the best of its samples; None when all are too old.

        Best is least delay/2 + tolerance * age. There is no veto by history: an outlier
        loses by its delay, and a step that is real must show.
        """
        # Where servers are asked rarely, the last sample lasts until the next one and a lost one.
        oldest_ns = max(STAGE_MAX_AGE_NS, int(2 * self._grid.public_interval_s * SECOND))
        stages = [s for s in self.stages if now.raw - s.raw_ns <= oldest_ns]
        if not stages:
            return None

        per_ns = drift.tolerance / 1e9
        best = min(stages, key=lambda s: s.delay_s / 2 - per_ns * s.raw_ns)
        age_s = max(now.raw - best.raw_ns, 0) / 1e9
        theta = (best.utc_minus_raw_ns - now.base) / 1e9 + drift.frequency * age_s
        jitter = max(precision_s, _spread_s(stages, best, drift.frequency))
        aged = best.dispersion_s + drift.tolerance * age_s
        return Estimate(
            theta_s=theta,
            distance_s=(best.delay_s + best.root_delay_s) / 2 + aged + best.root_dispersion_s + jitter,
            jitter_s=jitter,
            delay_s=best.delay_s,
            dispersion_s=aged + best.root_dispersion_s,
            stratum=stages[-1].stratum,
            leap=stages[-1].leap,
            newest_raw_ns=stages[-1].raw_ns,
        )


def _contradict(a: Sample, b: Sample) -> bool:
    """True when no asymmetry of the path explains both: the server's clock was stepped between them."""
    wander_s = Drift().tolerance * abs(a.raw_ns - b.raw_ns) / 1e9
    possible_s = (a.delay_s + b.delay_s) / 2 + a.dispersion_s + b.dispersion_s + wander_s
    return abs(a.utc_minus_raw_ns - b.utc_minus_raw_ns) / 1e9 > possible_s


def _spread_s(stages: list[Sample], best: Sample, frequency: float) -> float:
    """How far the samples' theta lies from the best one's, all taken to the same moment (RFC 5905 section 10)."""
    squares = 0.0
    for s in stages:
        apart_ns = s.utc_minus_raw_ns - best.utc_minus_raw_ns + frequency * (best.raw_ns - s.raw_ns)
        squares += apart_ns * apart_ns
    return math.sqrt(squares / max(len(stages) - 1, 1)) / 1e9
