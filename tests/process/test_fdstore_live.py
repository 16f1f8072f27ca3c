"""What the service manager keeps follows the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import wait_for
from process.instance_fixture import Instance, instance
from process.service_manager import ServiceManager, service_manager

__all__ = ["instance"]


def kept(manager: ServiceManager) -> dict[str, str]:
    """Channel to the set-up in the name of its data socket."""
    return {name.split("/")[0]: name.split("/")[1] for name in manager.kept}


@pytest.mark.limit(60)
def test_reload_keeps_what_is_used_and_nothing_else(instance: Instance, tmp_path: Path) -> None:
    with service_manager(tmp_path) as manager:
        instance.launch(NOTIFY_SOCKET=str(manager.address))
        instance.up()
        before = kept(manager)
        assert set(before) == {"A", "B", "C"}
        instance.drop("C")
        instance.channel("B", data_address="239.9.9.9:5004")
        instance.channel("D", frequency_hz=4_000_000)
        instance.write_config()
        assert instance.command("reload") == 0
        wait_for(lambda: set(kept(manager)) == {"A", "B", "D"}, 20, "the new channel's socket and not the old one's")
        wait_for(lambda: kept(manager)["B"] != before["B"], 20, "the moved channel's socket")
        assert kept(manager)["A"] == before["A"]
        assert instance.stop() == 0
        assert set(kept(manager)) == {"A", "B", "D"}, "for the next start; systemd lets go of them by itself"
