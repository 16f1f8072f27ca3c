"""The thread that turns cut minutes into files, so that receiving never waits for a disk.

Decoding, compressing and fsync release the interpreter for nearly all of their time. One
minute at a time is in hand; the rest wait in the journal. Everything that a worker does with
the disk is done here: tidying after a crash and removing what is too old come before a write.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import durable, npz
from pipeline.config import Channel, Recorder
from pipeline.minutefile import ARCHIVES, PARTS, Context, build, minute_path, part_path
from pipeline.records import UNKNOWN_NS
from pipeline.retention import sweep
from pipeline.stream.cutter import Cut
from pipeline.stream.minute import Minute
from pipeline.stream.samples import Samples
from pipeline.stream.timeline import SECOND
from pipeline.stream.toneanchor import Onset
from pipeline.tonekeys import Tail, onset_of, tail_of

log = logging.getLogger(__name__)

MAX_PARTS = 100
# Looking through a folder of weeks costs some 10 ms; what becomes too old does so once a day.
SWEEP_S = 3600
# What makes two files of one minute the same one.
MAPPING = ("sample_rate", "epoch_id", "rtp_timestamp", "sample0_utc_ns")


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a job: the files, or the error that stopped it; and the minute tones in what was written.

    `bytes` is the size of the files, `free_bytes` the room that an ordinary user has on their disk then.
    """

    cut: Cut
    paths: tuple[Path, ...]
    error: OSError | None
    duration_s: float
    onsets: tuple[Onset, ...] = ()
    bytes: int = 0
    free_bytes: int = UNKNOWN_NS


class Writer:
    """Writes one `Cut` at a time; `poll` tells when it is done. `wake` is called from the thread.

    `unattended` are ids of channels that have no worker, whose files become too old all the same.
    """

    def __init__(
        self, channel: Channel, recorder: Recorder, wake: Callable[[], None], unattended: Iterable[str] = ()
    ) -> None:
        self._channel = channel
        self._recorder = recorder
        self._wake = wake
        places = [(place, id) for id in (channel.id, *unattended) for place in (ARCHIVES, PARTS)]
        self._folders = [recorder.data_dir / place / id for place, id in places]
        self._tidied = False
        self._untidy: int | None = None
        self._sweep_s = 0.0
        # Since when the job is in hand, and whether it still needs the journal.
        self.since_s = 0.0
        self.copied = False
        self._thread: threading.Thread | None = None
        self._result: Written | None = None
        self._fault: BaseException | None = None
        # Of the minute written last: a tone may begin before its minute's first sample.
        self._tail: Tail | None = None

    @property
    def busy(self) -> bool:
        """True while a job is in hand or its result was not fetched."""
        return self._thread is not None

    def start(self, cut: Cut, contexts: list[Context]) -> None:
        """Begin to write; only when not busy."""
        self.since_s, self.copied = time.monotonic(), False
        self._thread = threading.Thread(target=self._work, args=(cut, contexts), name="writer", daemon=True)
        self._thread.start()

    def poll(self, timeout_s: float = 0.0) -> Written | None:
        """The finished job's result, once; None while it is not finished.

        Raises what was wrong with the program itself: then nothing is known to be written
        and the process must not go on as if it were.
        """
        thread = self._thread
        if thread is None:
            return None
        if timeout_s:
            thread.join(timeout_s)
        if self._result is None:
            return None
        thread.join()
        if self._fault is not None:
            raise self._fault
        result, self._result, self._thread = self._result, None, None
        return result

    def _work(self, cut: Cut, contexts: list[Context]) -> None:
        begin = time.monotonic()
        error: OSError | None = None
        paths: list[Path] = []
        onsets: list[Onset] = []
        size, free = 0, UNKNOWN_NS
        try:
            self._tidy(cut, contexts)
            tail = self._tail
            files: list[tuple[Minute, bytes]] = []
            for minute, context in zip(cut.minutes, contexts, strict=True):
                self._check_space(self._recorder.data_dir)
                arrays = build(minute, context, tail)
                tail = tail_of(minute, Samples(minute.runs, minute.samples), np.asarray(arrays["iq_extra"]))
                files.append((minute, npz.packed(arrays, self._recorder.compression_level)))
                onset = onset_of(minute, arrays, context.station)
                onsets += [onset] if onset else []
            self.copied = True
            for minute, content in files:
                paths.append(self._store(minute, content))
            self._tail = tail
            size = sum(path.stat().st_size for path in paths)
            free = _free_bytes(self._recorder.data_dir)
        except OSError as failure:
            error = failure
        except MemoryError:
            error = OSError(errno.ENOMEM, "no memory to write a minute")
        except durable.FileExists as failure:
            error = OSError(errno.EEXIST, str(failure))
        except BaseException as failure:
            self._fault = failure
        self._result = Written(cut, tuple(paths), error, time.monotonic() - begin, tuple(onsets), size, free)
        self._wake()

    def _tidy(self, cut: Cut, contexts: list[Context]) -> None:
        """Remove what a crash left unfinished and what is too old; a disk that refuses is no reason not to write."""
        try:
            if not self._tidied:
                for folder in self._folders[:2]:
                    for path in durable.remove_orphans(folder):
                        log.warning("%s: removed %s, which a crash left unfinished", self._channel.name, path.name)
                self._tidied = True
            self._sweep(cut, contexts)
        except OSError as error:
            if error.errno != self._untidy:
                log.warning("%s: cannot tidy up: %s", self._channel.name, error)
            self._untidy = error.errno

    def _sweep(self, cut: Cut, contexts: list[Context]) -> None:
        keep_days = self._recorder.retention_days
        if not keep_days or not contexts or time.monotonic() < self._sweep_s:
            return
        if not contexts[0].ntp_view["valid"]:
            # The clock may be years ahead; better a full disk than an empty one.
            return
        now_s = min(contexts[0].created_s, cut.utc_ns / SECOND + 60)
        removed, more = sweep(self._folders, now_s, keep_days)
        self._sweep_s = 0.0 if more else time.monotonic() + SWEEP_S
        if removed:
            log.info(
                "%s: removed %d files older than %d days, %s to %s",
                self._channel.name, len(removed), keep_days, removed[0].name, removed[-1].name,
            )  # fmt: skip

    def _store(self, minute: Minute, content: bytes) -> Path:
        folder = self._recorder.data_dir
        path = minute_path(folder, self._channel, minute.utc_ns)
        number = 0
        while path.exists():
            if _same(path, content):
                # A predecessor wrote this very minute and died before it could say so,
                # perhaps before the name was on disk.
                durable.sync_folder(path.parent)
                return path
            number += 1
            path = part_path(folder, self._channel, minute.utc_ns, minute.rate_hz, number)
            if number > MAX_PARTS:
                raise OSError(errno.EEXIST, "too many parts of one minute", str(path))
        durable.write(path, content)
        return path

    def _check_space(self, folder: Path) -> None:
        reserve = self._recorder.min_free_gb * 1e9
        if reserve > 0:
            folder.mkdir(parents=True, exist_ok=True)
            if _free_bytes(folder) < reserve:
                raise OSError(errno.ENOSPC, f"less than min_free_gb = {self._recorder.min_free_gb:g} left", str(folder))


def _free_bytes(folder: Path) -> int:
    """Room for an ordinary user on the disk of `folder`."""
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize


def _same(path: Path, content: bytes) -> bool:
    """True when a file holds the samples of `content`, every one, by the same mapping.

    Anything less would lose samples: the same minute cut again after a restart of the
    program has the same mapping but other samples.
    """
    try:
        found, mine = npz.read(path), npz.read(content)
    except npz.NoMemoryToRead as error:
        raise MemoryError(str(error)) from None
    except npz.UnreadableFile:
        return False
    # Under that name may be anything, an array where a number should be.
    same_mapping = all(isinstance(found.get(name), int) and found[name] == mine[name] for name in MAPPING)
    return same_mapping and all(_alike(found.get(name), mine[name]) for name in ("iq", "iq_extra"))


def _alike(found: Any, mine: npt.NDArray[Any]) -> bool:
    """True when two arrays have the same bytes: a sample that is not a number does not equal itself."""
    if not isinstance(found, np.ndarray) or (found.dtype, found.shape) != (mine.dtype, mine.shape):
        return False
    return found.view(np.uint8).data == mine.view(np.uint8).data
