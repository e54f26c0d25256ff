from __future__ import annotations

import pytest

from tritonfleet.doctor.cgroups import ControlGroups


@pytest.fixture
def groups(tmp_path):
    """Control groups of a made-up machine; ``own`` is what the kernel says we are in."""

    def make(own, files):
        for name, text in files.items():
            file = tmp_path / "fs" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (tmp_path / "own").write_text(own)
        return ControlGroups(tmp_path / "fs", tmp_path / "own")

    return make


def test_version_2_tells_the_smallest_limit_on_the_way_up(groups):
    found = groups(
        "0::/system.slice/tritonfleet.service\n",
        {
            "system.slice/memory.max": "2147483648\n",
            "system.slice/tritonfleet.service/memory.max": "max\n",
            "system.slice/tritonfleet.service/cpu.max": "150000 100000\n",
            "system.slice/cpu.max": "max 100000\n",
        },
    )
    assert found.memory_limit() == 2**31
    assert found.cpu_quota() == 1.5


def test_version_1_has_a_hierarchy_for_each_controller(groups):
    found = groups(
        "9:name=systemd:/\n4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n",
        {
            "memory/docker/ab/memory.limit_in_bytes": "1073741824\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "cpu/docker/ab/cpu.cfs_quota_us": "50000\n",
            "cpu/docker/ab/cpu.cfs_period_us": "100000\n",
        },
    )
    assert found.memory_limit() == 2**30
    assert found.cpu_quota() == 0.5


def test_in_a_container_the_path_may_be_one_that_only_the_host_has(groups):
    found = groups("4:memory:/docker/ab\n", {"memory/memory.limit_in_bytes": "1073741824\n"})
    assert found.memory_limit() == 2**30


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"memory/memory.limit_in_bytes": "9223372036854771712\n", "cpu/cpu.cfs_quota_us": "-1\n"},
        {"memory/memory.limit_in_bytes": "nonsense"},
    ],
)
def test_without_a_limit_there_is_none(groups, files):
    found = groups("4:memory:/\n3:cpu:/\n", files)
    assert found.memory_limit() is None
    assert found.cpu_quota() is None


def test_both_versions_side_by_side_prefer_the_hierarchy_that_has_the_controller(groups):
    found = groups(
        "4:memory:/a\n0::/b\n",
        {"memory/a/memory.limit_in_bytes": "1024", "b/memory.max": "2048"},
    )
    assert found.memory_limit() == 1024
