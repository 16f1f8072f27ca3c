"""Labels of the real program against true time: five radiods at once, each with its own trouble."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from e2e.live import receiving, running, spec, write_config
from helpers import Names, wait_for
from pipeline.simulator.spec import ChannelSpec, FaultPlan, SimulatorSpec, ntp_farm
from pipeline.simulator.station import running_simulator
from pipeline.simulator.truth import Truth
from truthcheck import load_tree, segments

SECONDS = 80.0


@dataclass(frozen=True)
class Case:
    """One radiod: what is wrong with it, and what its files must name as their source of time."""

    name: str
    source: str
    facts: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("fast clock", "radiod", {"ppm": 50.0}),
    Case("late statuses", "radiod", {"faults": FaultPlan(late_status=0.3)}),
    Case("no status", "ntp", {"status_port": 5998}),
    Case("radiod 80 ms ahead", "radiod", {"clock_offset_s": 0.08}),
    Case("samples lost", "radiod", {"frontend_stalls": ((33.0, 0.3),), "stalls": ((12.0, 1.5),)}),
)


def label_errors(values: dict[str, Any], truth: Truth, ssrc: int) -> list[int]:
    """Label less true UTC, ns, where a segment or a stretch of true time begins or ends in a file."""
    timelines = truth.of(ssrc)
    first = timelines[0].start_rtp
    found = []
    for _, count, rtp, _, utc in segments(values):
        begin = (rtp - first) % (1 << 32)
        starts = [(t.start_rtp - first) % (1 << 32) for t in timelines]
        for timeline, start, stop in zip(timelines, starts, [*starts[1:], 1 << 32], strict=True):
            a, b = max(begin, start), min(begin + count, stop)
            if a >= b:
                continue
            for at in (a, b - 1):
                label = utc + (at - begin) * 1_000_000_000 // values["sample_rate"]
                found.append(label - timeline.utc_ns(at - start))
    return found


@pytest.mark.limit(200)
def test_labels_are_within_what_they_state(names: Names, tmp_path: Path) -> None:
    channels = tuple(ChannelSpec(case.name, 5_000_000 + n) for n, case in enumerate(CASES))
    octets = names.group.split(".")
    groups = [".".join((*octets[:2], str((int(octets[2]) + n) % 256), octets[3])) for n in range(len(CASES))]
    with ExitStack() as stack:
        servers = stack.enter_context(
            running_simulator(SimulatorSpec(channels=(), data_address=(names.group, 5004), ntp_servers=ntp_farm(4)))
        )
        for case, channel, group in zip(CASES, channels, groups, strict=True):
            own = Names(names.instance, group)
            station = spec(own, (channel,), tmp_path / case.name, duration_s=SECONDS, **case.facts)
            stack.enter_context(running_simulator(replace(station, ntp_servers=())))
        end = time.monotonic() + SECONDS
        config = write_config(names, servers, channels, tmp_path)
        text = config.read_text()
        for channel, group in zip(channels, groups, strict=True):
            text = text.replace(f"ssrc = {channel.ssrc}\n", f'ssrc = {channel.ssrc}\ndata_address = "{group}:5004"\n')
        config.write_text(text)
        with running(config, tmp_path) as (program, child):
            wait_for(lambda: receiving(program), 15, "packets on every channel")
            wait_for(lambda: time.monotonic() > end, SECONDS, "the end of the streams")
            child.send_signal(signal.SIGTERM)
            assert child.wait(40) == 0
    for case, channel in zip(CASES, channels, strict=True):
        files = list(load_tree(program.data_dir, channel.ssrc))
        assert len(files) >= 2, case.name
        truth = Truth.read(tmp_path / case.name)
        for values in files:
            worst = max(label_errors(values, truth, channel.ssrc), key=abs)
            told = f"{case.name}: {worst / 1e6:.3f} ms off, bound {values['anchor_uncertainty_ns'] / 1e6:.3f} ms"
            print(told, values["path"].name, values["anchor_source"])
            assert abs(worst) <= values["anchor_uncertainty_ns"], told
            assert values["anchor_source"] == case.source, case.name
            assert values["anchor_uncertainty_ns"] < 500_000_000, told
