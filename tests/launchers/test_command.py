"""The command line says everything the rest of the fleet relies on, and says it once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.command import Invocation, Ports, tritonserver_command

OPTIONS = LaunchOptions("gpu0", Path("/models"), Path("/state"))
INVOCATION = Invocation("tritonfleet-1a2b", Ports(41000, 41001, 41002), admin_secret="sesame")


def command(options=OPTIONS, *, gpu=False):
    return tritonserver_command(Path("/bin/ts"), Path("/backends"), options, INVOCATION, gpu=gpu)


def test_program_and_folders_come_from_the_caller():
    arguments = command()
    assert arguments[0] == "/bin/ts"
    assert "--model-repository=/models" in arguments
    assert "--backend-directory=/backends" in arguments


def test_models_are_loaded_only_when_asked_and_a_broken_one_harms_nobody():
    assert {
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        "--strict-readiness=false",
        "--exit-on-error=false",
    } <= set(command())


def test_every_port_is_on_the_loopback_interface():
    arguments = command()
    for protocol, port in (("http", 41000), ("grpc", 41001), ("metrics", 41002)):
        assert f"--{protocol}-address=127.0.0.1" in arguments
        assert f"--{protocol}-port={port}" in arguments


@pytest.mark.parametrize("flag", ["--http-restricted-api", "--grpc-restricted-protocol"])
def test_dangerous_apis_want_the_secret_over_both_protocols(flag):
    (argument,) = [argument for argument in command() if argument.startswith(flag)]
    apis, _, header = argument.removeprefix(f"{flag}=").partition(":")
    assert set(apis.split(",")) == {"model-repository", "shared-memory", "logging", "trace"}
    assert header == "tritonfleet-admin=sesame"


def test_the_secret_is_not_in_the_text_of_an_invocation():
    assert "sesame" not in repr(INVOCATION)


def test_shared_memory_bears_the_name_of_this_start():
    assert "--backend-config=python,shm-region-prefix-name=tritonfleet-1a2b_" in command()
    assert "--id=tritonfleet-1a2b" in command()


def test_rate_limiter_is_off_unless_asked_for():
    assert not any("rate-limit" in argument for argument in command())
    assert "--rate-limit=execution_count" in command(replace(OPTIONS, rate_limit=True))


def test_gpu_metrics_are_refused_only_where_there_is_no_gpu():
    assert "--allow-gpu-metrics=false" in command(gpu=False)
    assert not any("gpu-metrics" in argument for argument in command(gpu=True))


def test_a_fraction_of_a_second_is_rounded_up_because_triton_takes_whole_ones():
    options = replace(OPTIONS, exit_timeout_s=2.5, model_load_thread_count=7)
    assert "--exit-timeout-secs=3" in command(options)
    assert "--model-load-thread-count=7" in command(options)


def test_no_flag_is_given_twice():
    flags = [argument.partition("=")[0] for argument in command()]
    assert len(flags) == len(set(flags))
