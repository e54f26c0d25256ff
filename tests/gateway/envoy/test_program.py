"""Which Envoy is used, and what is said when there is none."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from tritonfleet.errors import EnvoyMissing
from tritonfleet.gateway.envoy import program
from tritonfleet.gateway.envoy.program import Program, find_program, run_once


def pretended(folder: Path, says: str, status: int = 0, name: str = "envoy") -> Path:
    script = folder / name
    script.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    script.chmod(0o755)
    return script


def version(number: str) -> str:
    return f"envoy  version: 0123456789abcdef/{number}/Clean/RELEASE/BoringSSL"


async def test_a_named_program_tells_its_version(tmp_path):
    envoy = pretended(tmp_path, version("1.40.1"))
    assert await find_program(str(envoy)) == Program(str(envoy), "1.40.1")


async def test_a_name_is_looked_for_on_the_path(tmp_path, monkeypatch):
    envoy = pretended(tmp_path, version("1.40.1-dev"), name="our-envoy")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert (await find_program("our-envoy")).path == str(envoy)


@pytest.mark.parametrize(
    ("says", "status", "cause"),
    [
        (version("1.37.9"), 0, "version 1.37.9 is too old: 1.38 is needed"),
        ("nginx version 1.40.0", 0, "it tells no version"),
        ("error while loading shared libraries", 127, "status 127: error while loading"),
    ],
)
async def test_an_envoy_that_will_not_do_is_refused_with_its_words(tmp_path, says, status, cause):
    with pytest.raises(EnvoyMissing, match=cause):
        await find_program(str(pretended(tmp_path, says, status)))


async def test_a_missing_program_is_named(tmp_path):
    with pytest.raises(EnvoyMissing, match="no-envoy: there is no such program"):
        await find_program(str(tmp_path / "no-envoy"))


async def test_without_the_package_the_next_step_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "envoy", None)
    with pytest.raises(EnvoyMissing, match=r"pip install 'tritonfleet\[envoy\]'"):
        await find_program()


async def test_an_image_needs_docker(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EnvoyMissing, match="there is no docker"):
        await find_program("image:envoyproxy/envoy:v1.40.0")


async def test_an_image_is_asked_by_way_of_docker(tmp_path, monkeypatch):
    docker = pretended(tmp_path, version("1.40.0"), name="docker")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = await find_program("image:envoyproxy/envoy:v1.40.0")
    assert found == Program(str(docker), "1.40.0", "envoyproxy/envoy:v1.40.0")


def test_a_container_sees_its_folders_at_their_own_paths_once():
    found = Program("/usr/bin/docker", "1.40.0", "envoy:1")
    command = found.command(["--mode", "serve"], [Path("/a"), Path("/b"), Path("/a")], "ours")
    assert command == [
        *("/usr/bin/docker", "run", "--rm", "--network=host"),
        f"--user={os.getuid()}:{os.getgid()}",
        *("--security-opt=no-new-privileges", "--cap-drop=ALL", "--read-only", "--tmpfs=/tmp"),
        "--label=io.tritonfleet.managed=true",
        *("--name=ours", "--volume=/a:/a", "--volume=/b:/b"),
        *("--entrypoint=envoy", "envoy:1", "--mode", "serve"),
    ]


def test_the_name_of_a_container_is_one_that_docker_accepts():
    assert program.container_name(Path("/srv/a b/é")) == "tritonfleet-envoy-srv-a-b"


async def test_a_container_that_was_left_is_removed_by_name(tmp_path):
    said = tmp_path / "said"
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" > {said}\n')
    docker.chmod(0o755)
    await Program(str(docker), "1.40.0", "envoy:1").remove("ours")
    assert said.read_text() == "rm --force ours\n"


async def test_a_program_that_hangs_is_ended(tmp_path):
    script = tmp_path / "hangs"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec tail -f /dev/null\n")
    script.chmod(0o755)
    with pytest.raises(asyncio.TimeoutError):
        await run_once([str(script)], 0.5)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@pytest.mark.envoy
async def test_the_packaged_envoy_is_found():
    assert (await find_program()).version.startswith("1.")
