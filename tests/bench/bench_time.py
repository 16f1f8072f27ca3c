"""Labels against true time: error and stated bound of every file, scenario by scenario.

    python -m tests.bench.bench_time [--minutes N] [--only WORD]

`--minutes N` plays N minutes of each of the forty scenarios (520: more than 20 000 in all). `viol` are files
whose label is off by more than their bound, at either end; `first` is the median error of iq[0] in samples.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from time_judge import Verdict, judge, table  # noqa: E402
from time_scenarios import scenarios  # noqa: E402
from time_world import play  # noqa: E402


def _one(minutes: float, number: int) -> Verdict:
    return judge(play(scenarios(minutes)[number], seed=number + 1))


def main() -> int:
    """Play, print the table; 1 when a requirement is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=520)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    numbers = [n for n, s in enumerate(scenarios(options.minutes)) if options.only in s.name]
    begin = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        verdicts = list(pool.map(partial(_one, options.minutes), numbers))
    text, sound = table(verdicts)
    print(text)
    print(f"\n{time.monotonic() - begin:.0f} s on {os.cpu_count()} cores")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
