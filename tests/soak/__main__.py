"""Long forms of what the suite shows in a minute: the real program on a simulated station, held against the truth.

    python -m tests.soak kills            1000 SIGKILLs of random workers, nine channels of 16 kHz, ten minutes
    python -m tests.soak soak             nine channels, two hours: 1 % loss, reordering, a kill a minute
    python -m tests.soak crowd            the same with 60 channels for ten minutes
    python -m tests.soak hundred          100 channels for ten minutes, undisturbed
    python -m tests.soak wide             nine channels of 192 kHz for five minutes, undisturbed
    python -m tests.soak fuzz             a million hostile datagrams on one channel's ports, two minutes

Options: --minutes N, --channels N, --kills N, --datagrams N, --groups (a multicast group for each channel),
--folder DIR (its disk takes the files, 4 MB a channel-minute, 43 MB at 192 kHz).

Every sample that was sent must be in the files, bit for bit, or, where the simulator dropped it, listed, and every
label within its bound; ends with status 1 if not. Where labels are beyond it by no more than the simulator says that
it was late itself, the machine was too slow to tell: status 2. Everything stays on loopback. CPU times are for each
minute of a channel; the simulator's has in it what the kernel does with a packet until it is on a queue.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # as pytest does
from e2e.live import kill_a_worker, running, spec, write_config
from helpers import SHARED_MEMORY, new_names, wait_for
from hostile import attack
from lateness import overdue_ms
from pipeline.shm import Board
from pipeline.simulator.spec import WWV_CHU, ChannelSpec, FaultPlan
from pipeline.simulator.station import running_simulator
from pipeline.simulator.truth import Truth
from pipeline.supervision.instance import alive
from soak.processes import Machine, Watch, cpu_s
from truthcheck import Verdict, check_simulated

# Sixty processes on two busy cores take their time to start; what was sent before is nobody's.
START_S = 90.0
LOOK_S = 10.0
# A worker gathers evidence of its clocks for ten minutes; after that nothing may grow.
SETTLED_S = 600.0


@dataclass(frozen=True)
class Plan:
    """One run."""

    minutes: float
    channels: int
    kills: int
    datagrams: int = 0
    # Workers that are not killed, so that one lives long enough to show whether its memory grows.
    spared: int = 0
    faults: FaultPlan = field(default_factory=FaultPlan)
    rate_hz: int = 16_000
    own_groups: bool = False

    def specs(self) -> tuple[ChannelSpec, ...]:
        """The nine of a GRAPE station, then made-up ones."""
        more = (ChannelSpec(f"EXTRA {n}", 1_001_000 + 10_000 * n) for n in range(self.channels))
        return tuple(
            replace(c, sample_rate_hz=self.rate_hz, data_address=a_group() if self.own_groups else None)
            for c in (*WWV_CHU, *more)[: self.channels]
        )


def a_group() -> tuple[str, int]:
    """A multicast group that nothing else uses."""
    names = new_names()
    return names.group, names.data_port


LOSSY = FaultPlan(loss=0.01, reorder=0.05, reorder_depth=20)
PLANS = {
    "kills": Plan(10.0, 9, 1000),
    "soak": Plan(120.0, 9, 120, spared=2, faults=LOSSY),
    "crowd": Plan(10.0, 60, 10, faults=LOSSY),
    "hundred": Plan(10.0, 100, 0),
    "wide": Plan(5.0, 9, 0, rate_hz=192_000),
    "fuzz": Plan(2.0, 1, 0, 1_000_000),
}


def progress(text: str) -> None:
    """For somebody who looks on."""
    if sys.stdout.isatty():
        print(f"\r{text}", end="", flush=True)


def run(plan: Plan, folder: Path, seed: int) -> int:
    """The whole run; the exit code."""
    names, chance = new_names(), random.Random(seed)
    channels, truth = plan.specs(), folder / "truth"
    length_s = 60 * plan.minutes
    station = spec(names, channels, truth, duration_s=length_s, faults=plan.faults)
    dead: set[int] = set()
    sent: list[int] = []
    with running_simulator(station) as ready:
        begin = time.monotonic()
        end = begin + length_s
        config = write_config(names, ready, channels, folder, grace_s=3.0)
        with running(config, folder, START_S) as (program, child):
            board = Board.open(names.instance)
            wait_for(lambda: hearing(board, len(channels)), START_S, "packets on every channel")
            joined_s = time.monotonic() - begin + 1
            print(f"all channels hear their streams after {joined_s:.1f} s", flush=True)
            watch, before, since = Watch(names.instance, board), Machine.now(), time.monotonic()
            simulator_s = cpu_s(ready.pid) or 0.0
            attacker = threading.Thread(
                target=lambda: sent.append(attack(names.group, channels[0].ssrc, end - 2, plan.datagrams)), daemon=True
            )
            if plan.datagrams:
                attacker.start()
            kills = disturb(plan, board, chance, dead, watch, end - 1)
            simulator_s = (cpu_s(ready.pid) or 0.0) - simulator_s
            seen_s = time.monotonic() - since
            costs = cost_lines(watch, simulator_s, len(channels), seen_s) + [Machine.now().since(before, seen_s)]
            if plan.datagrams:
                attacker.join(60)
            wait_for(lambda: not alive(ready.pid), length_s, "the end of the stream")
            time.sleep(3)
            last = {row.name: row for row in (cell.read() for cell in board.channels) if row.name}
            child.send_signal(signal.SIGTERM)
            left = child.wait(120)
    print(f"\n{kills} SIGKILLs, {sum(sent)} hostile datagrams in {plan.minutes:g} minutes of {len(channels)} channels")
    print("\n".join(watch.lines(SETTLED_S)))
    print(f"shared memory {min(watch.shared):.0f} to {max(watch.shared):.0f} MB, {watch.segment_counts[-1]} segments")
    faults = watch.faults(SETTLED_S)
    faults += [f"the program ended with {left}"] * (left != 0)
    faults += [f"left behind: {path}" for path in SHARED_MEMORY.glob(f"grape-pipeline-{names.instance}*")]
    faults += [f"{kills} of {plan.kills} kills"] * (kills < plan.kills)
    faults += [f"{sum(sent)} of {plan.datagrams} datagrams"] * (sum(sent) < plan.datagrams)
    faults += [f"{row.name}: {row.minutes_dropped} minutes given up" for row in last.values() if row.minutes_dropped]
    print("\n".join(costs))
    print(f"the workers lost {sum(row.socket_dropped for row in last.values())} packets for want of buffer")
    slow: list[str] = []
    faults += compare(program.data_dir, Truth.read(truth), channels, joined_s, slow)
    print("\n".join(["", *faults[:40], f"FAILED: {len(faults)} faults" if faults else "passed" if not slow else ""]))
    if slow:
        print(
            f"NO VERDICT on {len(slow)} labels, the simulator itself was so late: this machine is too slow or too busy"
        )
        print("\n".join(slow[:10]))
    return 1 if faults else 2 if slow else 0


def cost_lines(watch: Watch, simulator_s: float, channels: int, seen_s: float) -> list[str]:
    """CPU time by whose it is; `simulator_s` is the simulator's in the `seen_s` seconds that were watched."""
    watch.look(time.monotonic())
    minutes = channels * seen_s / 60
    workers, supervisor, monitor = (used / minutes for used in watch.cpu_shares())
    return [
        f"CPU s a channel-minute: workers {workers:.4f}, supervisor {supervisor:.4f}, NTP monitor {monitor:.4f} "
        f"(the simulator: {simulator_s / minutes:.4f})"
    ]


def disturb(plan: Plan, board: Board, chance: random.Random, dead: set[int], watch: Watch, end: float) -> int:
    """Kill and watch until `end`; how many died."""
    kills, look = 0, time.monotonic()
    begin = look
    living = [record.pid for record in (cell.read() for cell in board.children[2:]) if record.pid]
    dead.update(living[: plan.spared])
    while (now := time.monotonic()) < end:
        if now >= look:
            look += LOOK_S
            watch.look(now)
            progress(f"{end - now:6.0f} s to go, {kills} kills")
        # At random instants, but all of them before the end.
        wanted = plan.kills * min(1.0, (now - begin) / (end - begin - 5))
        if kills < wanted and kill_a_worker(board, chance, dead):
            kills += 1
            continue
        time.sleep(chance.uniform(0, 0.1) if plan.kills else 0.5)
    return kills


def hearing(board: Board, channels: int) -> bool:
    """True when every channel has packets."""
    return all(board.channels[i].read().packets_received for i in range(channels))


def compare(
    data_dir: Path, truth: Truth, channels: Sequence[ChannelSpec], joined_s: float, slow: list[str]
) -> list[str]:
    """Each channel's files against what was sent; labels that the simulator's own lateness explains go to `slow`."""
    total, faults = Verdict(), []
    late = overdue_ms(truth)
    print(
        f"the simulator's packets left at most {late[-1]:.1f} ms after they were to, "
        f"in 99 % of half seconds at most {late[len(late) * 99 // 100]:.1f} ms"
    )
    events: dict[int, list[dict[str, Any]]] = {channel.ssrc: [] for channel in channels}
    for event in truth.events:
        events[event["ssrc"]].append(event)
    for channel in channels:
        own = replace(truth, timelines=truth.of(channel.ssrc), events=tuple(events[channel.ssrc]))
        late_labels: list[str] = []
        joined = round(joined_s * channel.sample_rate_hz)
        verdict = check_simulated(data_dir, own, channel.ssrc, joined, slow=late_labels)
        total.files += verdict.files
        total.samples += verdict.samples
        total.missing += verdict.missing
        total.worst_label_ns = max(total.worst_label_ns, verdict.worst_label_ns)
        total.worst_excess_ns = max(total.worst_excess_ns, verdict.worst_excess_ns)
        faults += [f"{channel.name}: {fault}" for fault in verdict.faults]
        slow += [f"{channel.name}: {label}" for label in late_labels]
        progress(f"checked {channel.name:20}")
    print(
        f"{total.files} files, {total.samples} samples compared, {total.missing} listed as missing, "
        f"labels off by at most {total.worst_label_ns / 1e6:.1f} ms, each within its bound by at least "
        f"{-total.worst_excess_ns / 1e6:.1f} ms"
    )
    return faults


def main() -> int:
    """Parse, run, tidy up."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything that was started is stopped
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=PLANS)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--channels", type=int)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--datagrams", type=int)
    parser.add_argument("--groups", action="store_true", help="a multicast group for each channel, not one for all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="kept afterwards; default: a temporary one")
    wanted = vars(parser.parse_args())
    plan = PLANS[wanted["what"]]
    changed = {k: wanted[k] for k in ("minutes", "channels", "kills", "datagrams") if wanted[k] is not None}
    plan = Plan(**{**vars(plan), **changed, "own_groups": wanted["groups"]})
    folder = wanted["folder"] or Path(tempfile.mkdtemp(prefix="grape-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return run(plan, folder, wanted["seed"])
    finally:
        if wanted["folder"] is None:
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
