"""Which repositories an image can serve."""

from __future__ import annotations

import struct

import pytest

from repo_builder.variants.tensorrt.machine import Gpu, Machine
from repo_builder.variants.tensorrt.stamp import stamp
from tritonfleet.errors import EngineMismatch
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.gpus import HostGpu
from tritonfleet.launchers.releases import (
    ImageFacts,
    check_image,
    check_repository,
    image_facts,
)
from tritonfleet.server.engines import write_stamp
from tritonfleet.spec.containers import ContainerSpec
from tritonfleet.spec.export import TensorRTVariant

TENSORRT = 'name: "m" backend: "tensorrt"'
PLAIN = "nvcr.io/nvidia/tritonserver:25.08-py3"
A10, H100 = (HostGpu(i, f"GPU-{i}", cc, "580.65") for i, cc in (("0", "8.6"), ("1", "9.0")))
CPU_IMAGE = {
    "io.tritonfleet.image": "tritonserver-cpu",
    "io.tritonfleet.triton.release": "24.10",
    "io.tritonfleet.triton.version": "2.51.0",
    "io.tritonfleet.onnxruntime.version": "1.31.1",
}


def facts(tensorrt="10.13.3.9", **fields):
    return ImageFacts(PLAIN, "25.08", "2.60.0", tensorrt, serves_engines="yes", **fields)


def engine(repository, model="minilm", version=1, built="10.13.3.9", config=TENSORRT, **variant):
    """As the builder publishes it: config.pbtxt, model.plan and its stamp."""
    folder = repository / model / str(version)
    folder.mkdir(parents=True)
    (repository / model / "config.pbtxt").write_text(config)
    (folder / "model.plan").write_bytes(b"not that of a real engine")
    spec = TensorRTVariant.model_validate({"format": "tensorrt", **variant})
    machine = Machine(Gpu("NVIDIA A10", "8.6", "580.65"), built, platform="linux-x86_64")
    write_stamp(folder, stamp(spec, machine, ({"x": ((1, 4), (8, 4), (8, 4))},)))
    return folder


def unstamped(repository, model, *version):
    folder = engine(repository, model)
    (folder / "stamp.json").unlink()
    if version:
        (folder / "model.plan").write_bytes(struct.pack("<4sI16x4B", b"ftrt", 0, *version))
    return folder


@pytest.fixture(autouse=True)
def machine_of_the_engines(monkeypatch):
    monkeypatch.setattr("tritonfleet.launchers.releases._platform", lambda: "linux-x86_64")
    monkeypatch.delenv("DOCKER_HOST", raising=False)


# -- what an image is --------------------------------------------------------------------------


def test_our_own_image_tells_by_its_labels_that_it_has_no_tensorrt():
    found = image_facts("tritonfleet/tritonserver-cpu:0.1.0", {"Labels": CPU_IMAGE})
    assert found == ImageFacts(
        "tritonfleet/tritonserver-cpu:0.1.0", "24.10", "2.51.0", None, "1.31.1", "no"
    )


def test_the_table_tells_nothing_of_our_own_image():
    labels = {name: text for name, text in CPU_IMAGE.items() if "onnxruntime" not in name}
    assert image_facts("tritonfleet/tritonserver-cpu:0.1.0", {"Labels": labels}).onnxruntime is None


def test_nvidia_s_image_tells_by_its_environment():
    config = {
        "Labels": {"com.nvidia.tritonserver.version": "2.50.0"},
        "Env": [
            "PATH=/opt/tritonserver/bin:/usr/bin",
            "TRT_VERSION=10.4.0.26",
            "NVIDIA_TRITON_SERVER_VERSION=24.09",
            "TRITON_SERVER_VERSION=2.50.0",
        ],
    }
    found = image_facts("mycompany/triton-with-plugins:7", config)
    assert found == ImageFacts(
        "mycompany/triton-with-plugins:7", "24.09", "2.50.0", "10.4.0.26", "1.19.2", "yes"
    )


def test_an_image_that_tells_nothing_is_known_by_its_name_and_the_table():
    found = image_facts("mirror.example/nvidia/tritonserver:24.09-py3", {})
    assert (found.release, found.triton, found.tensorrt) == ("24.09", "2.50.0", "10.4.0.26")
    assert (found.onnxruntime, found.serves_engines) == ("1.19.2", "yes")


def test_what_the_image_says_wins_over_the_table():
    found = image_facts(
        "nvcr.io/nvidia/tritonserver:24.09-py3", {"Env": ["TRT_VERSION=10.5.0.18+cuda12.6"]}
    )
    assert found.tensorrt == "10.5.0.18+cuda12.6"


def test_a_label_of_ours_wins_over_all():
    config = {"Labels": {"io.tritonfleet.tensorrt.version": "9.1"}, "Env": ["TRT_VERSION=10.4"]}
    found = image_facts("nvcr.io/nvidia/tritonserver:24.09-trtllm-python-py3", config)
    assert (found.tensorrt, found.serves_engines) == ("9.1", "yes")


@pytest.mark.parametrize("kind", ["trtllm-python-py3", "vllm-python-py3", "py3-min", "py3-sdk"])
def test_images_for_other_purposes_hardly_serve_engines(kind):
    found = image_facts(f"nvcr.io/nvidia/tritonserver:24.09-{kind}", {"Env": ["TRT_VERSION=10.4"]})
    assert (found.tensorrt, found.serves_engines) == (None, "hardly")


@pytest.mark.parametrize("config", [{}, {"Labels": None, "Env": None}, {"Env": ["BROKEN"]}])
def test_of_a_stranger_nothing_is_known(config):
    assert image_facts("mycompany/triton:7", config) == ImageFacts("mycompany/triton:7")


# -- engines -----------------------------------------------------------------------------------


def test_an_engine_of_the_image_s_tensorrt_is_served(tmp_path):
    engine(tmp_path)
    assert check_repository(tmp_path, facts()) == ()


def test_every_engine_that_does_not_fit_is_named(tmp_path):
    engine(tmp_path, "minilm", version=3, built="10.9.0.34")
    engine(tmp_path, "vit", built="10.14.1.48")
    engine(tmp_path, "fits")
    with pytest.raises(EngineMismatch) as caught:
        check_repository(tmp_path, facts())
    assert caught.value.misfits == (
        "minilm, version 3, model.plan: it was built with TensorRT 10.9.0.34, the server has "
        "10.13.3.9",
        "vit, version 1, model.plan: it was built with TensorRT 10.14.1.48, the server has "
        "10.13.3.9",
    )
    assert "Build them again with TensorRT 10.13.3.9" in str(caught.value)
    assert "version_compatible" in caught.value.hint
    assert "choose release" not in caught.value.hint, "none has both"


def test_a_release_with_the_engine_s_tensorrt_is_proposed(tmp_path):
    engine(tmp_path, built="10.4.0.26")
    with pytest.raises(EngineMismatch, match=r"or choose release 24\.09, which has theirs"):
        check_repository(tmp_path, facts())


def test_no_later_engine_is_told_to_be_version_compatible(tmp_path):
    engine(tmp_path, built="10.14.1.48")
    with pytest.raises(EngineMismatch) as caught:
        check_repository(tmp_path, facts())
    assert "version_compatible" not in caught.value.hint


def test_a_version_compatible_engine_is_served_by_a_later_tensorrt_and_asks_for_a_flag(tmp_path):
    engine(tmp_path, built="10.9.0.34", version_compatible=True)
    options = LaunchOptions("gpu0", tmp_path, tmp_path)
    found = check_image(options, PLAIN, {"Env": ["TRT_VERSION=10.13.3.9"]})
    assert found.version_compatible


def test_an_image_without_tensorrt_is_refused(tmp_path):
    engine(tmp_path)
    options = LaunchOptions("cpu", tmp_path, tmp_path)
    with pytest.raises(EngineMismatch, match=r"the image has no TensorRT") as caught:
        check_image(options, "tritonfleet/tritonserver-cpu:0.1.0", {"Labels": CPU_IMAGE})
    assert caught.value.hint.startswith("Serve them with NVIDIA's image")


def test_where_the_image_s_tensorrt_is_not_known_there_is_a_warning(tmp_path):
    engine(tmp_path)
    (warning,) = check_repository(tmp_path, facts(tensorrt=None))
    assert "built with TensorRT 10.13.3.9; what the image has is not known" in warning


def test_an_image_for_llms_gets_a_warning_for_each_engine(tmp_path):
    engine(tmp_path)
    (warning,) = check_repository(tmp_path, ImageFacts(PLAIN, serves_engines="hardly"))
    assert warning.startswith("minilm, version 1, model.plan: images of this kind")


def test_an_unstamped_engine_tells_its_version_itself(tmp_path):
    unstamped(tmp_path, "newer", 10, 14, 1, 48)
    with pytest.raises(EngineMismatch, match=r"built with TensorRT 10\.14\.1\.48"):
        check_repository(tmp_path, facts())


def test_an_earlier_unstamped_engine_may_be_version_compatible(tmp_path):
    unstamped(tmp_path, "older", 10, 9, 0, 34)
    (warning,) = check_repository(tmp_path, facts())
    assert "only if it was built to be version compatible" in warning


def test_an_engine_that_tells_nothing_gets_a_warning(tmp_path):
    unstamped(tmp_path, "imported")
    (warning,) = check_repository(tmp_path, facts())
    assert warning.startswith("imported, version 1, model.plan: nothing tells")


def test_the_engine_is_believed_rather_than_a_stamp_left_behind(tmp_path):
    folder = engine(tmp_path, built="10.9.0.34")
    (folder / "model.plan").write_bytes(struct.pack("<4sI16x4B", b"ftrt", 0, 10, 13, 3, 9))
    assert check_repository(tmp_path, facts()) == ()


def test_versions_that_triton_does_not_load_do_not_matter(tmp_path):
    engine(tmp_path, built="10.9.0.34")
    engine(tmp_path, version=2)
    assert check_repository(tmp_path, facts()) == ()
    (tmp_path / "minilm" / "config.pbtxt").write_text(TENSORRT + " version_policy { all {} }")
    with pytest.raises(EngineMismatch, match="version 1"):
        check_repository(tmp_path, facts())


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        ('platform: "tensorrt_plan"', True),
        ("max_batch_size: 8", True),  # completed by the file that is there
        ('backend: "onnxruntime" # tensorrt is its accelerator', False),
        ('backend: "tensorrt" default_model_filename: "a100.plan"', True),
        ('backend: "tensorrt" cc_model_filenames { key: "8.6" value: "a10.plan" }', False),
        ('backend: "tensorrt" broken', False),
    ],
)
def test_an_engine_is_what_triton_takes_for_one(tmp_path, config, refused):
    engine(tmp_path, built="10.9.0.34", config=config)
    if refused:
        with pytest.raises(EngineMismatch):
            check_repository(tmp_path, facts())
    else:
        assert check_repository(tmp_path, facts()) == ()


def test_an_empty_repository_and_none_at_all_have_nothing_wrong(tmp_path):
    assert check_repository(tmp_path, facts()) == ()
    assert check_repository(tmp_path / "none", facts()) == ()


# -- GPUs and drivers --------------------------------------------------------------------------


def gpu_server(repository, *gpus, engine=None):
    container = ContainerSpec(gpus=gpus, engine=engine)
    return LaunchOptions("gpu0", repository, repository, container=container)


def test_an_engine_for_another_gpu_is_refused(tmp_path):
    engine(tmp_path)
    with pytest.raises(EngineMismatch, match=r"the server's GPU has 9\.0") as caught:
        check_image(gpu_server(tmp_path, "1"), PLAIN, {}, gpus=lambda: (A10, H100))
    assert "Build them on that kind of GPU" in caught.value.hint


def test_an_engine_for_the_server_s_gpu_is_not(tmp_path, caplog):
    engine(tmp_path)
    options = gpu_server(tmp_path, "GPU-0")
    check_image(options, PLAIN, {"Env": ["TRT_VERSION=10.13.3.9"]}, gpus=lambda: (A10, H100))
    assert caplog.messages == []


@pytest.mark.parametrize("other", ["7.5", "9.0"])
def test_an_engine_for_some_of_the_gpus_gets_a_warning(tmp_path, other):
    engine(tmp_path)
    gpus = (A10, HostGpu("1", "GPU-1", other, "580.65"))
    (warning,) = check_repository(tmp_path, facts(), gpus)
    assert "not on all of the server's GPUs" in warning and other in warning


def test_an_engine_made_for_all_later_gpus_is_served_by_any(tmp_path):
    engine(tmp_path, hardware_compatibility="ampere_plus")
    assert check_repository(tmp_path, facts(), (A10, H100)) == ()


def test_an_engine_for_another_platform_is_refused(tmp_path, monkeypatch):
    engine(tmp_path)
    monkeypatch.setattr("tritonfleet.launchers.releases._platform", lambda: "linux-aarch64")
    with pytest.raises(EngineMismatch, match="the server runs on linux-aarch64"):
        check_repository(tmp_path, facts(), (A10,))


def test_a_driver_too_old_for_the_release_is_told(tmp_path, caplog):
    old = HostGpu("0", "GPU-0", "8.6", "570.86")
    check_image(gpu_server(tmp_path, "0"), PLAIN, {}, gpus=lambda: (old,))
    assert "asks for driver 580 or later, this is 570.86" in caplog.text


@pytest.mark.parametrize("engine_address", ["tcp://gpuhost:2376", "ssh://gpuhost"])
def test_this_machine_s_gpus_tell_nothing_of_an_engine_elsewhere(tmp_path, engine_address):
    engine(tmp_path)
    options = gpu_server(tmp_path, "1", engine=engine_address)
    check_image(options, PLAIN, {}, gpus=lambda: pytest.fail("asked"))


def test_docker_host_may_lead_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://gpuhost:2376")
    check_image(gpu_server(tmp_path, "1"), PLAIN, {}, gpus=lambda: pytest.fail("asked"))


def test_a_server_without_gpus_has_no_use_for_nvidia_smi(tmp_path):
    options = LaunchOptions("cpu", tmp_path, tmp_path)
    check_image(options, PLAIN, {}, gpus=lambda: pytest.fail("asked"))


# -- ONNX --------------------------------------------------------------------------------------


def test_an_onnx_file_newer_than_the_image_s_runtime_gets_a_warning(tmp_path):
    onnx_model(tmp_path, opset=22, ir_version=10)
    (warning,) = check_repository(tmp_path, facts(onnxruntime="1.19.2"))
    assert warning == (
        "encoder, version 1, model.onnx: its opset 22 is newer than ONNX Runtime 1.19.2 of the "
        "image reads: 21; export it with that, or choose a later release"
    )


@pytest.mark.parametrize(
    ("runtime", "count"), [("1.16.3", 2), ("1.19.2", 0), ("1.31.1", 0), ("1.10", 0), (None, 0)]
)
def test_the_runtime_decides_what_is_too_new(tmp_path, runtime, count):
    onnx_model(tmp_path, opset=20, ir_version=10)
    assert len(check_repository(tmp_path, facts(onnxruntime=runtime))) == count


def test_only_the_newest_version_of_an_onnx_model_is_read(tmp_path):
    onnx_model(tmp_path, opset=22, ir_version=10)
    (tmp_path / "encoder" / "2").mkdir()
    assert check_repository(tmp_path, facts(onnxruntime="1.19.2")) == ()


def test_a_file_that_is_no_onnx_is_left_to_its_load(tmp_path):
    onnx_model(tmp_path, opset=20, ir_version=10).write_bytes(b"\0" * 4096)
    assert check_repository(tmp_path, facts(onnxruntime="1.19.2")) == ()


def onnx_model(repository, **numbers):
    from onnx import TensorProto, helper, save

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    opsets = [helper.make_opsetid("com.microsoft", 99), helper.make_opsetid("", numbers["opset"])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=numbers["ir_version"])
    path = repository / "encoder" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    (repository / "encoder" / "config.pbtxt").write_text('backend: "onnxruntime"')
    save(model, path)
    return path
