"""Random hours: servers that die, lie, kiss and come back, a host clock that is set, a host that sleeps.

Fewer than half of the servers that answer lie. Then whatever is called valid is right within
its uncertainty, nothing is published late, and no public server is asked more often than is polite.
GRAPE_LONG=1 takes a hundred hours instead of four times ten minutes.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from itertools import pairwise

import pytest

from ntp_farm import KISS_RATE, SECOND, Reply
from ntp_world import OWN, Simulated, World
from pipeline.ntp.report import Report

LONG = os.environ.get("GRAPE_LONG") == "1"
WORLDS, LENGTH_S = (100, 3600.0) if LONG else (4, 600.0)
IDLE_S = {"simple": 16.0, "advanced": 2.0}
SLACK_S = 0.2
MAX_OUTSIDE = 0.001


class Truths(list[tuple[float, Report]]):
    """A world's reports; `errors_ms` has the true error of each."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.errors_ms: list[float] = []

    def append(self, item: tuple[float, Report]) -> None:
        super().append(item)
        self.errors_ms.append(abs(item[1].record.offset_ms - self.world.true_offset_ms))


class Trouble:
    """What happens to a world: `liars` may lie or refuse, `mortal` may die; the others are slow at worst."""

    def __init__(self, rng: random.Random, world: World) -> None:
        self._rng = rng
        self._world = world
        count = len(world.servers)
        order = rng.sample(world.servers, count)
        self.liars = order[: rng.randint(0, (count - 1) // 2)]
        self.mortal = order[len(self.liars) : count - len(self.liars) - 1]

    def strike(self) -> None:
        """One event."""
        rng = self._rng
        rng.choices([self._die, self._lie, self._kiss, self._host, self._line, self._slow], [2, 4, 1, 2, 3, 1])[0]()

    def _die(self) -> None:
        for server in self.mortal[:1] and [self._rng.choice(self.mortal)]:
            server.up = not server.up

    def _lie(self) -> None:
        lie = Reply(
            offset_s=self._rng.choice([0.0, 0.003, 0.01, 0.05, -0.3, 1.0]),
            root_dispersion_s=self._rng.choice([0.0, 0.001, 0.05]),
            leap=self._rng.choice([0, 0, 3]),
        )
        for server in self.liars[: self._rng.randint(0, len(self.liars))]:
            server.reply = lie
            server.rtt_s = self._rng.choice([0.001, server.rtt_s])  # near ones are believed more

    def _kiss(self) -> None:
        for server in self.liars[:1]:
            server.reply = replace(KISS_RATE, refid=self._rng.choice([b"RATE", b"DENY", b"XFOO"]))

    def _host(self) -> None:
        if self._rng.random() < 0.2:
            self._world.suspend(self._rng.choice([5.0, 600.0]))
        else:
            self._world.step(self._rng.choice([-2.0, -0.5, 0.003, 0.05, 0.5]))

    def _line(self) -> None:
        up = self._rng.random() < 0.7
        for server in self._world.servers:
            server.up = up

    def _slow(self) -> None:
        self._rng.choice(self._world.servers).rtt_s = self._rng.lognormvariate(-3.5, 0.8)


def lived(seed: int) -> tuple[World, Truths]:
    """A world after its troubles."""
    rng = random.Random(f"world {seed}")
    servers = [
        Simulated(rtt_s=rng.lognormvariate(-3.5, 0.6), jitter_s=rng.choice([0.0, 0.0005, 0.005]))
        for _ in range(rng.randint(4, 10))
    ]
    config = replace(OWN, mode=rng.choice(["simple", "advanced"]), parallel=rng.random() < 0.8, synced_within_ms=1000.0)
    w = World(servers, config, offset_s=rng.choice([0.0, 0.02, 3.0]), ppm=rng.uniform(-90, 90), lan=rng.random() < 0.3)
    w.reports = truths = Truths(w)
    trouble = Trouble(rng, w)
    while w.seconds < LENGTH_S:
        w.run(rng.expovariate(1 / 60))
        trouble.strike()
    return w, truths


@pytest.mark.limit(3600 if LONG else 120)
def test_what_is_valid_is_true_whatever_happens() -> None:
    valid = outside = 0
    for seed in range(WORLDS):
        w, truths = lived(seed)
        records = [report.record for _, report in truths]
        for record, error_ms in zip(records, truths.errors_ms, strict=True):
            valid += record.valid
            outside += bool(record.valid) and error_ms > record.uncertainty_ms
            assert not record.synced or abs(record.offset_ms) + record.uncertainty_ms <= 1000.0
        published = [record.published_monotonic_ns for record in records]
        assert max(b - a for a, b in pairwise(published)) <= 10.1 * SECOND, f"late in world {seed}"
        for server in w.servers if not w.config.servers[0].lan else []:
            gaps = [b - a for a, b in pairwise(server.asked_s)]
            assert min(gaps, default=99.0) >= IDLE_S[w.config.mode] - SLACK_S, f"impolite in world {seed}"
    assert valid > 20 * WORLDS, "mostly there is something to say"
    assert outside <= MAX_OUTSIDE * valid
