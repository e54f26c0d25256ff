from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner

from repo_builder.lint.cli import lint
from tests.repo_builder.lint.builders import PYTHON, found, write
from tritonfleet.server.engines import Stamp, read_stamp, write_stamp

GROUP = "instance_group [{ count: 1 }]"


@pytest.fixture
def engine(tmp_path):
    config = PYTHON.replace('"python"', '"tensorrt"').format(name="m") + GROUP
    model = write(tmp_path / "m", {"config.pbtxt": config, "1/model.plan": "engine"})
    profile = {"x": ((1, 4), (8, 4), (8, 4))}
    write_stamp(model / "1", Stamp("10.13.3", "H100", "9.0", "580", "linux", "fp16", (profile,)))
    return model


@pytest.mark.parametrize(
    ("server", "rules"),
    [
        ({}, []),
        ({"tensorrt": "10.13.3", "compute_capability": "9.0"}, []),
        ({"tensorrt": "10.14.1"}, ["engine-mismatch"]),
        ({"compute_capability": "8.9"}, ["engine-mismatch"]),
    ],
)
def test_an_engine_is_held_against_the_server(engine, server, rules):
    assert found(engine.parent, **server) == rules


@pytest.mark.parametrize(
    ("tag", "status"), [("25.12-trtllm-python-py3", 0), ("26.03-trtllm-python-py3", 1)]
)
def test_the_tag_of_an_image_says_which_tensorrt_a_server_has(engine, tag, status):
    write_stamp(engine / "1", replace(read_stamp(engine / "1"), tensorrt="10.13.3.9"))
    result = CliRunner().invoke(lint, [str(engine.parent), "--tensorrt", tag])
    assert result.exit_code == status, result.output


@pytest.mark.parametrize("tag", ["25.08-py3", "25.08", "latest", "10", "31.01-trtllm-python-py3"])
def test_an_image_of_which_nothing_is_known_is_no_version(engine, tag):
    result = CliRunner().invoke(lint, [str(engine.parent), "--tensorrt", tag])
    assert result.exit_code == 2 and "TRT_VERSION" in result.output


def test_batches_beyond_every_profile_are_found(engine):
    text = (engine / "config.pbtxt").read_text().replace("max_batch_size: 8", "max_batch_size: 9")
    write(engine, {"config.pbtxt": text})
    assert found(engine.parent) == ["engine-batch"]


@pytest.mark.parametrize("stamp", ["", "{}", "garbage"])
def test_an_engine_without_a_readable_stamp_is_left_alone(engine, stamp):
    write(engine, {"1/stamp.json": stamp})
    assert found(engine.parent, tensorrt="10.14.1") == []
