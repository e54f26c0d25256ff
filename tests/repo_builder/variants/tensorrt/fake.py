"""A TensorRT whose names are exactly those of a real release.

``api.json`` was read off the real bindings of 10.16 and 11.4. Whatever code under test asks for
that a release does not have raises AttributeError, as it would there; what it does with the rest is
written down.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np

API: dict[str, dict[str, list[str]]] = json.loads(Path(__file__).with_name("api.json").read_text())
VERSIONS = tuple(API)


def real_names(version: str, kind: str, object_: Any) -> None:
    """Fails for a fake that knows more than the real thing."""
    own = [name for name in vars(type(object_)) if not name.startswith("_")]
    invented = set(own) - set(API[version][kind])
    assert not invented, f"{kind} of {version} has no {invented}"


class Enumeration:
    """Members by name; numbers as ``1 <<`` wants them."""

    def __init__(self, names: list[str]) -> None:
        self._names = [name for name in names if name.isupper()]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(name)
        return Member(name, self._names.index(name))


class Member(int):
    def __new__(cls, name: str, number: int) -> Member:
        made = super().__new__(cls, number)
        made.label = name
        return made

    label: str


class FakeTensorRT:
    """The module: set its fields to make something go wrong, read them to see what was done."""

    def __init__(self, version: str) -> None:
        self.__version__ = version
        self.calls: list[tuple[Any, ...]] = []
        self.no_device = self.no_engine = self.stale_cache = False
        self.parse_errors: list[str] = []
        self.says: list[str] = []
        self.refused_profile = self.no_runtime = self.refused_shape = False
        for kind in ("BuilderFlag", "NetworkDefinitionCreationFlag", "MemoryPoolType",
                     "HardwareCompatibilityLevel"):  # fmt: skip
            setattr(self, kind, Enumeration(API[version][kind]))
        self.ILogger = type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0, "INFO": 3})
        self.engine = FakeEngine(self)

    def called(self, what: str) -> list[Any]:
        return [call[1:] for call in self.calls if call[0] == what]

    def Builder(self, log: Any) -> Any:
        self._log(log)
        if self.no_device:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return self._made("Builder", FakeBuilder(self))

    def OnnxParser(self, network: Any, log: Any) -> Any:
        return self._made("OnnxParser", FakeParser(self))

    def Runtime(self, log: Any) -> Any:
        self._log(log)
        return self._made("Runtime", FakeRuntime(self))

    def _log(self, log: Any) -> None:
        log.log(3, "some chatter")
        for text in self.says:
            log.log(1, text)

    def _made(self, kind: str, object_: Any) -> Any:
        real_names(self.__version__, kind, object_)
        return object_


class _Part:
    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt


class FakeBuilder(_Part):
    def create_network(self, flags: int) -> Any:
        self._trt.calls.append(("network", flags))
        return "network"

    def create_builder_config(self) -> Any:
        return self._trt._made("IBuilderConfig", FakeConfig(self._trt))

    def create_optimization_profile(self) -> Any:
        return self._trt._made("IOptimizationProfile", FakeProfile(self._trt))

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        return None if self._trt.no_engine else b"an engine"


class FakeParser(_Part):
    @property
    def num_errors(self) -> int:
        return len(self._trt.parse_errors)

    def get_error(self, index: int) -> Any:
        text = self._trt.parse_errors[index]
        error = type("ParserError", (), {"desc": lambda self: text})()
        return self._trt._made("ParserError", error)

    def parse_from_file(self, path: str) -> bool:
        self._trt.calls.append(("parse", Path(path).read_bytes()))
        return not self._trt.parse_errors


class FakeConfig(_Part):
    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            # The bindings' objects take any attribute; a misspelt one would do nothing at all.
            assert name in API[self._trt.__version__]["IBuilderConfig"], name
            self._trt.calls.append((name, value))
        object.__setattr__(self, name, value)

    def set_memory_pool_limit(self, pool: Member, size: int) -> None:
        self._trt.calls.append(("pool", pool.label, size))

    def set_flag(self, flag: Member) -> None:
        self._trt.calls.append(("flag", flag.label))

    def add_optimization_profile(self, profile: Any) -> int:
        return -1 if self._trt.refused_profile else 0

    def create_timing_cache(self, content: bytes) -> Any:
        self._trt.calls.append(("timing cache", content))
        return self._trt._made("ITimingCache", FakeCache(content))

    def set_timing_cache(self, cache: FakeCache, ignore_mismatch: bool) -> bool:
        return not (self._trt.stale_cache and cache._content)


class FakeCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return self._content + b"+"


class FakeProfile(_Part):
    def set_shape(self, name: str, smallest: Any, best: Any, largest: Any) -> None:
        self._trt.calls.append(("shape", name, smallest, best, largest))


class FakeRuntime(_Part):
    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            assert name in API[self._trt.__version__]["Runtime"], name
            self._trt.calls.append((name, value))
        object.__setattr__(self, name, value)

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        return None if self._trt.no_runtime else self._trt._made("ICudaEngine", self._trt.engine)


class FakeEngine(_Part):
    def create_execution_context(self) -> Any:
        return self._trt._made("IExecutionContext", FakeContext(self._trt))


class FakeContext(_Part):
    """Computes y = 2 x, in place of an engine, on whatever memory it is pointed to."""

    def __init__(self, trt: FakeTensorRT) -> None:
        super().__init__(trt)
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return not self._trt.refused_shape

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._trt.calls.append(("profile", profile_index))
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        x, y = (self._at(self._addresses[name]) for name in ("x", "y"))
        y[:] = 2 * x
        return True

    def _at(self, address: int) -> Any:
        count = int(np.prod(self._shape))
        pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, (count,))


def linear_onnx() -> bytes:
    """A real file: x [batch, 64] times a matrix of ones."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64]) for name in "xy"
    ]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weight])
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()
