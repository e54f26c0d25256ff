"""One model of a repository as an entry of a fleet file, or the reason why it cannot be one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from repo_builder.importing.serving import Artifact, Fields, serving_of, without_batch
from repo_builder.lint.backends import ENSEMBLE, artifact_name
from repo_builder.lint.repository import Subject
from repo_builder.signature import BATCH, Shape, Signature, Tensor, read_signature
from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.pbtxt import datatype
from tritonfleet.spec.fleet import ModelSpec
from tritonfleet.spec.serving import ConfigOptions

_MADE_ELSEWHERE = {
    "tensorrt": "an engine is made for one GPU: import the ONNX file it came from, and declare a "
    "tensorrt variant",
    "tensorflow": "there is no source for TensorFlow: convert it to ONNX",
    "openvino": "there is no source for OpenVINO: import the model it came from",
    "vllm": "the vLLM backend loads a checkpoint by itself: keep the folder as it is",
    "tensorrtllm": "a TensorRT-LLM engine is made for one GPU: keep the folder as it is",
}
_CONTROL_TYPES = {"int32_false_true": "INT32", "fp32_false_true": "FP32", "bool_false_true": "BOOL"}


class CannotImport(Exception):
    """Why a model is left out."""


@dataclass(frozen=True, slots=True)
class Imported:
    """An entry of ``models``, and what a reader of the file should know."""

    entry: Fields
    notes: tuple[str, ...] = ()


def import_model(subjects: tuple[Subject, ...], base: Path, configs: Mapping[str, Any]) -> Imported:
    """The entry for a model, from its config.pbtxt and the alternatives to it.

    ``configs`` are those of all models: an ensemble's entry depends on its members'.
    Raises CannotImport with the reason where the builder has no way to make the model.
    """
    subject, *alternatives = subjects
    if subject.file and not subject.parsed:
        raise CannotImport("its config.pbtxt does not parse: see 'tritonfleet lint'")
    if subject.backend == ENSEMBLE:
        imported = _ensemble(subject, base, configs)
    else:
        imported = _single(subject, alternatives, base)
    try:
        ModelSpec.model_validate(imported.entry)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CannotImport(f"{place}: {first['msg']}") from error
    return imported


def _single(subject: Subject, alternatives: list[Subject], base: Path) -> Imported:
    source, signature = _source(subject, base)
    artifact = Artifact(subject.folder, base, signature)
    found = serving_of(subject.config, artifact)
    if not subject.file:
        found.serving.clear()
        found.notes.append("had no config.pbtxt: all of it follows from the file")
    entry: Fields = {"source": source}
    if source["kind"] == "torchscript":
        entry["export"] = {"exporter": "pytorch"}
    notes = [*found.notes, *_undeclared(subject, signature), *_file_names(subject)]
    configs = {}
    for alternative in alternatives:
        if alternative.parsed:
            other = serving_of(alternative.config, artifact)
            configs[Path(alternative.file).stem] = _differences(found.serving, other.serving)
    serving = {**found.serving, **({"configs": configs} if configs else {})}
    return Imported({**entry, "serving": serving} if serving else entry, tuple(notes))


def _differences(main: Fields, other: Fields) -> Fields:
    """What an alternative says otherwise; options that it lacks are set back to their default."""
    changed = {name: value for name, value in other.items() if main.get(name) != value}
    options = {name for name in ConfigOptions.model_fields if name in main and name not in other}
    defaults = ConfigOptions().model_dump(mode="json", include=options)
    return {**changed, **defaults}


def _source(subject: Subject, base: Path) -> tuple[Fields, Signature]:
    if subject.backend not in ("onnxruntime", "python", "pytorch"):
        known = _MADE_ELSEWHERE.get(subject.backend)
        raise CannotImport(known or f"there is no source for the backend '{subject.backend}'")
    if not subject.versions:
        raise CannotImport("it has no version folder")
    name = artifact_name(subject.config, subject.backend)
    place = (str(subject.versions[-1]), name)
    file = subject.folder.joinpath(*place)
    if not file.exists():
        raise CannotImport(f"{'/'.join(place)} is not there")
    path = Artifact(subject.folder, base).path(*place)
    if subject.backend == "onnxruntime":
        return {"kind": "onnx", "path": path}, _onnx_signature(subject, file)
    signature = _declared(subject.config)
    inputs, outputs = _specs(signature.inputs), _specs(signature.outputs)
    if subject.backend == "pytorch":
        source = {"kind": "torchscript", "path": path, "inputs": inputs, "outputs": list(outputs)}
        return source, signature
    if name != "model.py":
        raise CannotImport(f"its code is in '{name}', and the builder wants a model.py")
    folder = Artifact(subject.folder, base).path(place[0])
    return {"kind": "python", "path": folder, "inputs": inputs, "outputs": outputs}, signature


def _onnx_signature(subject: Subject, file: Path) -> Signature:
    from google.protobuf.message import DecodeError

    try:
        return read_signature(subject.model, file / "model.onnx" if file.is_dir() else file)
    except (OSError, DecodeError) as error:
        raise CannotImport(f"{file.name} cannot be read: {error}") from error
    except InvalidModelConfig as error:
        raise CannotImport(error.cause) from error


def _declared(config: Any) -> Signature:
    """The signature of a model that does not tell it itself, from what is declared."""
    joined = without_batch(config)

    def shape(name: str, sizes: Any) -> Shape:
        # One name for the same place in every tensor: ids and their mask have one length.
        inner = [size if size >= 0 else f"dim{i}" for i, size in enumerate(sizes, start=1)]
        return tuple([BATCH, *inner] if config.max_batch_size > 0 and name not in joined else inner)

    def tensors(declared: Any) -> list[Tensor]:
        return [
            Tensor(
                tensor.name,
                datatype(tensor.data_type),
                shape(
                    tensor.name, tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
                ),
            )
            for tensor in declared
        ]

    inputs, outputs = tensors(config.input), tensors(config.output)
    for control in config.sequence_batching.control_input:
        inputs.append(Tensor(control.name, _control_type(control), shape(control.name, [1])))
    known = {tensor.name for tensor in outputs}
    for state in config.sequence_batching.state:
        dtype, sizes = datatype(state.data_type), shape(state.input_name, state.dims)
        inputs.append(Tensor(state.input_name, dtype, sizes))
        if state.output_name not in known:
            outputs.append(Tensor(state.output_name, dtype, sizes))
    return Signature(tuple(inputs), tuple(outputs))


def _control_type(control: Any) -> str:
    """The type of a sequence's signal, told by the values it takes."""
    for each in control.control:
        for name, dtype in _CONTROL_TYPES.items():
            if getattr(each, name):
                return dtype
        if each.data_type:
            return datatype(each.data_type)
    return "FP32"


def _specs(tensors: tuple[Tensor, ...]) -> Fields:
    return {t.name: {"dtype": t.dtype, "shape": list(t.shape)} for t in tensors}


def _undeclared(subject: Subject, signature: Signature) -> list[str]:
    declared = {output.name for output in subject.config.output}
    hidden = {state.output_name for state in subject.config.sequence_batching.state}
    more = [t.name for t in signature.outputs if t.name not in declared | hidden]
    if not declared or not more:
        return []
    return [f"also gives {', '.join(more)}, which was not declared and will be"]


def _file_names(subject: Subject) -> list[str]:
    notes = []
    if subject.config.default_model_filename:
        notes.append(f"its file was named {subject.config.default_model_filename}")
    if subject.config.cc_model_filenames:
        notes.append("had files for compute capabilities (cc_model_filenames), which are left out")
    return notes


def _ensemble(subject: Subject, base: Path, configs: Mapping[str, Any]) -> Imported:
    steps, notes = [], []
    given = [n for s in subject.config.ensemble_scheduling.step for n in s.output_map.values()]
    for step in subject.config.ensemble_scheduling.step:
        if step.model_namespace:
            raise CannotImport(f"its member '{step.model_name}' lies in another repository")
        if step.model_version > 0:
            notes.append(f"took version {step.model_version} of {step.model_name}; now the newest")
        steps.append(_step(step, configs.get(step.model_name), given))
    outputs = [output.name for output in subject.config.output]
    found = serving_of(subject.config, Artifact(subject.folder, base))
    source = {"kind": "ensemble", "steps": steps, "outputs": outputs}
    return Imported({"source": source, "serving": found.serving}, (*found.notes, *notes))


def _step(step: Any, member: Any, given: list[str]) -> Fields:
    """A member; tensors of the same name on both sides join by themselves."""
    renamed = {
        side: {k: v for k, v in sorted(getattr(step, side).items()) if k != v}
        for side in ("input_map", "output_map")
    }
    for output in member.output if member is not None else ():
        # An output that was not taken must not join by its name what another step gives.
        if output.name not in step.output_map and output.name in given:
            renamed["output_map"][output.name] = f"{step.model_name}.{output.name}"
    return {"model": step.model_name, **{side: names for side, names in renamed.items() if names}}
