"""The model's files: whether they are there, and whether the configuration says what they are."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from repo_builder.config.tensors import made_by_triton
from repo_builder.lint.backends import ENSEMBLE, PLATFORMS, artifact_name
from repo_builder.lint.findings import Expected, Finding, Rule
from repo_builder.lint.onnx_file import NotOnnx, OnnxFile, is_lfs_pointer, read_onnx
from repo_builder.lint.repository import Subject
from repo_builder.lint.rules.layout import unreadable
from repo_builder.signature import ANONYMOUS, Shape, Tensor
from tritonfleet.errors import InvalidModelConfig, did_you_mean
from tritonfleet.server.pbtxt import datatype
from tritonfleet.server.releases import NEWEST_ONNX_RUNTIME, onnx_runtime_of

BACKEND = Rule("backend", "error", "no backend, or one that contradicts the platform")
RUNTIME = Rule("runtime", "warning", "a configuration bound to one build of a backend")
MISSING_FILE = Rule("missing-file", "error", "a file that the backend opens and that is not there")
PATH_OUTSIDE = Rule("path-outside", "error", "a file name that leaves the version's folder")
DAMAGED_FILE = Rule("damaged-file", "error", "a file that is not what its name says")
PYTHON_CODE = Rule("python-code", "error", "a model.py that the python backend cannot run")
EXECUTION_ENV = Rule("execution-env", "error", "a Python environment that is not there")
UNKNOWN_TENSOR = Rule("unknown-tensor", "error", "a declared tensor that the model has not")
MISSING_INPUT = Rule("missing-input", "error", "an input of the model that is not declared")
UNDECLARED_OUTPUT = Rule("undeclared-output", "info", "an output of the model nobody can ask for")
WRONG_TYPE = Rule("wrong-type", "error", "a tensor declared with another type than it has")
WRONG_SHAPE = Rule("wrong-shape", "error", "a tensor declared with another shape than it has")
BATCH_DIMENSION = Rule("batch-dimension", "error", "batching for a model without a batch dimension")
BATCH_MIXED = Rule("batch-mixed", "warning", "a batch dimension that is not one for all tensors")
EXTERNAL_DATA = Rule("external-data", "error", "weights that are not beside the ONNX file")
ONNX_TOO_NEW = Rule("onnx-too-new", "error", "an ONNX file newer than the server reads")

_ENVIRONMENT = "EXECUTION_ENV_PATH"
_MODEL_FOLDER = "$$TRITON_MODEL_DIRECTORY"
_CLASS_NAME = "TritonPythonModel"


def check(subject: Subject, expected: Expected) -> Iterator[Finding]:
    """Everything about the files of every version that is served."""
    yield from _backend(subject)
    if subject.backend == ENSEMBLE or not (subject.parsed or not subject.file):
        return
    yield from _environment(subject)
    for version in subject.served:
        yield from _version(subject, version, expected)


def _backend(subject: Subject) -> Iterator[Finding]:
    config = subject.config
    if subject.file and not subject.parsed:
        return
    if not subject.backend:
        told = f"platform '{config.platform}' is none of Triton's" if config.platform else ""
        message = told or "neither 'backend' nor a file in the newest version tells what runs it"
        yield BACKEND.found(message, 'Write backend: "...".', "backend")
    meant = PLATFORMS.get(config.platform)
    if config.backend and meant and meant != config.backend:
        message = f"backend '{config.backend}' with platform '{config.platform}'"
        yield BACKEND.found(message, "Drop the platform: the backend is enough.", "platform")
    if config.runtime and subject.backend == "onnxruntime":
        message = f"runtime '{config.runtime}' is there on servers with that one build only"
        yield RUNTIME.found(message, "Drop it: every server finds the runtime itself.", "runtime")


def _environment(subject: Subject) -> Iterator[Finding]:
    value = subject.config.parameters.get(_ENVIRONMENT)
    if subject.backend != "python" or value is None:
        return
    if not value.string_value.startswith(_MODEL_FOLDER):
        return  # a place on the server's machine
    path = subject.folder / value.string_value[len(_MODEL_FOLDER) :].lstrip("/")
    if not path.exists():
        message = f"{_ENVIRONMENT} names '{path.name}', which is not in the model's folder"
        yield EXECUTION_ENV.found(message, "Put it there, or drop the parameter.", "parameters")


def _version(subject: Subject, version: int, expected: Expected) -> Iterator[Finding]:
    name = artifact_name(subject.config, subject.backend)
    by_capability = sorted(set(subject.config.cc_model_filenames.values()))
    for file in by_capability or ([name] if name else []):
        place = f"{version}/{file}"
        if PurePath(file).is_absolute() or ".." in PurePath(file).parts:
            message = f"'{file}' leaves the version's folder"
            yield PATH_OUTSIDE.found(message, "Put the file inside, and name it so.", place)
            continue
        path = subject.folder / str(version) / file
        try:
            if not path.exists():
                fix = "Put it there, or name the file in default_model_filename."
                yield MISSING_FILE.found(f"the {subject.backend} backend opens it", fix, place)
            else:
                yield from _file(subject, path, place, expected)
        except OSError as error:
            yield unreadable(path, error, subject.folder)


def _file(subject: Subject, path: Path, place: str, expected: Expected) -> Iterator[Finding]:
    if subject.backend == "onnxruntime":
        yield from _onnx(subject, path / "model.onnx" if path.is_dir() else path, place, expected)
    elif subject.backend == "python":
        yield from _python(path, place)
    elif path.is_file() and (path.stat().st_size == 0 or is_lfs_pointer(path)):
        message = "it is empty" if path.stat().st_size == 0 else "it is a pointer of Git LFS"
        yield DAMAGED_FILE.found(message, "Fetch the file itself.", place)


def _python(path: Path, place: str) -> Iterator[Finding]:
    fix = f"The python backend imports the file and looks for a class {_CLASS_NAME}."
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = f" in line {line}" if line else ""
        yield PYTHON_CODE.found(f"it does not parse{where}: {error}", fix, place)
        return
    names = {name for node in ast.walk(tree) for name in _defined(node)}
    if not names & {_CLASS_NAME, "*"}:
        yield PYTHON_CODE.found(f"it defines no {_CLASS_NAME}", fix, place)


def _defined(node: ast.AST) -> tuple[str, ...]:
    """The names that a statement may bring into the module."""
    if isinstance(node, ast.ClassDef):
        return (node.name,)
    if isinstance(node, ast.ImportFrom):
        return tuple(alias.asname or alias.name for alias in node.names)
    return (node.id,) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else ()


def _onnx(subject: Subject, path: Path, place: str, expected: Expected) -> Iterator[Finding]:
    try:
        file = read_onnx(subject.model, path)
    except NotOnnx as error:
        yield DAMAGED_FILE.found(str(error), "Export or fetch it again.", place)
        return
    except InvalidModelConfig as error:
        yield WRONG_TYPE.found(error.cause, error.hint, place)
        return
    yield from _too_new(file, place, expected)
    yield from _external(file, path, place)
    if subject.config.input:
        yield from _inputs(subject, file)
    if subject.config.output:
        yield from _outputs(subject, file)
    if subject.batched:
        yield from _batch(subject, file)


def _too_new(file: OnnxFile, place: str, expected: Expected) -> Iterator[Finding]:
    release = expected.triton_release
    runtime = onnx_runtime_of(release) if release else NEWEST_ONNX_RUNTIME
    who = f"the ONNX Runtime of Triton {release}" if release else "any ONNX Runtime"
    for what, has, most in (
        ("opset", file.opset, runtime.opset),
        ("IR version", file.ir_version, runtime.ir_version),
    ):
        if has > most:
            message = f"its {what} {has} is newer than {who} reads: {most}"
            yield ONNX_TOO_NEW.found(message, f"Export it with {what} {most} or less.", place)


def _external(file: OnnxFile, path: Path, place: str) -> Iterator[Finding]:
    folder = os.path.realpath(path.parent)
    ends: dict[str, int] = {}
    for data in file.external:
        ends[data.location] = max(ends.get(data.location, 0), data.end)
    for location, end in ends.items():
        target = os.path.realpath(path.parent / location)
        if not location or os.path.commonpath([folder, target]) != folder:
            message = f"its weights are in '{location}', outside the version's folder"
            fix = "Put them beside it as a file or hard link: ONNX Runtime refuses what leads out."
            yield EXTERNAL_DATA.found(message, fix, place)
        elif not Path(target).is_file():
            message = f"its weights are in '{location}', which is not there"
            yield EXTERNAL_DATA.found(message, "Copy that file along with it.", place)
        elif Path(target).stat().st_size < end:
            message = f"'{location}' ends before the weights do, at {Path(target).stat().st_size}"
            yield EXTERNAL_DATA.found(message, "Copy it again, whole.", place)


def _inputs(subject: Subject, file: OnnxFile) -> Iterator[Finding]:
    declared = {tensor.name: tensor for tensor in subject.config.input}
    actual = {tensor.name: tensor for tensor in file.signature.inputs}
    supplied = made_by_triton(subject.config)
    for name in actual:
        if name not in declared and name not in supplied:
            message = f"the model wants an input '{name}' that is not declared"
            yield MISSING_INPUT.found(message, "Declare it, as the model has it.", "input")
    for name, tensor in declared.items():
        if name not in file.optional_inputs:
            yield from _compare("input", tensor, actual, subject, file)


def _outputs(subject: Subject, file: OnnxFile) -> Iterator[Finding]:
    declared = {tensor.name: tensor for tensor in subject.config.output}
    actual = {tensor.name: tensor for tensor in file.signature.outputs}
    supplied = {state.output_name for state in subject.config.sequence_batching.state}
    for name in actual:
        if name not in declared and name not in supplied:
            message = f"the model gives '{name}', which is not declared"
            yield UNDECLARED_OUTPUT.found(message, "Declare it if anybody wants it.", "output")
    for tensor in declared.values():
        yield from _compare("output", tensor, actual, subject, file)


def _compare(
    side: str, declared: Any, actual: dict[str, Tensor], subject: Subject, file: OnnxFile
) -> Iterator[Finding]:
    place = f"{side} '{declared.name}'"
    tensor = actual.get(declared.name)
    if tensor is None:
        guess = did_you_mean(declared.name, actual)
        fix = f"Did you mean '{guess}'?" if guess else f"It has: {', '.join(actual)}."
        yield UNKNOWN_TENSOR.found(f"the model has no {place}", fix, place)
        return
    if declared.data_type and datatype(declared.data_type) != tensor.dtype:
        message = f"{place} is declared {datatype(declared.data_type)} and is {tensor.dtype}"
        yield WRONG_TYPE.found(message, f"Write {_written(tensor.dtype)}.", place)
    dims = list(declared.reshape.shape if declared.HasField("reshape") else declared.dims)
    if declared.name in file.unshaped or _fits(dims, tensor.shape, subject.batched):
        return
    actual_dims = _dims(tensor.shape[1:] if subject.batched else tensor.shape)
    message = f"{place} is declared {dims} and is {actual_dims}"
    if subject.batched:
        message += " behind its batch dimension"
    fix = f"Write dims: {actual_dims}."
    if -1 in dims and -1 not in actual_dims:
        fix += " A size that the model fixes cannot vary: the server refuses -1 for it."
    yield WRONG_SHAPE.found(message, fix, place)


def _written(dtype: str) -> str:
    return "TYPE_STRING" if dtype == "BYTES" else f"TYPE_{dtype}"


def _dims(shape: Shape) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in shape]


def _fits(dims: list[int], shape: Shape, batched: bool) -> bool:
    """ONNX Runtime's rule: what the model leaves open may be narrowed, never the reverse."""
    inner = _dims(shape[1:] if batched else shape)
    if not inner and dims in ([], [1]):
        return True
    return len(dims) == len(inner) and all(
        has in (-1, said) for said, has in zip(dims, inner, strict=True)
    )


def _batch(subject: Subject, file: OnnxFile) -> Iterator[Finding]:
    size, place = subject.config.max_batch_size, "max_batch_size"
    tensors = [tensor for tensor in file.signature.tensors if tensor.name not in file.unshaped]
    fixed = [tensor for tensor in tensors if not tensor.shape or isinstance(tensor.shape[0], int)]
    for tensor in fixed:
        has = f"starts with {tensor.shape[0]}" if tensor.shape else "is a scalar"
        message = f"it is {size}, and '{tensor.name}' of the model {has}"
        fix = "Set max_batch_size: 0, or export it with a dynamic first dimension."
        yield BATCH_DIMENSION.found(message, fix, place)
    leading = {str(tensor.shape[0]) for tensor in tensors if tensor.shape}
    if fixed or ANONYMOUS in leading or file.signature.batchable:
        return
    if len(leading) > 1:
        message = f"it is {size}, and the tensors start with different ones: "
        message += ", ".join(sorted(leading))
    else:
        message = f"it is {size}, and '{leading.pop()}' is also another dimension: rows get mixed"
    fix = "Make sure that each row is computed by itself, or set max_batch_size: 0."
    yield BATCH_MIXED.found(message, fix, place)
