from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doctor.builders import GIB, MIB, container, embedded, statuses
from tritonfleet.doctor.facts import Disk, Limits, Memory, PortState
from tritonfleet.doctor.judge_host import (
    SERVER_ITSELF,
    Attached,
    judge_attached,
    judge_cores,
    judge_limits,
    judge_memory,
    judge_ports,
    judge_root_folder,
    judge_service,
    judge_shared_memory,
    judge_state,
)
from tritonfleet.doctor.needs import Port

HTTP = Port("127.0.0.1", 8000, "gateway, HTTP", "--http-port")
SHM = Path("/dev/shm")
HOST = Memory(16 * GIB, 12 * GIB, 0, None)


def the_only(findings):
    [finding] = findings
    return finding


def disk(free, *, total=100 * GIB, writable=True, path="/var/lib/tritonfleet"):
    return Disk(Path(path), total, free, writable)


# -- ports and addresses ---------------------------------------------------------------------


def test_a_free_port_is_ok():
    assert statuses(judge_ports([PortState(HTTP)])) == ["ok"]


def test_whoever_has_a_port_is_named_beside_the_flag_that_chooses_another():
    taken = PortState(HTTP, "Address already in use", "tritonserver (pid 4711, root)")
    finding = the_only(judge_ports([taken]))
    assert finding.status == "failed"
    assert "tritonserver (pid 4711, root)" in finding.found
    assert "--http-port" in finding.advice[0]


def test_a_port_whose_owner_we_may_not_know_is_told_with_the_way_to_find_out():
    finding = the_only(judge_ports([PortState(HTTP, "Address already in use")]))
    assert "sudo ss -ltnp" in finding.advice[0]


def test_a_privileged_port_may_be_allowed():
    low = PortState(Port("0.0.0.0", 80, "gateway, HTTP", "--http-port"), "Permission denied")
    assert any("ip_unprivileged_port_start" in step for step in the_only(judge_ports([low])).advice)


def test_ports_that_are_picked_need_no_check():
    assert statuses(judge_ports([])) == ["not needed"]


def test_servers_that_run_already_must_listen():
    there = Attached("gpu0", "10.0.0.5:8000", None)
    lost = Attached("gpu0", "10.0.0.5:8001", "Connection refused")
    assert statuses(judge_attached([there, lost])) == ["ok", "failed"]
    assert statuses(judge_attached([])) == ["not needed"]


# -- disks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "writable", "status"),
    [
        (50 * GIB, True, "ok"),
        (500 * MIB, True, "warning"),
        (10 * MIB, True, "failed"),
        (50 * GIB, False, "failed"),
    ],
)
def test_the_state_directory_needs_room_and_permission(free, writable, status):
    assert judge_state(disk(free, writable=writable)).status == status


def test_only_images_that_are_yet_to_come_need_room():
    assert judge_root_folder(disk(5 * GIB), complete=False).status == "warning"
    assert judge_root_folder(disk(5 * GIB), complete=True).status == "ok"
    assert judge_root_folder(disk(50 * GIB), complete=False).status == "ok"


def test_a_containers_usual_shared_memory_is_little_for_many_instances():
    small = disk(64 * MIB, total=64 * MIB, path="/dev/shm")
    assert statuses(judge_shared_memory(small, 60, [embedded()])) == ["warning"]
    assert statuses(judge_shared_memory(disk(GIB, path="/dev/shm"), 60, [embedded()])) == ["ok"]


def test_a_container_has_shared_memory_of_its_own():
    small = disk(0, path="/dev/shm")
    servers = [container(shm_size=64 * MIB), container("b", shm_size=GIB)]
    assert statuses(judge_shared_memory(small, 60, servers)) == ["warning", "ok"]


def test_a_container_may_share_the_hosts():
    assert statuses(judge_shared_memory(disk(0), 60, [container(ipc="host")])) == ["warning"]


# -- memory and cores ------------------------------------------------------------------------


def test_capacities_are_compared_with_what_there_is():
    assert statuses(judge_memory(HOST, [embedded(capacity=10 * GIB)])) == ["ok"]
    assert statuses(judge_memory(HOST, [embedded(capacity=13 * GIB)])) == ["warning"]
    assert statuses(judge_memory(HOST, [embedded(capacity=16 * GIB)])) == ["failed"]


def test_servers_share_one_memory():
    servers = [embedded(capacity=9 * GIB), embedded("b", capacity=9 * GIB)]
    assert statuses(judge_memory(HOST, servers)) == ["failed"]


def test_the_limit_of_a_control_group_counts_before_the_machine():
    limited = Memory(16 * GIB, 12 * GIB, 0, 2 * GIB)
    finding = the_only(judge_memory(limited, [embedded(capacity=4 * GIB)]))
    assert finding.status == "failed"
    assert "control group" in finding.found


@pytest.mark.parametrize(
    ("limit", "status"), [(GIB, "failed"), (GIB + 100 * MIB, "warning"), (2 * GIB, "ok")]
)
def test_a_containers_limit_has_room_for_its_capacity(limit, status):
    assert statuses(judge_memory(HOST, [container(memory=limit)])) == ["ok", status]


def test_much_swap_in_use_is_a_warning():
    swapping = Memory(16 * GIB, 12 * GIB, 3 * GIB, None)
    assert statuses(judge_memory(swapping, [embedded()])) == ["ok", "warning"]


@given(st.integers(0, 2**45), st.integers(0, 2**45), st.integers(0, 2**45))
def test_more_memory_is_never_judged_worse(capacity, total, more):
    order = ["ok", "warning", "failed"]
    servers = [embedded(capacity=capacity)]
    less = the_only(judge_memory(Memory(total, total, 0, None), servers))
    plenty = the_only(judge_memory(Memory(total + more, total + more, 0, None), servers))
    assert order.index(plenty.status) <= order.index(less.status)
    assert (less.status == "ok") == (capacity + SERVER_ITSELF <= total)


def test_instances_beyond_the_cores_wait_for_each_other():
    assert statuses(judge_cores(4.0, 4, [embedded()])) == ["ok"]
    assert statuses(judge_cores(4.0, 5, [embedded()])) == ["warning"]


def test_a_container_cannot_have_more_cores_than_there_are():
    assert statuses(judge_cores(4.0, 1, [container(cpus=8), container("b", cpus=4)])) == [
        "ok",
        "failed",
    ]


# -- limits ----------------------------------------------------------------------------------


def test_no_limit_is_ok():
    assert statuses(judge_limits(Limits(None, None, None, None, None))) == ["ok"]


def test_each_narrow_limit_is_told():
    narrow = Limits(1024, 524288, 8, 100, 200)
    findings = judge_limits(narrow)
    assert statuses(findings) == ["warning"] * 4
    assert "ulimit -n 524288" in findings[0].advice[0]


def test_a_service_must_be_let_stop_in_its_own_time():
    assert judge_service(None, 30, 30).status == "not needed"
    assert judge_service(90, 30, 30).status == "ok"
    short = judge_service(60, 30, 30)
    assert short.status == "warning"
    assert "TimeoutStopSec=90" in short.advice[0]
