"""Ten servers of 20 to 60 ms on loopback: ntplib one after the other, ntplib in threads, ours; in one run.

    python -m tests.bench.bench_ntp [--uncertainty] [--rows]

Rounds interleave the three, since a shared machine's speed drifts; figures are medians. All have a
timeout of two seconds. `--uncertainty` checks the published bound on random sets of servers instead; `--rows`: for
`python -m tests.bench`.
"""

from __future__ import annotations

import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ntplib

from pipeline.config import Ntp, Server
from pipeline.ntp.loop import Loop
from pipeline.ntp.once import measure_once
from pipeline.ntp.report import Report
from pipeline.ntp.select import Outcome, select
from pipeline.simulator.ntp import running_farm
from pipeline.simulator.spec import NtpServerSpec

sys.path.append(str(Path(__file__).parents[1]))  # as pytest does
from bench.figures import Row, print_rows
from ntp_sets import KINDS, USUAL, WORST, random_set

SERVERS = 10
TIMEOUT_S = 2.0
DEAD = (0, 2, 5, 10)
ROUNDS = {0: 7, 2: 3, 5: 1, 10: 1}
LOAD_ROUNDS = 100
SETS = 20_000
CLIENT = ntplib.NTPClient()

Addresses = Sequence[tuple[str, int]]


def delay_s(server: int) -> float:
    """One way to server `server`: round trips of 20 to 60 ms."""
    return 0.010 + 0.020 * server / (SERVERS - 1)


def farm(dead: int) -> list[NtpServerSpec]:
    """The first `dead` servers never answer."""
    return [
        NtpServerSpec(request_delay_s=delay_s(k), reply_delay_s=delay_s(k), silent=k < dead) for k in range(SERVERS)
    ]


def ask(address: tuple[str, int]) -> float | None:
    """ntplib's offset, s."""
    try:
        return float(CLIENT.request(address[0], version=4, port=address[1], timeout=TIMEOUT_S).offset)
    except ntplib.NTPException:
        return None


def one_after_the_other(addresses: Addresses) -> None:
    """What the seed did."""
    for address in addresses:
        ask(address)


def thread_pool(addresses: Addresses) -> None:
    """What ChronoTick does: all at once, and the slowest is waited for."""
    with ThreadPoolExecutor(SERVERS) as pool:
        list(pool.map(ask, addresses))


def ours(addresses: Addresses) -> None:
    """A new monitor, from its start to its first good record, or to the end of a round without one."""
    heard: list[Report] = []
    loop = Loop(config(addresses), heard.append, tell=lambda _note: None)
    loop.run(lambda: bool(heard) and (bool(heard[-1].record.synced) or loop.engine.pool.outage()))
    loop.close()


def ours_complete(addresses: Addresses) -> None:
    """All answers, as `grape-pipeline ntp` waits for them."""
    measure_once(config(addresses))


def config(addresses: Addresses) -> Ntp:
    return Ntp(sources=("servers",), servers=tuple(Server(*a) for a in addresses), timeout_s=TIMEOUT_S)


WAYS: dict[str, Callable[[Addresses], None]] = {
    "ntplib, one after the other": one_after_the_other,
    "ntplib, ten threads": thread_pool,
    "ours, to the first verdict": ours,
    "ours, all answers": ours_complete,
}


def times_s(dead: int) -> dict[str, tuple[float, float]]:
    """Median wall and processor time of a round."""
    wall: dict[str, list[float]] = {name: [] for name in WAYS}
    cpu: dict[str, list[float]] = {name: [] for name in WAYS}
    with running_farm(farm(dead)) as addresses:
        for _ in range(ROUNDS[dead]):
            for name, way in WAYS.items():
                began, used = time.perf_counter(), time.process_time()
                way(addresses)
                wall[name].append(time.perf_counter() - began)
                cpu[name].append(time.process_time() - used)
    return {name: (statistics.median(wall[name]), statistics.median(cpu[name])) for name in WAYS}


def monitor_cpu_s() -> float:
    """Processor time of a round of ten, with its publications, in a monitor that runs: median of ten pairs."""
    with running_farm(farm(0)) as addresses:
        rounds: list[float] = []
        # Servers on loopback count as one's own and are asked in every cycle.
        loop = Loop(replace(config(addresses), publish_interval_s=0.2), lambda _report: None, tell=lambda _note: None)
        while len(rounds) < 10:
            cycles, used = loop.engine.counters.cycles, time.process_time()
            loop.run(lambda at=cycles + 2: loop.engine.counters.cycles >= at)
            rounds.append((time.process_time() - used) / 2)
        loop.close()
    return statistics.median(rounds)


@contextmanager
def load(processes: int) -> Iterator[None]:
    """Processes that compute all the time."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def errors_us(processes: int) -> dict[str, list[float]]:
    """|offset| of near servers that have the same clock, beside so many processes that compute."""
    found: dict[str, list[float]] = {"ntplib, ten threads": [], "ours": []}
    with (
        running_farm([NtpServerSpec() for _ in range(SERVERS)]) as addresses,
        load(processes),
        ThreadPoolExecutor(SERVERS) as pool,
    ):
        for _ in range(LOAD_ROUNDS):
            found["ntplib, ten threads"] += [abs(o) * 1e6 for o in pool.map(ask, addresses) if o is not None]
            rows = measure_once(config(addresses)).servers
            found["ours"] += [abs(row.offset_ms) * 1e3 for row in rows if row.offset_ms is not None]
    return found


def rounds() -> None:
    """The tables of time and accuracy."""
    first, sequential = "ours, to the first verdict", "ntplib, one after the other"
    slowest_s = 2 * delay_s(SERVERS - 1)
    print(f"{'time to a verdict, ms':30}" + "".join(f"{f'{dead} dead':>10}" for dead in DEAD) + f"{'CPU ms':>10}")
    tables = {dead: times_s(dead) for dead in DEAD}
    for name in WAYS:
        row = "".join(f"{tables[dead][name][0] * 1e3:10.1f}" for dead in DEAD)
        print(f"{name:30}{row}{tables[0][name][1] * 1e3:10.2f}")
    print(f"{'ours, a round of a running monitor':70}{monitor_cpu_s() * 1e3:10.2f}")
    print(f"two dead: {tables[2][first][0] / slowest_s:.2f} x the slowest live reply ({slowest_s * 1e3:.0f} ms)")
    print(f"none dead: {tables[0][sequential][0] / tables[0][first][0]:.1f} x faster than one after the other")
    cores = os.cpu_count() or 1
    for processes in (0, 2 * cores):
        print(f"|offset|, us, beside {processes} processes that compute:  median       p99       max")
        for name, errors in errors_us(processes).items():
            ordered = sorted(errors)
            p99 = ordered[len(ordered) * 99 // 100]
            print(f"{name:50}{statistics.median(ordered):8.1f}{p99:10.1f}{ordered[-1]:10.1f}")


def rows_of_rounds() -> Iterator[Row]:
    """For `python -m tests.bench`: to the first verdict, beside ntplib in both ways."""
    for dead in (0, 2):
        found = times_s(dead)
        what = "ten NTP servers, to a verdict" + (f", {dead} of them dead" if dead else "")
        mine = found["ours, to the first verdict"]
        for peer in ("ntplib, one after the other", "ntplib, ten threads"):
            yield Row(what, "ms", [s * 1e3 for s in reversed(mine)], peer, [s * 1e3 for s in reversed(found[peer])])
    yield Row("- a round of a monitor that runs", "ms", [monitor_cpu_s() * 1e3])


def uncertainty() -> None:
    """How often the truth lies outside of what could be published, and how wide that is."""
    print(f"{SETS} sets of 3 to 12 servers each, less than half of them liars: % outside, median ms")
    print(f"{'errors':8}{'liars':12}{'wrong clique':>13}{'nearest server':>18}{'majority':>18}{'published':>18}")
    for errors in (WORST, USUAL):
        for kind in KINDS:
            rng = random.Random(f"{errors} {kind}")
            wrong, bounds = 0, []
            while len(bounds) < SETS:
                candidates, liars = random_set(rng, kind, errors)
                s = select(candidates, 2)
                if s.outcome is not Outcome.MAJORITY:
                    continue
                wrong += not s.truechimers - liars
                bounds.append((abs(s.theta_s), s.bound_s, s.farthest_s, s.uncertainty_s))
            cells = ""
            for i in (1, 2, 3):
                outside = sum(b[0] > b[i] + 1e-12 for b in bounds) / SETS
                cells += f"{outside * 100:10.3f}{statistics.median(b[i] for b in bounds) * 1e3:8.2f}"
            print(f"{errors:8}{kind:12}{wrong:13}{cells}")


def main() -> None:
    """Print the tables."""
    if "--rows" in sys.argv[1:]:
        print_rows(rows_of_rounds())
        return
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    if "--uncertainty" in sys.argv[1:]:
        uncertainty()
    else:
        rounds()


if __name__ == "__main__":
    main()
