"""Every error survives a pickle and speaks in whole sentences."""

from __future__ import annotations

import pickle

import pytest

from tritonfleet import errors
from tritonfleet.errors import FleetError, Problem
from tritonfleet.server.client import InferenceRefused
from tritonfleet.talk import FleetUnreachable, Refused

EXAMPLES = [
    errors.InvalidSpec("fleet.yaml", (Problem("models", "is missing", 3, "add it"),)),
    errors.InvalidAccess("the key of tenant 'a'", "env:A", "it is empty", "Fill it."),
    errors.UnknownPlugin("tritonfleet.policies", "lru", ("priority_lru",)),
    errors.InvalidRequest("ModelInferRequest", "field 1 ends beyond the message"),
    errors.SourceUnavailable("bert", "no such directory", "Check the path."),
    errors.ExportFailed("bert", "unsupported operator"),
    errors.ParityFailed("bert", "output 'logits' differs by 0.1"),
    errors.VariantFailed("bert", "no GPU", "Build it where it will run."),
    errors.MetricFailed("bert", "accuracy is 0.5, 0.9 was asked for"),
    errors.ProofFailed("bert", "it does not load"),
    errors.InvalidModelConfig("bert", "line 3: no such field"),
    errors.PublishFailed("bert", "no space left on device"),
    errors.ServerUnreachable("gpu0", "127.0.0.1:8001"),
    errors.ServerTimeout("gpu0", "load bert", 3.0),
    errors.LoadFailed("bert", "corrupt file", 4.0),
    errors.UnloadFailed("bert", "no answer"),
    errors.ModelNotFound("bret", ("bert",)),
    errors.VersionNotFound("bert", "9", (1, 2)),
    errors.ModelTooLarge("llm", 3 * 2**30, 2**30),
    errors.FleetSaturated("bert", 2.0, 1.0),
    errors.PinRefused("bert", "it is pinned"),
    errors.RolloutRefused("bert", "no version of it is on trial."),
    errors.QueueFull("bert", "8 requests wait for it already"),
    errors.TooMuchHeld("bert", 2**20, 2**29),
    errors.DeadlineExceeded("bert", 0.25),
    errors.NotAllowed("team-a", "call bert"),
    errors.SharedMemoryRefused("server 'far' runs on another machine"),
    errors.LauncherUnavailable("embedded", "no wheel", "Install it."),
    errors.ServerExited("gpu0", 139, "Segmentation fault", "log"),
    errors.PortTaken("127.0.0.1", 8000, "--http-port"),
    errors.EngineUnavailable("unix:///var/run/docker.sock", "no such socket", "Start Docker."),
    errors.ImageMissing("triton:1", "no such image", "Pull it."),
    errors.ContainerFailed("tritonfleet-gpu0-0", "it ended with status 1", "Look.", "boom"),
    errors.EngineMismatch("triton:1", ("bert, version 1: it is older",), "Build it again."),
    errors.EnvoyMissing("/opt/envoy", "it does not run", "Install it."),
    errors.ConfigRejected("Envoy 1.40.0", "no such field: x"),
    errors.BrainFailed("the brain ended with status 1 before it was ready"),
    errors.AnalyzerMissing("none found"),
    errors.AnalyzerFailed("first", 1, "boom"),
    errors.Unstable("first", "never settled"),
    InferenceRefused("bert", "INTERNAL", "boom"),
    FleetUnreachable("http://127.0.0.1:8003", "refused"),
    Refused(404, "not found"),
]


def is_builders(kind):
    return kind.__module__.startswith("repo_builder.")


def leaves(kind=FleetError):
    # The builder tells one of them apart for itself; what it tells is the same.
    below = [child for child in kind.__subclasses__() if not is_builders(child)]
    return {kind} if not below else set().union(*(leaves(child) for child in below))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_a_pickle(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.args, str(copy)) == (error.args, str(error))


def test_every_error_of_the_tree_is_tested():
    ours = {kind for kind in leaves() if kind.__module__.startswith("tritonfleet.")}
    assert ours == {type(error) for error in EXAMPLES}


def test_a_misspelt_model_gets_a_suggestion():
    assert "Did you mean 'bert'?" in str(errors.ModelNotFound("bret", ("bert", "vit")))
