"""ONNX Runtime's TensorRT accelerator, written out as the parameters that its backend reads."""

from __future__ import annotations

from repo_builder.config.subject import Subject, check_known
from tritonfleet.spec.optimization import TensorRTAccelerator


def tensorrt_parameters(subject: Subject, given: TensorRTAccelerator) -> dict[str, str]:
    """The parameters of the accelerator named 'tensorrt'."""
    parameters = {"precision_mode": given.precision.upper()}
    if given.workspace is not None:
        parameters["max_workspace_size_bytes"] = str(given.workspace)
    if given.cache is not None:
        parameters |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": given.cache}
    if given.dimensions:
        for bound in ("min", "opt", "max"):
            parameters[f"trt_profile_{bound}_shapes"] = _profile(subject, given, bound)
    return {**parameters, **given.parameters}


def _profile(subject: Subject, given: TensorRTAccelerator, bound: str) -> str:
    """The sizes of all dynamic inputs, as ONNX Runtime reads them: 'ids:1x16,mask:1x16'."""
    inputs = [
        t for t in subject.product.signature.inputs if any(isinstance(s, str) for s in t.shape)
    ]
    names = {size for tensor in inputs for size in tensor.shape if isinstance(size, str)}
    for name in given.dimensions:
        check_known(subject, "optimization.tensorrt.dimensions", name, names)
    sizes = {name: getattr(range_, bound) for name, range_ in given.dimensions.items()}
    batch = {"min": 1}.get(bound, max(subject.max_batch_size, 1))
    for tensor in inputs:
        if subject.batched:
            sizes.setdefault(str(tensor.shape[0]), batch)
    missing = sorted(names - set(sizes))
    if missing:
        cause = f"optimization.tensorrt.dimensions does not tell the size of '{missing[0]}'"
        raise subject.refuse(cause, "Give min, opt and max for each dynamic dimension.")
    return ",".join(
        f"{t.name}:{'x'.join(str(sizes.get(s, s) if isinstance(s, str) else s) for s in t.shape)}"
        for t in inputs
    )
