"""Long forms of what the suite shows in a minute: the real program on a simulated station, held against the truth.

    python -m tests.soak kills            1000 SIGKILLs of random workers, nine channels of 16 kHz, ten minutes
    python -m tests.soak soak             nine channels, two hours: 1 % loss, reordering, a kill a minute
    python -m tests.soak crowd            the same with 60 channels for ten minutes
    python -m tests.soak fuzz             a million hostile datagrams on one channel's ports, two minutes

Options: --minutes N, --channels N, --kills N, --datagrams N, --folder DIR (its disk takes the files,
4 MB a channel-minute). Every sample that was sent must be in the files, bit for bit, or, where the
simulator dropped it, listed; ends with status 1 if one is not. Everything stays on loopback.
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
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # as pytest does
from e2e.live import kill_a_worker, running, spec, write_config
from helpers import SHARED_MEMORY, new_names, wait_for
from hostile import attack
from pipeline.shm import Board
from pipeline.simulator.spec import WWV_CHU, ChannelSpec, FaultPlan
from pipeline.simulator.station import running_simulator
from pipeline.simulator.truth import Truth
from pipeline.supervision.instance import alive
from soak.processes import Watch
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

    def specs(self) -> tuple[ChannelSpec, ...]:
        """The nine of a GRAPE station, then made-up ones."""
        more = (ChannelSpec(f"EXTRA {n}", 1_000_000 + 10_000 * n) for n in range(self.channels))
        return (*WWV_CHU, *more)[: self.channels]


LOSSY = FaultPlan(loss=0.01, reorder=0.05, reorder_depth=20)
PLANS = {
    "kills": Plan(10.0, 9, 1000),
    "soak": Plan(120.0, 9, 120, spared=2, faults=LOSSY),
    "crowd": Plan(10.0, 60, 10, faults=LOSSY),
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
        with running(config, folder) as (program, child):
            board = Board.open(names.instance)
            wait_for(lambda: hearing(board, len(channels)), START_S, "packets on every channel")
            joined_s = time.monotonic() - begin + 1
            print(f"all channels hear their streams after {joined_s:.1f} s", flush=True)
            watch = Watch(names.instance, board)
            attacker = threading.Thread(
                target=lambda: sent.append(attack(names.group, channels[0].ssrc, end - 2, plan.datagrams)), daemon=True
            )
            if plan.datagrams:
                attacker.start()
            kills = disturb(plan, board, chance, dead, watch, end)
            if plan.datagrams:
                attacker.join(60)
            # On a machine that is too slow the simulator ends late, and its labels are late, too.
            wait_for(lambda: not alive(ready.pid), length_s, "the end of the stream")
            lag_s = time.monotonic() - end
            print(f"the simulator ended {lag_s:.1f} s late" + (": this machine is too slow" if lag_s > 5 else ""))
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
    faults += compare(program.data_dir, Truth.read(truth), channels, joined_s)
    print("\n".join(["", *faults[:40], f"FAILED: {len(faults)} faults" if faults else "passed"]))
    return 1 if faults else 0


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


def compare(data_dir: Path, truth: Truth, channels: Sequence[ChannelSpec], joined_s: float) -> list[str]:
    """Each channel's files against what was sent."""
    total, faults = Verdict(), []
    for channel in channels:
        verdict = check_simulated(data_dir, truth, channel.ssrc, round(joined_s * channel.sample_rate_hz))
        total.files += verdict.files
        total.samples += verdict.samples
        total.missing += verdict.missing
        total.worst_label_ns = max(total.worst_label_ns, verdict.worst_label_ns)
        faults += [f"{channel.name}: {fault}" for fault in verdict.faults]
        progress(f"checked {channel.name:20}")
    print(
        f"{total.files} files, {total.samples} samples compared, {total.missing} listed as missing, "
        f"labels off by at most {total.worst_label_ns / 1e6:.1f} ms"
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
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="kept afterwards; default: a temporary one")
    wanted = vars(parser.parse_args())
    plan = PLANS[wanted["what"]]
    changed = {k: wanted[k] for k in ("minutes", "channels", "kills", "datagrams") if wanted[k] is not None}
    plan = Plan(**{**vars(plan), **changed})
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
