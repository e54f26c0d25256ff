"""perf_analyzer, unmodified, on a whole fleet and on models that are not in memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from fleet_perf import install
from fleet_perf.install import Program
from tests.gateway.clients import Client
from tests.gateway.models import every_kind
from tests.serving import serving
from tritonfleet.errors import AnalyzerMissing

pytestmark = [pytest.mark.triton, pytest.mark.envoy, pytest.mark.perf]
CHECKOUT_STATE = Path(__file__).parents[2] / ".tritonfleet"
REQUESTS = 40
_COUNT = re.compile(r"^\s*Request count: (\d+)", re.MULTILINE)


@pytest.fixture(scope="module")
def program() -> Program:
    try:
        return install.find_or_install(CHECKOUT_STATE)
    except AnalyzerMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(every_kind(tmp_path_factory.mktemp("fleet"))) as fleet:
        yield fleet


@pytest.fixture
def analyzed(program, served):
    """How many requests it says that it has measured, asking a model that was cold."""

    def run(model, protocol, *options):
        assert served.call("POST", f"/v2/repository/models/{model}/unload")[0] == 200
        address = served.grpc_address if protocol == "grpc" else served.address
        command = ["-m", model, "-i", protocol, "-u", address, "--concurrency-range", "2"]
        done = subprocess.run(
            [str(program.path), *command, "--request-count", str(REQUESTS), *options],
            env={**os.environ, **program.environment()},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return int(_COUNT.findall(done.stdout)[0])

    return run


def statistics(served, model):
    """What the tritonserver itself has counted since it loaded a model."""
    triton = Client("http", served.endpoint("local").http)
    try:
        told = triton.get_inference_statistics(model)
    finally:
        triton.close()
    return told["model_stats"][0]["inference_stats"]


def assert_ran(served, model, requests):
    told = statistics(served, model)
    assert requests >= REQUESTS
    assert told["success"]["count"] >= requests
    assert told["fail"]["count"] == 0


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize(
    "options",
    [(), ("--async",), ("--shared-memory", "system")],
    ids=["plain", "async", "shared memory"],
)
def test_a_cold_model_is_measured(served, analyzed, protocol, options):
    assert_ran(served, "adder", analyzed("adder", protocol, *options))


def test_words_are_measured(served, analyzed):
    requests = analyzed("words", "http", "--string-length", "9", "--shape", "x:3")
    assert_ran(served, "words", requests)


def test_compressed_requests_are_measured(served, analyzed):
    requests = analyzed("adder", "grpc", "--grpc-compression-algorithm", "gzip")
    assert_ran(served, "adder", requests)


def test_an_ensemble_is_measured(served, analyzed):
    assert_ran(served, "both", analyzed("both", "grpc"))


@pytest.mark.parametrize("model", ["adder", "counter"])
def test_streams_are_measured(served, analyzed, tmp_path, model):
    data = tmp_path / "data.json"
    data.write_text(
        json.dumps({"data": [{"x": [1] if model == "counter" else [1.0, 2.0, 3.0, 4.0]}]})
    )
    requests = analyzed(model, "grpc", "--streaming", "--async", "--input-data", str(data))
    assert_ran(served, model, requests)


@pytest.mark.parametrize("options", [(), ("--streaming", "--async")], ids=["single", "stream"])
def test_sequences_are_measured(served, analyzed, options):
    requests = analyzed("totals", "grpc", "--sequence-length", "5", *options)
    assert_ran(served, "totals", requests)
