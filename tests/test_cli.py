"""The command line as its users meet it: in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.serving import until
from tests.tiny import adder_fleet
from tritonfleet.gateway.envoy.files import remove, run_folder
from tritonfleet.launchers.native import choose_backend

COMMAND = [sys.executable, "-m", "tritonfleet"]


def tritonfleet(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=120, **options
    )


def test_help_names_every_command():
    answer = tritonfleet("--help")
    assert answer.returncode == 0
    for command in ("build", "serve", "ls", "load", "unload", "pin", "unpin", "infer", "validate"):
        assert command in answer.stdout


def test_a_bad_fleet_file_prints_every_problem_and_exits_2(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text("servers: [{name: a, capacity: 1GiB}]\nmodells: {}\n")
    answer = tritonfleet("validate", str(path))
    assert answer.returncode == 2
    assert "did you mean 'models'?" in answer.stderr
    assert "'models' is missing" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_schema_is_printed_for_editors():
    assert json.loads(tritonfleet("schema").stdout)["title"] == "tritonfleet fleet file"


def test_a_command_without_a_fleet_says_how_to_start_one(tmp_path):
    answer = tritonfleet("ls", "--control", "http://127.0.0.1:9", cwd=tmp_path)
    assert answer.returncode == 1
    assert "tritonfleet serve" in answer.stderr


@pytest.mark.parametrize(
    ("flags", "extra", "message", "status"),
    [
        (["--envoy", "/no/envoy"], "", "no usable Envoy, /no/envoy", 1),
        (["--access-log", "some"], "", "'some' is not one of", 2),
        ([], "access: {tenants: {a: {api_keys: ['env:NO_SUCH_KEY']}}}\n", "NO_SUCH_KEY", 2),
    ],
)
def test_what_serve_cannot_do_is_told_before_anything_is_started(
    tmp_path, flags, extra, message, status
):
    adder_fleet(tmp_path, {"one": "40MiB"}, extra=extra)
    answer = tritonfleet("serve", "-f", "fleet.yaml", *flags, cwd=tmp_path)
    assert answer.returncode == status
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "state" / "logs").exists()


# -- with a fleet --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli")
    adder_fleet(path, {"one": "40MiB", "two": "40MiB", "three": "40MiB"})
    return path


def serve(folder: Path, *flags: str):
    """``tritonfleet serve`` once it listens and has said so."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "-f", "fleet.yaml", *flags],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
        stderr=(folder / "serve.log").open("w"),
        start_new_session=True,
    )
    log = folder / "serve.log"
    until(lambda: "Ctrl-C" in log.read_text() or process.poll() is not None)
    assert process.poll() is None, log.read_text()
    return process


@pytest.fixture(scope="module")
def fleet(folder):
    process = serve(folder)
    yield {**os.environ, "TRITONFLEET_STATE_DIR": str(folder / "state"), "COLUMNS": "200"}
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0, (folder / "serve.log").read_text()


@pytest.mark.triton
def test_serve_prints_how_to_call_the_fleet(fleet, folder):
    said = (folder / "serve.log").read_text()
    for row in (
        "Open Inference Protocol",
        "over gRPC",
        "who may call",
        "control API",
        "tritonserver 'local'",
        "Envoy 1.",
        "access.log",
        "curl",
    ):
        assert row in said, row
    assert "unencrypted" not in said  # it listens on loopback


@pytest.mark.triton
def test_the_access_log_says_who_was_cold(fleet, folder):
    tritonfleet("unload", "two", env=fleet)
    assert tritonfleet("infer", "two", '{"x": [[1, 2, 3, 4]]}', env=fleet).returncode == 0
    log = folder / "state" / "logs" / "access.log"

    def logged():
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in lines if line["path"] == "/v2/models/two/infer"]

    (line,) = until(logged)
    assert (line["model"], line["residency"], line["status"]) == ("two", "cold", 200)
    assert log.stat().st_mode & 0o777 == 0o600  # it tells who called what


@pytest.mark.triton
def test_serve_says_what_runs_onnx_models(fleet, folder):
    (line,) = [
        line for line in (folder / "serve.log").read_text().splitlines() if "ONNX models" in line
    ]
    assert str(choose_backend("auto", os.environ))[:80] in line


@pytest.mark.triton
def test_the_backend_that_is_asked_for_is_taken(tmp_path):
    adder_fleet(tmp_path, {"one": "40MiB"})
    process = serve(tmp_path, "--onnxruntime-backend", "python")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    said = (tmp_path / "serve.log").read_text()
    assert "python-based backend" in said
    assert "python-based backend:" not in said  # nothing to excuse


@pytest.mark.triton
def test_infer_takes_json_and_shows_the_answer(fleet):
    answer = tritonfleet("infer", "one", '{"x": [[1, 2, 3, 4]]}', env=fleet)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "y FP32 [1, 4]: 2, 3, 4, 5\n"
    whole = tritonfleet("infer", "one", "-", "--json", env=fleet, input="[[1, 2, 3, 4]]")
    assert json.loads(whole.stdout)["outputs"][0]["data"] == [2, 3, 4, 5]


@pytest.mark.triton
@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["infer", "onne", "[[1]]"], "Did you mean 'one'?", 1),
        (["infer", "one", "[[1], [1, 2]]"], "not rectangular", 2),
        (["infer", "one", '{"z": [[1]]}'], "no such input: z", 2),
        (["infer", "one", "{"], "not JSON", 2),
        (["infer", "one", "[[1, 2]]"], "unexpected shape", 1),
        (["load", "nope"], "unknown model: 'nope'", 1),
    ],
)
def test_bad_input_is_one_clear_error(fleet, arguments, message, status):
    answer = tritonfleet(*arguments, env=fleet)
    assert answer.returncode == status
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.triton
def test_ls_shows_who_was_evicted_and_why_the_others_stayed(fleet):
    tritonfleet("pin", "one", env=fleet)
    for model in ("two", "three"):
        assert tritonfleet("load", model, env=fleet).returncode == 0
    table = tritonfleet("ls", env=fleet).stdout
    assert "80 MiB of 100 MiB occupied" in table
    assert "pinned" in table
    assert "for three: idle longest for its priority" in table
    models = {
        m["name"]: m for m in json.loads(tritonfleet("ls", "--json", env=fleet).stdout)["models"]
    }
    assert models["two"]["state"] == "UNAVAILABLE"
    explained = tritonfleet("explain", "three", env=fleet).stdout
    assert "one: pinned" in explained
    assert tritonfleet("unpin", "one", env=fleet).returncode == 0
    assert "UNAVAILABLE" in tritonfleet("unload", "three", env=fleet).stdout


@pytest.mark.triton
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_fleet_that_ends_leaves_no_process_behind(tmp_path, number):
    adder_fleet(tmp_path, {"one": "40MiB"})
    process = serve(tmp_path)
    env = {**os.environ, "TRITONFLEET_STATE_DIR": str(tmp_path / "state")}
    assert tritonfleet("load", "one", env=env).returncode == 0
    family = psutil.Process(process.pid).children(recursive=True)
    names = {child.name() for child in family}
    assert {"tritonserver", "envoy"} <= names
    assert any("brain_process" in " ".join(child.cmdline()) for child in family)
    process.send_signal(number)
    status = process.wait(60)
    assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    until(lambda: not any(child.is_running() and child.status() != "zombie" for child in family))
    remove(run_folder(tmp_path / "state"))  # the next fleet there would have taken it over
