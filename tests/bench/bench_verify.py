"""How fast a tree is verified: files/s, MB/s and CPU, whole and `--quick`, with one process and with two; peak memory.

python -m tests.bench.bench_verify [minutes]

At least so many minutes that other processes do the reading: a few files this one reads alone.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from minutes import CHANNEL, arrays_of
from pipeline.verify import FEW_FILES, verify_tree
from streams import T0, Recording, Sent, play
from trees import later, write_minute

RATE = 16_000


def make(tree: Path, minutes: int) -> None:
    """Minutes of a channel at its real rate and size: noise, some packets lost."""
    from minutes import cut_all

    recorded = Recording(RATE)
    play(recorded, Sent(T0, RATE), [n for n in range(3_000) if n % 500])
    [cut] = cut_all(recorded)
    arrays = arrays_of(cut, channel=replace(CHANNEL, sample_rate_hz=RATE))
    received = arrays["iq"] != 0
    noise = np.random.default_rng(1).integers(-2_000, 2_000, (len(received), 2)).astype(np.float32) / 32_768
    noise[(noise == 0).all(axis=1)] = 1 / 32_768
    arrays["iq"] = np.where(received, noise.view(np.complex64)[:, 0], 0).astype(np.complex64)
    for minute in range(minutes):
        write_minute(tree, later(arrays, minute), level=2)


def cpu_s() -> float:
    """CPU time of this process and of those that it waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measure(tree: Path) -> None:
    """Verify the tree in each way and print what it takes."""
    for samples, jobs in ((True, 1), (True, 2), (False, 1), (False, 2)):
        begin, cpu = time.perf_counter(), cpu_s()
        audit = verify_tree(tree, samples=samples, jobs=jobs)
        took = time.perf_counter() - begin
        how = f"{'whole' if samples else 'quick'}, {jobs} process{'es' * (jobs > 1)}"
        speed = f"{audit.files / took:8.1f} files/s {audit.file_bytes / took / 1e6:8.1f} MB/s"
        cost = f"{(cpu_s() - cpu) / audit.files * 1e3:8.1f} ms CPU a file"
        print(f"{how:<20}{speed}{cost}  {'sound' if audit.findings.sound else 'FINDINGS'}")
    peaks = (resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print("peak memory {} MB here, {} MB in a process that reads".format(*peaks))


def main() -> None:
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]))
    else:
        minutes = max(FEW_FILES + 1, int(sys.argv[1]) if len(sys.argv) > 1 else 120)
        # Each in a process of its own: a peak of memory is handed down, and that of making the tree is the highest.
        with tempfile.TemporaryDirectory() as folder:
            for words in (["make", folder, str(minutes)], ["measure", folder]):
                subprocess.run([sys.executable, "-m", "tests.bench.bench_verify", *words], check=True)


if __name__ == "__main__":
    main()
