"""What the page's process costs beside a recorder of nine channels, in CPU time.

    python -m tests.bench.bench_web [FILES]

FILES minutes (240 by default) of one channel are put into its day; then the process is started again, as it is without
its cache and with it; then it waits for something new beside an archive of thirty days.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # as pytest does
from minutes import arrays_of, cut_all, play, recording
from pipeline import npz
from pipeline.config import Channel, Config, Recorder
from pipeline.web.gallery import DAY_S, POLL_S, Gallery
from streams import T0, Sent

CHANNELS = 9
FILES = 240
MONTH = 30 * 1440
MIDNIGHT = T0 // 10**9 // DAY_S * DAY_S
RATE, FRAMES = 16_000, 320


def stamp(minute: int) -> str:
    """The name of the file of a minute of the day."""
    return time.strftime("%Y%m%dT%H%M%SZ_10000000_iq.npz", time.gmtime(MIDNIGHT + 60 * minute))


def read_day(config: Config, cache: Path | None) -> tuple[int, float]:
    """(files read, CPU s) of a start until there is nothing left to read; what it has read is kept."""
    begin = time.process_time()
    gallery, files = Gallery(config, lambda: MIDNIGHT + DAY_S - 1.0, cache), 0
    while gallery.step():
        files += 1
    used = time.process_time() - begin
    gallery.stop()
    return files, used


def idle(config: Config, cache: Path) -> float:
    """CPU s of one look at a folder in which nothing is new."""
    gallery = Gallery(config, lambda: MIDNIGHT + DAY_S - 1.0, cache)
    gallery.step()
    time.sleep(2.5)  # a folder that has just changed is listed each time
    gallery.step()
    begin = time.process_time()
    for _ in range(20):
        gallery.step()
    return (time.process_time() - begin) / 20


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else FILES
    channel = Channel("WWV 10 MHz", 1e7, 10_000_000, RATE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = Config(recorder=Recorder(data_dir=folder), channels=(channel,))
        archive = folder / "archives" / channel.id
        archive.mkdir(parents=True)
        recorded = recording(RATE)
        play(recorded, Sent(T0, RATE, FRAMES), range(60 * RATE // FRAMES))
        (cut,) = cut_all(recorded)
        npz.write(archive / stamp(0), arrays_of(cut), 1)
        for minute in range(1, count):
            shutil.copyfile(archive / stamp(0), archive / stamp(minute))
        files, used = read_day(config, folder / "cache")
        each = used / files
        share = 100 * CHANNELS * each / 60
        print(f"a file of the day      {1e3 * each:6.1f} ms, so {CHANNELS} channels take {share:.2f} % of a core")
        whole = CHANNELS * 1440 * each
        print(f"start in the evening   {whole:6.0f} CPU s without the cache ({CHANNELS} channels)")
        files, used = read_day(config, folder / "cache")
        print(f"the same with it       {CHANNELS * used:6.2f} CPU s, {files} files read")
        for number in range(MONTH):
            (archive / time.strftime("%Y%m%dT%H%M%SZ_1_iq.npz", time.gmtime(MIDNIGHT - 60 * (number + 1)))).touch()
        look = idle(config, folder / "cache")
        print(f"nothing new, 30 days   {1e6 * look:6.0f} us a look, {100 * CHANNELS * look / POLL_S:.3f} % of a core")


if __name__ == "__main__":
    main()
