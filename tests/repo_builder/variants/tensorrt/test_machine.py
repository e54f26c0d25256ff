"""What is said of machines, from what their commands say."""

from __future__ import annotations

import pytest

from repo_builder.variants.tensorrt.machine import Answer, Gpu, ask, probe_machine, require
from tritonfleet.errors import VariantFailed

A100 = "GPU-aaaa, NVIDIA A100-SXM4-80GB, 8.0, 550.54.15"
A10 = "GPU-bbbb, NVIDIA A10, 8.6, 550.54.15"
# Any module that is there stands for an installed TensorRT.
INSTALLED, NOT_INSTALLED = "json", "tensorrt_that_is_not_there"


def machine(*gpus, tensorrt=None, environment=None, module=INSTALLED, smi=None):
    def answer(command):
        if command[0] == "nvidia-smi":
            return smi or (Answer(0, "\n".join(gpus) + "\n") if gpus else None)
        return tensorrt or Answer(0, "10.16.1.11\nworks\n")

    return probe_machine(answer, environment or {}, module)


def test_a_gpu_with_a_tensorrt_that_works_is_told_whole():
    found = machine(A100)
    assert found.gpu == Gpu("NVIDIA A100-SXM4-80GB", "8.0", "550.54.15")
    assert (found.tensorrt, found.missing) == ("10.16.1.11", ())


def test_without_driver_and_tensorrt_both_are_missing():
    found = machine(module=NOT_INSTALLED)
    assert [text.split(" (")[0] for text in found.missing] == [
        "there is no NVIDIA GPU",
        "TensorRT is not installed for this Python",
    ]


def test_tensorrt_is_not_started_where_there_is_no_gpu_to_crash_on():
    found = machine(tensorrt=Answer(-11, ""))
    assert len(found.missing) == 1 and found.tensorrt is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(9, "NVIDIA-SMI has failed because it couldn't communicate"), "has failed because"),
        (Answer(6, "No devices were found\n"), "No devices were found"),
        (Answer(0, ""), "ended with 0"),
        (Answer(1, "", "timed out"), "timed out"),
    ],
)
def test_what_nvidia_smi_says_is_passed_on(answer, reason):
    assert reason in machine(smi=answer).missing[0]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(-11, "11.4.0.106\n"), "crashes (signal 11)"),
        (Answer(1, "", "Traceback\nImportError: libnvinfer.so.11: no such file"), "libnvinfer.so"),
        (Answer(1, "11.4.0\n", "TypeError: factory function returned nullptr\n"), "nullptr"),
        (Answer(0, "8.6.1\nworks\n"), "older than 10"),
    ],
)
def test_a_tensorrt_that_does_not_work_is_missing_with_its_reason(answer, reason):
    found = machine(A100, tensorrt=answer)
    assert reason in found.missing[0] and found.tensorrt is None


def test_of_several_kinds_of_gpu_one_must_be_named():
    assert "NVIDIA A100-SXM4-80GB and NVIDIA A10" in machine(A100, A10).missing[0]


@pytest.mark.parametrize("visible", ["1", "GPU-bbbb", "GPU-bb,GPU-b"])
def test_the_visible_one_counts(visible):
    found = machine(A100, A10, environment={"CUDA_VISIBLE_DEVICES": visible})
    assert found.gpu is not None and found.gpu.name == "NVIDIA A10"


@pytest.mark.parametrize("visible", ["", "-1", "7"])
def test_no_visible_gpu_is_no_gpu(visible):
    found = machine(A100, environment={"CUDA_VISIBLE_DEVICES": visible})
    assert "leaves visible" in found.missing[0]


def test_a_slice_of_a_gpu_is_that_gpu():
    assert machine(A100, environment={"CUDA_VISIBLE_DEVICES": "MIG-1234"}).gpu is not None


def test_the_error_lists_everything_and_says_where_to_build():
    with pytest.raises(VariantFailed) as failure:
        require(machine(module=NOT_INSTALLED), "bert", "'tensorrt' cannot be built", VariantFailed)
    text = str(failure.value)
    assert text.startswith("bert: 'tensorrt' cannot be built on this machine: there is no NVIDIA")
    assert ", and TensorRT is not installed" in text and "bert keeps its ONNX" in text


def test_a_command_that_is_not_there_gives_no_answer():
    assert ask(("no-such-command-anywhere",)) is None


def test_a_command_s_words_and_status_are_told():
    assert ask(("sh", "-c", "echo out; echo err >&2; exit 3")) == Answer(3, "out\n", "err\n")
