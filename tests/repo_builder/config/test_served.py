"""What the rendered configurations say, a real tritonserver does."""

from __future__ import annotations

import numpy
import pytest

from repo_builder.config.render import DataFile, render_config
from tests.launchers.conftest import Client
from tests.repo_builder.builders import product, serving
from tritonfleet.launchers import embedded as embedded_module
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.embedded import EmbeddedLauncher

pytestmark = pytest.mark.triton

# Answers with what it was given, and writes down the largest value of each request.
CODE = """
import os
import numpy
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, arguments):
        self.log = os.path.join(arguments["model_repository"], "seen.txt")

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        with open(self.log, "a") as log:
            log.write(f"{sorted(given)} {given['x'].max()}\\n")
        told = given.get("start", given.get("more", numpy.zeros((len(given["x"]), 1), "f")))
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", told.astype("f"))])
"""


def publish(repository, name, made, options, data=None):
    config = render_config(name, made, serving(**options), {}, data or {})
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.py").write_text(CODE)
    for path, content in {"config.pbtxt": config.text, **config.files}.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.fixture
async def start(tmp_path, monkeypatch):
    """Starts a server on a repository, with more flags; gives a client."""
    opened = []
    command = embedded_module.tritonserver_command

    async def started(*flags):
        monkeypatch.setattr(
            embedded_module, "tritonserver_command",
            lambda *args, **options: [*command(*args, **options), *flags],
        )  # fmt: skip
        options = LaunchOptions("gpu0", tmp_path / "repository", tmp_path / "state")
        server = await EmbeddedLauncher().start(options)
        opened.append((server, Client(server.endpoint)))
        return opened[-1][1]

    yield started
    for server, client in opened:
        await client.close()
        await server.stop(0)


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "repository").mkdir()
    return tmp_path / "repository"


def echo(inputs="x FP32 batch n"):
    return product(inputs, "y FP32 batch 1", backend="python")


async def test_a_server_reads_the_configuration_it_was_started_for(start, repository):
    options = {
        "max_batch_size": 4,
        "configs": {"big": {"max_batch_size": 64, "parameters": {"size": "big"}}},
    }
    publish(repository, "echo", echo(), options)
    publish(repository, "plain", echo(), {"max_batch_size": 4})
    client = await start("--model-config-name=big")
    for model, size in (("echo", 64), ("plain", 4)):
        await client.load(model)
        config = (await client.get_model_config(model)).config
        assert config.max_batch_size == size
    x = numpy.zeros((40, 3), numpy.float32)
    assert (await client.ask("echo", {"x": ("FP32", x)}))["y"].shape == (40, 1)


async def test_warm_up_data_states_and_options_are_understood(start, repository):
    data = {"x.npy": DataFile("x.npy", numpy.float32([1, 7]).tobytes(), "FP32", (2,))}
    publish(
        repository, "everything", echo("x FP32 batch n, more FP32 batch 1"),
        {
            "max_batch_size": 8,
            "input": {"more": {"optional": True}},
            "instance_group": [{"name": "first", "kind": "cpu", "count": 2}],
            "dynamic_batching": {"default_queue_policy": {"allow_timeout_override": True}},
            "warmup": [{"name": "real", "files": {"x": "x.npy"}}, {"batch_size": 3, "count": 2}],
            "optimization": {"input_pinned_memory": {"enable": False}, "eager_batching": True,
                             "graph": {"level": 1}, "tensorrt": None},
            "parameters": {"mine": 1},
            "metric_tags": {"team": "search"},
            "response_cache": {"enable": True},
            "extra": {"optimization": {"output_pinned_memory": {"enable": True}}},
        },
        data,
    )  # fmt: skip
    client = await start()
    await client.load("everything")
    seen = (repository / "everything/seen.txt").read_text().splitlines()
    assert "['more', 'x'] 7.0" in seen
    x = numpy.full((2, 5), 3, numpy.float32)
    await client.ask("everything", {"x": ("FP32", x)})
    assert (repository / "everything/seen.txt").read_text().endswith("['x'] 3.0\n")
    config = (await client.get_model_config("everything")).config
    assert [group.name for group in config.instance_group] == ["first"]


@pytest.mark.parametrize("strategy", ["direct", "oldest"])
async def test_a_sequence_s_first_request_carries_the_signal(start, repository, strategy):
    chosen = {"max_candidate_sequences": 2} if strategy == "oldest" else {}
    batching = {
        strategy: chosen,
        "max_sequence_idle_microseconds": 30_000_000,
        "control_input": [{"name": "start", "control": [{"kind": "start"}]}],
    }
    made = echo("x FP32 batch n, start FP32 batch 1")
    publish(repository, "counter", made, {"sequence_batching": batching})
    client = await start()
    await client.load("counter")
    x = {"x": ("FP32", numpy.zeros((1, 2), numpy.float32))}
    first = await client.ask("counter", x, sequence_id=5, sequence_start=True)
    last = await client.ask("counter", x, sequence_id=5, sequence_end=True)
    assert (first["y"].item(), last["y"].item()) == (1, 0)


async def test_a_state_begins_with_the_data_of_its_file(start, repository):
    data = {"first.bin": DataFile("first.bin", numpy.float32([5, 6]).tobytes())}
    state = {
        "input_name": "more",
        "output_name": "kept",
        "initial_state": [{"name": "first", "dims": [2], "data_file": "first.bin"}],
    }
    made = product("x FP32 batch n, more FP32 batch 2", "y FP32 batch 2, kept FP32 batch 2",
                   backend="python")  # fmt: skip
    publish(repository, "stateful", made, {"sequence_batching": {"state": [state]}}, data)
    client = await start()
    await client.load("stateful")
    x = {"x": ("FP32", numpy.zeros((1, 2), numpy.float32))}
    answer = await client.ask("stateful", x, sequence_id=5, sequence_start=True)
    assert answer["y"].tolist() == [[5, 6]]
