from __future__ import annotations

import importlib

import numpy as np
import pytest

from tests.launchers.backends.pytorch.files import PickyDoubler, SumAndDifference
from tritonfleet.launchers.backends.pytorch.module import TorchScriptModule

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.build
A, B = np.array([[3, 3]], np.float32), np.array([[1, 2]], np.float32)


def config(inputs=("first", "second"), outputs=("total", "rest"), **parameters):
    return {
        "input": [{"name": name} for name in inputs],
        "output": [{"name": name} for name in outputs],
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }


@pytest.fixture
def folder(tmp_path):
    torch.jit.script(SumAndDifference()).save(str(tmp_path / "model.pt"))
    return tmp_path


def test_tensors_go_by_their_order_in_the_configuration(folder):
    module = TorchScriptModule(config(), folder)
    total, rest = module.run(["total", "rest"], {"second": B, "first": A})
    assert total.tolist() == [[4, 5]] and rest.tolist() == [[2, 1]]


def test_only_the_outputs_asked_for_come_back(folder):
    (rest,) = TorchScriptModule(config(), folder).run(["rest"], {"first": A, "second": B})
    assert rest.tolist() == [[2, 1]]


def test_requests_that_cannot_be_written_to_are_taken_all_the_same(folder):
    frozen = A.copy()
    frozen.flags.writeable = False
    total = TorchScriptModule(config(), folder).run(["total"], {"first": frozen, "second": B})[0]
    assert total.tolist() == [[4, 5]]


def test_threads_are_one_unless_the_configuration_says_otherwise(folder):
    before = torch.get_num_threads()
    try:
        TorchScriptModule(config(), folder)
        assert torch.get_num_threads() == 1
        TorchScriptModule(config(INTRA_OP_THREAD_COUNT="2"), folder)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("text", ["0", "-1", "many"])
def test_a_thread_count_that_is_none_is_told(folder, text):
    with pytest.raises(ValueError, match=f"INTRA_OP_THREAD_COUNT' is '{text}'"):
        TorchScriptModule(config(INTRA_OP_THREAD_COUNT=text), folder)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"model\.pt is missing"):
        TorchScriptModule(config(), tmp_path)


def test_a_file_that_is_no_model_is_told_in_one_line(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"cannot open .*model\.pt") as caught:
        TorchScriptModule(config(), tmp_path)
    assert "\n" not in str(caught.value)


def test_outputs_that_config_does_not_have_are_an_error(folder):
    module = TorchScriptModule(config(outputs=("total",)), folder)
    with pytest.raises(RuntimeError, match=r"gives 2 outputs, config\.pbtxt has 1"):
        module.run(["total"], {"first": A, "second": B})


def test_what_the_module_refuses_is_an_error_of_that_run_alone(tmp_path):
    torch.jit.script(PickyDoubler()).save(str(tmp_path / "model.pt"))
    module = TorchScriptModule(config(("x",), ("y",)), tmp_path)
    with pytest.raises(Exception, match="negative"):
        module.run(["y"], {"x": -A})
    assert module.run(["y"], {"x": A})[0].tolist() == [[6, 6]]


def test_a_missing_pytorch_tells_what_to_install(folder, monkeypatch):
    def missing(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ValueError, match=r"no PyTorch .*pip install 'tritonfleet\[build\]'"):
        TorchScriptModule(config(), folder)
