"""A real supervisor process with stub children: it forks, replaces, gives up, stops."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from pipeline import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK
from pipeline.records import ChildState
from tests.process import instance_fixture

Instance = instance_fixture.Instance
instance = instance_fixture.instance

NAMES = ["ntp", "A", "B", "C"]


def test_all_processes_come_up_named_and_on_the_board(instance: Instance) -> None:
    instance.start()
    assert instance.names() == NAMES
    me = instance.children()["supervisor"]
    assert me.pid == instance.pid
    assert me.reason == "3/3 up"
    assert instance.comm(instance.pid) == "gp-super"
    assert instance.comm(instance.child("B").pid) == "B"
    instance.wait(lambda: f"supervisor {instance.name} 3/3 up" in instance.title(instance.pid), "the title")
    first, *others = (int(Path(f"/proc/{p}/oom_score_adj").read_text()) for p in (me.pid, *instance.pids().values()))
    assert min(others) > first, "memory that runs out takes a child"


def test_killed_child_is_replaced_and_no_other_touched(instance: Instance) -> None:
    instance.start()
    before = instance.pids()
    os.kill(before["B"], signal.SIGKILL)
    instance.wait(lambda: instance.child("B").state == ChildState.RUNNING and instance.pids()["B"] != before["B"], "B")
    after = instance.pids()
    assert {name for name in after if after[name] != before[name]} == {"B"}
    assert instance.child("B").restarts == 1
    assert "SIGKILL" in instance.child("B").reason
    os.kill(before["ntp"], signal.SIGKILL)
    instance.wait(lambda: instance.pids()["ntp"] not in (0, before["ntp"]), "the monitor")
    assert {name for name, pid in instance.pids().items() if after[name] != pid} == {"ntp"}


def test_successor_has_the_journal_and_the_socket_of_the_dead(instance: Instance) -> None:
    instance.start()
    first = instance.child("A").pid
    socket_of = instance.sockets(first)
    os.kill(first, signal.SIGKILL)
    instance.wait(lambda: instance.child("A").state == ChildState.RUNNING and instance.pids()["A"] != first, "A")
    assert instance.sockets(instance.child("A").pid) == socket_of
    assert len(socket_of) == 1, "a worker holds its own socket only"
    assert instance.stop() == EXIT_OK
    assert instance.flushed("A") == 2  # two workers wrote into the same journal


def test_configuration_exit_is_fatal_for_one_channel_alone(instance: Instance) -> None:
    instance.behave("B", f"exit {EXIT_CONFIG}")
    instance.start(up={"A", "C"})
    instance.wait(lambda: instance.child("B").state == ChildState.FATAL, "B to be given up")
    before = instance.pids()
    assert before["B"] == 0
    instance.beats(3)
    assert instance.pids() == before
    instance.behave("B", None)
    assert instance.command("restart", "B") == EXIT_OK
    assert instance.child("B").state == ChildState.RUNNING


def test_crashing_child_backs_off_with_one_traceback_a_crash(instance: Instance) -> None:
    instance.behave("B", "raise")
    instance.start(up={"A", "C"})
    instance.wait(lambda: instance.child("B").restarts >= 2, "two restarts")
    instance.wait(lambda: instance.child("B").state == ChildState.BACKOFF, "back-off")
    assert "exit 70" in instance.child("B").reason
    log = instance.log()
    assert log.count("RuntimeError: as ordered") == log.count("B: internal error")
    assert instance.child("A").restarts == instance.child("C").restarts == 0


@pytest.mark.parametrize("how", ["stopped", "deaf"])
def test_hanging_child_is_replaced(instance: Instance, how: str) -> None:
    instance.settings(heartbeat_timeout_s=1.5, abort_grace_s=0.5)
    if how == "deaf":
        instance.behave("C", "deaf")
        instance.start(up={"A", "B"})
    else:
        instance.start()
    first = instance.pids()["C"]
    if how == "stopped":
        os.kill(first, signal.SIGSTOP)
    instance.wait(lambda: instance.child("C").restarts >= 1, "C to be replaced")
    assert "no sign of life" in instance.child("C").reason
    if how == "deaf":
        assert "Fatal Python error: Aborted" in instance.log()
        assert "in behave" in instance.log(), "the traceback says where it hung"
    assert instance.child("A").restarts == instance.child("B").restarts == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_leaves_nothing_behind(instance: Instance, number: signal.Signals) -> None:
    instance.start()
    pids = [instance.pid, *instance.pids().values()]
    os.kill(instance.pid, number)
    assert instance.ended() == EXIT_OK
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert instance.segments() == []
    assert list(instance.runtime.iterdir()) == []
    assert sorted(p.name for p in (instance.data_dir / "flushed").iterdir()) == ["A", "B", "C"]


def test_ctrl_c_for_the_whole_group_is_an_orderly_stop(instance: Instance) -> None:
    instance.start()
    os.killpg(instance.pid, signal.SIGINT)
    assert instance.ended() == EXIT_OK
    assert instance.segments() == []
    assert "starting again" not in instance.log()


def test_worker_that_does_not_stop_is_killed_and_its_samples_stay(instance: Instance) -> None:
    instance.settings(stop_grace_s=0.5)
    instance.start()
    instance.behave("A", "deaf", when="stopping")
    assert instance.stop() == EXIT_OK
    assert instance.segments() == [f"grape-pipeline-{instance.name}-A"]
    assert "stays for the next start" in instance.log()
    instance.behave("A", None, when="stopping")
    instance.start()
    assert "will be salvaged" in instance.log()
    assert instance.stop() == EXIT_OK
    assert instance.flushed("A") == 2
    assert instance.segments() == []


def test_second_start_names_the_running_pid(instance: Instance) -> None:
    instance.start()
    before = instance.pids()
    code, text = instance.run_to_end()
    assert code == EXIT_FAILURE
    assert f"pid {instance.pid}" in text
    assert instance.pids() == before


def test_same_name_in_another_runtime_directory_is_found_too(instance: Instance, tmp_path: Path) -> None:
    instance.start()
    code, text = instance.run_to_end(RUNTIME_DIRECTORY=str(tmp_path / "elsewhere"))
    assert code == EXIT_FAILURE
    assert f"pid {instance.pid}" in text


def test_children_of_a_dead_supervisor_leave_and_the_next_start_waits_for_them(instance: Instance) -> None:
    instance.start()
    children = list(instance.pids().values())
    # One that cannot notice keeps the instance locked.
    os.kill(instance.child("B").pid, signal.SIGSTOP)
    stuck = instance.child("B").pid
    os.kill(instance.pid, signal.SIGKILL)
    instance.ended()
    instance.wait(lambda: [p for p in children if instance.exists(p)] == [stuck], "the orphans to leave")
    instance.launch()
    instance.beats(1, wait_for_board=False)
    assert instance.exists(instance.pid)
    assert instance.exists(stuck), "nothing was started over it"
    os.kill(stuck, signal.SIGCONT)
    instance.up()
    assert instance.stop() == EXIT_OK
    assert instance.flushed("A") == 2, "the journal of the dead instance was handed on"
    assert "did not stop in order" in instance.log()


def test_children_that_stay_are_named_by_the_next_start(instance: Instance) -> None:
    instance.start()
    stuck = instance.child("B").pid
    os.kill(stuck, signal.SIGSTOP)
    os.kill(instance.pid, signal.SIGABRT)  # as systemd's watchdog does
    instance.ended()
    assert 'supervisor.py", line' in instance.log(), "where it was"
    code, text = instance.run_to_end(GRAPE_TEST_PATIENCE="0.3")
    assert code == EXIT_FAILURE
    assert str(stuck) in text
    assert "dead supervisor" in text


def test_unusable_data_dir_is_told_by_its_name(instance: Instance) -> None:
    shutil.rmtree(instance.data_dir)
    instance.data_dir.write_text("a file")
    code, text = instance.run_to_end()
    assert code == EXIT_FAILURE
    assert str(instance.data_dir) in text
    assert "Traceback" not in text


def test_one_channel_without_socket_is_fatal_alone_but_all_fail_the_start(instance: Instance) -> None:
    instance.channel("B", preset="nosocket")
    instance.start(up={"A", "C"})
    assert instance.child("B").state == ChildState.FATAL
    assert "does not exist" in instance.child("B").reason
    assert instance.stop() == EXIT_OK
    instance.interface = "nowhere0"
    code, text = instance.run_to_end()
    assert code == EXIT_FAILURE
    assert "nowhere0 does not exist" in text
    assert "Traceback" not in text
    assert instance.segments() == []


def test_failing_radiod_control_is_logged_once_and_harms_nobody(instance: Instance) -> None:
    instance.start()
    instance.beats(3)
    assert instance.log().count("ERROR") == instance.log().count("Traceback") == 1
    assert sum(child.restarts for child in instance.children().values()) == 0
