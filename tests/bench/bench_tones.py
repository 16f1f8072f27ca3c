"""The minute tone detector: false detections, detection against SNR, errors against what it states, cost.

    python -m tests.bench.bench_tones [--noise N] [--signal N] [--kind KIND ...]

`--noise N` looks at N minutes of each kind of noise (10000: an hour on two cores), `--signal N` at N minutes
of each SNR. At 4 kHz: the detector looks at bands some 100 Hz wide, which hold the same at any sample rate.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import sys
import time
from collections import Counter
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np  # noqa: E402

from airwaves import ELSEWHERE, KINDS, RATE, noise_minutes, station_minute  # noqa: E402
from pipeline.stream.pulses import STATIONS  # noqa: E402
from pipeline.stream.tones import listen, survey  # noqa: E402

ALL = tuple(STATIONS.values())
BATCH = 10
SNRS_DB = (10, 12, 14, 16, 18, 20, 22, 24, 27, 30, 35, 40, 45, 50)


def false_detections(job: tuple[str, int]) -> Counter[str]:
    """Look at a batch of noise minutes for all three stations at once, as on a channel that says nothing.

    At the minute (`listen`) and, for labels that may be seconds off, everywhere (`survey`).
    """
    kind, seed = job
    rng = np.random.default_rng([seed, *kind.encode()])
    found: Counter[str] = Counter()
    for minute, before in noise_minutes(kind, rng, BATCH):
        # CHU's audio is one sideband's: another demodulation, so another look.
        heard = [listen(minute, RATE, pulses, before).heard for pulses in (ALL[:2], ALL[2:])]
        found.update(tone.station for tones in heard for tone in tones)
        found["minutes"] += 1
        found["false"] += any(heard)
        if kind not in ELSEWHERE:
            found["anywhere"] += any(survey(minute, RATE, pulses, before).heard for pulses in (ALL[:2], ALL[2:]))
    return found


def detections(job: tuple[str, float, int]) -> list[tuple[float, float, float, float]]:
    """(error s, stated s, snr dB found, ticks' error s) of a batch of a station's minutes; NaN = not found."""
    station, snr_db, seed = job
    rng = np.random.default_rng([seed, round(10 * snr_db), *station.encode()])
    rows = []
    for _ in range(BATCH):
        onset = rng.uniform(-0.02, 0.06)
        minute, before = station_minute(rng, snr_db, station, onset)
        tones = listen(minute, RATE, (STATIONS[station],), before)
        tone = tones.heard[0] if tones.heard else None
        ticks = tones.ticks.onset_s - onset if tones.ticks else np.nan
        rows.append(
            (tone.onset_s - onset, tone.uncertainty_s, tone.snr_db, ticks) if tone else (np.nan, np.nan, np.nan, ticks)
        )
    return rows


def noise_table(pool: Executor, kinds: list[str], minutes: int) -> None:
    """False detections for each kind of noise."""
    print(f"\nfalse detections in {minutes} minutes of each kind, carriers from -10 to +40 dB (in 4 kHz)")
    print("false: within 1.5 s of the minute; anywhere: in the whole minute, with second ticks")
    print(f"{'noise':<14}{'minutes':>9}{'false':>7}{'anywhere':>10}   stations")
    every: Counter[str] = Counter()
    for kind in kinds:
        jobs = [(kind, seed) for seed in range(-(-minutes // BATCH))]
        total = sum(pool.map(false_detections, jobs), Counter[str]())
        names = ", ".join(f"{name} {total[name]}" for name in STATIONS if total[name])
        anywhere = "-" if kind in ELSEWHERE else total["anywhere"]
        print(f"{kind:<14}{total['minutes']:>9}{total['false']:>7}{anywhere:>10}   {names}", flush=True)
        every += total
    print(f"{'all':<14}{every['minutes']:>9}{every['false']:>7}{every['anywhere']:>10}")


def signal_table(pool: Executor, minutes: int) -> None:
    """Detection probability and errors against SNR."""
    print(f"\n{minutes} minutes each; SNR: tone energy over noise density; C/N0: the carrier's")
    print(f"{'station':<8}{'SNR dB':>7}{'C/N0 dB':>9}{'found %':>9}{'median |error| ms':>19}{'worst ms':>10}"
          f"{'within stated %':>17}{'stated ms':>11}{'ticks found %':>15}{'median ms':>11}")  # fmt: skip
    for station in STATIONS:
        lasts, depth, sides = (0.5, 0.4, 1) if station == "CHU" else (0.8, 0.9, 2)
        for snr in SNRS_DB:
            jobs = [(station, snr, seed) for seed in range(-(-minutes // BATCH))]
            rows = np.array([row for batch in pool.map(detections, jobs) for row in batch])
            error, stated = np.abs(rows[:, 0]) * 1e3, rows[:, 1] * 1e3
            found, ticks = ~np.isnan(error), np.abs(rows[:, 3]) * 1e3
            carrier = snr + 10 * np.log10(sides / (lasts * depth**2))
            line = f"{station:<8}{snr:>7}{carrier:>9.1f}{100 * found.mean():>9.1f}"
            if found.any():
                line += f"{np.median(error[found]):>19.3f}{error[found].max():>10.3f}"
                line += f"{100 * (error <= stated)[found].mean():>17.1f}{np.median(stated[found]):>11.3f}"
                ticking = ~np.isnan(ticks)
                line += f"{100 * ticking.mean():>15.1f}"
                line += f"{np.median(ticks[ticking]):>11.3f}" if ticking.any() else ""
            print(line, flush=True)


def differences(job: tuple[float, float, int]) -> list[tuple[float, float, float, float]]:
    """(delay's error s, stated s, errors of both powers dB) of minutes with WWV and WWVH; NaN = not both found."""
    wwv_db, wwvh_db, seed = job
    rng = np.random.default_rng([seed, round(wwv_db), round(10 * wwvh_db)])
    rows = []
    for _ in range(BATCH):
        at = rng.uniform(0.0, 0.03, 2)
        (one, one_before), (other, other_before) = (
            station_minute(rng, snr, name, onset, noise=name == "WWV")
            for name, snr, onset in zip(("WWV", "WWVH"), (wwv_db, wwvh_db), at, strict=True)
        )
        tones = listen(one + other, RATE, ALL[:2], one_before + other_before)
        error = tones.differential_s - (at[1] - at[0])
        stated = sum(tone.uncertainty_s for tone in tones.heard)
        # Energy over density to mean power: noise of power 2 in the sampled band.
        truth = np.array([wwv_db, wwvh_db]) + 10 * np.log10(2 / RATE / 0.8)
        powers = [tones.power_dbfs(hz) for hz in (1000, 1200)] - truth
        rows.append((error, stated, *powers))
    return rows


def both_table(pool: Executor, minutes: int) -> None:
    """WWV and WWVH together: what is found of the weaker one, and the delay between them."""
    print(f"\nWWV and WWVH together, {minutes} minutes each")
    print(f"{'WWV dB':>7}{'WWVH dB':>9}{'both %':>8}{'median |error| ms':>19}{'worst ms':>10}{'within stated %':>17}"
          f"{'power errors dB (rms)':>24}")  # fmt: skip
    for wwv_db, wwvh_db in ((45, 45), (45, 40), (45, 35), (45, 30), (45, 25), (35, 35), (35, 30), (30, 30), (30, 45)):
        jobs = [(wwv_db, wwvh_db, seed) for seed in range(-(-minutes // BATCH))]
        rows = np.array([row for batch in pool.map(differences, jobs) for row in batch])
        both = ~np.isnan(rows[:, 0])
        line = f"{wwv_db:>7}{wwvh_db:>9}{100 * both.mean():>8.1f}"
        if both.any():
            error, stated = np.abs(rows[both, 0]) * 1e3, rows[both, 1] * 1e3
            power = np.sqrt(np.square(rows[both, 2:]).mean(axis=0))
            line += f"{np.median(error):>19.3f}{error.max():>10.3f}{100 * (error <= stated).mean():>17.1f}"
            line += f"{power[0]:>17.2f}{power[1]:>7.2f}"
        print(line, flush=True)


def cost() -> None:
    """CPU time per minute at 16 kHz."""
    rng = np.random.default_rng(1)
    print(f"\nCPU ms per minute of 960000 samples, {platform.machine()}, one thread")
    cases = (
        ("WWV, found", 45, "WWV", listen),
        ("CHU, found", 45, "CHU", listen),
        ("nothing found", -20, "WWV", listen),
        ("WWV, anywhere", 45, "WWV", survey),
    )
    for name, snr, station, look in cases:
        minute, before = station_minute(rng, snr, station, rate=16_000)
        looked = []
        for _ in range(40):
            begin = time.process_time()
            look(minute, 16_000, ALL[:2] if station == "WWV" else ALL[2:], before)
            looked.append(time.process_time() - begin)
        print(f"{name:<16}{1e3 * float(np.median(looked)):>8.1f}   least {1e3 * min(looked):.1f}")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noise", type=int, default=1000, metavar="N")
    parser.add_argument("--signal", type=int, default=200, metavar="N")
    parser.add_argument("--kind", action="append", choices=KINDS)
    options = parser.parse_args()
    cost()
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        if options.signal:
            signal_table(pool, options.signal)
            both_table(pool, options.signal)
        if options.noise:
            noise_table(pool, options.kind or list(KINDS), options.noise)


if __name__ == "__main__":
    main()
