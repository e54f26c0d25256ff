"""Models, good and bad, in a real scratch server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy
import pytest

from repo_builder.scratch.order import Proof
from repo_builder.scratch.server import ScratchServer
from tests.launchers.processes import descendants, gone
from tests.repo_builder.builders import files
from tests.repo_builder.scratch.models import (
    FP32,
    adder,
    configure,
    order,
    python_model,
    reference,
)
from tests.tiny import MIB, write_adder, write_ensemble
from tritonfleet.errors import LauncherUnavailable, ProofFailed, ServerExited
from tritonfleet.launchers.embedded import EmbeddedLauncher

SEGFAULT = "os.kill(os.getpid(), signal.SIGSEGV)"
KILL_SERVER = "os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)"
SEQUENCE = "sequence_batching { max_sequence_idle_microseconds: 1000000 }"


@pytest.fixture
def staged(tmp_path):
    folder = tmp_path / "staged"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """One server for all tests that need no particular one."""
    folder = tmp_path_factory.mktemp("build")
    with ScratchServer(folder, folder / "state") as server:
        yield server


def own_server(tmp_path, **options):
    return ScratchServer(tmp_path / "own", tmp_path / "state", **options)


# -- what passes ---------------------------------------------------------------------------------


@pytest.mark.triton
def test_a_good_model_is_loaded_asked_compared_and_weighed(scratch, staged, tmp_path):
    asked = replace(adder(staged, megabytes=4), reference=reference(tmp_path), gate=FP32)
    before = files(staged)
    proof = scratch.prove(asked)
    assert proof.record and proof.footprint and proof.warning is None
    assert proof.record.batch_sizes == (1, 8)
    assert proof.record.worst is not None and proof.record.worst < 1e-6
    assert proof.record.server.startswith("tritonserver 2.")
    assert 8 * MIB < proof.footprint.weights_bytes <= proof.footprint.peak_bytes
    assert proof.footprint.batch_size == 8
    assert files(staged) == before


@pytest.mark.triton
def test_every_declared_batch_size_is_asked(scratch, staged):
    write_adder(staged, "adder", dynamic=False)
    configure(staged, "adder", "dynamic_batching { preferred_batch_size: [ 2, 4 ] }")
    proof = scratch.prove(order(staged, "adder"))
    assert proof.record and proof.record.batch_sizes == (1, 2, 4, 8)
    assert proof.record.worst is None


@pytest.mark.triton
def test_the_server_does_not_grow_with_the_number_of_models(tmp_path, staged):
    with own_server(tmp_path) as server:
        for index in range(12):
            assert server.prove(adder(staged, f"model{index}")).record
        assert list((tmp_path / "own" / "scratch").iterdir()) == []


@pytest.mark.triton
def test_an_ensemble_brings_its_members(scratch, staged):
    write_adder(staged, "one")
    write_adder(staged, "two")
    write_ensemble(staged, "both", "one", "two")
    members = {name: staged / name for name in ("one", "two")}
    for _ in range(2):  # again while the first may still be leaving
        proof = scratch.prove(order(staged, "both", members=members))
        assert proof.record and proof.record.batch_sizes == (1, 8)
        assert proof.footprint is None


@pytest.mark.triton
def test_a_model_that_is_only_to_be_loaded_is_not_asked(scratch, staged):
    refusing = python_model(staged, answer="raise ValueError('ask me not')")
    proof = scratch.prove(replace(refusing, proof="load"))
    assert proof.record and proof.record.batch_sizes == ()
    assert proof.footprint and proof.footprint.home == "process"


@pytest.mark.triton
def test_instances_in_processes_hold_what_they_hold_each(scratch, staged):
    held = "self.weights = numpy.ones(2 ** 23, numpy.uint8)"
    one = scratch.prove(python_model(staged, "one", initialize=held)).footprint
    group = "max_batch_size: 4 instance_group [{ count: 2 }]"
    two = scratch.prove(python_model(staged, "two", initialize=held, config=group)).footprint
    assert one and two
    assert (two.instances, two.shared_weights, two.home) == (2, False, "process")
    assert two.weights_bytes > 1.8 * one.weights_bytes > 8 * MIB


@pytest.mark.triton
def test_instances_inside_the_server_share_their_weights(scratch, staged):
    write_adder(staged, "adder", megabytes=8)
    path = staged / "adder" / "config.pbtxt"
    path.write_text(path.read_text().replace("count: 1", "count: 2"))
    footprint = scratch.prove(order(staged, "adder")).footprint
    assert footprint
    if footprint.home == "process":
        pytest.skip("the native backend is not installed")
    assert (footprint.instances, footprint.shared_weights) == (2, True)
    assert footprint.weights_bytes < 20 * MIB


@pytest.mark.triton
def test_the_backend_that_the_fleet_asks_for_proves_its_models(tmp_path, staged):
    with own_server(tmp_path, onnxruntime_backend="python") as server:
        proof = server.prove(adder(staged))
    assert proof.record and "python-based backend" in proof.record.server
    assert proof.footprint and proof.footprint.home == "process"


@pytest.mark.triton
def test_a_sequence_model_is_asked_a_whole_sequence_and_not_compared(scratch, staged, tmp_path):
    started = "assert request.correlation_id() == 1"
    model = python_model(staged, answer=started, config=f"max_batch_size: 4 {SEQUENCE}")
    proof = scratch.prove(replace(model, reference=reference(tmp_path), gate=FP32))
    assert proof.record and (proof.record.batch_sizes, proof.record.worst) == ((1,), None)
    assert "not compared: its answers depend on more than one request" in (proof.warning or "")


DECOUPLED = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            if len(x) > {limit}:
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("too many")))
            else:
                for _ in range(3):
                    sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", x)]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


@pytest.mark.triton
@pytest.mark.parametrize("limit", [4, 2])
def test_a_decoupled_model_is_heard_to_its_last_answer(scratch, staged, limit):
    config = "max_batch_size: 4 model_transaction_policy { decoupled: true }"
    model = python_model(staged, code=DECOUPLED.replace("{limit}", str(limit)), config=config)
    if limit == 4:
        record = scratch.prove(model).record
        assert record and record.batch_sizes == (1, 4)
    else:
        with pytest.raises(ProofFailed, match="batch size 4: too many"):
            scratch.prove(model)


@pytest.mark.triton
def test_real_inputs_prove_what_made_up_ones_cannot(scratch, staged):
    picky = "assert pb_utils.get_input_tensor_by_name(request, 'x').as_numpy().all()"
    model = python_model(staged, answer=picky)
    with pytest.raises(ProofFailed, match=r"batch size 1: .*AssertionError.*export\.examples"):
        scratch.prove(model)
    examples = {"x": numpy.ones((2, 4), numpy.float32)}
    proof = scratch.prove(replace(model, examples=examples))
    assert proof.record and proof.record.batch_sizes == (1, 4)


@pytest.mark.triton
def test_a_version_that_the_policy_does_not_serve_is_proved_all_the_same(scratch, staged, tmp_path):
    write_adder(staged, "adder", amount=1)
    write_adder(tmp_path / "newer", "adder", amount=5)
    (tmp_path / "newer" / "adder" / "1").rename(staged / "adder" / "2")
    configure(staged, "adder", "version_policy { specific { versions: 1 } }")
    before = files(staged)
    asked = order(staged, "adder", version=2, reference=reference(tmp_path, added=5), gate=FP32)
    proof = scratch.prove(asked)
    assert proof.record and proof.record.worst is not None
    assert files(staged) == before


# -- what does not -------------------------------------------------------------------------------


@pytest.mark.triton
def test_wrong_answers_are_refused(scratch, staged, tmp_path):
    asked = replace(adder(staged), reference=reference(tmp_path, added=2), gate=FP32)
    with pytest.raises(ProofFailed, match=r"batch size 1: output 'y' differs by 0\.\d+, allowed"):
        scratch.prove(asked)


@pytest.mark.triton
def test_a_configuration_that_triton_refuses_comes_with_the_end_of_its_log(scratch, staged):
    write_adder(staged, "adder", dynamic=False)
    configure(staged, "adder", "dynamic_batching { preferred_batch_size: [ 99 ] }")
    with pytest.raises(ProofFailed) as failed:
        scratch.prove(order(staged, "adder"))
    assert "does not load it" in failed.value.cause
    assert "preferred size must be <= max batch size for adder" in failed.value.hint


@pytest.mark.triton
def test_a_batch_that_is_too_large_for_the_model_is_named(scratch, staged):
    small = "assert len(pb_utils.get_input_tensor_by_name(request, 'x').as_numpy()) < 4"
    with pytest.raises(ProofFailed, match=r"a request of batch size 4: .*AssertionError"):
        scratch.prove(python_model(staged, answer=small))


@pytest.mark.triton
@pytest.mark.parametrize(
    ("where", "text"),
    [("initialize", "does not load it"), ("answer", "batch size 1: .*not healthy")],
)
def test_a_crash_of_the_models_process_is_told(scratch, staged, where, text):
    with pytest.raises(ProofFailed, match=text):
        scratch.prove(python_model(staged, "crashing", **{where: SEGFAULT}))
    assert scratch.prove(adder(staged)).record


@pytest.mark.triton
def test_a_model_that_takes_the_server_down_is_blamed_for_it_and_no_other(tmp_path, staged):
    with own_server(tmp_path) as server:
        assert server.prove(adder(staged, "before")).record
        with pytest.raises(ProofFailed, match="died of SIGKILL while loading it"):
            server.prove(python_model(staged, "killer", initialize=KILL_SERVER))
        assert server.prove(adder(staged, "after")).record


@pytest.mark.triton
def test_an_innocent_model_is_not_blamed_for_a_server_that_died_of_another(tmp_path, staged):
    # The first is published; what it left behind ends the server as the second is loaded.
    once = tmp_path / "once"
    trap = f"open('{once}', 'x'); {KILL_SERVER}"
    with own_server(tmp_path) as server:
        assert server.prove(adder(staged, "first")).record
        guarded = f"\n        if not os.path.exists('{once}'):\n            {trap}"
        assert server.prove(python_model(staged, "second", initialize=guarded.strip())).record


@pytest.mark.triton
def test_a_load_that_hangs_ends_in_time_and_leaves_the_next_model_a_server(tmp_path, staged):
    with own_server(tmp_path, load_timeout_s=2) as server:
        with pytest.raises(ProofFailed, match="not done after 2 s with loading it"):
            server.prove(python_model(staged, "hanging", initialize="time.sleep(600)"))
        assert server.prove(adder(staged)).record


@pytest.mark.triton
def test_an_ensemble_without_one_of_its_members_is_refused(scratch, staged):
    write_adder(staged, "one")
    write_ensemble(staged, "both", "one", "two")
    with pytest.raises(ProofFailed, match="two"):
        scratch.prove(order(staged, "both", members={"one": staged / "one"}))


@pytest.mark.triton
@pytest.mark.parametrize(
    ("was", "now", "text"),
    [
        ('"onnxruntime"', '"tensorrt"', "lacks its backend .*'tensorrt'"),
        ("count: 1", "count: 1 kind: KIND_GPU", "wants a GPU"),
        ("count: 1", "count: 1 kind: KIND_GPU gpus: [ 7 ]", "wants a GPU"),
    ],
)
def test_what_this_machine_cannot_run_is_told_and_not_refused(scratch, staged, was, now, text):
    write_adder(staged, "adder")
    path = staged / "adder" / "config.pbtxt"
    path.write_text(path.read_text().replace(was, now))
    proof = scratch.prove(order(staged, "adder"))
    assert proof.record is None and proof.footprint is None
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(proof.warning)


@pytest.mark.triton
def test_an_interrupted_proof_leaves_no_process(tmp_path, staged):
    hanging = python_model(staged, "hanging", initialize="time.sleep(600)")
    others, started = set(descendants(os.getpid())), set()

    def interrupt():
        started.update(set(descendants(os.getpid())) - others)
        os.kill(os.getpid(), signal.SIGINT)

    with own_server(tmp_path) as server:
        assert server.prove(adder(staged)).record  # from now on there is a server
        timer = threading.Timer(1.0, interrupt)
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            server.prove(hanging)
    assert started and gone(started)


KILLED = """
import sys
from pathlib import Path
from repo_builder.scratch.server import ScratchServer
from tests.repo_builder.scratch.models import order

folder = Path(sys.argv[1])
with ScratchServer(folder, folder / "state") as server:
    server.prove(order(folder / "staged", "adder"))
    print("proved", flush=True)
    server.prove(order(folder / "staged", "hanging"))
"""


@pytest.mark.triton
def test_a_builder_that_is_killed_leaves_no_process(tmp_path, staged):
    adder(staged)
    python_model(staged, "hanging", initialize="time.sleep(600)")
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as builder:
        assert builder.stdout and builder.stdout.readline() == b"proved\n"
        started = descendants(builder.pid)
        builder.kill()
    assert started and gone(started)


# -- without a server ----------------------------------------------------------------------------


class Failing:
    """A launcher that always fails in the same way."""

    def __init__(self, error):
        self.error, self.starts = error, 0

    async def start(self, options):
        self.starts += 1
        raise self.error


def test_without_a_tritonserver_nothing_is_proved_and_that_is_told_each_time(tmp_path, staged):
    missing = Failing(LauncherUnavailable("embedded", "nvidia-pytriton is not installed", "Do."))
    with own_server(tmp_path, launcher=missing) as server:
        proofs = [server.prove(adder(staged, name)) for name in ("one", "two")]
    assert proofs[0] == proofs[1]
    assert proofs[0].record is None and "nvidia-pytriton" in (proofs[0].warning or "")
    assert missing.starts == 1


def test_a_server_that_does_not_start_is_no_proof(tmp_path, staged):
    broken = Failing(ServerExited("scratch", 1, "the last words"))
    with own_server(tmp_path, launcher=broken) as server:
        with pytest.raises(ProofFailed, match=r"(?s)does not start: .*the last words"):
            server.prove(adder(staged))


def test_no_proof_needs_no_server(tmp_path, staged):
    asked = replace(adder(staged), proof="off")
    with own_server(tmp_path, launcher=Failing(AssertionError())) as server:
        assert server.prove(asked) == Proof()


def test_the_embedded_server_is_the_one_that_proves(tmp_path):
    assert isinstance(own_server(tmp_path)._launcher, EmbeddedLauncher)
