from __future__ import annotations

import pytest

from repo_builder.sources.base import SourceContext
from repo_builder.sources.torchscript import TorchScriptSource
from tests.repo_builder.sources.comparing import exported, loaded, worst_differences
from tritonfleet.errors import ExportFailed, SourceUnavailable
from tritonfleet.spec.sources import TorchScriptSource as TorchScriptSpec

pytestmark = pytest.mark.build
torch = pytest.importorskip("torch")


class Scores(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.dropout = torch.nn.Dropout()

    def forward(self, x):
        return torch.softmax(self.dropout(self.linear(x)), -1)


class Branching(torch.nn.Module):
    def forward(self, x):
        if bool(x.sum() > 0):
            return x * 2
        return x * 3


class Looping(torch.nn.Module):
    def forward(self, x):
        while bool(x.sum() < 100):
            x = x * 2
        return x


@pytest.fixture
def context(tmp_path):
    return SourceContext("m", tmp_path, tmp_path / "repository")


def spec(shape=("batch", 4)) -> TorchScriptSpec:
    return TorchScriptSpec.model_validate(
        {"kind": "torchscript", "path": "m.pt", "outputs": ["y"],
         "inputs": {"x": {"dtype": "FP32", "shape": shape}}}
    )  # fmt: skip


def save(folder, module, how) -> None:
    torch.jit.save(how(module), folder / "m.pt")


def traced(module):
    return torch.jit.trace(module.eval(), torch.randn(2, 4))


def frozen(module):
    return torch.jit.freeze(torch.jit.script(module.eval()))


@pytest.mark.parametrize("how", [torch.jit.script, traced, frozen])
def test_what_was_scripted_traced_or_frozen_becomes_onnx_and_computes_the_same(
    context, tmp_path, how
):
    save(tmp_path, Scores(), how)
    checkpoint = loaded(TorchScriptSource(), spec(), context)
    path, signature = exported(checkpoint, tmp_path)
    assert signature.batchable and signature.outputs[0].shape == ("batch", 3)
    assert max(worst_differences(checkpoint, path).values()) < 1e-5


def test_a_branch_on_values_stays_a_branch(context, tmp_path):
    from repo_builder.judging.runners import OnnxRunner

    save(tmp_path, Branching(), torch.jit.script)
    path, signature = exported(loaded(TorchScriptSource(), spec(), context), tmp_path)
    run = OnnxRunner("m", path, signature).run
    ones = torch.ones(3, 4).numpy()
    assert (run({"x": ones})["y"] == 2 * ones).all()
    assert (run({"x": -ones})["y"] == -3 * ones).all()


def test_what_the_converter_does_not_take_is_told_with_the_ways_that_do(context, tmp_path):
    save(tmp_path, Looping(), torch.jit.script)
    checkpoint = loaded(TorchScriptSource(), spec(), context)
    with pytest.raises(ExportFailed, match=r"prim::Loop.*onnx_torchscript or pytorch"):
        exported(checkpoint, tmp_path)


def test_its_state_is_the_file_s_digest(context, tmp_path):
    save(tmp_path, Branching(), torch.jit.script)
    state = TorchScriptSource().state(spec(), context, lambda path: path.name)
    assert state == {"digest": "m.pt"}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_damaged_file_is_told(context, tmp_path, share):
    save(tmp_path, Scores(), torch.jit.script)
    content = (tmp_path / "m.pt").read_bytes()
    (tmp_path / "m.pt").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SourceUnavailable, match=r"cannot be loaded as TorchScript"):
        loaded(TorchScriptSource(), spec(), context)


def test_a_state_dict_is_told_with_where_it_belongs(context, tmp_path):
    torch.save(Scores().state_dict(), tmp_path / "m.pt")
    with pytest.raises(SourceUnavailable, match="use kind 'torch_module'"):
        loaded(TorchScriptSource(), spec(), context)
