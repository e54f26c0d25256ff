"""Fleets, products and workshops for tests, with what does not matter left out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from repo_builder.judging.gates import gate_for
from repo_builder.judging.parity import check_parity, record_reference
from repo_builder.judging.runners import open_runner
from repo_builder.product import Product
from repo_builder.signature import Signature, Tensor, read_signature
from repo_builder.sources.base import Checkpoint
from repo_builder.workshop import Workshop
from tritonfleet.server.layout import ParityRecord
from tritonfleet.spec.export import ParitySpec, Precision
from tritonfleet.spec.fleet import FleetSpec
from tritonfleet.spec.serving import ServingSpec

FACTORIES = Path(__file__).with_name("factories")
ECHO_CODE = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        values = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", values)])
"""


def fleet(models: dict[str, Any], **more: Any) -> FleetSpec:
    return FleetSpec.model_validate(
        {"servers": [{"name": "local", "capacity": "1GiB"}], "models": models, **more}
    )


def shop(folder: Path, models: dict[str, Any], **options: Any) -> Workshop:
    """A workshop in a folder; only builds with ``proof=True`` start a tritonserver."""
    spec = fleet(models, **options.pop("fleet", {}))
    options = {"proof": False, **options}
    return Workshop(spec, folder, folder / "repository", folder / "state", **options)


def serving(**fields: Any) -> ServingSpec:
    return ServingSpec.model_validate(fields)


def tensors(text: str) -> tuple[Tensor, ...]:
    """'x FP32 batch 4, y INT64 batch sequence'."""
    found = []
    for part in text.split(","):
        name, dtype, *sizes = part.split()
        found.append(Tensor(name, dtype, tuple(int(s) if s.isdigit() else s for s in sizes)))
    return tuple(found)


def signature(inputs: str, outputs: str) -> Signature:
    return Signature(tensors(inputs), tensors(outputs))


def product(
    inputs: str = "x FP32 batch 4", outputs: str = "y FP32 batch 3", **fields: Any
) -> Product:
    return Product(fields.pop("backend", "onnxruntime"), signature(inputs, outputs), **fields)


def python_model(folder: Path, name: str, code: str = ECHO_CODE) -> dict[str, Any]:
    """A python-backend model whose folder lies in ``folder``: it builds without PyTorch."""
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "model.py").write_text(code)
    tensor = {"dtype": "FP32", "shape": ["batch", 4]}
    return {"source": {"kind": "python", "path": name, "inputs": {"x": tensor},
                       "outputs": {"y": tensor}}}  # fmt: skip


def torch_model(factory: str, **fields: Any) -> dict[str, Any]:
    """A model of tests/repo_builder/factories."""
    source = {
        "kind": "torch_module",
        "factory": f"tiny:{factory}",
        "python_path": str(FACTORIES),
        "inputs": {"x": {"dtype": "FP32", "shape": ["batch", 4]}},
        "outputs": ["y"],
        **fields.pop("source", {}),
    }
    return {"source": source, **fields}


def ensemble(*steps: str | dict[str, Any], outputs: list[str]) -> dict[str, Any]:
    members = [{"model": step} if isinstance(step, str) else step for step in steps]
    return {"source": {"kind": "ensemble", "steps": members, "outputs": outputs}}


def parity_of(
    checkpoint: Checkpoint,
    artifact: Path,
    spec: ParitySpec | None = None,
    *,
    backend: str = "onnxruntime",
    precision: Precision = "fp32",
    signature: Signature | None = None,
) -> ParityRecord:
    """Holds an artifact against its original; raises ParityFailed."""
    spec = spec or ParitySpec()
    folder = Path(tempfile.mkdtemp(dir=artifact.parent))
    reference = record_reference("m", checkpoint, spec, folder)
    signature = signature or read_signature("m", artifact)
    runner = open_runner(backend, "m", artifact, signature)
    return check_parity("m", runner, reference, signature, gate_for(spec, precision))


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden things included."""
    return sorted(path.name for path in folder.iterdir())
