from __future__ import annotations

import pytest

from repo_builder.sources.base import SourceContext
from repo_builder.sources.python import PythonSource
from tests.repo_builder.builders import names, python_model
from tritonfleet.errors import InvalidModelConfig, SourceUnavailable
from tritonfleet.spec.fleet import ModelSpec


@pytest.fixture
def context(tmp_path):
    return SourceContext("echo", tmp_path, tmp_path / "repository")


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
