"""Who is not meant: datagrams from other sources, segments of other users, samples for other eyes."""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import SHARED_MEMORY, Names, needs_root
from pipeline.config import Recorder
from pipeline.segments import open_segment
from pipeline.shm import SharedMemoryError, segment_name, unlink
from pipeline.sockets import open_channel, sender
from process.fast_channel import FRAMES, fast_channel


def test_stream_of_a_stranger_is_counted_and_costs_nothing(names: Names, tmp_path: Path) -> None:
    """Same group, same SSRC, plausible places; only the source address tells."""
    with fast_channel(names, tmp_path) as fast, sender("lo") as stranger:
        fast.sockets.close()
        fast.config = replace(fast.config, radiod=replace(fast.config.radiod, source_address="127.0.0.1"))
        fast.sockets = open_channel(fast.channel, fast.config.radiod)
        stranger.bind(("127.0.0.2", 0))
        worker = fast.worker()
        for _ in range(7):
            for number in range(fast.sent, fast.sent + 20):
                header = struct.pack("!BBHII", 0x80, 97, number, number * FRAMES, fast.channel.ssrc)
                stranger.sendto(header + bytes(4 * FRAMES), (names.group, names.data_port))
            fast.send(10)
            fast.work(worker, lambda: fast.record.packets_received == fast.sent, "the packets")
        fast.work(worker, lambda: fast.record.minutes_written == 1, "a minute")
        assert fast.record.packets_bad == 140
        assert fast.minutes() == [0]


def test_samples_are_for_their_owner_alone(names: Names, tmp_path: Path) -> None:
    with fast_channel(names, tmp_path):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in SHARED_MEMORY.glob(f"*{names.instance}*")}
    assert modes == {f"grape-pipeline-{names.instance}": 0o644, f"grape-pipeline-{names.instance}-FAST": 0o600}


@pytest.mark.root
def test_segment_that_another_user_put_there_is_neither_believed_nor_removed(names: Names, tmp_path: Path) -> None:
    needs_root()
    with fast_channel(names, tmp_path) as fast:
        name = segment_name(names.instance, fast.channel.id)
        path = SHARED_MEMORY / name.lstrip("/")
        assert open_segment(names.instance, fast.channel, Recorder(), False) is not None
        os.chown(path, 65534, 65534)
        assert open_segment(names.instance, fast.channel, Recorder(), False) is None
        child = os.fork()
        if child == 0:
            os.setuid(65533)
            try:
                unlink(name)
            except SharedMemoryError as error:
                os._exit(0 if "belongs to another user" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert path.exists()
