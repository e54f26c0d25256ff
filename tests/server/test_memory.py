"""Memory is told apart by process; pretended stubs stand in for those of a real tritonserver.

A real one is asked in tests/launchers/backends/onnxruntime/test_model.py.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tritonfleet.server.memory import (
    model_memory_bytes,
    model_of,
    model_processes,
    release_model_memory,
    server_memory_bytes,
)

MIB = 2**20
STUB = "/state/backends/python/triton_python_backend_stub"
PROGRAM = """
import signal, sys
signal.signal(signal.SIGURG, lambda number, frame: print("released", flush=True))
held = b"x" * int({megabytes} * 2**20)
print("up", flush=True)
sys.stdin.read()
"""


class Stubs:
    """Starts processes that look like those of python-backend models."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, model: str, megabytes: float = 0, region: str = "no-such-region"):
        file = self.script(model, megabytes)
        process = subprocess.Popen(
            [STUB, str(file), region, "1048576"],
            executable=sys.executable,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.started.append(process)
        assert process.stdout.readline() == b"up\n"
        return process

    def script(self, model: str, megabytes: float = 0) -> Path:
        """The model's file, which Python takes for its script."""
        file = self._folder / model / "1" / "model.onnx"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(PROGRAM.format(megabytes=megabytes))
        return file

    def stop(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()


@pytest.fixture
def stubs(tmp_path):
    stubs = Stubs(tmp_path)
    yield stubs
    stubs.stop()


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        ([STUB, "/models/bert/1/model.onnx", "key"], "bert"),
        ([STUB, "models/bert/12/model.py", "key"], "bert"),
        ([STUB, "bert/1/model.py", "key"], "bert"),
        ([STUB, "/data/vit/3/models/bert/1/model.onnx", "key"], "bert"),
        ([STUB, "/models/bert/1/onnx/int8.onnx", "key"], "bert"),
        ([STUB, "/tmp/folderAb12/model.onnx", "key"], None),
        ([STUB], None),
        (["/usr/bin/python3", "/models/bert/1/model.py", "key"], None),
        ([], None),
    ],
)
def test_the_command_line_tells_the_model(arguments, model):
    assert model_of(arguments) == model


def test_processes_are_those_of_this_model_only(stubs):
    instances = {stubs.start("bert").pid, stubs.start("bert").pid}
    other = stubs.start("bert-large")
    assert set(model_processes(os.getpid(), "bert")) == instances
    assert model_processes(os.getpid(), "bert-large") == (other.pid,)
    assert model_processes(os.getpid(), "vit") == ()


def test_processes_of_another_server_do_not_count(stubs):
    process = stubs.start("bert")
    assert model_processes(process.pid, "bert") == ()


def test_memory_is_what_all_instances_hold_for_themselves(stubs):
    stubs.start("bert", megabytes=64)
    one = model_memory_bytes(os.getpid(), "bert")
    stubs.start("bert", megabytes=64)
    two = model_memory_bytes(os.getpid(), "bert")
    assert 64 * MIB < one < 128 * MIB
    assert two - one > 64 * MIB


def test_the_region_that_tensors_travel_through_counts(stubs):
    region = Path("/dev/shm") / f"tritonfleet-test-{secrets.token_hex(4)}"
    try:
        region.write_bytes(b"x" * 32 * MIB)
        stubs.start("plain")
        stubs.start("talker", region=region.name)
        plain = model_memory_bytes(os.getpid(), "plain")
        assert model_memory_bytes(os.getpid(), "talker") - plain > 24 * MIB
    finally:
        region.unlink()


OTHER_MOUNTS = ["unshare", "--mount", "--map-root-user"]
CONTAINED = """
import subprocess, sys
stub, model, python = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
with open("/dev/shm/region", "wb") as region:
    region.write(bytes(32 * 2**20))
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
child = subprocess.Popen([stub, model, "region", "1048576"], executable=python, **pipes)
child.stdout.readline()
print("up", flush=True)
sys.stdin.read()
child.kill()
"""


@pytest.mark.skipif(
    subprocess.run([*OTHER_MOUNTS, "true"], capture_output=True, check=False).returncode != 0,
    reason="this user may have no mounts of its own",
)
def test_the_region_of_a_server_with_shared_memory_of_its_own_counts(stubs):
    model = stubs.script("bert")
    arguments = ["-c", CONTAINED, STUB, str(model), sys.executable]
    with subprocess.Popen(
        [*OTHER_MOUNTS, sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout.readline() == b"up\n"
        assert model_memory_bytes(server.pid, "bert") > 32 * MIB


def test_memory_cannot_be_told_of_a_model_without_processes(stubs):
    assert model_memory_bytes(os.getpid(), "bert") is None
    process = stubs.start("bert")
    assert model_memory_bytes(os.getpid(), "bert") is not None
    process.kill()
    process.communicate()
    assert model_memory_bytes(os.getpid(), "bert") is None


def test_a_dead_process_that_nobody_has_collected_holds_nothing(stubs):
    process = stubs.start("bert", megabytes=64)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert model_processes(os.getpid(), "bert") == ()
    assert model_memory_bytes(os.getpid(), "bert") is None


def test_a_server_holds_its_own_and_what_its_models_hold(stubs):
    alone = server_memory_bytes(os.getpid())
    stubs.start("bert", megabytes=64)
    assert server_memory_bytes(os.getpid()) - alone > 64 * MIB


def test_nothing_is_told_of_a_server_that_has_ended():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert server_memory_bytes(process.pid) is None
    assert model_processes(process.pid, "bert") == ()
    assert model_memory_bytes(process.pid, "bert") is None
    assert not release_model_memory(process.pid, "bert")


def test_every_instance_of_the_model_hears_that_it_may_let_go(stubs):
    instances = [stubs.start("bert"), stubs.start("bert")]
    other = stubs.start("vit")
    assert release_model_memory(os.getpid(), "bert")
    for process in instances:
        assert process.stdout.readline() == b"released\n"
    other.stdin.close()
    assert other.stdout.read() == b""
    other.stdin = None  # communicate() must not flush what is closed
