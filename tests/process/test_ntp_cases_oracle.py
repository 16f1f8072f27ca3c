"""Case 59: the same five servers to a real `chronyd -x` and to us, in five scenarios.

chronyd asks every second and filters for as long as the test lasts; we take three samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from helpers import wait_for
from ntp_daemons import FAST, Daemon, chronyds
from pipeline.config import Ntp, Server
from pipeline.ntp import chronyd
from pipeline.ntp.once import measure_once
from pipeline.ntp.reading import Reading
from pipeline.ntp.rows import RowState
from pipeline.simulator.ntp import running_farm
from pipeline.simulator.spec import NtpServerSpec

GOOD = NtpServerSpec(stratum=1, refid="GPS", request_delay_s=0.002, reply_delay_s=0.002)
FARTHER = replace(GOOD, request_delay_s=0.004, reply_delay_s=0.004)
SECOND = replace(GOOD, stratum=2, refid="ABCD", root_delay_s=0.002, root_dispersion_s=0.002)
# On the way there 6 ms, back 2: 2 ms off and within its own error.
LOPSIDED = replace(GOOD, request_delay_s=0.006, reply_delay_s=0.002)
AHEAD = replace(GOOD, offset_s=1.0)
SCENARIOS = {
    "all_good": (GOOD, GOOD, FARTHER, SECOND, LOPSIDED),
    "one_claims_to_be_perfect": (GOOD, FARTHER, SECOND, GOOD, replace(GOOD, offset_s=0.03, root_dispersion_s=0.0)),
    "two_collude": (GOOD, AHEAD, FARTHER, AHEAD, SECOND),
    "three_collude_and_win": (AHEAD, GOOD, AHEAD, FARTHER, AHEAD),
    "smeared_and_silent": (GOOD, replace(GOOD, offset_s=-0.4), SECOND, FARTHER, replace(GOOD, silent=True)),
}
UPDATES = 0o17  # reach of a source that has answered four times


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Daemon, tuple[Server, ...]]]]:
    """A daemon without any other source per scenario, and its five servers."""
    folder = tmp_path_factory.mktemp("oracle")
    with ExitStack() as stack:
        servers: dict[str, tuple[Server, ...]] = {}
        directives = {}
        for i, (name, specs) in enumerate(SCENARIOS.items(), 1):
            # chronyd knows a source by its address alone.
            placed = [replace(spec, host=f"127.0.{20 + i}.{k}") for k, spec in enumerate(specs, 1)]
            servers[name] = tuple(Server(*address) for address in stack.enter_context(running_farm(placed, seed=i)))
            directives[f"127.0.20.{i}"] = "\n".join(f"server {s.address} port {s.port} {FAST}" for s in servers[name])
        daemons = stack.enter_context(chronyds(folder, directives))
        yield {name: (daemon, servers[name]) for name, daemon in zip(servers, daemons, strict=True)}


@pytest.mark.parametrize("name", SCENARIOS, ids=[f"case_59_{name}" for name in SCENARIOS])
def test_same_servers_to_chronyd_and_to_us(oracle: dict[str, tuple[Daemon, tuple[Server, ...]]], name: str) -> None:
    daemon, servers = oracle[name]
    silent = {s for s, spec in enumerate(SCENARIOS[name]) if spec.silent}

    def ready() -> bool:
        found = daemon.sources() if daemon.settled(1.0) else []
        answered = {i for i, fields in enumerate(found) if int(fields[5], 8) & UPDATES == UPDATES}
        return answered == {0, 1, 2, 3, 4} - silent and any(fields[1] == "*" for fields in found)

    wait_for(ready, 20, "a verdict of chronyd")
    theirs = {i for i, fields in enumerate(daemon.sources()) if fields[1] == "x"}
    reading = chronyd.read("127.0.0.1", daemon.command_port)
    found = measure_once(Ntp(sources=("servers",), servers=servers, timeout_s=0.3, mode="advanced"))
    ours = {i for i, row in enumerate(found.servers) if row.state is RowState.FALSETICKER}
    assert ours == theirs
    assert isinstance(reading, Reading)
    assert found.record.offset_ms == pytest.approx(-reading.theta_s * 1e3, abs=1.0)
    assert abs(found.record.offset_ms) <= found.record.uncertainty_ms or name == "three_collude_and_win"
