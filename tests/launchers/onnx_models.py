"""Tiny ONNX graphs, and how they are published."""

from __future__ import annotations

from pathlib import Path

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
OPSET = 20


def graph(nodes, inputs, outputs, initializers=(), opset=OPSET) -> bytes:
    """A model; inputs and outputs are ``name: (TensorProto type, shape)``."""
    infos = [
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in tensors.items()]
        for tensors in (inputs, outputs)
    ]
    proto = helper.make_model(
        helper.make_graph(nodes, "tiny", *infos, list(initializers)),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    return proto.SerializeToString()


def doubler(element=TensorProto.FLOAT, shape=("batch", "n")) -> bytes:
    """Doubles x into y."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return graph([node], {"x": (element, shape)}, {"y": (element, shape)})


def weighted_doubler(kilobytes: int) -> bytes:
    """Doubles x into y, and multiplies zeros with so many kilobytes of weights on the way."""
    width = kilobytes * 1024 // 4 // 64
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Expand", ["nothing", "row"], ["zeros"]),
        helper.make_node("MatMul", ["zeros", "w"], ["product"]),
        helper.make_node("ReduceSum", ["product"], ["still_nothing"], keepdims=0),
        helper.make_node("Add", ["x", "x"], ["doubled"]),
        helper.make_node("Add", ["doubled", "still_nothing"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(numpy.array(0, numpy.float32), "zero"),
        numpy_helper.from_array(numpy.array([1, 64]), "row"),
        numpy_helper.from_array(numpy.ones((64, width), numpy.float32), "w"),
    ]
    tensor = (FLOAT, ("batch", "n"))
    return graph(nodes, {"x": tensor}, {"y": tensor}, constants)


def identity(element, shape=("batch", "n")) -> bytes:
    """Passes x on as y."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return graph([node], {"x": (element, shape)}, {"y": (element, shape)})


def lookup() -> bytes:
    """Gives y = table[i] for a table of 4 rows; other indices are refused while running."""
    table = numpy_helper.from_array(numpy.arange(8, dtype=numpy.float32).reshape(4, 2), "table")
    node = helper.make_node("Gather", ["table", "i"], ["y"])
    return graph(
        [node],
        {"i": (TensorProto.INT64, ["batch", "n"])},
        {"y": (TensorProto.FLOAT, ["batch", "n", 2])},
        [table],
    )


def two_outputs() -> bytes:
    """Gives plus = a + b and minus = a - b."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["plus"]),
        helper.make_node("Sub", ["a", "b"], ["minus"]),
    ]
    tensor = (TensorProto.FLOAT, ["batch", 2])
    return graph(nodes, {"a": tensor, "b": tensor}, {"plus": tensor, "minus": tensor})


def heavy(megabytes: int) -> bytes:
    """Multiplies x with w, with so many megabytes of w."""
    width = megabytes * 2**20 // 4 // 64
    weight = numpy_helper.from_array(numpy.zeros((64, width), numpy.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs, outputs = {"x": (FLOAT, ["batch", 64])}, {"y": (FLOAT, ["batch", width])}
    return graph([node], inputs, outputs, [weight])


def weighty(megabytes: int) -> bytes:
    """Gives the mean of x times w, one number, with so many megabytes of w."""
    width = megabytes * 2**20 // 4 // 64
    weight = numpy_helper.from_array(numpy.ones((64, width), numpy.float32), "w")
    axes = numpy_helper.from_array(numpy.array([1]), "axes")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("ReduceMean", ["product", "axes"], ["y"]),
    ]
    inputs, outputs = {"x": (FLOAT, ["batch", 64])}, {"y": (FLOAT, ["batch", 1])}
    return graph(nodes, inputs, outputs, [weight, axes])


def folded(megabytes: int) -> bytes:
    """Multiplies x with w1 + w2, which an optimiser adds once and for all: all its rows are 3."""
    width = megabytes * 2**20 // 4 // 64
    parts = [
        numpy_helper.from_array(numpy.full((64, width), value, numpy.float32), name)
        for name, value in (("w1", 1), ("w2", 2))
    ]
    nodes = [
        helper.make_node("Add", ["w1", "w2"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    inputs, outputs = {"x": (FLOAT, ["batch", 64])}, {"y": (FLOAT, ["batch", width])}
    return graph(nodes, inputs, outputs, parts)


def twice_weighted(megabytes: int) -> bytes:
    """Gives y = x w and z = (x + 1) w: one large w for two nodes, each of which may pack it."""
    width = megabytes * 2**20 // 4 // 64
    weight = numpy.arange(64 * width, dtype=numpy.float32).reshape(64, width) % 7
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Add", ["x", "one"], ["x1"]),
        helper.make_node("MatMul", ["x1", "w"], ["z"]),
    ]
    row = (FLOAT, ["batch", width])
    constants = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(numpy.ones(1, numpy.float32), "one"),
    ]
    return graph(nodes, {"x": (FLOAT, ["batch", 64])}, {"y": row, "z": row}, constants)


def biased() -> bytes:
    """Gives y = x + bias; the bias is 10 in a request that brings none."""
    node = helper.make_node("Add", ["x", "bias"], ["y"])
    tensor = (FLOAT, ["batch", 2])
    bias = numpy_helper.from_array(numpy.full((1, 2), 10, numpy.float32), "bias")
    return graph([node], {"x": tensor, "bias": (FLOAT, ["rows", 2])}, {"y": tensor}, [bias])


def controlled(controls) -> bytes:
    """Gives y = x and then each control, as numbers; controls are ``name: TensorProto type``."""
    nodes = [helper.make_node("Cast", [name], [f"{name}_number"], to=FLOAT) for name in controls]
    columns = ["x", *(f"{name}_number" for name in controls)]
    nodes.append(helper.make_node("Concat", columns, ["y"], axis=1))
    inputs = {"x": (FLOAT, ["batch", 1])}
    inputs |= {name: (element, ["batch", 1]) for name, element in controls.items()}
    return graph(nodes, inputs, {"y": (FLOAT, ["batch", len(columns)])})


def accumulator(element=FLOAT) -> bytes:
    """Adds x to what has come before it in its sequence."""
    nodes = [
        helper.make_node("Add", ["sum_before", "x"], ["sum_after"]),
        helper.make_node("Identity", ["sum_after"], ["y"]),
    ]
    tensor = (element, ["batch", 1])
    inputs = {"x": tensor, "sum_before": tensor}
    return graph(nodes, inputs, {"y": tensor, "sum_after": tensor})


def expander() -> bytes:
    """Repeats the one number x in a tensor of whatever shape is asked for."""
    node = helper.make_node("Expand", ["x", "shape"], ["y"])
    inputs = {"x": (FLOAT, [1]), "shape": (INT64, ["rank"])}
    return graph([node], inputs, {"y": (FLOAT, None)})


def slow(width=192) -> bytes:
    """Gives y = x, after as many rounds of work as are asked for: a millisecond's or so each."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "identity"], ["next"]),
            helper.make_node("Identity", ["going"], ["goes_on"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, [width, width]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, [width, width]),
        ],
    )
    nodes = [
        helper.make_node("Squeeze", ["rounds"], ["trips"]),
        helper.make_node("Expand", ["x", "square"], ["start"]),
        helper.make_node("Loop", ["trips", "", "start"], ["end"], body=body),
        helper.make_node("ReduceMean", ["end"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "one"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(numpy.eye(width, dtype=numpy.float32), "identity"),
        numpy_helper.from_array(numpy.array([width, width]), "square"),
        numpy_helper.from_array(numpy.array([1]), "one"),
    ]
    inputs = {"x": (FLOAT, [1]), "rounds": (INT64, [1])}
    return graph(nodes, inputs, {"y": (FLOAT, [1])}, constants)


def claims_to_be_gigantic() -> bytes:
    """A model whose constant has a shape of terabytes and eight bytes to fill it."""
    weight = TensorProto(name="w", data_type=FLOAT, dims=[2**20, 2**20], raw_data=bytes(8))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    row = (FLOAT, ["batch", 2**20])
    return graph([node], {"x": row}, {"y": row}, [weight])


def publish_with_external_data(repository: Path, name: str, model: bytes, config: str) -> None:
    """As ``publish``, with all weights in a file beside the model's."""
    publish(repository, name, model, config)
    onnx.save_model(
        onnx.load_from_string(model),
        repository / name / "1" / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )


def publish(repository: Path, name: str, model: bytes, config: str, file="model.onnx") -> None:
    """Writes version 1 of a model; ``config`` lacks only name, backend and instance group."""
    path = repository / name / "1" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(model)
    (repository / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "onnxruntime"\ninstance_group [{{ count: 1 }}]\n{config}\n'
    )


def parameters(**given: str) -> str:
    """The ``parameters`` entries of a config.pbtxt."""
    return "\n".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
        for key, value in given.items()
    )


def io(dtype="FP32", dims=(-1,)) -> str:
    """The configuration of a model that turns x into y of the same type and shape."""
    return tensors("input", x=(dtype, list(dims))) + tensors("output", y=(dtype, list(dims)))


def tensors(kind: str, **given: tuple[str, list[int]]) -> str:
    """The ``input`` or ``output`` entries of a config.pbtxt."""
    return "\n".join(
        f'{kind} {{ name: "{name}" data_type: TYPE_{dtype} dims: {dims} }}'
        for name, (dtype, dims) in given.items()
    )


def publish_doubler(repository: Path, name: str = "double") -> None:
    """The model most tests need."""
    io = tensors("input", x=("FP32", [-1])) + tensors("output", y=("FP32", [-1]))
    publish(repository, name, doubler(), f"max_batch_size: 8 {io}")
