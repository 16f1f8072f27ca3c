"""All that is said of speed, as one table from one run: ours beside the usual ways, in turns on one machine.

    python -m tests.bench [--minutes N] [--only WORD] [--long]

About eight minutes. CPU / wall, medians, and what is aimed at. `--long` prints instead what each bench says when it is
called by itself, watching, verifying and tones too. What is true rather than fast (labels, bounds, false tones) is
measured by bench_time, bench_ntp --uncertainty and bench_tones.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # as pytest does
from bench.figures import Row, machine, read_rows, table

ROOT = Path(__file__).parents[2]
ROWS: dict[str, tuple[str, ...]] = {
    "bench_shm": (),
    "bench_ntp": (),
    "bench_channel": ("--minutes", "{minutes}"),
    "bench_receive": (),
    "bench_group": (),
}
LONG: dict[str, tuple[str, ...]] = {
    **ROWS,
    "bench_watch": ("10",),
    "bench_verify": ("40",),
    "bench_tones": ("--noise", "0", "--signal", "0"),
}


def called(name: str, arguments: list[str], **how: bool) -> subprocess.CompletedProcess[str]:
    """A bench in a process of its own."""
    command = [sys.executable, "-m", f"tests.bench.{name}", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, text=True, **how)


def main() -> int:
    """Run them; 1 when one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="benches whose name has this in it")
    parser.add_argument("--minutes", type=int, default=2, help="how long the live channels are watched")
    parser.add_argument("--long", action="store_true", help="what each bench says by itself")
    options = parser.parse_args()
    print(f"{machine()}; load {os.getloadavg()[0]:.1f} at the start", flush=True)
    rows: list[Row] = []
    failed = False
    for name, words in (LONG if options.long else ROWS).items():
        if options.only not in name:
            continue
        arguments = [word.format(minutes=options.minutes) for word in words]
        begin = time.monotonic()
        if options.long:
            print(f"\n== {' '.join(('python -m tests.bench.' + name, *arguments))}", flush=True)
            failed |= called(name, arguments).returncode != 0
        else:
            done = called(name, [*arguments, "--rows"], stdout=subprocess.PIPE)
            failed |= done.returncode != 0
            rows += read_rows(done.stdout) if done.returncode == 0 else []
        print(f"({name}: {time.monotonic() - begin:.0f} s)", file=sys.stderr, flush=True)
    if not options.long:
        print(f"\n{table(rows)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
