"""The short forms of all that measures speed, one after the other, under the machine's name.

    python -m tests.bench [--only WORD]

Each is a command of its own, whose `--help` or docstring has the long form. About eight minutes. What is
true rather than fast (labels, bounds, false tones) is measured by bench_time, bench_ntp --uncertainty and bench_tones.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHORT_FORMS: dict[str, tuple[str, ...]] = {
    "bench_channel": ("--minutes", "2"),
    "bench_group": (),
    "bench_shm": (),
    "bench_ntp": (),
    "bench_watch": ("10",),
    "bench_web": ("60",),
    "bench_verify": ("20",),
    "bench_tones": ("--noise", "0", "--signal", "0"),
}


def machine() -> str:
    """Processor, cores, kernel and Python."""
    rows = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((row.partition(":")[2].strip() for row in rows if row.startswith(("model name", "Model"))), "")
    load = os.getloadavg()[0]
    return (
        f"{platform.node()}: {model or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}; load {load:.1f} at the start"
    )


def main() -> int:
    """Run them; 1 when one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="those whose name has this in it")
    wanted = parser.parse_args().only
    print(machine())
    failed = False
    for name, arguments in SHORT_FORMS.items():
        if wanted not in name:
            continue
        print(f"\n== {' '.join(('python -m tests.bench.' + name, *arguments))}", flush=True)
        begin = time.monotonic()
        command = [sys.executable, "-m", f"tests.bench.{name}", *arguments]
        failed |= subprocess.run(command, cwd=ROOT, check=False).returncode != 0
        print(f"({time.monotonic() - begin:.0f} s)", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
