"""Opens an ONNX file the way config.pbtxt asks, and checks that the two agree.

Knows ONNX Runtime and the model configuration; not requests, and not Triton's Python API. What is
wrong is told by ValueError: the exception tree of this toolkit would cost the cold start more than
the session itself.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import onnxruntime

from tritonfleet.launchers.backends.onnxruntime.batching import readable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tritonfleet.launchers.backends.onnxruntime.batching import Arrays

Config: TypeAlias = Mapping[str, Any]

_TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
_CONTROL_TYPES = {
    "int32_false_true": "TYPE_INT32",
    "fp32_false_true": "TYPE_FP32",
    "bool_false_true": "TYPE_BOOL",
}
# As the official backend counts them; 0 and everything else means all optimisations.
_GRAPH_LEVELS = {-1: "ORT_ENABLE_BASIC", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}


class SessionSettings(NamedTuple):
    """What config.pbtxt says about running the graph, with this backend's defaults.

    One thread, where the official backend takes every core: here many models share few cores, and
    each would keep a pool of its own. A thread count of "0" asks for every core.
    """

    intra_op_thread_count: int = 1
    inter_op_thread_count: int = 1
    execution_mode: int = 0
    graph_level: int = 0
    enable_mem_arena: bool = True
    enable_mem_pattern: bool = True
    # What a large request took goes back after it: 190 MB instead of 366 MB stayed behind
    # in a measured 90 MB model, for 1% of the latency. Without the arena it was 600 MB.
    arena_shrinkage: str = "cpu:0"


def settings_from(config: Config) -> SessionSettings:
    """The settings in a model configuration; ValueError when one is no number where one must be."""
    graph = config.get("optimization", {}).get("graph", {})
    return SessionSettings(
        intra_op_thread_count=_number(config, "intra_op_thread_count", 1),
        inter_op_thread_count=_number(config, "inter_op_thread_count", 1),
        execution_mode=_number(config, "execution_mode", 0, allowed=(0, 1)),
        graph_level=int(graph.get("level", 0)),
        enable_mem_arena=_flag(config, "enable_mem_arena", True),
        enable_mem_pattern=_flag(config, "enable_mem_pattern", True),
        arena_shrinkage=_parameter(config, "memory.enable_memory_arena_shrinkage") or "cpu:0",
    )


def _parameter(config: Config, key: str) -> str | None:
    value = config.get("parameters", {}).get(key, {}).get("string_value")
    return str(value).strip() if value is not None else None


def _number(config: Config, key: str, default: int, allowed: Sequence[int] = ()) -> int:
    text = _parameter(config, key)
    if text is None:
        return default
    if not text.isdigit() or (allowed and int(text) not in allowed):
        expected = " or ".join(map(str, allowed)) or "a whole number"
        raise ValueError(f"parameter '{key}' is '{text}' in config.pbtxt; it must be {expected}")
    return int(text)


def _flag(config: Config, key: str, default: bool) -> bool:
    text = _parameter(config, key)
    known = {"1": True, "true": True, "0": False, "false": False}
    if text is not None and text.lower() not in known:
        raise ValueError(f"parameter '{key}' is '{text}' in config.pbtxt; it must be 0 or 1")
    return default if text is None else known[text.lower()]


def model_file(config: Config, version_directory: Path) -> Path:
    """The ONNX file of a version; ValueError when there is none."""
    path = version_directory / (config.get("default_model_filename") or "model.onnx")
    if path.is_dir():
        path = path / "model.onnx"
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    return path


def open_session(config: Config, version_directory: Path) -> onnxruntime.InferenceSession:
    """A session on the model of this version, checked against its configuration.

    Raises ValueError when the file is missing or damaged, or contradicts config.pbtxt.
    """
    path = model_file(config, version_directory)
    options = _session_options(settings_from(config))
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ValueError(f"ONNX Runtime cannot open {path}: {readable(error)}") from error
    problems = contradictions(config, session)
    if problems:
        raise ValueError(f"{path} contradicts config.pbtxt: {'; '.join(problems)}")
    return session


def _session_options(settings: SessionSettings) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.intra_op_thread_count
    options.inter_op_num_threads = settings.inter_op_thread_count
    options.execution_mode = onnxruntime.ExecutionMode(settings.execution_mode)
    level = _GRAPH_LEVELS.get(settings.graph_level, "ORT_ENABLE_ALL")
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.enable_cpu_mem_arena = settings.enable_mem_arena
    options.enable_mem_pattern = settings.enable_mem_pattern
    options.log_severity_level = 4  # a failing request gets its error; the log need not repeat it
    return options


def _run_options(settings: SessionSettings) -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    if settings.enable_mem_arena:
        options.add_run_config_entry(
            "memory.enable_memory_arena_shrinkage", settings.arena_shrinkage
        )
    return options


def contradictions(config: Config, session: onnxruntime.InferenceSession) -> list[str]:
    """What config.pbtxt promises and the graph does not keep, one sentence each."""
    batched = config.get("max_batch_size", 0) > 0
    optional = {argument.name: argument for argument in session.get_overridable_initializers()}
    required = {argument.name: argument for argument in session.get_inputs()}
    outputs = {argument.name: argument for argument in session.get_outputs()}
    inputs = [*config.get("input", ()), *_controls(config)]
    configured = {tensor["name"] for tensor in inputs}
    problems = [
        f"it needs input '{name}', which config.pbtxt does not have"
        for name in required
        if name not in configured
    ]
    for tensor in inputs:
        problems += _differences("input", tensor, {**optional, **required}, batched)
    for tensor in config.get("output", ()):
        problems += _differences("output", tensor, outputs, batched)
    return problems


def _controls(config: Config) -> list[Config]:
    """The inputs that the sequence batcher adds to each request."""
    entries = config.get("sequence_batching", {}).get("control_input", ())
    return [
        {"name": entry["name"], "data_type": _control_type(entry["control"][0]), "dims": [1]}
        for entry in entries
    ]


def _control_type(control: Config) -> str:
    for key, data_type in _CONTROL_TYPES.items():
        if control.get(key):
            return data_type
    return str(control.get("data_type", ""))


def _differences(
    kind: str, tensor: Config, arguments: Mapping[str, onnxruntime.NodeArg], batched: bool
) -> list[str]:
    name = tensor["name"]
    argument = arguments.get(name)
    if argument is None:
        return [f"it has no {kind} '{name}' (it has {', '.join(arguments) or 'none'})"]
    triton_type = _TRITON_TYPES.get(argument.type)
    if triton_type is None:
        return [f"{kind} '{name}' is {argument.type}, which this backend cannot carry"]
    problems = []
    if triton_type != tensor["data_type"]:
        problems.append(f"{kind} '{name}' is {triton_type}, not {tensor['data_type']}")
    if not _shapes_agree(_full_dims(tensor, batched), argument.shape):
        told = [d if isinstance(d, int) else -1 for d in argument.shape]
        problems.append(f"{kind} '{name}' has shape {told}, not {_full_dims(tensor, batched)}")
    return problems


def _full_dims(tensor: Config, batched: bool) -> list[int]:
    dims = tensor["reshape"]["shape"] if "reshape" in tensor else tensor["dims"]
    return [-1, *map(int, dims)] if batched else [*map(int, dims)]


def _shapes_agree(dims: Sequence[int], shape: Sequence[int | str | None]) -> bool:
    if not shape:  # a scalar and an unknown rank look alike
        return True
    return len(dims) == len(shape) and all(
        not isinstance(actual, int) or actual == told
        for told, actual in zip(dims, shape, strict=True)
    )


class ReleasableSession:
    """A session whose memory can be taken back early; the next run would open it again."""

    def __init__(self, config: Config, version_directory: Path) -> None:
        self._open: Callable[[], Any] = lambda: open_session(config, version_directory)
        self._run_options = _run_options(settings_from(config))
        self._lock = threading.Lock()
        self._session = self._open()

    def run(self, outputs: Sequence[str], inputs: Arrays) -> Sequence[NDArray[Any]]:
        """The named outputs for these inputs; raises what ONNX Runtime raises."""
        with self._lock:
            if self._session is None:
                self._session = self._open()
            results: Sequence[NDArray[Any]] = self._session.run(
                list(outputs), inputs, self._run_options
            )
            return results

    def release(self) -> None:
        """Gives weights and arena back to the system, after the run in progress if there is one."""
        with self._lock:
            self._session = None
            # glibc keeps freed pages for itself unless it is told not to.
            ctypes.CDLL(None).malloc_trim(0)
