from __future__ import annotations

import socket

from fleet_perf import occupancy
from fleet_perf.occupancy import ServerOccupancy, Watch
from tests.fleet_perf.imitation import connected, imitation


async def test_the_largest_sample_is_remembered():
    async with connected(imitation("m", occupied=[10, 90, 40])) as fleet:
        watch = Watch(fleet)
        for _ in range(3):
            await watch.sample()
    (server,) = watch.servers
    assert (server.server, server.capacity, server.occupied) == ("s", 100, 90)


async def test_there_is_a_sample_however_short_the_time():
    async with connected(imitation("m", occupied=[70])) as fleet:
        async with Watch(fleet).running() as watch:
            pass
    assert watch.samples >= 1
    assert watch.servers[0].occupied == 70


def test_the_budget_holds_up_to_its_last_byte():
    assert ServerOccupancy("s", 100, 100, None, None).within_capacity
    assert not ServerOccupancy("s", 100, 101, None, None).within_capacity


def test_the_process_behind_a_local_port_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        status = {"servers": [{"name": "s", "http": f"127.0.0.1:{port}"}, {"name": "down"}]}
        assert occupancy._local_pids(status) == {"s": occupancy.psutil.Process().pid}


def test_a_server_elsewhere_has_no_process_here():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    status = {"servers": [{"name": "s", "http": f"127.0.0.1:{port}"}]}
    assert occupancy._local_pids(status) == {}
