"""The monitor's engine among simulated servers, on a simulated clock: hours in milliseconds, no sockets."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ntp_farm import NOON_NS, SECOND, Reply
from pipeline.config import Ntp, Server
from pipeline.ntp import wire
from pipeline.ntp.engine import Ask, AskLocal, Engine, Resolve
from pipeline.ntp.peer import Address
from pipeline.ntp.reading import Absence, KernelState, Reading
from pipeline.ntp.report import Note, Report
from pipeline.ntp.verdict import Basis
from pipeline.ntp.wire import Instant

OWN = Ntp(sources=("servers",))


@dataclass(slots=True)
class Simulated:
    """A server; `up` and `reply` may be changed while the world runs."""

    reply: Reply = Reply()
    up: bool = True
    rtt_s: float = 0.02
    jitter_s: float = 0.0
    asked_s: list[float] = field(default_factory=list)


class World:
    """An engine with simulated servers and a simulated host clock; seconds from the start at noon.

    `offset_s` is host - UTC, `ppm` the rate at which the raw clock gains on UTC (and the host's clock with it);
    `look_s` is how often the engine looks at the clocks when nothing happens.
    """

    def __init__(
        self,
        servers: Sequence[Simulated],
        config: Ntp | None = None,
        offset_s: float = 0.0,
        ppm: float = 0.0,
        utc_ns: int = NOON_NS,
        carried: Basis | None = None,
        lan: bool = False,
        look_s: float = 1.0,
        names: dict[str, tuple[Address, ...]] | None = None,
    ) -> None:
        self.servers = list(servers)
        self.offset_ns = round(offset_s * SECOND)
        self.ppm = ppm
        self.asleep_ns = 0
        self._look_ns = round(look_s * SECOND)
        self.start_utc_ns = utc_ns
        self.t = 0
        self.kernel = KernelState(False, 16.0, 0.0, 0)
        self.sources: dict[str, Callable[[Instant], Reading | Absence]] = {}
        self.unreachable: set[str] = set()
        self.names = names or {}
        self.reports: list[tuple[float, Report]] = []
        self.notes: list[tuple[float, Note]] = []
        self.local_asked_s: list[float] = []
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._random = random.Random(4)
        given = config or Ntp(sources=("servers",))
        if config is None or not config.servers or config.servers == Ntp().servers:
            addresses = tuple(Server(f"192.0.2.{i + 1}", lan=lan) for i in range(len(servers)))
            given = replace(given, servers=addresses)
        self.config = given
        self.engine = Engine(given, self.now(), carried)

    def utc_ns(self) -> int:
        return self.start_utc_ns + self.t

    def now(self) -> Instant:
        """The host's clocks."""
        raw = 1_000 * SECOND + self.t - self.asleep_ns + round(self.t * self.ppm * 1e-6)
        realtime = self.utc_ns() + self.offset_ns + round(self.t * self.ppm * 1e-6)
        return Instant(realtime, raw, raw, raw + self.asleep_ns)

    @property
    def true_offset_ms(self) -> float:
        return (self.now().realtime - self.utc_ns()) / 1e6

    @property
    def record(self):  # type: ignore[no-untyped-def]
        """The record as published last."""
        return self.reports[-1][1].record

    @property
    def seconds(self) -> float:
        return self.t / SECOND

    def step(self, seconds: float) -> None:
        """Somebody sets the host's clock."""
        self.offset_ns += round(seconds * SECOND)

    def suspend(self, seconds: float) -> None:
        """The host sleeps: real time goes on, monotonic clocks do not."""
        self.t += round(seconds * SECOND)
        self.asleep_ns += round(seconds * SECOND)

    def run(self, seconds: float) -> None:
        """Let that much time pass."""
        end = self.t + round(seconds * SECOND)
        while True:
            for action in self.engine.tick(self.now()):
                self._perform(action)
            report = self.engine.publication(self.now())
            self.notes += [(self.seconds, note) for note in self.engine.notes]
            self.engine.notes.clear()
            if report is not None:
                self.reports.append((self.seconds, report))
            wait = max(self.engine.next_ns() - self.now().monotonic, 0)
            following = min(self.t + min(max(wait, 1_000), self._look_ns), end)
            if self._queue and self._queue[0][0] <= following:
                at, _, event = heapq.heappop(self._queue)
                self.t = max(self.t, at)
                event()
                continue
            if self.t >= end:
                return
            self.t = following

    def _later(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.t + round(seconds * SECOND), next(self._serial), event))

    def _perform(self, action: Ask | Resolve | AskLocal) -> None:
        if isinstance(action, Ask):
            self._ask(action.index, action.address.host)
        elif isinstance(action, Resolve):
            found, index = self.names.get(action.server.address), action.index
            if found is None:
                self._later(0.01, lambda: self.engine.pool.unresolved(index, "name: unknown", self.now()))
            else:
                self._later(0.01, lambda: self.engine.pool.resolved(index, found, self.now()))
        elif action.source == "kernel":
            self.local_asked_s.append(self.seconds)
            self.engine.kernel(self.kernel)
        else:
            source = action.source
            absent = Absence(source, "absent")
            answer = self.sources[source](self.now()) if source in self.sources else absent
            self._later(0.0001, lambda: self.engine.local(source, answer, self.now()))

    def _ask(self, index: int, host: str) -> None:
        server = self.servers[index]
        server.asked_s.append(self.seconds)
        pool = self.engine.pool
        if host in self.unreachable:
            pool.missed(index, "enetunreach", self.now(), unreachable=True, sent=False)
            return
        if not server.up:
            self._later(self.config.timeout_s, lambda: pool.missed(index, "timeout", self.now()))
            return
        sent, nonce = self.now(), self._random.randbytes(8)
        forward_s = server.rtt_s / 2 + self._random.expovariate(1 / server.jitter_s) if server.jitter_s else 0.0
        forward_s = forward_s or server.rtt_s / 2
        packet = server.reply.to_bytes(wire.request(nonce), self.utc_ns() + round(forward_s * SECOND))

        def arrive() -> None:
            now = self.now()
            outcome = wire.check(packet, nonce, sent, now, self.engine.limits)
            assert not isinstance(outcome, wire.Ignored)
            pool.outcome(index, outcome, now, forward_s + server.rtt_s / 2)

        self._later(forward_s + server.rtt_s / 2, arrive)


def world(count: int = 5, **how: object) -> World:
    """A world of that many good servers."""
    return World([Simulated() for _ in range(count)], **how)  # type: ignore[arg-type]


def texts(w: World) -> str:
    """What was logged, with the second at which it was."""
    return "\n".join(f"{t:8.1f} {note.text}" for t, note in w.notes)
