from __future__ import annotations

import pytest

from repo_builder.exporters.tracing import is_script, trace
from repo_builder.sources.base import Checkpoint
from tests.repo_builder.exporters.modules import Branching, checkpoint, scripted
from tritonfleet.errors import ExportFailed

pytestmark = pytest.mark.build
torch = pytest.importorskip("torch")


class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x + self.calls


def test_a_faithful_trace_answers_sizes_it_has_not_seen():
    made = checkpoint(lambda m, x: torch.softmax(m.linear(x), -1))
    traced, x = trace("m", made, "hint"), torch.randn(7, 4)
    assert torch.allclose(traced(x), made.module(x))
    assert not traced.training


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x if x.mean() > 0 else -x,
        lambda m, x: x * float(x[0, 0]),
        lambda m, x: x + torch.rand(4),
    ],
    ids=["branch", "number", "random"],
)
def test_a_trace_that_another_sample_contradicts_is_refused(function):
    with pytest.raises(ExportFailed, match=r"differs from it on another sample.*do this instead"):
        trace("m", checkpoint(function), "do this instead")


def test_a_selection_by_value_is_no_branch():
    made, x = checkpoint(lambda m, x: x[x > 0]), torch.randn(5, 4)
    assert torch.equal(trace("m", made, "hint")(x), made.module(x))


def test_state_that_changes_with_every_call_is_refused():
    with pytest.raises(ExportFailed, match="keeps state"):
        trace("m", Checkpoint(Counting().eval(), checkpoint(None).inputs, ("y",)), "hint")


def test_scripts_are_told_from_modules():
    assert is_script(scripted(Branching()))
    assert not is_script(checkpoint(lambda m, x: x))
