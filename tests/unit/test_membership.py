"""A group that is silent is joined again, with patience; one that is heard is left alone."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pipeline import PipelineError
from pipeline.records import UNKNOWN_NS, ChannelRecord
from pipeline.supervision.membership import Membership

S = 1_000_000_000
GROUP, OTHER = "239.1.2.3:5004", "239.1.2.4:5004"


class Network:
    """Channels by name: their group and when they last heard something."""

    def __init__(self) -> None:
        self.membership = Membership()
        self.heard: dict[str, tuple[str, int]] = {}
        self.joined: list[tuple[int, Any]] = []
        self.fault: Exception | None = None
        self.stale: set[str] = set()

    def second(self, now: int) -> None:
        def rejoin(sockets: Any) -> None:
            self.joined += [(now, each) for each in sockets]
            if self.fault:
                raise self.fault

        channels: list[tuple[str, ChannelRecord, Any]] = [
            (
                group,
                ChannelRecord(
                    heartbeat_monotonic_ns=UNKNOWN_NS if name in self.stale else now * S,
                    started_monotonic_ns=1 * S,
                    last_packet_monotonic_ns=at * S if at else UNKNOWN_NS,
                ),
                name,
            )
            for name, (group, at) in self.heard.items()
        ]
        self.membership.poll(now * S, channels, rejoin)


@pytest.fixture
def network() -> Network:
    return Network()


def run(network: Network, begin: int, end: int) -> list[int]:
    network.joined.clear()
    for now in range(begin, end):
        network.second(now)
    return sorted({at for at, _ in network.joined})


def test_silence_is_answered_with_growing_patience(network: Network) -> None:
    network.heard = {"a": (GROUP, 10), "b": (GROUP, 12)}
    assert run(network, 13, 300) == [20, 28, 44, 76, 136, 196, 256]
    assert {name for _, name in network.joined} == {"a", "b"}, "all of a group at once, or the kernel tells nobody"
    network.heard["a"] = (GROUP, 300)
    assert run(network, 300, 308) == []
    assert run(network, 308, 320) == [308, 316], "from the beginning"


def test_group_that_is_heard_by_one_is_left_alone(network: Network) -> None:
    network.heard = {"a": (GROUP, 0), "b": (GROUP, 1000), "c": (OTHER, 0)}
    assert run(network, 10, 20) == [10, 18]
    assert {name for _, name in network.joined} == {"c"}


def test_worker_that_says_nothing_is_no_silence(network: Network) -> None:
    network.heard, network.stale = {"a": (GROUP, 10)}, {"a"}
    assert run(network, 30, 60) == []


def test_fault_is_told_once(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    network.heard, network.fault = {"a": (GROUP, 10)}, PipelineError("interface eth9 is gone")
    run(network, 20, 200)
    assert caplog.text.count("interface eth9 is gone") == 1
    network.fault = None
    assert run(network, 200, 300)
