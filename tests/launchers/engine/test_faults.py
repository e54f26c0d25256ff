"""The words of real engines, as they were met, and what we make of them."""

from __future__ import annotations

import errno

import pytest
import requests
from docker.errors import DockerException
from urllib3.exceptions import ProtocolError

from tritonfleet.errors import ContainerFailed, ImageMissing, PortTaken
from tritonfleet.launchers.engine.faults import not_pulled, refused, unreachable

ADDRESS = "unix:///run/nobody.sock"


@pytest.mark.parametrize(
    ("words", "address", "port"),
    [
        (
            "driver failed programming external connectivity on endpoint tritonfleet-gpu0-1 "
            "(8d): Bind for 127.0.0.1:8000 failed: port is already allocated",
            "127.0.0.1",
            8000,
        ),
        (
            "driver failed programming external connectivity on endpoint x (8d): Error starting "
            "userland proxy: listen tcp4 127.0.0.1:18811: bind: address already in use",
            "127.0.0.1",
            18811,
        ),
        (
            "failed to set up container networking: driver failed programming external "
            "connectivity on endpoint x (8d): failed to bind host port for "
            "127.0.0.1:8000:172.17.0.2:8000/tcp: address already in use",
            "127.0.0.1",
            8000,
        ),
        (
            "cannot listen on the TCP port: listen tcp4 127.0.0.1:8000: bind: address already in "
            "use: unknown",
            "127.0.0.1",
            8000,
        ),
    ],
)
def test_a_port_that_is_taken_is_told_with_its_setting(words, address, port):
    error = refused("tritonfleet-gpu0-1", words, "container.ports")
    assert isinstance(error, PortTaken)
    assert (error.address, error.port, error.setting) == (address, port, "container.ports")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (
            'Conflict. The container name "/tritonfleet-gpu0-1" is already in use by container '
            '"1be8". You have to remove (or rename) that container to be able to reuse that name.',
            "docker rename",
        ),
        (
            'creating container storage: the container name "tritonfleet-gpu0-1" is already in use '
            "by 0c1. You have to remove that container to be able to reuse that name: that name "
            "is already in use",
            "docker rename",
        ),
        (
            'could not select device driver "nvidia" with capabilities: [[gpu]]',
            "NVIDIA container toolkit",
        ),
        ("unknown or invalid runtime name: nvidia", "NVIDIA container toolkit"),
        (
            "failed to create shim task: OCI runtime create failed: runc create failed: error "
            "running hook #0: nvidia-container-cli: device error: 7: unknown device: unknown",
            "nvidia-smi -L",
        ),
        (
            'invalid mount config for type "bind": bind source path does not exist: /models',
            "same path",
        ),
        (
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to "
            'start container process: exec: "tritonserver": executable file not found in $PATH: '
            "unknown",
            "no tritonserver on its PATH",
        ),
        (
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to "
            "start container process: error during container init: error setting rlimits for "
            "ready process: error setting rlimit type 8: operation not permitted: unknown",
            "'ulimits'",
        ),
        (
            "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
            "fewer cores",
        ),
        ("Requested CPUs are not available - requested 0-99, available: 0-1", "fewer cores"),
        ("network nowhere not found", "docker network ls"),
        ("write /var/lib/docker/x: no space left on device", "docker system df"),
        ("Minimum memory limit allowed is 6MB", "Raise 'memory'"),
        ("something new", "engine's own log"),
    ],
)
def test_a_refusal_names_the_container_the_engines_words_and_the_next_step(words, hint):
    error = refused("tritonfleet-gpu0-1", words, "container.ports")
    assert isinstance(error, ContainerFailed)
    assert words.rstrip(".") in str(error)
    assert "'tritonfleet-gpu0-1'" in str(error)
    assert hint in error.hint


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("write /var/lib/docker/tmp/x: no space left on device", "docker system df"),
        (
            "pull access denied for x/y, repository does not exist or may require 'docker login'",
            "docker login",
        ),
        ("manifest for x/y:1 not found: manifest unknown: manifest unknown", "look at its name"),
        (
            'Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: '
            "no such host",
            "docker load",
        ),
    ],
)
def test_an_image_that_cannot_be_fetched_is_told_with_the_next_step(words, hint):
    error = not_pulled("x/y:1", words)
    assert isinstance(error, ImageMissing)
    assert "x/y:1" in str(error)
    assert words in str(error)
    assert hint in error.hint


def as_the_sdk_tells(cause: OSError) -> Exception:
    """The operating system's error as it comes out of urllib3, requests and the SDK."""
    try:
        try:
            raise requests.exceptions.ConnectionError(ProtocolError("Connection aborted.", cause))
        except requests.exceptions.ConnectionError as error:
            message = f"Error while fetching server API version: {error}"
            raise DockerException(message) from error
    except DockerException as error:
        return error


@pytest.mark.parametrize(
    ("number", "cause", "hint"),
    [
        (errno.ENOENT, "no such socket", "Start it"),
        (errno.EACCES, "may not use the socket", "usermod -aG docker"),
        (errno.ECONNREFUSED, "nobody listens", "Start it"),
    ],
)
def test_an_engine_out_of_reach_is_told_with_the_reason(number, cause, hint):
    error = unreachable(ADDRESS, as_the_sdk_tells(OSError(number, "said")))
    assert error.engine == ADDRESS
    assert cause in error.cause
    assert hint in error.hint


def test_an_engine_that_does_not_answer_is_told_so():
    error = unreachable(ADDRESS, requests.exceptions.ReadTimeout("Read timed out."))
    assert "does not answer in time" in str(error)
