from __future__ import annotations

import pytest

from repo_builder.sources.base import SourceContext
from repo_builder.sources.python import PythonSource
from tests.repo_builder.builders import names, python_model
from tritonfleet.errors import InvalidModelConfig, SourceUnavailable
from tritonfleet.spec.fleet import ModelSpec
from tritonfleet.spec.sources import PythonSource as PythonSpec


@pytest.fixture
def context(tmp_path):
    return SourceContext("echo", tmp_path, tmp_path / "repository", tmp_path / "cache")


def assemble(context, **options):
    spec = ModelSpec.model_validate(python_model(context.base, "echo", **options)).source
    (context.base / "version").mkdir()
    return PythonSource().assemble(spec, context, context.base / "version")


def test_the_folder_is_published_as_it_is_but_for_byte_code(context, tmp_path):
    (tmp_path / "echo" / "__pycache__").mkdir(parents=True)
    (tmp_path / "echo" / "words.txt").write_text("x")
    made = assemble(context)
    assert names(tmp_path / "version") == ["model.py", "words.txt"]
    assert made.backend == "python"
    assert made.signature.batchable


@pytest.mark.parametrize(
    "code", ["from triton_helpers import TritonPythonModel", "class TritonPythonModel: ..."]
)
def test_the_class_may_be_defined_or_imported(context, code):
    assert assemble(context, code=code)


def test_a_model_without_the_class_is_refused(context):
    with pytest.raises(InvalidModelConfig, match="defines no TritonPythonModel"):
        assemble(context, code="class Model: ...")


def test_a_model_that_does_not_parse_is_refused_with_the_line(context):
    with pytest.raises(InvalidModelConfig, match="in line 2"):
        assemble(context, code="x = 1\ny = (")


def test_a_folder_without_a_model_is_refused(context, tmp_path):
    spec = ModelSpec.model_validate(python_model(tmp_path, "echo")).source
    (tmp_path / "echo" / "model.py").unlink()
    with pytest.raises(SourceUnavailable, match=r"there is no .*model\.py"):
        PythonSource().state(spec, context, str)


def test_a_link_out_of_the_folder_is_refused(context, tmp_path):
    (tmp_path / "secret").write_text("s")
    (tmp_path / "echo").mkdir()
    (tmp_path / "echo" / "words.txt").symlink_to("../secret")
    with pytest.raises(SourceUnavailable, match=r"echo/words\.txt is a symbolic link that leads"):
        assemble(context)


def test_a_link_within_the_folder_is_published_as_a_file(context, tmp_path):
    (tmp_path / "echo").mkdir()
    (tmp_path / "echo" / "words.txt").symlink_to("model.py")
    assemble(context)
    published = tmp_path / "version" / "words.txt"
    assert published.read_text() == (tmp_path / "echo" / "model.py").read_text()
    assert not published.is_symlink()


def test_the_folder_may_lie_at_an_address(context, tmp_path):
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe("/echo/model.py", b"class TritonPythonModel: ...")
    (tmp_path / "version").mkdir()
    tensor = {"dtype": "FP32", "shape": ["batch", 4]}
    spec = PythonSpec(kind="python", path="memory://echo", inputs={"x": tensor},
                      outputs={"y": tensor})  # fmt: skip
    assert PythonSource().state(spec, context, str) is None
    PythonSource().assemble(spec, context, tmp_path / "version")
    assert names(tmp_path / "version") == ["model.py"]
    assert PythonSource().state(spec, context, str) is not None
    system.rm("/echo", recursive=True)
