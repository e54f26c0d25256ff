"""Builds that run PyTorch: each in a process of its own, for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from repo_builder.pipeline import build_fleet
from tests.repo_builder.builders import files, fleet, names, python_model, shop, torch_model
from tests.repo_builder.test_cli import write_fleet
from tritonfleet.errors import ExportFailed, ParityFailed, SourceUnavailable
from tritonfleet.server.layout import read_manifest
from tritonfleet.server.pbtxt import read_config

pytestmark = pytest.mark.build

MAIN = "from tritonfleet.cli import main; main()"
FAILING = {
    "branching": (ExportFailed, "branches on values"),
    "unlike": (ParityFailed, r"output 'y' differs by 0\.\d+, allowed is 0.0001 at batch=1"),
    "mixing": (ParityFailed, "row 0 alone"),
    "raising": (ExportFailed, "RuntimeError: the data set is empty"),
    "crashing": (ExportFailed, "(?s)killed by SIGSEGV.*about to crash"),
    "no_module": (ExportFailed, "its factory returned dict"),
    "absent": (SourceUnavailable, "tiny:absent cannot be imported"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A fleet of one good model and many bad ones, built twice over with two jobs."""
    folder = tmp_path_factory.mktemp("fleet")
    models = {name: torch_model(name) for name in FAILING}
    models["good"] = torch_model("measured", serving={"labels": {"y": ["a", "b", "c"]}})
    before = fleet(models)
    report = build_fleet(shop(folder, models, jobs=2))
    assert before.models.keys() == {result.model for result in report.results}
    return folder, {result.model: result for result in report.results}


@pytest.mark.parametrize("name", FAILING)
def test_what_must_not_come_out_fails_with_a_telling_sentence(built, name):
    kind, text = FAILING[name]
    error = built[1][name].error
    assert type(error) is kind
    with pytest.raises(kind, match=text):
        raise error


def test_an_error_is_short_and_has_no_colours(built):
    for name in set(FAILING) - {"crashing"}:
        text = str(built[1][name].error)
        assert len(text) < 600 and "\x1b" not in text and "\n" not in text


def test_the_others_are_built_all_the_same(built):
    folder, results = built
    assert results["good"].status == "built"
    assert names(folder / "repository") == ["good", "manifest.json"]
    assert names(folder) == ["repository", "state"]


def test_parity_and_metrics_are_on_record(built):
    entry = read_manifest(built[0] / "repository").models["good"]
    assert entry.metrics == {"accuracy": 0.5}
    assert entry.parity.worst < entry.parity.tolerance
    assert entry.parity.cases == 2
    assert {"fetch", "load", "reference", "export", "publish"} == set(entry.timings_s)


def test_the_configuration_is_the_artifact_s(built):
    config = read_config(built[0] / "repository", "good")
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 8)
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([4], [3])
    assert (built[0] / "repository/good/y_labels.txt").read_text() == "a\nb\nc\n"


def test_the_log_has_the_whole_trace(built):
    assert "Traceback" in (built[0] / "state/build/raising.log").read_text()


@pytest.fixture
def copied(built, tmp_path):
    """The good model alone, in a repository of its own that may be changed."""
    models = {"good": torch_model("measured")}
    build_fleet(shop(tmp_path, models))
    return models


def test_the_same_module_gives_the_same_bytes_in_another_process(copied, tmp_path):
    report = build_fleet(shop(tmp_path, copied, force=True))
    assert report.results[0].version == 2
    one, two = (tmp_path / "repository/good" / version / "model.onnx" for version in "12")
    assert one.read_bytes() == two.read_bytes()
    assert str(Path(__file__).parent).encode() not in one.read_bytes()


def test_a_change_of_how_it_is_served_needs_no_export(copied, tmp_path, monkeypatch):
    monkeypatch.setattr("repo_builder.pipeline.IsolatedCall", None)
    copied["good"]["serving"] = {"max_batch_size": 2, "labels": {"y": ["a", "b", "c"]}}
    (result,) = build_fleet(shop(tmp_path, copied)).results
    assert (result.status, result.version, result.error) == ("built", 1, None)
    assert read_config(tmp_path / "repository", "good").max_batch_size == 2
    assert result.metrics == {"accuracy": 0.5}
    (result,) = build_fleet(shop(tmp_path, copied)).results
    assert result.status == "unchanged"


def test_a_batch_size_the_artifact_cannot_have_is_refused_and_the_old_one_stays(tmp_path):
    still = {"dtype": "FP32", "shape": [1, 4]}
    models = {"m": torch_model("linear", source={"inputs": {"x": still}})}
    build_fleet(shop(tmp_path, models))
    assert read_config(tmp_path / "repository", "m").max_batch_size == 0
    before = files(tmp_path / "repository")
    models["m"]["serving"] = {"max_batch_size": 4}
    (result,) = build_fleet(shop(tmp_path, models)).results
    assert "do not share a leading batch" in str(result.error)
    assert files(tmp_path / "repository") == before


class Endless:
    """``tritonfleet build`` with an export that never ends."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, folder / "started"
        models = {
            "echo": python_model(folder, "echo"),
            "endless": torch_model("endless", source={"arguments": {"started": str(self.started)}}),
        }
        self.fleet = write_fleet(folder, models)
        self.environment = {**os.environ, "TRITONFLEET_STATE_DIR": str(folder / "state")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, "build", "-f", str(self.fleet), "--json", "--no-proof",
             "--repository", str(folder / "repository")],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.child = self._child()

    def _child(self) -> psutil.Process:
        deadline = time.monotonic() + 120
        while not (self.started.exists() and self.started.read_text()):
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)  # another process's file: there is no event to wait for
        return psutil.Process(int(self.started.read_text()))


@pytest.fixture
def endless(tmp_path):
    build = Endless(tmp_path)
    with build.process:
        yield build
        build.process.kill()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_an_interrupted_build_ends_its_export_and_leaves_whole_models(endless, number, status):
    endless.process.send_signal(number)
    output, errors = endless.process.communicate(timeout=60)
    assert endless.process.returncode == status
    assert "Traceback" not in errors
    assert output == ""
    psutil.wait_procs([endless.child], timeout=60)
    assert not endless.child.is_running() or endless.child.status() == psutil.STATUS_ZOMBIE
    assert names(endless.folder / "repository") == ["echo", "manifest.json"]
    left = {".repository.staging", ".repository.lock"} & set(names(endless.folder))
    assert not left or number is signal.SIGKILL


def test_what_a_killed_build_left_does_not_hinder_the_next(endless):
    endless.process.kill()
    endless.process.communicate()
    models = {"echo": python_model(endless.folder, "echo")}
    (result,) = build_fleet(shop(endless.folder, models)).results
    assert result.status == "unchanged"
    assert not {".repository.staging", ".repository.lock"} & set(names(endless.folder))
