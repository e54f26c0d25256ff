"""The access log never fills the disk, and no line is lost."""

from __future__ import annotations

import aiohttp
import pytest

from tests.gateway.envoy.backends import activator
from tests.gateway.envoy.running import plan as planned
from tests.gateway.envoy.running import running, short_folder
from tritonfleet.gateway.envoy.admin import Admin
from tritonfleet.gateway.envoy.rotation import LogRotation


@pytest.fixture
async def admin(tmp_path):
    admin = Admin(tmp_path / "admin.sock")
    yield admin
    await admin.close()


async def test_a_small_log_stays(admin, tmp_path):
    log = tmp_path / "access.log"
    log.write_bytes(b"x" * 10)
    assert not await LogRotation(log, admin, largest_bytes=10).look()
    assert log.stat().st_size == 10


async def test_a_missing_log_is_no_matter(admin, tmp_path):
    assert not await LogRotation(tmp_path / "access.log", admin).look()


async def test_three_earlier_ones_are_kept(admin, tmp_path):
    log = tmp_path / "access.log"
    for number in range(6):
        log.write_text(f"{number}")
        assert await LogRotation(log, admin, largest_bytes=0).look()
    kept = {file.name: file.read_text() for file in tmp_path.glob("access.log*")}
    assert kept == {
        "access.log": "",
        "access.log.1": "5",
        "access.log.2": "4",
        "access.log.3": "3",
    }


async def test_only_we_may_read_who_called_what(admin, tmp_path):
    log = tmp_path / "access.log"
    log.write_text("x")
    await LogRotation(log, admin, largest_bytes=0).look()
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.envoy
async def test_envoy_writes_into_the_new_log():
    with short_folder() as folder:
        plan = planned(folder, "bert", access_log=folder / "access.log")
        async with activator(plan), running(plan) as envoy:
            admin = Admin(plan.admin)
            for path in ("/v2/one", "/v2/two"):
                async with aiohttp.ClientSession() as session:
                    await (await session.get(f"{envoy.http}{path}")).read()
                assert path in str(await envoy.log_lines(1))
                assert await LogRotation(plan.access_log, admin, largest_bytes=0).look()
            await admin.close()
        assert "/v2/one" in (folder / "access.log.2").read_text()
