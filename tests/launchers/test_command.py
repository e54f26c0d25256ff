"""The command line says everything the rest of the fleet relies on, and says it once."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.command import Invocation, Ports, tritonserver_command
from tritonfleet.launchers.native import NativeBackend

OPTIONS = LaunchOptions("gpu0", Path("/models"), Path("/state"))
INVOCATION = Invocation("tritonfleet-1a2b", Ports(41000, 41001, 41002), admin_secret="sesame")
NATIVE = NativeBackend(Path("/n/libtriton_onnxruntime.so"), Path("/o/libonnxruntime.so.1.31.1"))


def command(options=OPTIONS, invocation=INVOCATION, *, gpu=False, native=None):
    return tritonserver_command(
        Path("/bin/ts"), Path("/backends"), options, invocation, gpu=gpu, native=native
    )


def of_backend(arguments, backend):
    """Its settings, by name."""
    start = f"--backend-config={backend},"
    settings = [each.removeprefix(start) for each in arguments if each.startswith(start)]
    return dict(setting.split("=", 1) for setting in settings)


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


def test_the_native_backend_is_told_its_library_its_bound_and_where_to_tell_of_models():
    options = replace(OPTIONS, load_thread_count=2)
    invocation = replace(INVOCATION, events=Path("/tmp/tritonfleet-1a2b/events"))
    assert of_backend(command(options, invocation, native=NATIVE), "onnxruntime") == {
        "library": "/o/libonnxruntime.so.1.31.1",
        "load_thread_count": "2",
        "events": "/tmp/tritonfleet-1a2b/events",
    }


def test_no_socket_is_named_where_nobody_listens():
    assert "events" not in of_backend(command(native=NATIVE), "onnxruntime")


def test_the_python_based_backend_is_told_nothing_of_the_native_ones():
    assert of_backend(command(), "onnxruntime") == {}


def test_no_flag_is_given_twice():
    # A backend's settings are flags of their own.
    arguments = command(native=NATIVE)
    flags = [re.sub(r"^(--backend-config=\w+,)?([^=]*)=.*", r"\1\2", each) for each in arguments]
    assert len(flags) == len(set(flags))
